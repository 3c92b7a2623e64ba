//! Objects: made, handed to another process, and fetched by another node.

use anyhow::Result;
use lyceum_actor::CallError;

use super::Options;
use crate::bare::BareStream;
use crate::cluster::{BenchCluster, TWO_NODES};
use crate::keepers::{Fetch, Hand, Handed, Keep, Put};
use crate::peer::RunningPeer;
use crate::round::Rounds;
use crate::row::Row;

const BYTES: u64 = 100 << 20;
const UNIT: &str = "MiB/s";

/// Floors: against Ray's put; of reading what was sealed against reading it again, which may take 1.2 times as long; of a
/// fetch against a bare stream, and against Ray's between two of its nodes.
const PUT: f64 = 1.0;
const HANDED: f64 = 1.0 / 1.2;
const FETCHED: f64 = 0.95;
const FETCHED_BESIDE_PEER: f64 = 1.0;

/// Measures all of it.
pub async fn measure(options: &Options) -> Result<Vec<Row>> {
    let mut peer = match options.peer {
        Some(peer) => Some(RunningPeer::start(peer).await?),
        None => None,
    };
    let cluster = BenchCluster::start(options.program.clone(), TWO_NODES).await?;
    let mut bare = BareStream::start(options.program.clone(), BYTES as usize).await?;
    let (maker, reader, other) =
        (cluster.keeper("a").await?, cluster.keeper("a").await?, cluster.keeper("b").await?);
    let keeper = cluster.keeper("a").await?;
    keeper.ask(Keep(BYTES)).await.map_err(CallError::erase)?;
    let millis = options.time.as_millis() as u64;

    let (mut put, mut peer_put) = <(Rounds, Rounds)>::default();
    let (mut handed, mut read) = <(Rounds, Rounds)>::default();
    let (mut fetched, mut streamed, mut peer_fetched) = <(Rounds, Rounds, Rounds)>::default();
    // The first round of each warms up.
    for round in 0..=options.rounds {
        let add = |to: &mut Rounds, found| {
            if round > 0 {
                to.add(found);
            }
        };
        let made = maker.ask(Put { bytes: BYTES, millis }).await.map_err(CallError::erase)?;
        add(&mut put, made.read()?);
        if let Some(peer) = &mut peer {
            add(&mut peer_put, peer.put(BYTES, options.time).await?);
        }
        let hand = Hand { reader: reader.clone(), bytes: BYTES, millis };
        let both: Handed = maker.ask(hand).await.map_err(CallError::erase)?.read()?;
        add(&mut handed, both.handed);
        add(&mut read, both.read);
        let fetch = Fetch { keeper: keeper.clone(), millis };
        add(&mut fetched, other.ask(fetch).await.map_err(CallError::erase)?.read()?);
        add(&mut streamed, bare.pull(options.time).await?);
        if let Some(peer) = &mut peer {
            add(&mut peer_fetched, peer.fetch(BYTES, options.time).await?);
        }
    }
    drop(bare);
    cluster.end().await?;

    let beside = |rounds, floor| peer.as_ref().map(|peer| (peer.name(), rounds, Some(floor)));
    let mut rows = vec![
        Row::new("put of 100 MiB, with a copy", UNIT, &put, beside(&peer_put, PUT)),
        Row::new(
            "100 MiB made in place, from seal to the last byte read",
            UNIT,
            &handed,
            Some(("reading it", &read, Some(HANDED))),
        ),
        Row::new("fetch of 100 MiB", UNIT, &fetched, Some(("bare stream", &streamed, Some(FETCHED)))),
    ];
    if let Some(peer) = peer {
        let theirs = Some((peer.name(), &peer_fetched, Some(FETCHED_BESIDE_PEER)));
        rows.push(Row::new("fetch of 100 MiB", UNIT, &fetched, theirs));
        peer.end().await?;
    }
    Ok(rows)
}
