//! The manifest: what a checkpoint is and what it is made of.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{CheckpointError, at, missing, write_synced};
use crate::{Progress, TrainerConfig};

/// The first word of a manifest.
const MAGIC: &str = "lyceum-checkpoint";

/// The version of everything in a checkpoint.
const VERSION: u32 = 1;

/// No manifest is longer, in bytes.
const LONGEST: u64 = 64 << 20;

/// What a checkpoint says of itself. On disk: a line `lyceum-checkpoint <version> <bytes> <crc32>`, then so many bytes of
/// JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The gang that wrote it.
    pub epoch: u64,
    /// Ranks of that gang: the optimizer lies in as many shards.
    pub world_size: usize,
    /// How far training had come; among it, where in the batch log to go on.
    pub progress: Progress,
    /// How it was trained.
    pub config: TrainerConfig,
    /// Every other file.
    pub files: Vec<FileEntry>,
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Below the checkpoint's directory.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its CRC-32.
    pub crc32: u32,
}

impl Manifest {
    /// Writes and syncs it.
    pub(super) fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        let json = serde_json::to_string_pretty(self).map_err(|error| at(path)(error.into()))? + "\n";
        let crc = crc32fast::hash(json.as_bytes());
        write_synced(path, format!("{MAGIC} {VERSION} {} {crc:08x}\n{json}", json.len()).as_bytes())
    }

    /// Reads and checks it.
    pub(super) fn read(path: &Path) -> Result<Self, CheckpointError> {
        let damaged = |reason: String| CheckpointError::Damaged { path: path.to_owned(), reason };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(missing(path))?;
        file.take(LONGEST).read_to_end(&mut bytes).map_err(at(path))?;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (header, json) = bytes.split_at(end.ok_or_else(|| damaged("it has no header line".into()))? + 1);
        let header = String::from_utf8_lossy(header);
        let words: Vec<&str> = header.split_whitespace().collect();
        let [magic, version, length, crc] = words[..] else {
            return Err(damaged(format!("its header line is {:?}", header.trim())));
        };
        if magic != MAGIC {
            return Err(damaged(format!("it begins with {magic:?} where {MAGIC:?} should be")));
        }
        if version != VERSION.to_string() {
            return Err(damaged(format!("it has version {version}, this program reads version {VERSION}")));
        }
        if length != json.len().to_string() {
            return Err(damaged(format!("it has {} bytes of JSON, its header says {length}", json.len())));
        }
        let found = crc32fast::hash(json);
        if crc != format!("{found:08x}") {
            return Err(damaged(format!("its checksum is {found:08x}, its header says {crc}")));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
        match manifest.files.iter().find(|file| !file.is_below()) {
            Some(outside) => Err(damaged(format!("it names {:?}, outside the checkpoint", outside.path))),
            None => Ok(manifest),
        }
    }
}

impl FileEntry {
    /// Reads the file below `checkpoint` and checks length and checksum.
    pub(super) fn verify(&self, checkpoint: &Path) -> Result<(), CheckpointError> {
        let path = checkpoint.join(&self.path);
        let (bytes, crc32) = measure(&path)?;
        if (bytes, crc32) == (self.bytes, self.crc32) {
            return Ok(());
        }
        let reason = format!(
            "it has {bytes} bytes with checksum {crc32:08x}, the manifest says {} bytes with {:08x}",
            self.bytes, self.crc32
        );
        Err(CheckpointError::Damaged { path, reason })
    }

    fn is_below(&self) -> bool {
        Path::new(&self.path).components().all(|part| matches!(part, std::path::Component::Normal(_)))
    }
}

/// Length and checksum of every file below `checkpoint`, by path.
pub(super) fn list_files(checkpoint: &Path) -> Result<Vec<FileEntry>, CheckpointError> {
    let mut files = Vec::new();
    for directory in ["optimizer", "model"] {
        let below = checkpoint.join(directory);
        for entry in fs::read_dir(&below).map_err(at(&below))? {
            let path = entry.map_err(at(&below))?.path();
            let (bytes, crc32) = measure(&path)?;
            files.push(FileEntry { path: format!("{directory}/{}", super::name(&path)), bytes, crc32 });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn measure(path: &Path) -> Result<(u64, u32), CheckpointError> {
    let mut file = File::open(path).map_err(at(path))?;
    let (mut bytes, mut hasher, mut piece) = (0, crc32fast::Hasher::new(), vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut piece).map_err(at(path))?;
        if read == 0 {
            return Ok((bytes, hasher.finalize()));
        }
        hasher.update(&piece[..read]);
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            epoch: 2,
            world_size: 1,
            progress: Progress { step: 7, updates: 6, skipped: 1, log_position: 7, tokens: 700 },
            config: TrainerConfig { learning_rate: 1.25e-3, ..TrainerConfig::default() },
            files: vec![FileEntry { path: "model/config.json".into(), bytes: 3, crc32: 9 }],
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("manifest");
        manifest().write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest());
    }

    #[test]
    fn no_damage_to_a_manifest_goes_unseen() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("manifest");
        manifest().write(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(Manifest::read(&path).is_err(), "cut to {length} bytes");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            fs::write(&path, &flipped).unwrap();
            assert!(Manifest::read(&path).is_err(), "byte {at} flipped");
        }
    }

    fn read_from(data: &[u8]) {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("manifest");
        fs::write(&path, data).unwrap();
        let Ok(manifest) = Manifest::read(&path) else { return };
        assert!(manifest.files.iter().all(FileEntry::is_below));
        manifest.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest);
    }

    /// Makes the header line right.
    fn repair(data: &mut Vec<u8>) {
        let start = data.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let json = data.split_off(start);
        let crc = crc32fast::hash(&json);
        *data = format!("{MAGIC} {VERSION} {} {crc:08x}\n", json.len()).into_bytes();
        data.extend(json);
    }

    #[test]
    fn manifests_are_read_or_refused_whatever_they_hold() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("manifest");
        manifest().write(&path).unwrap();
        let fuzz = lyceum_fuzz::Fuzz::new("train manifest").seeds([fs::read(&path).unwrap()]).repair(repair);
        fuzz.words(["\"path\": \"../x\"", "null", "-1", "1e400"]).runs(3000).longest(8 << 10).run(read_from);
    }

    #[test]
    fn a_manifest_that_names_files_elsewhere_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("manifest");
        for outside in ["../secret", "/etc/passwd"] {
            let mut manifest = manifest();
            manifest.files[0].path = outside.into();
            manifest.write(&path).unwrap();
            assert!(Manifest::read(&path).unwrap_err().to_string().contains("outside the checkpoint"));
        }
    }
}
