//! `lyceum up MANIFEST`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use lyceum_cluster::launch;
use lyceum_cluster::manifest::{Launcher, Manifest};

use super::interrupts::Interrupts;
use super::{block_on, require_file, table, up_options};

#[derive(Debug, Args)]
pub struct Up {
    /// The cluster manifest, such as cluster/laptop.toml
    manifest: PathBuf,
    /// Check the manifest and start nothing; with the launcher `kubernetes`, print the objects as YAML
    #[arg(long)]
    dry_run: bool,
}

impl Up {
    pub fn run(self) -> Result<ExitCode> {
        require_file("cluster manifest", &self.manifest)?;
        let (manifest, text) = Manifest::load_with_source(&self.manifest)?;
        let options = up_options(&manifest)?;
        if self.dry_run && manifest.launcher == Launcher::Kubernetes {
            // Whoever reviews it need not be where the head would run.
            print!("{}", lyceum_kubernetes::dry_run(&manifest, &options)?);
            return Ok(ExitCode::SUCCESS);
        }
        launch::check(&manifest, &text, &options)?;
        if self.dry_run {
            let (name, nodes) = (&manifest.name, manifest.nodes.len());
            println!(
                "cluster `{name}` can be started from here: a head, and {nodes} nodes; nothing was started"
            );
            return Ok(ExitCode::SUCCESS);
        }
        block_on(async {
            let mut interrupts = Interrupts::listen()?;
            let up = launch::up_unless(&manifest, options, interrupts.next()).await?;
            let status = up.client.status().await?;
            let news = if up.started { "is up" } else { "was up already" };
            println!("cluster `{}` {news}; its logs are in {}\n", manifest.name, up.state.logs().display());
            print!("{}", table::nodes(&status));
            Ok(ExitCode::SUCCESS)
        })
    }
}
