//! Programs that are slow to load are loaded once, into a template, and their workers are forked from that.
//!
//! A worker that is forked is a child of the agent like any other: the template asks the kernel for a child of its own parent.
//! Who its parent is, how it ends and what ends it is then the same. Whatever a template cannot do, because its program does not
//! know of templates, because it was killed, or because it does not answer, is done by starting the program.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use super::child::Child;
use super::forker::Forker;
use super::start::Start;
use crate::birth::{self, Line, TEMPLATE_VARIABLE, Word};
use crate::host::ProcessWatch;
use crate::spawn::{self, Preparation};

/// Templates that are kept: those that were used last. Each holds its libraries' own memory (59 MB of it for libtorch).
const MAX_TEMPLATES: usize = 4;
/// How long a program may take to load, and a template or a newborn to say its next word.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so many templates of a program that ended by themselves it is started anew each time.
const MAX_DEATHS: u32 = 3;
/// How long the templates may take to end with the agent, which does not wait longer for them: they end with it in any case.
const FAREWELL: Duration = Duration::from_secs(1);

/// The templates of an agent.
#[derive(Debug, Default)]
pub(super) struct Templates {
    kept: Mutex<Vec<(Program, Arc<Place>)>>,
    ends: Mutex<JoinSet<()>>,
}

/// A program's file: another that has its name since is another program.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Program {
    path: PathBuf,
    /// Device and inode; none where there is no such file.
    file: Option<(u64, u64)>,
}

/// What is known of a program. Who finds it locked waits for the template that another starts.
type Place = tokio::sync::Mutex<State>;

#[derive(Debug)]
enum State {
    /// There is none; so many have ended by themselves.
    Absent {
        deaths: u32,
    },
    Up(Template, u32),
    /// The program is none that can be one.
    Unable,
}

/// One at the other end of a line; it ends with that.
#[derive(Debug)]
struct Template {
    line: Line,
    watch: Arc<ProcessWatch>,
}

