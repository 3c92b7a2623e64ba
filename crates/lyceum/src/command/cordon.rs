//! `lyceum cordon NODE`, `lyceum uncordon NODE`, `lyceum drain NODE`: what a node takes.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use lyceum_cluster::Client;

use super::{block_on, named_cluster};

/// A node of a cluster.
#[derive(Debug, Args)]
struct Place {
    /// Name of the node
    node: String,
    /// Name of the cluster, or its manifest; may be left out where only one runs
    #[arg(long)]
    cluster: Option<String>,
}

impl Place {
    async fn client(&self) -> Result<Client> {
        let (_, state) = named_cluster(self.cluster.as_deref())?;
        Ok(Client::connect(&state).await?)
    }
}

#[derive(Debug, Args)]
pub struct Cordon {
    #[command(flatten)]
    place: Place,
    /// Why, for those who look at the status
    #[arg(long, default_value = "cordoned by `lyceum cordon`")]
    reason: String,
}

impl Cordon {
    pub fn run(self) -> Result<ExitCode> {
        block_on(async { Ok(self.place.client().await?.cordon(&self.place.node, &self.reason).await?) })?;
        println!("node `{}` takes nothing new", self.place.node);
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Args)]
pub struct Uncordon {
    #[command(flatten)]
    place: Place,
}

impl Uncordon {
    pub fn run(self) -> Result<ExitCode> {
        block_on(async { Ok(self.place.client().await?.uncordon(&self.place.node).await?) })?;
        println!("node `{}` takes what comes again", self.place.node);
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Args)]
pub struct Drain {
    #[command(flatten)]
    place: Place,
    /// Seconds after which what is left on the node is ended, and started elsewhere where it has restarts
    #[arg(long, default_value_t = 300.0)]
    within: f64,
}

impl Drain {
    pub fn run(self) -> Result<ExitCode> {
        ensure!((0.0..=1e9).contains(&self.within), "--within {}: expected 0 to 1e9 seconds", self.within);
        let within = Duration::from_secs_f64(self.within);
        block_on(async {
            Ok(self.place.client().await?.drain(&self.place.node, within, "`lyceum drain`").await?)
        })?;
        println!("node `{}` is empty and takes nothing new", self.place.node);
        Ok(ExitCode::SUCCESS)
    }
}
