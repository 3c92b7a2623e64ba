//! `lyceum run RUN --cluster MANIFEST`: from two files to a trained checkpoint.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use lyceum_actor::{ActorRef, CallError, ControlError, Registry, Role as _};
use lyceum_cluster::launch::{self, Up, UpOptions};
use lyceum_cluster::manifest::{Launcher, Manifest};
use lyceum_cluster::{ClusterError, Job, JobEvent};
use lyceum_pretrain::demand;
use lyceum_pretrain::roles::{Controller, ControllerArgs, ReadProgress, Run, Settings, Stop, Synthesizer};
use lyceum_pretrain::run_directory::RunDirectory;
use lyceum_pretrain::run_file::RunFile;
use lyceum_pretrain::summary::Summary;

use super::interrupts::Interrupts;
use super::progress::Display;
use super::{block_on, require_file, say, up_options};

/// How often the Controller is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How often the head's process is looked at.
const HEAD_EVERY: Duration = Duration::from_millis(100);
/// How long an answer to that may take before the next question.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long the processes of a failed run may take to be killed one by one, before the whole cluster is.
const KILLED_WITHIN: Duration = Duration::from_secs(2);
/// What a shell takes for "ended by Ctrl-C".
const INTERRUPTED: u8 = 130;

#[derive(Debug, Args)]
pub struct RunCommand {
    /// The run file
    run: PathBuf,
    /// The cluster manifest; the cluster is started if it does not run, and then ends with this command. On one that
    /// stands already only the run ends with it
    #[arg(long)]
    cluster: PathBuf,
    /// Folder of the run: records, checkpoints, summary.json [default: runs/NAME]. An interrupted run there goes on
    #[arg(long)]
    out: Option<PathBuf>,
}

/// How a run came to its end.
enum End {
    Finished(Summary),
    Interrupted(Summary),
    GivenUp,
}

impl RunCommand {
    pub fn run(self) -> Result<ExitCode> {
        require_file("run file", &self.run)?;
        require_file("cluster manifest", &self.cluster)?;
        let (run, text) = RunFile::load_with_source(&self.run)?;
        let (manifest, manifest_text) = Manifest::load_with_source(&self.cluster)?;
        // Other hosts' memory is not known here.
        let here = manifest.launcher == Launcher::Local;
        let memory = here.then(launch::machine_memory).flatten();
        if let Some(unmet) = demand::unmet(&run, &manifest, memory) {
            let said = format!("does not fit {}: {}", self.cluster.display(), unmet.message);
            return Err(text.refuse(unmet.key, said).into());
        }
        let options = UpOptions { owned: true, ..up_options(&manifest)? };
        launch::check(&manifest, &manifest_text, &options)?;
        let out = self.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(&run.name));
        let directory = RunDirectory::at(std::path::absolute(out)?);
        let lock = directory.claim(&run)?;
        let settings = Settings::new(&run, directory.root(), lock.epoch())?;
        block_on(async {
            let mut interrupts = Interrupts::listen()?;
            let mut starting = std::pin::pin!(launch::up(&manifest, options));
            let up = tokio::select! {
                up = &mut starting => up?,
                () = interrupts.next() => {
                    say("stopping; once more to end at once");
                    tokio::select! {
                        up = starting => up?.kill_if_owned().await?,
                        // What was started hangs on this process, and ends with it.
                        () = interrupts.next() => {}
                    }
                    say(&directory.resumption());
                    return Ok(ExitCode::from(INTERRUPTED));
                }
            };
            let end = conduct(&up, &run.name, settings, &mut interrupts).await;
            // Who has failed, or is told twice to stop, is not asked to end well: it would take its time (L3).
            let closed = match (&end, up.is_owned()) {
                (_, false) => Ok(()),
                (Ok(End::Finished(_) | End::Interrupted(_)), true) => up.down().await,
                (Ok(End::GivenUp) | Err(_), true) => up.kill().await,
            };
            let (summary, code) = match end.map_err(|error| told(error, &directory))? {
                End::Finished(summary) => (summary, ExitCode::SUCCESS),
                End::Interrupted(summary) => (summary, ExitCode::from(INTERRUPTED)),
                End::GivenUp => {
                    say(&directory.resumption());
                    return Ok(ExitCode::from(INTERRUPTED));
                }
            };
            summary.write(directory.root()).context("cannot write summary.json")?;
            closed?;
            // Whoever reads it may have gone; the run is as good.
            _ = write!(std::io::stdout(), "\n{}", summary.table());
            if code != ExitCode::SUCCESS {
                say(&directory.resumption());
            }
            Ok(code)
        })
    }
}