impl Templates {
    /// Forks a worker from the template of its program, which is started if need be; `None` where that cannot be done and the
    /// program is to be started.
    ///
    /// # Errors
    /// The worker was forked and could not become what it should.
    pub(super) async fn fork(&self, start: &Start, forker: &Forker) -> io::Result<Option<Child>> {
        let place = self.place(&start.program);
        let asked = self.ask(&place, start, forker).await;
        let Some((line, watch)) = asked else { return Ok(None) };
        let first = match tokio::time::timeout(PATIENCE, line.hear()).await {
            Ok(first) => first,
            Err(_) => {
                tracing::warn!(program = %start.program.display(), "a template does not answer: it is killed");
                watch.kill();
                // A newborn that comes later finds the line closed, and ends.
                let late = tokio::time::timeout(PATIENCE, line.hear()).await;
                late.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
            }
        };
        let child = match first {
            Ok(Some(Word::Born(pid))) => Child::claimed(pid)?,
            other => {
                let why = in_words(other);
                tracing::warn!(program = %start.program.display(), why, "no worker was forked: it is started");
                return Ok(None);
            }
        };
        let became = tokio::time::timeout(PATIENCE, line.hear()).await;
        match became.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))) {
            Ok(Some(Word::Ready)) => Ok(Some(child)),
            // It has ended, as its status says.
            Ok(None) => Ok(Some(child)),
            other => {
                child.kill();
                child.wait()?;
                Err(io::Error::other(in_words(other)))
            }
        }
    }

    /// Ends all of them.
    pub(super) async fn end(&self) {
        self.lock().clear();
        let mut ends = std::mem::take(&mut *self.ends.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = tokio::time::timeout(FAREWELL, async { while ends.join_next().await.is_some() {} }).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Program, Arc<Place>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of `program`, from now on the last that was used.
    fn place(&self, path: &Path) -> Arc<Place> {
        let file = std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
        let program = Program { path: path.to_owned(), file };
        let mut kept = self.lock();
        let known = kept.iter().position(|(other, _)| other.path == path).map(|at| kept.remove(at));
        let known = known.filter(|(other, _)| *other == program);
        let entry = known.unwrap_or_else(|| (program, Arc::new(Place::new(State::Absent { deaths: 0 }))));
        let place = entry.1.clone();
        kept.push(entry);
        if kept.len() > MAX_TEMPLATES {
            kept.remove(0);
        }
        place
    }

    /// Hands an order to the template, and returns the newborn's line and the template's own watch.
    async fn ask(&self, place: &Place, start: &Start, forker: &Forker) -> Option<(Line, Arc<ProcessWatch>)> {
        let mut state = place.lock().await;
        // A second time, where the template has ended since the last order.
        for _ in 0..2 {
            if let State::Absent { deaths } = *state {
                *state = self.start(start, forker, deaths).await;
            }
            let State::Up(template, deaths) = &*state else { return None };
            let error = match order(template, start) {
                Ok(line) => return Some((line, template.watch.clone())),
                Err(error) => error,
            };
            tracing::warn!(program = %start.program.display(), %error, "a template takes no order");
            if error.kind() != io::ErrorKind::BrokenPipe {
                // It has more to do than its socket holds, or this process has no descriptor left.
                return None;
            }
            *state = State::Absent { deaths: deaths + 1 };
        }
        None
    }

    /// A template after so many others, or what is known then.
    async fn start(&self, start: &Start, forker: &Forker, deaths: u32) -> State {
        let program = start.program.display();
        if deaths >= MAX_DEATHS {
            tracing::warn!(%program, deaths, "templates of a program end: it is started for each worker");
            return State::Unable;
        }
        match self.load(start, forker).await {
            Ok(template) => State::Up(template, deaths),
            // A busy machine may do better the next time.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                tracing::warn!(%program, "a template does not load in time");
                State::Absent { deaths: deaths + 1 }
            }
            Err(error) => {
                tracing::info!(%program, %error, "a program is no template: it is started for each worker");
                State::Unable
            }
        }
    }

    async fn load(&self, start: &Start, forker: &Forker) -> io::Result<Template> {
        let (ours, theirs) = birth::pair()?;
        let mut command = Command::new(&start.program);
        command.arg("worker").envs(start.variables.iter().map(|(name, value)| (*name, value)));
        command.env(TEMPLATE_VARIABLE, theirs.as_raw_fd().to_string());
        command.env_remove(crate::daemon::TETHER_VARIABLE);
        let preparation =
            Preparation { dies_with_parent: true, inherited: vec![theirs], ..Preparation::default() };
        spawn::prepare(&mut command, preparation);
        let child = forker.run(command).await?;
        let pid = child.id();
        let (watch, line) = (Arc::new(ProcessWatch::new(pid)?), Line::new(ours)?);
        self.tell_end(child, watch.clone(), start.program.clone());
        let heard = tokio::time::timeout(PATIENCE, line.hear()).await;
        if let Ok(Ok(Some(Word::Ready))) = heard {
            tracing::info!(pid, program = %start.program.display(), "a template is up");
            return Ok(Template { line, watch });
        }
        watch.kill();
        Err(io::Error::other(in_words(heard?)))
    }

    /// Takes its status when it has ended.
    fn tell_end(&self, template: Child, watch: Arc<ProcessWatch>, program: PathBuf) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        while ends.try_join_next().is_some() {}
        ends.spawn(async move {
            if watch.ended().await.is_err() {
                template.kill();
            }
            let pid = template.id();
            let status = template.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            tracing::info!(pid, program = %program.display(), status, "a template has ended");
        });
    }
}

/// The line to the newborn of one order.
fn order(template: &Template, start: &Start) -> io::Result<Line> {
    let (ours, theirs) = birth::pair()?;
    let line = Line::new(ours)?;
    line.say(&start.order(), &[])?;
    let descriptors: Vec<_> = std::iter::once(theirs.as_fd()).chain(start.descriptors()).collect();
    template.line.say(&(), &descriptors)?;
    Ok(line)
}

/// What was said instead of what was to be said.
fn in_words(heard: io::Result<Option<Word>>) -> String {
    match heard {
        Ok(Some(Word::Failed(why))) => why,
        Ok(Some(word)) => format!("it said {word:?}"),
        Ok(None) => "it ended without a word".to_owned(),
        Err(error) => error.to_string(),
    }
}
