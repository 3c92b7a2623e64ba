//! `lyceum up MANIFEST`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use lyceum_cluster::launch;
use lyceum_cluster::manifest::Manifest;

use super::{block_on, require_file, table, up_options};

#[derive(Debug, Args)]
pub struct Up {
    /// The cluster manifest, such as cluster/laptop.toml
    manifest: PathBuf,
}

impl Up {
    pub fn run(self) -> Result<ExitCode> {
        require_file("cluster manifest", &self.manifest)?;
        let (manifest, text) = Manifest::load_with_source(&self.manifest)?;
        let options = up_options(&manifest)?;
        launch::check(&manifest, &text, &options)?;
        block_on(async {
            let up = launch::up(&manifest, options).await?;
            let status = up.client.status().await?;
            let news = if up.started { "is up" } else { "was up already" };
            println!("cluster `{}` {news}; its logs are in {}\n", manifest.name, up.state.logs().display());
            print!("{}", table::nodes(&status));
            Ok(ExitCode::SUCCESS)
        })
    }
}
