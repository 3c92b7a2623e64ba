//! The way of a worker binary from a client to a node.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lyceum_wire::{Connection, Endpoint, Expect, PeerRole, Purpose};

use crate::agent::programs::transfer::{self, Said, Wish};
use crate::control::vocabulary::Status;
use crate::error::ClusterError;
use crate::program::ProgramHash;

/// A worker binary of this machine.
#[derive(Debug)]
pub(crate) struct Binary {
    path: PathBuf,
    file: Arc<File>,
    hash: ProgramHash,
    bytes: u64,
}

impl Binary {
    pub(crate) fn read(path: &Path) -> Result<Binary, ClusterError> {
        let fault = |error: &std::io::Error| ClusterError::file(path, error);
        let file = File::open(path).map_err(|error| fault(&error))?;
        if !file.metadata().map_err(|error| fault(&error))?.is_file() {
            return Err(ClusterError::Refused(format!("{}: expected a program's file", path.display())));
        }
        let (hash, bytes) = ProgramHash::of_file(path).map_err(|error| fault(&error))?;
        Ok(Binary { path: path.to_owned(), file: Arc::new(file), hash, bytes })
    }

    pub(crate) fn hash(&self) -> ProgramHash {
        self.hash
    }
}

/// Brings `binary` to the first node that takes it. It keeps it for as long as the connection lives.
pub(crate) async fn to_one_of(
    endpoint: &Endpoint,
    status: &Status,
    binary: &Binary,
) -> Result<(String, Connection), ClusterError> {
    let mut said = Vec::new();
    let there = status.nodes.iter().filter(|node| node.joined);
    for (node, address) in there.filter_map(|node| Some((node, node.address?))) {
        match to(endpoint, &node.name, node.incarnation, address, binary).await {
            Ok(connection) => return Ok((node.name.clone(), connection)),
            Err(why) => said.push(format!("node `{}`: {why}", node.name)),
        }
    }
    if said.is_empty() {
        said.push("no node is there".into());
    }
    let what = format!("{}, program {}, was not brought to the cluster", binary.path.display(), binary.hash);
    Err(ClusterError::Process { what, log: said })
}

async fn to(
    endpoint: &Endpoint,
    node: &str,
    incarnation: u64,
    address: SocketAddr,
    binary: &Binary,
) -> Result<Connection, String> {
    let expect =
        Expect { role: PeerRole::Agent, node: Some(node.to_owned()), incarnation: Some(incarnation) };
    let connecting = endpoint.connect_for(address, &expect, Purpose::Bulk).await;
    let connection = connecting.map_err(|error| error.to_string())?;
    let wish = Wish::Bring { hash: binary.hash, bytes: binary.bytes }.encode();
    let (mut sender, mut receiver) = transfer::within(connection.open_bulk(&wish)).await?;
    let mut said = transfer::hear(&mut receiver).await?;
    if matches!(said, Said::Send) {
        let sent = transfer::send_file(&mut sender, binary.file.clone(), binary.bytes).await;
        // Where it did not take all of it, it may have said why.
        said = match (transfer::hear(&mut receiver).await, sent) {
            (Ok(said), _) => said,
            (Err(_), Err(why)) | (Err(why), Ok(())) => return Err(why),
        };
    }
    match said {
        Said::Here => Ok(connection),
        Said::NotHere(why) => Err(why),
        said => Err(format!("its agent answered {said:?}, which does not fit")),
    }
}
