//! `lyceum stack ACTOR`

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use lyceum_actor::Registry;
use lyceum_cluster::{ActorStatus, Client, Status};

use super::{block_on, named_cluster, say, table};

#[derive(Debug, Args)]
pub struct Stack {
    /// Number or name of the actor, as `lyceum status` shows them; of a gang's member `NAME[RANK]`
    actor: String,
    /// Name of the cluster, or its manifest; may be left out where only one runs
    #[arg(long)]
    cluster: Option<String>,
}

impl Stack {
    pub fn run(self) -> Result<ExitCode> {
        let (_, state) = named_cluster(self.cluster.as_deref())?;
        block_on(async {
            let client = Client::connect(&state).await?;
            let status = client.status().await?;
            let found = find(&status, &self.actor)?;
            let Some(address) = found.running_at() else {
                bail!("actor {} runs nowhere: {}", found.actor, found.state);
            };
            let system = client.start_system(Registry::new()).await?;
            let looked = system.inspect(&address).await;
            system.shut_down(std::time::Duration::ZERO).await;
            let inspection = looked.with_context(|| {
                format!("{}, pid {}, does not say what it does", address.process, found.pid)
            })?;
            println!("{}, pid {}", address.process, found.pid);
            for actor in &inspection.actors {
                println!("{actor}");
            }
            for thread in &inspection.threads {
                println!("\n{thread}");
            }
            if !inspection.actors.iter().any(|actor| actor.actor == address.actor) {
                say(&format!("actor {} has ended there", found.actor));
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// The actor of this number or name.
fn find<'a>(status: &'a Status, wanted: &str) -> Result<&'a ActorStatus> {
    let is_it = |actor: &&ActorStatus| {
        let full = table::name_of(actor);
        let rank =
            actor.rank.map(|(rank, _)| format!("{}[{rank}]", actor.name.as_deref().unwrap_or_default()));
        actor.actor.to_string() == wanted
            || actor.name.as_deref() == Some(wanted)
            || full == wanted
            || rank.as_deref() == Some(wanted)
    };
    let found: Vec<&ActorStatus> = status.actors.iter().filter(is_it).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            bail!("no actor has the number or name `{wanted}`; these are there:\n{}", table::actors(status))
        }
        several => {
            let numbers: Vec<String> = several.iter().map(|actor| actor.actor.to_string()).collect();
            bail!("several actors are called `{wanted}`, name one by its number: {}", numbers.join(", "));
        }
    }
}
