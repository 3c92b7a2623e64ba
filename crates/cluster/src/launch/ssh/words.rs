//! What is said on a session: one order or answer a line, as JSON. Both ends are the same program, by its content.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::launch::order::AgentOrder;

/// Begins every line that is ours: a shell's start files may say things too.
pub(super) const MARK: &[u8] = b"lyceum: ";
/// Longest line: an order with the sections of all nodes of one host.
pub(super) const MAX_LINE: usize = 8 << 20;

/// Whose agent is meant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Subject {
    pub(super) cluster: String,
    pub(super) node: String,
    /// The machine and folder of its `up`: one user may have clusters of one name from several machines.
    pub(super) origin: String,
}

/// To the host. The first is always `Look`.
#[derive(Debug, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "the large variant is the one that matters")]
pub(super) enum Order {
    /// Does an agent of it run? Everything after this is about the same.
    Look(Subject),
    /// End what is left of an earlier one, and start it.
    Start(AgentOrder),
    /// What does its log end with?
    ShowLog,
    /// It goes on without this session. Until this is said it ends with the session.
    Release,
    /// End it, and remove what it leaves; processes have that long to end by themselves.
    End { patience_ms: u64 },
}

/// From the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Answer {
    Looked {
        lives: bool,
    },
    Started {
        pid: u32,
    },
    Log {
        file: String,
        lines: Vec<String>,
    },
    Released,
    Cleared {
        was_up: bool,
    },
    /// The order was not carried out.
    Refused(String),
    /// Not an answer but news: the agent has ended.
    Ended {
        pid: u32,
        how: String,
        file: String,
        lines: Vec<String>,
    },
}

pub(super) fn to_line<T: Serialize>(said: &T) -> Result<String, String> {
    let text = serde_json::to_string(said).map_err(|error| error.to_string())?;
    match text.len() < MAX_LINE {
        true => Ok(format!("{}{text}\n", String::from_utf8_lossy(MARK))),
        false => Err(format!("{} bytes are too many for a line", text.len())),
    }
}

/// What a line says; `None` for one that is not ours.
pub(super) fn from_line<T: DeserializeOwned>(line: &[u8]) -> Option<Result<T, String>> {
    let text = line.strip_prefix(MARK)?;
    Some(serde_json::from_slice(text).map_err(|error| format!("a line that is not understood: {error}")))
}

#[cfg(test)]
mod tests {
    use lyceum_fuzz::Fuzz;

    use super::*;

    fn line(data: &[u8]) {
        fn read<T: Serialize + DeserializeOwned>(data: &[u8]) {
            if let Some(Ok(said)) = from_line::<T>(data) {
                let again = to_line(&said).unwrap();
                let read = from_line::<T>(again.trim_end().as_bytes()).unwrap().unwrap();
                assert_eq!(to_line(&read).unwrap(), again);
            }
        }
        read::<Order>(data);
        read::<Answer>(data);
    }

    #[test]
    fn lines_of_a_session_are_read_or_refused() {
        let text = || "in some words".to_owned();
        let subject = Subject { cluster: "school".into(), node: "a".into(), origin: text() };
        let orders = [Order::Look(subject), Order::ShowLog, Order::Release, Order::End { patience_ms: 5000 }];
        let answers = [
            Answer::Looked { lives: true },
            Answer::Started { pid: 7 },
            Answer::Log { file: "/a/log".into(), lines: vec![text(), text()] },
            Answer::Refused(text()),
            Answer::Ended { pid: 7, how: text(), file: text(), lines: vec![text()] },
        ];
        let seeds = orders.iter().map(to_line).chain(answers.iter().map(to_line));
        let seeds: Vec<String> = seeds.collect::<Result<_, _>>().unwrap();
        let words = ["lyceum: ", "{\"Start\":{\"manifest\":{", "\"nodes\":[", "null"];
        Fuzz::new("ssh line").seeds(seeds).words(words).runs(20_000).longest(8192).memory(4 << 20).run(line);
    }
}
