//! Programs on their way: the streams on which a client brings one, and agents give it to each other.
//!
//! A stream's header is 4 bytes of tag, 1 of version, 1 that says what is wished for, the 32 bytes of the hash, and a
//! little-endian u64.
//!
//! To *bring* a program, that is its size. The agent answers [`HERE`] where it has it, or [`SEND`]: then come the bytes, and
//! the agent answers [`HERE`], or [`NOT_HERE`] and why, at most 1 KiB, up to the stream's end.
//!
//! To *fetch* one it is 0, or 1 from who was sent elsewhere in vain. The agent answers as often as it likes [`WAIT`], and then
//! [`HERE`], the size and the bytes, or [`NOT_HERE`] as above, or [`ELSEWHERE`] and the name of a node that has it too, up to
//! the stream's end.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lyceum_wire::{BulkReceiver, BulkSender, WireError};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::cache::{Incoming, Kept};
use crate::manifest::MAX_NAME;
use crate::program::ProgramHash;

const TAG: [u8; 4] = *b"LYpr";
const VERSION: u8 = 1;
const HEADER: usize = 46;

const HERE: u8 = 1;
const NOT_HERE: u8 = 2;
const WAIT: u8 = 3;
const ELSEWHERE: u8 = 4;
const SEND: u8 = 5;

/// Longest reason, in bytes.
const LONGEST_REASON: usize = 1024;
/// Bytes that are read from a file, or from a stream, at a time.
const PIECE: usize = 512 << 10;
/// Pieces that wait to be written.
const MAX_PIECES: usize = 4;
/// A peer that makes no progress for this long has failed.
pub(super) const STALL: Duration = Duration::from_secs(10);

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Bring { hash: ProgramHash, bytes: u64 },
    Fetch { hash: ProgramHash, insists: bool },
}

impl Wish {
    pub(crate) fn is_ours(header: &[u8]) -> bool {
        header.starts_with(&TAG)
    }

    pub(crate) fn encode(self) -> [u8; HEADER] {
        let (kind, hash, number) = match self {
            Wish::Bring { hash, bytes } => (1, hash, bytes),
            Wish::Fetch { hash, insists } => (2, hash, insists.into()),
        };
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&TAG);
        header[4..6].copy_from_slice(&[VERSION, kind]);
        header[6..38].copy_from_slice(&hash.to_bytes());
        header[38..].copy_from_slice(&number.to_le_bytes());
        header
    }

    pub(crate) fn decode(header: &[u8]) -> Result<Wish, String> {
        let Ok(header) = <&[u8; HEADER]>::try_from(header) else {
            return Err(format!("a header of {} bytes, {HEADER} expected", header.len()));
        };
        let [hash, number] = [6, 38].map(|at| &header[at..]);
        let hash = hash.first_chunk().copied().map(ProgramHash::from_bytes);
        let number = number.first_chunk().copied().map(u64::from_le_bytes);
        match (Wish::is_ours(header), header[4], header[5], hash, number) {
            (true, VERSION, 1, Some(hash), Some(bytes)) => Ok(Wish::Bring { hash, bytes }),
            (true, VERSION, 2, Some(hash), Some(insists @ 0..=1)) => {
                Ok(Wish::Fetch { hash, insists: insists == 1 })
            }
            (ours, version, kind, _, number) => Err(format!(
                "a header with tag {ours}, version {version} (ours is {VERSION}), wish {kind}, number {number:?}"
            )),
        }
    }
}

/// What an agent says first.
#[derive(Debug)]
pub(crate) enum Said {
    Here,
    Send,
    Elsewhere(String),
    NotHere(String),
}

/// The first word that is not "wait".
pub(crate) async fn hear(receiver: &mut BulkReceiver) -> Result<Said, String> {
    let mut word = [WAIT];
    while word == [WAIT] {
        within(receiver.read_exact(&mut word)).await?;
    }
    let words = async |receiver: &mut BulkReceiver, limit| {
        let words = within(receiver.read_to_end(limit)).await?;
        Ok::<_, String>(String::from_utf8_lossy(&words).into_owned())
    };
    match word {
        [HERE] => Ok(Said::Here),
        [SEND] => Ok(Said::Send),
        [ELSEWHERE] => Ok(Said::Elsewhere(words(receiver, MAX_NAME).await?)),
        [NOT_HERE] => Ok(Said::NotHere(words(receiver, LONGEST_REASON).await?)),
        [other] => Err(format!("its agent answered {other}, which means nothing")),
    }
}