/// Runs the job on a cluster that is up, for as long as it has its head.
async fn conduct(up: &Up, name: &str, settings: Settings, interrupts: &mut Interrupts) -> Result<End> {
    tokio::select! {
        end = attempt(up, name, settings, interrupts) => match up.head_loss() {
            // Nobody is left to end the job; whatever failed, failed for this.
            Some(loss) => end.map_err(|_| loss.into()),
            None => end,
        },
        loss = head_lost(up) => Err(loss.into()),
    }
}

async fn head_lost(up: &Up) -> ClusterError {
    loop {
        if let Some(loss) = up.head_loss() {
            return loss;
        }
        tokio::time::sleep(HEAD_EVERY).await;
    }
}

async fn attempt(up: &Up, name: &str, settings: Settings, interrupts: &mut Interrupts) -> Result<End> {
    let mut job = up.client.begin_job(name, true).await?;
    let end = watch(up, &mut job, settings, interrupts).await;
    if !matches!(end, Ok(End::Finished(_) | End::Interrupted(_))) {
        // A head that is lost has ended the job already, and what does not answer is killed with its agent.
        _ = tokio::time::timeout(KILLED_WITHIN, job.kill("lyceum run")).await;
        return end;
    }
    job.end("lyceum run").await.context("ending the job")?;
    end
}

/// What a person reads of a run that was lost from under its Controller; what the Controller says itself is whole.
fn told(error: anyhow::Error, directory: &RunDirectory) -> anyhow::Error {
    let call = error.downcast_ref::<CallError<()>>();
    let said = call.is_some_and(|call| matches!(call, CallError::Failed(_) | CallError::Refused(_)));
    if said || error.downcast_ref::<ControlError>().is_some() {
        return error;
    }
    anyhow!("{error:#}\n{}", directory.resumption())
}

/// Starts the Controller and shows what it says until the run ends.
async fn watch(up: &Up, job: &mut Job, settings: Settings, interrupts: &mut Interrupts) -> Result<End> {
    let system = up.client.start_system(Registry::new()).await?;
    let starting = job.cluster(&system).spawn::<Controller>(ControllerArgs { settings }).named("controller");
    let controller = tokio::select! {
        started = starting.into_future() => started.context("starting the controller")?,
        () = interrupts.next() => return Ok(End::GivenUp),
    };
    let display = Display::new();
    let mut outcome = std::pin::pin!(controller.ask(Run).through_silence().into_future());
    let mut tick = tokio::time::interval(ASK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stopping = false;
    let mut asked = None;
    let summary = loop {
        tokio::select! {
            finished = &mut outcome => match finished.map_err(CallError::erase) {
                Ok(summary) => break summary.read()?,
                Err(error) => return Err(error.into()),
            },
            reason = up.client.closed() => bail!("the cluster's head is lost: {reason}"),
            event = job.next_event() => match event {
                Some(event) => display.event(&describe(&event)),
                None => bail!("the job has ended"),
            },
            _ = tick.tick() => {
                // Asked beside everything else: nothing waits for the answer of a Controller that is lost.
                asked.get_or_insert_with(|| Box::pin(controller.ask(ReadProgress).deadline(ANSWER_WITHIN)));
            }
            progress = async { asked.as_mut().expect("checked by the guard").await }, if asked.is_some() => {
                asked = None;
                if let Ok(progress) = progress {
                    display.show(&progress.read()?);
                }
            }
            () = interrupts.next() => {
                if stopping {
                    return Ok(End::GivenUp);
                }
                stopping = true;
                display.event("stopping at the next step, with a checkpoint; once more to end at once");
                stop(&controller).await?;
            }
        }
    };
    display.finish();
    let summary: Option<Summary> = serde_json::from_str(&summary).context("the controller's summary")?;
    Ok(match summary {
        Some(summary) if stopping => End::Interrupted(summary),
        Some(summary) => End::Finished(summary),
        // Stopped before anything was trained.
        None => End::GivenUp,
    })
}

async fn stop(controller: &ActorRef<Controller>) -> Result<()> {
    controller.tell(Stop).await.map_err(CallError::erase).context("the controller")
}

/// What a person wants to read of an event; empty for what goes without saying.
fn describe(event: &JobEvent) -> String {
    match event {
        JobEvent::Restarting { report, restarts_left } => {
            format!("{report}\nit is started again ({restarts_left} times more at most)")
        }
        JobEvent::Stalled { address, stall: Some(stall) } => {
            format!("{address}: {stall}\nsee what it does: lyceum stack {}", address.actor)
        }
        JobEvent::Stalled { address, stall: None } => format!("{address} goes on"),
        JobEvent::Ended { report, expected: false } if report.role == Synthesizer::NAME => report.to_string(),
        // Who else is lost ends the run, and the error says it.
        JobEvent::Started { .. } | JobEvent::Ended { .. } | JobEvent::JobEnded { .. } => String::new(),
    }
}
