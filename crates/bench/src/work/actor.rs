//! Calls to an actor, and the creation of actors.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::try_join_all;
use lyceum_actor::{ActorRef, CallError, Cluster, Registry, System, SystemOptions};
use lyceum_wire::{Authority, PeerIdentity, PeerRole};

use super::Options;
use crate::actors::{Add, Call, Caller, Make, Target, TargetActor};
use crate::bare::BareEcho;
use crate::cluster::{BenchCluster, TWO_NODES};
use crate::peer::RunningPeer;
use crate::round::{Round, Rounds};
use crate::row::Row;

const IN_FLIGHT: u32 = 1000;
const LARGE: u32 = 1 << 20;
/// Process actors that are created at once, of each kind.
const PROCESSES: usize = 8;
/// Actors of one process that are created at once, and how often.
const IN_PROCESS: (usize, u64) = (1000, 50);

/// A kind of call, its name, and its floors: against the peer, and against the bare echo.
struct Work {
    name: &'static str,
    call: Call,
    beside_ray: f64,
    beside_bare: Option<f64>,
}

const CALLS: [Work; 3] = [
    // A call may take 1.25 times as long as an echo.
    Work { name: "call, one at a time", call: Call::OneAtATime, beside_ray: 6.0, beside_bare: Some(0.8) },
    Work {
        name: "calls, 1,000 in flight",
        call: Call::InFlight(IN_FLIGHT),
        beside_ray: 250.0,
        beside_bare: None,
    },
    Work { name: "call with 1 MiB", call: Call::Bytes(LARGE), beside_ray: 12.0, beside_bare: None },
];

/// Floors of what is created a second.
const LIGHT_PROCESSES: f64 = 50.0;
const TORCH_PROCESSES: f64 = 10.0;
const IN_PROCESS_ACTORS: f64 = 100_000.0;

/// Measures all of it.
pub async fn measure(options: &Options) -> Result<Vec<Row>> {
    let mut peer = match options.peer {
        Some(peer) => Some(RunningPeer::start(peer).await?),
        None => None,
    };
    let cluster = BenchCluster::start(options.program.clone(), TWO_NODES).await?;
    let mut bare = BareEcho::start(options.program.clone()).await?;
    let mut rows = calls(options, &cluster, &mut bare, peer.as_mut()).await?;
    drop(bare);
    rows.extend(creations(options, &cluster, peer.as_mut()).await?);
    cluster.end().await?;
    if let Some(peer) = peer {
        peer.end().await?;
    }
    rows.push(in_process(options).await?);
    Ok(rows)
}

async fn calls(
    options: &Options,
    cluster: &BenchCluster,
    bare: &mut BareEcho,
    mut peer: Option<&mut RunningPeer>,
) -> Result<Vec<Row>> {
    // Two processes of one node.
    let (caller, target) = (cluster.caller("a").await?, cluster.target("a").await?);
    let mut rows = Vec::new();
    for Work { name, call, beside_ray, beside_bare } in CALLS {
        let (mut ours, mut echoes, mut theirs) = <(Rounds, Rounds, Rounds)>::default();
        // The first round of each warms up.
        for round in 0..=options.rounds {
            let add = |to: &mut Rounds, found| {
                if round > 0 {
                    to.add(found);
                }
            };
            add(&mut ours, make(&caller, &target, call, options.time).await?);
            match call {
                Call::OneAtATime => add(&mut echoes, bare.one_at_a_time(options.time).await?),
                Call::InFlight(count) => {
                    add(&mut echoes, bare.in_flight(count as usize, options.time).await?)
                }
                Call::Bytes(_) => {}
            }
            if let Some(peer) = &mut peer {
                add(&mut theirs, peer.calls(call, options.time).await?);
            }
        }
        if echoes.rate().is_some() {
            rows.push(Row::new(name, "calls/s", &ours, Some(("bare echo", &echoes, beside_bare))));
        }
        match &peer {
            Some(peer) => {
                rows.push(Row::new(name, "calls/s", &ours, Some((peer.name(), &theirs, Some(beside_ray)))));
            }
            None if echoes.rate().is_none() => rows.push(Row::new(name, "calls/s", &ours, None)),
            None => {}
        }
    }
    Ok(rows)
}

async fn make(
    caller: &ActorRef<Caller>,
    target: &ActorRef<Target>,
    call: Call,
    time: Duration,
) -> Result<Round> {
    let make = Make { target: target.clone(), call, millis: time.as_millis() as u64 };
    Ok(caller.ask(make).await.map_err(CallError::erase)?.read()?)
}

async fn creations(
    options: &Options,
    cluster: &BenchCluster,
    mut peer: Option<&mut RunningPeer>,
) -> Result<Vec<Row>> {
    let (mut light, mut torch, mut theirs) = <(Rounds, Rounds, Rounds)>::default();
    for _ in 0..options.rounds {
        light.add(create(&cluster.cluster(), "lyceum").await?);
        torch.add(create(&cluster.cluster(), "lyceum-worker").await?);
        if let Some(peer) = &mut peer {
            theirs.add(peer.create(PROCESSES as u32).await?);
        }
    }
    let mut rows = vec![
        Row::new("process actors without libtorch", "actors/s", &light, None).with_floor(LIGHT_PROCESSES),
        Row::new("process actors with libtorch", "actors/s", &torch, None).with_floor(TORCH_PROCESSES),
    ];
    if let Some(peer) = peer {
        rows.push(Row::new("process actors", "actors/s", &light, Some((peer.name(), &theirs, None))));
    }
    Ok(rows)
}

/// Creates process actors hosted by `program`, all at once, until each has answered.
async fn create(cluster: &Cluster, program: &str) -> Result<Round> {
    let began = Instant::now();
    let actors = try_join_all((0..PROCESSES).map(async |_| {
        let actor = cluster.spawn::<Target>(()).cpus(0).program(program).await?;
        actor.ask(Add(1)).await.map_err(CallError::erase)?;
        anyhow::Ok(actor)
    }))
    .await?;
    let seconds = began.elapsed().as_secs_f64();
    for actor in &actors {
        cluster.kill(actor).await?;
    }
    try_join_all(actors.iter().map(async |actor| anyhow::Ok(actor.died().await))).await?;
    Ok(Round { done: PROCESSES as u64, seconds, latencies_us: Vec::new() })
}

/// Creates actors in this process until each has answered.
async fn in_process(options: &Options) -> Result<Row> {
    let authority = Authority::create("bench")?;
    let identity = PeerIdentity::new("bench", PeerRole::Worker, "a", 1)?;
    let credentials = authority.issue(&identity, Duration::from_secs(3600))?;
    let bind = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let roles = Registry::new().register::<TargetActor>();
    let system = System::start(SystemOptions::networked(credentials, bind, roles))?;
    let mut ours = Rounds::default();
    let (at_once, times) = IN_PROCESS;
    for _ in 0..options.rounds {
        let began = Instant::now();
        for _ in 0..times {
            try_join_all((0..at_once).map(async |_| {
                let actor = system.spawn::<TargetActor>(()).await?;
                actor.ask(Add(1)).await.map_err(CallError::erase)?;
                system.stop_actor(actor.address().actor, "the benchmark");
                anyhow::Ok(())
            }))
            .await?;
        }
        let done = at_once as u64 * times;
        ours.add(Round { done, seconds: began.elapsed().as_secs_f64(), latencies_us: Vec::new() });
    }
    system.shut_down(Duration::from_secs(1)).await;
    Ok(Row::new("actors of one process", "actors/s", &ours, None).with_floor(IN_PROCESS_ACTORS))
}
