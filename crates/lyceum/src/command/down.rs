//! `lyceum down [CLUSTER]`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use lyceum_cluster::launch;

use super::{block_on, named_cluster};

#[derive(Debug, Args)]
pub struct Down {
    /// Name of the cluster, or its manifest; may be left out where only one runs
    cluster: Option<String>,
}

impl Down {
    pub fn run(self) -> Result<ExitCode> {
        let (name, state) = named_cluster(self.cluster.as_deref())?;
        match block_on(async { Ok(launch::down_with(&state, Some(lyceum_kubernetes::pods)).await?) })? {
            true => println!("cluster `{name}` has ended"),
            false => println!("cluster `{name}` was not running"),
        }
        Ok(ExitCode::SUCCESS)
    }
}
