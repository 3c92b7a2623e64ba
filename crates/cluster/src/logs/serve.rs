//! The agent's side: one reader of logs, over a connection of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lyceum_wire::{CloseCode, Connection, LaneReceiver, LaneSender, WireError};
use tokio::sync::{Semaphore, mpsc, watch};

use super::book::{LogBook, OpenLog};
use super::words::{AgentToClient, ClientToAgent, MAX_LISTED, PIECE, ReadLogs, WINDOW};
use super::{file, now_ms};
use crate::message::{Message, Unknown};

/// How often the logs that are followed are looked at.
const POLL: Duration = Duration::from_millis(100);
/// Readers of logs at a time.
const MAX_READERS: usize = 64;

/// Who may read at a time, on one agent.
#[derive(Debug, Clone)]
pub(crate) struct LogDesk {
    book: Arc<LogBook>,
    seats: Arc<Semaphore>,
}

impl LogDesk {
    pub(crate) fn new(book: Arc<LogBook>) -> LogDesk {
        LogDesk { book, seats: Arc::new(Semaphore::new(MAX_READERS)) }
    }

    /// Serves one reader until it has gone.
    pub(crate) async fn serve(&self, connection: &Connection) -> Result<(), WireError> {
        let Ok(_seat) = self.seats.clone().try_acquire_owned() else {
            let why = format!("{MAX_READERS} readers of logs are here already");
            connection.close(CloseCode::NotAdmitted, &why);
            return Ok(());
        };
        let (lane, mut frames) = connection.lane()?;
        let credit = Arc::new(Semaphore::new(0));
        let (asks, asked) = mpsc::channel(1);
        let (finishes, finish) = watch::channel(false);
        let answers = Answers { book: self.book.clone(), lane: lane.clone(), credit: credit.clone(), finish };
        tokio::select! {
            heard = hear(&mut frames, &credit, asks, finishes) => heard,
            answered = answers.run(asked) => answered,
        }?;
        // What was said last is still on its way.
        lane.finish().await
    }
}

/// Takes in what the reader says, until it says no more.
async fn hear(
    frames: &mut LaneReceiver,
    credit: &Semaphore,
    asks: mpsc::Sender<Result<ClientToAgent, String>>,
    finishes: watch::Sender<bool>,
) -> Result<(), WireError> {
    let mut unknown = Unknown::default();
    while let Some(frame) = frames.recv().await? {
        match ClientToAgent::from_frame(&frame)? {
            Some(ClientToAgent::More { bytes }) => {
                let granted = credit.available_permits() as u64;
                if bytes > WINDOW || granted + bytes > WINDOW {
                    let text = format!(
                        "a reader of logs takes {granted} + {bytes} bytes, expected at most {WINDOW}"
                    );
                    return Err(WireError::Archive(text));
                }
                credit.add_permits(bytes as usize);
            }
            Some(ClientToAgent::Finish) => _ = finishes.send_replace(true),
            Some(ask) => {
                let asked = asks.try_send(Ok(ask));
                asked.map_err(|_| {
                    WireError::Archive("a reader of logs asks for one thing at a time".into())
                })?;
            }
            None => {
                let kind = frame.header.kind;
                unknown.pass_by(&frame, &"a reader of logs");
                let why = format!("questions of kind {kind:#06x} are not known here: one of both is newer");
                let _ = asks.try_send(Err(why));
            }
        }
    }
    Ok(())
}

struct Answers {
    book: Arc<LogBook>,
    lane: LaneSender,
    /// Bytes that the reader can take.
    credit: Arc<Semaphore>,
    finish: watch::Receiver<bool>,
}

/// A log that is being read.
struct Reading {
    log: OpenLog,
    place: u64,
    /// Where reading ends, once that is known.
    until: Option<u64>,
}

impl Answers {
    async fn run(
        mut self,
        mut asked: mpsc::Receiver<Result<ClientToAgent, String>>,
    ) -> Result<(), WireError> {
        loop {
            let refused = match asked.recv().await {
                Some(Ok(ClientToAgent::List { of })) => match of.check() {
                    Ok(()) => {
                        let found = self.book.select(&of);
                        let newest = found.len().saturating_sub(MAX_LISTED);
                        for entry in found.into_iter().skip(newest) {
                            let place = entry.cut;
                            self.say(AgentToClient::Log { entry, place }).await?;
                        }
                        None
                    }
                    Err(why) => Some(why),
                },
                Some(Ok(ClientToAgent::Read(read))) => match read.of.check() {
                    Ok(()) => self.read(read).await?.err(),
                    Err(why) => Some(why),
                },
                Some(Ok(ClientToAgent::More { .. } | ClientToAgent::Finish)) => continue,
                Some(Err(why)) => Some(why),
                // It says no more; when it has gone, so does this.
                None => std::future::pending().await,
            };
            match refused {
                None => self.say(AgentToClient::Done).await?,
                Some(why) => self.say(AgentToClient::Refused { why }).await?,
            }
        }
    }

    /// Says it when the reader can take it.
    async fn say(&self, word: AgentToClient) -> Result<(), WireError> {
        let frame = word.into_frame()?;
        let cost = u32::try_from(frame.wire_len()).unwrap_or(u32::MAX);
        // It is never closed.
        let Ok(credit) = self.credit.acquire_many(cost).await else { return Ok(()) };
        credit.forget();
        Ok(self.lane.send(frame).await?)
    }

