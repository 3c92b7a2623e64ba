//! `lyceum logs TARGET`

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use lyceum_cluster::logs::{Incarnations, LogItem, LogLabel, LogQuery, LogReader};
use lyceum_cluster::units::Span;

use super::{block_on, named_cluster, say, table};

#[derive(Debug, Args)]
pub struct Logs {
    /// An actor, job or node by number or name, as `lyceum status` shows them; of a gang's member `NAME[RANK]`; `actor/NAME`,
    /// `job/NAME` or `node/NAME` where several are called so
    target: String,
    /// Go on with what is written from now on, until the actor or job has ended
    #[arg(short, long)]
    follow: bool,
    /// Show only the last lines, so many of each log
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Show only what was written in this time until now, such as 90s, 10m or 1h30m
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Span>,
    /// Only of this incarnation: the number after `#`
    #[arg(long, value_name = "NUMBER", conflicts_with = "previous")]
    incarnation: Option<u64>,
    /// Only of the last incarnation but one: what was said before a restart
    #[arg(short, long)]
    previous: bool,
    /// Say before each line whose it is, also where all are of one actor
    #[arg(long)]
    prefix: bool,
    /// Only list the logs there are
    #[arg(long, conflicts_with_all = ["follow", "tail", "since", "prefix"])]
    list: bool,
    /// Name of the cluster, or its manifest; may be left out where only one runs
    #[arg(long)]
    cluster: Option<String>,
}

fn time(text: &str) -> Result<Span, String> {
    Span::parse(text).ok_or_else(|| "expected a time such as 90s, 10m or 1h30m".to_owned())
}

impl Logs {
    pub fn run(self) -> Result<ExitCode> {
        let (_, state) = named_cluster(self.cluster.as_deref())?;
        let incarnations = match (self.incarnation, self.previous) {
            (Some(process), _) => Incarnations::One(process),
            (None, true) => Incarnations::Previous,
            (None, false) => Incarnations::All,
        };
        let query = LogQuery {
            target: self.target.clone(),
            incarnations,
            tail: self.tail,
            within: self.since.map(|since| Duration::from_millis(since.0)),
            follow: self.follow,
        };
        block_on(async {
            let mut reader = LogReader::open(&state, query).await?;
            let printed = match self.list {
                true => io::stdout().write_all(table::logs(reader.found()).as_bytes()),
                false => self.print(&mut reader).await,
            };
            reader.close().await;
            match printed {
                // Who reads this may have enough of it.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
                _ => Ok(ExitCode::SUCCESS),
            }
        })
    }

    async fn print(&self, reader: &mut LogReader) -> io::Result<()> {
        let is_of_one = reader.is_of_one_actor();
        let prefixed = self.prefix || !is_of_one;
        let mut lives = BTreeSet::new();
        while let Some(item) = reader.next().await {
            match item {
                LogItem::Line { label, text, .. } => {
                    if is_of_one && lives.insert(label.process) && lives.len() > 1 {
                        say(&format!("== {}#{} was started again", label.title(), label.process));
                    }
                    // Locked for one line: whoever waits for it waits for no other.
                    let mut out = io::stdout().lock();
                    if prefixed {
                        write!(out, "{} | ", prefix(&label))?;
                    }
                    out.write_all(&text)?;
                    out.write_all(b"\n")?;
                }
                LogItem::Ended { node, label } => {
                    let Some(end) = label.end.as_ref() else { continue };
                    say(&format!("== {} on {node} {}", prefix(&label), end.cause));
                }
                LogItem::Note(text) => say(&text),
            }
        }
        Ok(())
    }
}

/// What stands before a line.
fn prefix(label: &LogLabel) -> String {
    match label.process {
        0 => label.title(),
        process => format!("{}#{process}", label.title()),
    }
}
