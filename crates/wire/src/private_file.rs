//! Files that their owner alone may read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::{Result, WireError};

/// Far above any key or certificate of ours.
const MAX_BYTES: u64 = 64 * 1024;

/// Makes `dir` (and its parents) for the owner alone (0700).
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    let make = || {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
    };
    make().map_err(|error| failed(dir, "cannot be made", &error))
}

/// Writes `dir/name` (0600), whole or not at all, also when the machine fails in between.
pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let draft = dir.join(format!(".{name}.{}", std::process::id()));
    let put = || {
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(dir)?.sync_all()
    };
    put().map_err(|error| failed(&path, "cannot be written", &error))
}

/// Reads `dir/name`, and refuses a file that others may read.
pub(crate) fn read(dir: &Path, name: &str) -> Result<Vec<u8>> {
    let path = dir.join(name);
    let file = File::open(&path).map_err(|error| failed(&path, "cannot be opened", &error))?;
    let mode = file.metadata().map_err(|error| failed(&path, "cannot be read", &error))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let reason =
            format!("holds a key and has mode {mode:03o}, open to others: chmod 600 it, or make new keys");
        return Err(WireError::KeyFile { path, reason });
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|error| failed(&path, "cannot be read", &error))?;
    Ok(bytes)
}

fn failed(path: &Path, what: &str, error: &io::Error) -> WireError {
    WireError::KeyFile { path: path.to_owned(), reason: format!("{what}: {error}") }
}
