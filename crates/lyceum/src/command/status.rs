//! `lyceum status [CLUSTER]`

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use lyceum_cluster::launch;
use lyceum_cluster::state::StateDir;

use super::{block_on, named_cluster, table};

#[derive(Debug, Args)]
pub struct Status {
    /// Name of the cluster, or its manifest; may be left out where only one runs
    cluster: Option<String>,
}

impl Status {
    pub fn run(self) -> Result<ExitCode> {
        let (name, state) = named_cluster(self.cluster.as_deref())?;
        let running = StateDir::clusters()?;
        if !running.contains(&name) {
            let others = if running.is_empty() {
                "none does".to_owned()
            } else {
                format!("these do: {}", running.join(", "))
            };
            bail!("no cluster `{name}` runs here; {others}");
        }
        let (status, warnings) = block_on(async { Ok(launch::status(&state).await?) })?;
        let kind = if status.owned { "owned" } else { "standing" };
        println!("cluster `{}` ({kind})\n", status.cluster);
        print!("{}", table::nodes(&status));
        for warning in &warnings {
            println!("\nwarning, by {}: {}", warning.by, warning.text);
        }
        if !status.jobs.is_empty() {
            print!("\n{}", table::jobs(&status));
        }
        if !status.actors.is_empty() {
            print!("\n{}", table::actors(&status));
        }
        Ok(ExitCode::SUCCESS)
    }
}
