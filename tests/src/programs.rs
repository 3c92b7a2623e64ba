//! The programs under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Folder of `lyceum` and `lyceum-worker`, built when a test first asks.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os("LYCEUM_TEST_PROGRAMS") {
        Some(folder) => PathBuf::from(folder),
        None => build(),
    })
}

/// A test program lies in `target/PROFILE/deps`: what it tests is built beside it, in the same profile.
fn build() -> PathBuf {
    let status = Command::new(env!("CARGO"))
        // Of the whole workspace: chosen one by one, they would have dependencies built again with other features.
        .args(["build", "--quiet", "--workspace", "--bins"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo starts");
    assert!(status.success(), "the programs under test cannot be built");
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).expect("target/PROFILE/deps/TEST").to_path_buf()
}