pub(super) async fn say_wait(sender: &mut BulkSender) -> Result<(), String> {
    within(sender.write(&[WAIT])).await
}

pub(super) async fn say_send(sender: &mut BulkSender) -> Result<(), String> {
    within(sender.write(&[SEND])).await
}

/// The last word on a stream.
pub(super) async fn say_last(sender: &mut BulkSender, said: &Said) -> Result<(), String> {
    let (word, text) = match said {
        Said::Here => (HERE, ""),
        Said::Send => (SEND, ""),
        Said::Elsewhere(node) => (ELSEWHERE, node.as_str()),
        Said::NotHere(why) => (NOT_HERE, cut(why)),
    };
    within(sender.write(&[&[word], text.as_bytes()].concat())).await?;
    sender.finish().map_err(|error| error.to_string())?;
    within(sender.delivered()).await
}

fn cut(text: &str) -> &str {
    let end = (0..=LONGEST_REASON.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// Sends a program that is here: the word, its size, and its bytes.
pub(super) async fn give(sender: &mut BulkSender, program: Arc<Kept>) -> Result<(), String> {
    let mut head = vec![HERE];
    head.extend(program.bytes().to_le_bytes());
    within(sender.write(&head)).await?;
    let path = program.path().to_owned();
    let file = blocking(move || File::open(path)).await?;
    send_file(sender, Arc::new(file), program.bytes()).await
}

/// Sends the first `bytes` of a file, which are to be all, and ends the stream.
pub(crate) async fn send_file(sender: &mut BulkSender, file: Arc<File>, bytes: u64) -> Result<(), String> {
    let mut at = 0;
    while at < bytes {
        let (file, len) = (file.clone(), (bytes - at).min(PIECE as u64));
        let piece = blocking(move || {
            let mut piece = vec![0; len as usize];
            file.read_exact_at(&mut piece, at).map(|()| piece)
        });
        within(sender.write_bytes(Bytes::from(piece.await?))).await?;
        at += len;
    }
    sender.finish().map_err(|error| error.to_string())?;
    within(sender.delivered()).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = spawn_blocking(work).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

/// The size that follows [`Said::Here`] on a fetch.
pub(super) async fn size(receiver: &mut BulkReceiver) -> Result<u64, String> {
    let mut bytes = [0; 8];
    within(receiver.read_exact(&mut bytes)).await?;
    Ok(u64::from_le_bytes(bytes))
}

/// Takes in what comes up to the end. Where this is given up nothing stays.
pub(super) async fn take(receiver: &mut BulkReceiver, mut incoming: Incoming) -> Result<Arc<Kept>, String> {
    let (pieces, mut queue) = mpsc::channel::<Bytes>(MAX_PIECES);
    let expected = incoming.bytes();
    let writing = spawn_blocking(move || {
        while let Some(piece) = queue.blocking_recv() {
            incoming.write(&piece)?;
        }
        incoming.finish()
    });
    let mut came = 0;
    let reading: Result<(), String> = async {
        while let Some(piece) = within(receiver.read_bytes(PIECE)).await? {
            came += piece.len() as u64;
            if pieces.send(piece).await.is_err() {
                // The writer has ended, and says why.
                break;
            }
        }
        Ok(())
    }
    .await;
    drop(pieces);
    let written = writing.await.map_err(|error| error.to_string())?;
    match reading {
        Err(why) if came < expected => Err(format!("{why} ({came} of {expected} bytes came)")),
        _ => written,
    }
}

/// The result in time, or that there was none.
pub(crate) async fn within<T>(work: impl Future<Output = Result<T, WireError>>) -> Result<T, String> {
    match tokio::time::timeout(STALL, work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no progress for {} s", STALL.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was_written_and_anything_else_is_refused() {
        let hash = ProgramHash::from_bytes([7; 32]);
        let fetch = |insists| Wish::Fetch { hash, insists };
        for wish in [Wish::Bring { hash, bytes: 1 << 40 }, fetch(false), fetch(true)] {
            let header = wish.encode();
            assert_eq!(Wish::decode(&header), Ok(wish));
            assert!(Wish::decode(&header[..HEADER - 1]).is_err());
            for at in 0..6 {
                let mut broken = header;
                broken[at] ^= 0x40;
                assert!(Wish::decode(&broken).is_err());
            }
        }
        let mut broken = fetch(true).encode();
        broken[HEADER - 1] = 1;
        assert!(Wish::decode(&broken).is_err());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"é".repeat(600)).len(), LONGEST_REASON);
        assert_eq!(cut(&format!("a{}", "é".repeat(600))).len(), LONGEST_REASON - 1);
    }
}
