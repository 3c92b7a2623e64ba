//! Slurm's commands, and the jobs of a cluster: one of the manifest's nodes, and one for each further node.
//!
//! They are found by their names and their folder, the cluster's: nothing has to be written down that could be lost.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::ClusterError;
use crate::manifest::{Manifest, SlurmSection};
use crate::state::StateDir;

/// How long Slurm may take to answer.
const ANSWER: Duration = Duration::from_secs(60);
/// Most of an error of Slurm's that is told, in characters.
const MAX_TOLD: usize = 1000;

/// A job that Slurm has not finished with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) id: u64,
    /// `PENDING`, `RUNNING` ...
    pub(super) state: String,
    /// Why it is in that state; of one that waits, for what.
    pub(super) reason: String,
    /// The further node that it is, if it is one.
    pub(super) node: Option<String>,
}

impl Job {
    /// Does it wait for hosts?
    pub(super) fn is_queued(&self) -> bool {
        ["PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED"].contains(&&*self.state)
    }

    /// Have all its agents ended?
    fn is_over(&self) -> bool {
        self.state == "COMPLETING"
    }
}

/// What a cluster's job is called, or that of a further node. Of the names of clusters none has a dot.
pub(super) fn name_of(cluster: &str, node: Option<&str>) -> String {
    match node {
        None => format!("lyceum-{cluster}"),
        Some(node) => format!("lyceum-{cluster}.{node}"),
    }
}

/// The jobs of the cluster in `state` that Slurm has not finished with; without those that only end yet, where asked so.
pub(super) async fn find(
    cluster: &str,
    state: &StateDir,
    with_ending: bool,
) -> Result<Vec<Job>, ClusterError> {
    let listed = call("squeue", &["--me", "--noheader", "--format=%i|%T|%r|%j|%Z"], None).await?;
    let (name, folder) = (name_of(cluster, None), state.root().to_string_lossy());
    let job = |line: &str| parse(line, &name, &folder).filter(|job| with_ending || !job.is_over());
    Ok(listed.lines().filter_map(job).collect())
}

/// The job of a line of `squeue`, if it is one of the cluster whose job is `name` and whose folder is `folder`.
fn parse(line: &str, name: &str, folder: &str) -> Option<Job> {
    let mut fields = line.trim().splitn(5, '|');
    let (id, state, reason) = (fields.next()?, fields.next()?, fields.next()?);
    let node = match fields.next()?.strip_prefix(name)? {
        "" => None,
        rest => Some(rest.strip_prefix('.')?.to_owned()),
    };
    let job = Job { id: id.parse().ok()?, state: state.to_owned(), reason: reason.to_owned(), node };
    (fields.next()? == folder).then_some(job)
}

/// What Slurm says of a job that is over: `FAILED (NonZeroExitCode)`; for some minutes after its end.
pub(super) async fn fate(id: u64) -> Option<String> {
    let shown = call("scontrol", &["show", "job", "--oneliner", &id.to_string()], None).await.ok()?;
    let field = |name: &str| {
        let mut words = shown.split_whitespace();
        words.find_map(|word| word.strip_prefix(name)).map(str::to_owned)
    };
    Some(format!("{} ({})", field("JobState=")?, field("Reason=")?))
}

/// Submits a job: `script` on the first of the hosts, with the options that the manifest asks for.
pub(super) async fn submit(
    manifest: &Manifest,
    state: &StateDir,
    name: &str,
    script: &str,
) -> Result<u64, ClusterError> {
    let options = options(manifest, state, name);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let said = call("sbatch", &options, Some(script)).await?;
    // With several clusters: `7;its name`.
    let id = said.trim().split(';').next().and_then(|id| id.parse().ok());
    id.ok_or_else(|| ClusterError::Refused(format!("`sbatch` named no job: {}", said.trim())))
}

fn options(manifest: &Manifest, state: &StateDir, name: &str) -> Vec<String> {
    let SlurmSection { partition, account, time, options } = &manifest.slurm;
    // Where a node says nothing it has what Slurm gives it.
    let claims = || manifest.nodes.iter().filter_map(|node| node.resources.as_ref());
    let cpus = claims().map(|claim| claim.cpus.ceil()).max().unwrap_or(0);
    let gpus = claims().map(|claim| u64::from(claim.gpus)).max().unwrap_or(0);
    let mib = claims().map(|claim| claim.memory.0.div_ceil(1 << 20)).max().unwrap_or(0);
    let root = state.root().display();
    // In a name of an output file `%` begins a pattern.
    let log = state.logs().join("slurm.log").display().to_string().replace('%', "%%");
    let mut all = vec![
        "--parsable".to_owned(),
        "--no-requeue".to_owned(),
        // A host that is lost is one node that is lost.
        "--no-kill".to_owned(),
        "--ntasks-per-node=1".to_owned(),
        "--open-mode=append".to_owned(),
        format!("--job-name={name}"),
        format!("--nodes={}", manifest.nodes.len()),
        format!("--chdir={root}"),
        format!("--output={log}"),
    ];
    let asked = [("cpus-per-task", cpus, ""), ("gpus-per-node", gpus, ""), ("mem", mib, "M")];
    let asked = asked.into_iter().filter(|(_, count, _)| *count > 0);
    all.extend(asked.map(|(option, count, unit)| format!("--{option}={count}{unit}")));
    for (option, value) in [("partition", partition), ("account", account), ("time", time)] {
        all.extend(value.iter().map(|value| format!("--{option}={value}")));
    }
    all.extend(options.iter().cloned());
    all
}

