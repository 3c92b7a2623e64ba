//! The Python environments of the systems that `lyceum bench --peer` runs beside ours, in `.peers`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cargo::{run, workspace_root};

/// A peer's name, and what pip installs for it.
const PEERS: [(&str, &[&str]); 2] =
    [("ray", &["ray==2.60.0", "numpy==2.3.5"]), ("monarch", &["torchmonarch==0.7.0", "numpy==2.3.5"])];

/// Made last in an environment, so that one that was interrupted is made again.
const WHOLE: &str = "whole";

/// Makes the environments that are missing or of other versions.
pub fn run_all() -> Result<()> {
    for (name, requirements) in PEERS {
        let environment = workspace_root().join(".peers").join(name);
        let mark = environment.join(WHOLE);
        let wanted = requirements.join("\n");
        if fs::read_to_string(&mark).is_ok_and(|found| found == wanted) {
            println!("{name}: there");
            continue;
        }
        println!("{name}: {}", requirements.join(", "));
        make(&environment, requirements).with_context(|| format!("the environment of {name}"))?;
        fs::write(&mark, wanted).with_context(|| format!("cannot write {}", mark.display()))?;
    }
    Ok(())
}

fn make(environment: &Path, requirements: &[&str]) -> Result<()> {
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))?;
    let mut pip = Command::new(environment.join("bin/python"));
    run(pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--quiet"]).args(requirements))
}
