//! Compiles `shim.cpp` against the libtorch that torch-sys found.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/shim.cpp");
    println!("cargo:rerun-if-changed=build.rs");
    for name in ["LIBTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_USE_PYTORCH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let mut build = cc::Build::new();
    build.cpp(true).pic(true).warnings(false).flag("-std=c++17").flag("-O2").file("src/shim.cpp");
    // As libtorch was: without it some classes of its headers have members that the library's do not have.
    build.define("NDEBUG", None);
    for include in include_directories() {
        build.include(include);
    }
    build.compile("lyceum_torch_shim");
    // torch-sys links the same two; naming them again puts them behind the shim on the linker's line.
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
}

/// As torch-sys looks for them: `LIBTORCH_USE_PYTORCH`, then `LIBTORCH_INCLUDE`, then `LIBTORCH`.
fn include_directories() -> Vec<PathBuf> {
    if std::env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        let python = if std::env::var_os("VIRTUAL_ENV").is_some() { "python" } else { "python3" };
        let script = "import torch, os; print(os.path.join(os.path.dirname(torch.__file__), 'include'))";
        let output = Command::new(python).arg("-c").arg(script).output();
        let printed =
            output.ok().filter(|o| o.status.success()).and_then(|o| String::from_utf8(o.stdout).ok());
        match printed {
            Some(path) => return vec![PathBuf::from(path.trim())],
            None => panic!("LIBTORCH_USE_PYTORCH is set, but `{python}` cannot import torch"),
        }
    }
    let Some(root) = std::env::var_os("LIBTORCH_INCLUDE").or_else(|| std::env::var_os("LIBTORCH")) else {
        panic!("LIBTORCH is not set: run `cargo xtask setup` from the repository's root");
    };
    let include = absolute(Path::new(&root)).join("include");
    assert!(
        include.join("ATen/ATen.h").exists(),
        "{} has no ATen/ATen.h: run `cargo xtask setup`, or let LIBTORCH name an unpacked libtorch 2.11.0",
        include.display()
    );
    vec![include]
}

/// A relative `LIBTORCH` is meant from the repository's root, two levels above this crate.
fn absolute(path: &Path) -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    if path.is_absolute() { path.to_owned() } else { manifest.join("../..").join(path) }
}