    /// Sends what was asked for: to its end, or, where it is followed, for as long as it goes on. The error is why not.
    async fn read(&mut self, read: ReadLogs) -> Result<Result<(), String>, WireError> {
        // By process, which is the order in which they began; those that were read to their end are there without.
        let mut readings: BTreeMap<u64, Option<Reading>> = BTreeMap::new();
        let mut seen = None;
        loop {
            // Looked at before the logs are: what is written until then is read.
            let finishes = !read.follow || *self.finish.borrow();
            let version = self.book.version();
            if seen != Some(version) {
                if let Err(error) = self.open_new(&read, &mut readings, seen.is_none()).await? {
                    return Ok(Err(unreadable(&error)));
                }
                seen = Some(version);
            }
            let mut moved = false;
            for (process, place) in &mut readings {
                let Some(reading) = place else { continue };
                let ends = finishes || self.book.has_ended(*process);
                match self.pump(*process, reading, ends).await? {
                    Ok(some) => moved |= some,
                    Err(error) => return Ok(Err(unreadable(&error))),
                }
                if ends {
                    let at = reading.place;
                    *place = None;
                    if let Some(entry) = self.book.entry(*process).filter(|_| read.follow) {
                        self.say(AgentToClient::Log { entry, place: at }).await?;
                    }
                }
            }
            let all_read = readings.values().all(Option::is_none);
            if all_read && (finishes || !read.of.may_grow()) {
                return Ok(Ok(()));
            }
            if !moved {
                let _ = tokio::time::timeout(POLL, self.finish.changed()).await;
            }
        }
    }

    /// Opens those that are not being read yet.
    async fn open_new(
        &self,
        read: &ReadLogs,
        readings: &mut BTreeMap<u64, Option<Reading>>,
        is_first: bool,
    ) -> Result<std::io::Result<()>, WireError> {
        let since = read.within_ms.map(|within| now_ms().saturating_sub(within));
        // What begins later is read from its beginning.
        let (tail, since) = if is_first { (read.tail, since) } else { (None, None) };
        let new = self.book.select(&read.of).into_iter();
        for entry in new.filter(|entry| !readings.contains_key(&entry.label.process)).collect::<Vec<_>>() {
            let process = entry.label.process;
            // It may have been deleted since.
            let Ok(log) = self.book.open_log(process) else { continue };
            let known = read.from.iter().find(|(of, _)| *of == process).map(|(_, place)| *place);
            let place = match known.map_or_else(|| log.start(tail, since), Ok) {
                Ok(place) => place,
                Err(error) => return Ok(Err(error)),
            };
            readings.insert(process, Some(Reading { log, place, until: None }));
            self.say(AgentToClient::Log { entry, place }).await?;
        }
        Ok(Ok(()))
    }

    /// Sends what there is of a log: one piece, so that one which is written all the time does not hold up the others, or, where
    /// it `ends`, all that is there now. Returns whether there was any.
    async fn pump(
        &self,
        process: u64,
        reading: &mut Reading,
        ends: bool,
    ) -> Result<std::io::Result<bool>, WireError> {
        let mut moved = false;
        loop {
            match self.step(process, reading, ends).await? {
                Ok(true) => moved = true,
                Ok(false) => return Ok(Ok(moved)),
                Err(error) => return Ok(Err(error)),
            }
            if !ends {
                return Ok(Ok(true));
            }
        }
    }

    /// Sends the next piece of a log; false when there is none.
    async fn step(
        &self,
        process: u64,
        reading: &mut Reading,
        ends: bool,
    ) -> Result<std::io::Result<bool>, WireError> {
        let base = self.book.base(process).unwrap_or(reading.log.base);
        reading.log.base = base;
        let end = match reading.log.kept() {
            Ok(kept) if ends => *reading.until.get_or_insert(kept.end),
            Ok(kept) => kept.end,
            Err(error) => return Ok(Err(error)),
        };
        if reading.place >= end {
            return Ok(Ok(false));
        }
        let (file, offset) = (reading.log.file.clone(), reading.place.saturating_sub(base));
        let most = PIECE.min(end - reading.place);
        // A disk that is slow holds up nobody but this reader.
        let read = tokio::task::spawn_blocking(move || file::read(&file, offset, most)).await;
        let bytes = match read.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error)),
        };
        // Looked at when it is read: what was cut meanwhile was read as nothing, or as something else.
        if self.book.base(process).is_some_and(|now| now != base) {
            return Ok(Ok(true));
        }
        let begin = match reading.log.kept() {
            Ok(kept) => kept.start,
            Err(error) => return Ok(Err(error)),
        };
        if reading.place < begin {
            let lost = begin - reading.place;
            reading.place = begin;
            self.say(AgentToClient::Lost { process, bytes: lost }).await?;
            return Ok(Ok(true));
        }
        let (place, len) = (reading.place, bytes.len() as u64);
        reading.place += len;
        if len > 0 {
            self.say(AgentToClient::Piece { process, place, bytes }).await?;
        }
        Ok(Ok(len > 0))
    }
}

fn unreadable(error: &std::io::Error) -> String {
    format!("a log cannot be read: {error}")
}
