//! One log as a file: what is left of it, cutting it, finding places in it.
//!
//! A place in a log is the number of bytes that were written before it, and stays what it is when the log is cut: the
//! beginning is punched out of the file, which gives its blocks back and moves nothing. So the writer is not disturbed,
//! nothing that it writes meanwhile is lost, and who reads on finds its place. On a file system that cannot do that (NFS
//! before 4.2) the last part is written anew in place of the whole; what the writer writes within those microseconds may be
//! lost, and places move by what [`trim`] says.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

/// What is cut out is whole pages.
const PAGE: u64 = 4096;
/// What is kept where the beginning cannot be punched out.
const REWRITTEN: u64 = 256 << 10;
/// Bytes that are looked at together for line ends.
const BLOCK: u64 = 64 << 10;

/// The part of the file that is there, as offsets in the file.
pub(super) fn kept(file: &File) -> io::Result<Range<u64>> {
    let end = file.metadata()?.len();
    let begin = match rustix::fs::seek(file, SeekFrom::Data(0)) {
        Ok(begin) => begin,
        // Nothing but a hole.
        Err(Errno::NXIO) => end,
        // It cannot have holes here.
        Err(_) => 0,
    };
    Ok(begin.min(end)..end)
}

/// Keeps the last `size` bytes of a log, or some less. Returns by how much smaller its offsets are than before.
pub(super) fn trim(path: &Path, size: u64) -> io::Result<u64> {
    // Most of the time it is small, which needs no more than a look.
    if fs::metadata(path)?.len() <= size {
        return Ok(0);
    }
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let kept = kept(&file)?;
    if kept.end - kept.start <= size {
        return Ok(0);
    }
    let begin = (kept.end - size).next_multiple_of(PAGE).min(kept.end);
    match rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, begin) {
        Ok(()) => Ok(0),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => rewrite(path, size.min(REWRITTEN)),
        Err(error) => Err(error.into()),
    }
}

/// Keeps the last `size` bytes in place of the whole.
fn rewrite(path: &Path, size: u64) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).open(path)?;
    let end = file.metadata()?.len();
    let begin = end.saturating_sub(size);
    let tail = read(&file, begin, size)?;
    let mut writer = OpenOptions::new().append(true).open(path)?;
    writer.set_len(0)?;
    writer.write_all(&tail)?;
    Ok(begin)
}

/// At most `most` bytes from `offset` on; fewer only at the end.
pub(super) fn read(file: &File, offset: u64, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(most).unwrap_or(usize::MAX)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Where the last `lines` lines of `kept` begin; the whole of it where they are fewer.
pub(super) fn last_lines(file: &File, kept: Range<u64>, lines: u64) -> io::Result<u64> {
    if lines == 0 {
        return Ok(kept.end);
    }
    // The end of the last line is not the beginning of one more.
    let (mut left, mut end) = (lines, kept.end.saturating_sub(1).max(kept.start));
    while end > kept.start {
        let begin = end.saturating_sub(BLOCK).max(kept.start);
        let block = read(file, begin, end - begin)?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            left -= 1;
            if left == 0 {
                return Ok(begin + at as u64 + 1);
            }
        }
        end = begin;
    }
    Ok(kept.start)
}

/// Where the first whole line at or after the beginning of `kept`, which may be within one, begins.
pub(super) fn first_line(file: &File, kept: Range<u64>) -> io::Result<u64> {
    if kept.start == 0 {
        return Ok(0);
    }
    let block = read(file, kept.start, BLOCK.min(kept.end - kept.start))?;
    let found = block.iter().position(|byte| *byte == b'\n');
    Ok(found.map_or(kept.start, |at| kept.start + at as u64 + 1))
}

/// Bytes of disk that a file takes.
pub(super) fn disk_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len().min(meta.blocks() * 512))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 << 10;

    fn log_of(lines: Range<u32>) -> (tempfile::NamedTempFile, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = OpenOptions::new().append(true).open(file.path()).unwrap();
        lines.for_each(|line| writeln!(writer, "line {line:010}").unwrap());
        (file, writer)
    }

    #[test]
    fn a_log_is_cut_where_it_lies_and_its_writer_and_its_places_stay() {
        let (log, mut writer) = log_of(0..20_000);
        assert_eq!(trim(log.path(), SIZE).unwrap(), 0);
        writer.write_all(b"after\n").unwrap();
        let file = File::open(log.path()).unwrap();
        let kept = kept(&file).unwrap();
        assert_eq!(kept.end, 20_000 * 16 + 6);
        assert!(kept.end - kept.start <= SIZE + 6 && kept.end - kept.start > SIZE - 2 * PAGE, "{kept:?}");
        assert!(disk_bytes(log.path()) <= SIZE + PAGE);
        let first = first_line(&file, kept.clone()).unwrap();
        assert_eq!(read(&file, first, 16).unwrap(), format!("line {:010}\n", first / 16).as_bytes());
        assert_eq!(trim(log.path(), SIZE).unwrap(), 0, "it is small enough now");
    }

    #[test]
    fn where_it_cannot_be_cut_out_the_last_part_is_written_anew() {
        let (log, mut writer) = log_of(0..20_000);
        let moved = rewrite(log.path(), SIZE).unwrap();
        assert_eq!(moved, 20_000 * 16 - SIZE);
        writer.write_all(b"after\n").unwrap();
        let file = File::open(log.path()).unwrap();
        assert_eq!(kept(&file).unwrap(), 0..SIZE + 6);
        let expected = format!("line {:010}\nafter\n", 19_999);
        assert_eq!(read(&file, SIZE - 16, 100).unwrap(), expected.as_bytes());
    }

    #[test]
    fn the_last_lines_are_found_however_long_the_log_is() {
        let (log, mut writer) = log_of(0..20_000);
        let file = File::open(log.path()).unwrap();
        let at = |lines| {
            let kept = kept(&file).unwrap();
            last_lines(&file, kept, lines).unwrap()
        };
        assert_eq!(at(0), 320_000);
        assert_eq!(at(1), 319_984);
        assert_eq!(at(10_000), 160_000);
        assert_eq!(at(20_000), 0);
        assert_eq!(at(u64::MAX), 0);
        writer.write_all(b"no end").unwrap();
        assert_eq!(at(1), 320_000, "a line that is being written is one");
        assert_eq!(at(2), 319_984);
        let (empty, _) = log_of(0..0);
        assert_eq!(last_lines(&File::open(empty.path()).unwrap(), 0..0, 3).unwrap(), 0);
    }
}