/// Has the job's script start again what `StateDir::slurm` lists.
pub(super) async fn wake(id: u64) -> Result<(), ClusterError> {
    call("scancel", &["--batch", "--signal=USR1", &id.to_string()], None).await.map(drop)
}

/// Ends a job; that it is over already is no fault.
pub(super) async fn cancel(id: u64) -> Result<(), ClusterError> {
    call("scancel", &[&id.to_string()], None).await.map(drop)
}

/// Runs one of Slurm's commands and returns what it says.
async fn call(program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, ClusterError> {
    let refused = |why: String| ClusterError::Refused(format!("Slurm's `{program}` {why}"));
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true).env_remove(crate::daemon::TETHER_VARIABLE);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => refused(
            "is not there: `launcher = \"slurm\"` is for a machine from which jobs are submitted".into(),
        ),
        _ => refused(format!("does not start: {error}")),
    })?;
    let run = async {
        if let (Some(input), Some(mut to)) = (input, child.stdin.take()) {
            // Who does not read it says why.
            let _ = to.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    match tokio::time::timeout(ANSWER, run).await {
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: String = said.trim().chars().take(MAX_TOLD).collect();
            Err(refused(format!("failed ({}): {said}", output.status)))
        }
        Ok(Err(error)) => Err(refused(format!("cannot be waited for: {error}"))),
        Err(_) => Err(refused(format!("did not answer within {} s", ANSWER.as_secs()))),
    }
}

/// The job's script. `srun` starts one task a host; when all have ended, so does the job. Told by a signal, it starts the
/// tasks again that are listed then: the hosts are the job's as long as one agent runs.
pub(super) fn script(program: &std::path::Path, state: &StateDir, nodes: usize) -> String {
    let (program, root) = (quoted(program.to_owned()), quoted(state.root().to_owned()));
    let list = quoted(again_file(state));
    // A task that ends, or fails, is one agent's end.
    let srun = "srun --overlap --kill-on-bad-exit=0 --wait=0";
    format!(
        "#!/bin/sh\n\
         # `srun` does not take it over from the job.\n\
         export SRUN_CPUS_PER_TASK=\"${{SLURM_CPUS_PER_TASK:-1}}\"\n\
         again() {{\n\
         while read -r task; do\n\
         {srun} --nodes=1 --ntasks=1 --relative=\"$task\" {program} task --state {root} --index \"$task\" </dev/null &\n\
         done <{list}\n\
         }}\n\
         trap again USR1\n\
         {srun} --nodes={nodes} --ntasks={nodes} {program} task --state {root} &\n\
         until wait; do :; done\n"
    )
}

/// The script of a job of one host, that of task `index`.
pub(super) fn script_of_one(program: &std::path::Path, state: &StateDir, index: usize) -> String {
    let (program, root) = (quoted(program.to_owned()), quoted(state.root().to_owned()));
    format!(
        "#!/bin/sh\n\
         export SRUN_CPUS_PER_TASK=\"${{SLURM_CPUS_PER_TASK:-1}}\"\n\
         exec srun --overlap --nodes=1 --ntasks=1 {program} task --state {root} --index {index} </dev/null\n"
    )
}

/// A word of a shell.
fn quoted(path: PathBuf) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

/// Which tasks the script is to start when it is told so.
pub(super) fn again_file(state: &StateDir) -> PathBuf {
    state.slurm().join("again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clusters_jobs_are_told_from_others() {
        let parse = |name: &str, folder: &str| {
            let line = format!("17|PENDING|Resources|{name}|{folder}");
            parse(&line, "lyceum-c", "/home/c").map(|job| (job.id, job.is_queued(), job.node))
        };
        assert_eq!(parse("lyceum-c", "/home/c"), Some((17, true, None)));
        assert_eq!(parse("lyceum-c.further-2", "/home/c"), Some((17, true, Some("further-2".into()))));
        assert_eq!(parse("lyceum-c", "/home/other"), None);
        assert_eq!(parse("lyceum-c2", "/home/c"), None, "another cluster");
        assert_eq!(parse("wrap", "/home/c"), None);
    }

    #[test]
    fn the_job_asks_for_what_its_greediest_node_needs_on_every_host() {
        let text = "name = \"c\"\nlauncher = \"slurm\"\nhead = { bind = \"10.0.0.1\" }\n\
                    slurm = { partition = \"long\", options = [\"--exclusive\"] }\n\
                    [[nodes]]\nname = \"a\"\nresources = { cpus = 1.5, memory = \"3 GiB\" }\n\
                    [[nodes]]\nname = \"b\"\nresources = { gpus = 2 }\n";
        let manifest = Manifest::parse("c.toml", text).unwrap();
        let options = options(&manifest, &StateDir::at("/home/100%/c"), &name_of("c", None));
        for option in [
            "--job-name=lyceum-c",
            "--nodes=2",
            "--ntasks-per-node=1",
            "--cpus-per-task=2",
            "--gpus-per-node=2",
            "--mem=3072M",
            "--partition=long",
            "--exclusive",
            "--chdir=/home/100%/c",
            "--output=/home/100%%/c/logs/slurm.log",
        ] {
            assert!(options.iter().any(|given| given == option), "{option} in {options:?}");
        }
    }
}
