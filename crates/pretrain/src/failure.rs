//! Why a run ends early: of all that fail when one part is lost, the one that the others fail for.
//!
//! Who notices a death often fails before the death is told: a trainer whose neighbour is killed loses its collective
//! first. So a failure that may be a consequence waits a moment for its cause ([`root_cause`]), and a death that came
//! from outside is taken at its word at once.

use std::fmt;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use lyceum_actor::{CallError, Cause, ControlError};

/// How long a failure is held back for the death that caused it.
const ROOT_CAUSE_WITHIN: Duration = Duration::from_millis(500);

/// A part of a run that cannot go on.
#[derive(Debug)]
pub struct Failure {
    /// Who, as a person knows it: `trainer 1, training`.
    pub who: String,
    /// What is known of it.
    pub fault: Fault,
}

/// Why a part cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A call to it came to this.
    #[error(transparent)]
    Call(#[from] CallError<()>),
    /// It goes on with others only, and one of them is lost.
    #[error("{0}")]
    PeerLost(String),
}

/// How near a failure is to the root of the trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A process that was ended from outside: killed, out of memory, lost with its node.
    Lost,
    /// A process that says itself what is wrong with it.
    Ended,
    /// An actor that lives and says what is wrong.
    Refused,
    /// No more than that an answer did not come, or that somebody else's did not.
    Unanswered,
}

impl Failure {
    /// `who` did not answer well.
    pub fn new(who: impl Into<String>, fault: impl Into<Fault>) -> Self {
        Self { who: who.into(), fault: fault.into() }
    }

    /// A part that should go on for as long as the run does and does not. That one ends without an error is one too.
    pub fn of_attended(who: &str, ended: Result<(), CallError<()>>) -> Self {
        let error = ended.err().unwrap_or_else(|| CallError::Failed(vec!["it ended by itself".into()]));
        Self::new(who, error)
    }

    /// `who` could not be started.
    pub fn of_start(who: &str, error: ControlError) -> Self {
        let error = match error {
            ControlError::Died(report) => CallError::Dead(report),
            ControlError::Unreachable(why) => CallError::Unknown(why),
            refused => CallError::Refused(refused.to_string()),
        };
        Self::new(format!("starting {who}"), error)
    }

    fn kind(&self) -> Kind {
        let Fault::Call(error) = &self.fault else { return Kind::Unanswered };
        match error {
            CallError::Dead(report) => match report.cause {
                Cause::Failed(_) | Cause::Panicked(_) | Cause::Exited(_) => Kind::Ended,
                Cause::Finished | Cause::OrderedBy(_) | Cause::Unknown(_) => Kind::Unanswered,
                _ => Kind::Lost,
            },
            CallError::Failed(_) | CallError::Refused(_) => Kind::Refused,
            _ => Kind::Unanswered,
        }
    }

    /// Whether the same run may do better when it is taken up again: nobody has said that something is wrong with it.
    pub fn is_passing(&self) -> bool {
        matches!(self.kind(), Kind::Lost | Kind::Unanswered)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.who, self.fault)
    }
}

impl std::error::Error for Failure {}

/// The failure that `first` followed from, if one of `others` that come within a moment is nearer to the root.
pub async fn root_cause(first: Failure, others: impl Stream<Item = Failure>) -> Failure {
    let mut root = first;
    let mut others = std::pin::pin!(others);
    let mut time = std::pin::pin!(tokio::time::sleep(ROOT_CAUSE_WITHIN));
    while root.kind() != Kind::Lost {
        tokio::select! {
            other = others.next() => match other {
                Some(other) if other.kind() < root.kind() => root = other,
                Some(_) => {}
                None => break,
            },
            () = &mut time => break,
        }
    }
    root
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use lyceum_actor::DeathReport;

    use super::*;

    fn dead(who: &str, cause: Cause) -> Failure {
        let report = DeathReport {
            role: who.into(),
            actor: None,
            process: 1,
            node: "a".into(),
            cause,
            log_tail: Vec::new(),
        };
        Failure::new(who, CallError::Dead(Box::new(report)))
    }

    async fn named(first: Failure, others: Vec<Failure>) -> String {
        root_cause(first, stream::iter(others).chain(stream::pending())).await.who
    }

    #[tokio::test]
    async fn l3_who_was_killed_is_named_before_who_noticed() {
        let noticed = || Failure::new("trainer 0", CallError::Failed(vec!["rank 1 is lost".into()]));
        let killed = || dead("trainer 1", Cause::Signal(9));
        assert_eq!(named(noticed(), vec![noticed(), killed()]).await, "trainer 1");
        assert_eq!(named(killed(), vec![noticed()]).await, "trainer 1");
        assert_eq!(named(noticed(), vec![dead("packer", Cause::NodeLost("silent".into()))]).await, "packer");
        let cut_off = dead("trainer 1", Cause::Unknown("the connection is lost".into()));
        assert_eq!(named(noticed(), vec![cut_off]).await, "trainer 0");
        assert_eq!(named(dead("reader", Cause::OrderedBy("us".into())), vec![noticed()]).await, "trainer 0");
    }

    #[tokio::test]
    async fn l3_a_failure_that_nothing_explains_is_told_in_a_moment() {
        let alone = Failure::new("trainer 0", CallError::Failed(vec!["the loss is not finite".into()]));
        assert_eq!(named(alone, Vec::new()).await, "trainer 0");
    }

    #[test]
    fn only_what_nobody_calls_wrong_is_worth_another_try() {
        assert!(dead("trainer 0", Cause::Signal(9)).is_passing());
        assert!(!dead("trainer 0", Cause::Failed(vec!["no such file".into()])).is_passing());
        assert!(!Failure::new("packer", CallError::Failed(vec!["a bad log".into()])).is_passing());
        assert!(!Failure::of_attended("packer", Ok(())).is_passing());
        assert!(Failure::new("trainer 0", Fault::PeerLost("rank 1 is lost".into())).is_passing());
    }
}
