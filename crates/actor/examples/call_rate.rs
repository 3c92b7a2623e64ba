//! How many calls a second go to an actor in this process and to one behind a connection.
//!
//! ```text
//! cargo run -p lyceum-actor --example call_rate
//! ```

use std::{
    error::Error,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use lyceum_actor::{Accepts, Actor, ActorRef, Context, Handler, Incoming, Registry, Result, Role};
use lyceum_wire::Authority;
use rkyv::{Archive, Deserialize, Serialize};

mod common;
use common::process;

struct Adder;

#[derive(Archive, Serialize, Deserialize)]
struct Add(u64);

impl Role for Adder {
    const NAME: &'static str = "adder";
    type Args = ();
    type Messages = (Add,);
}

impl Accepts<Add> for Adder {
    type Reply = u64;
}

struct Sum(u64);

impl Actor for Sum {
    type Role = Adder;

    async fn start((): (), _ctx: &mut Context<Self>) -> Result<Self> {
        Ok(Sum(0))
    }
}

impl Handler<Add> for Sum {
    async fn handle(&mut self, add: Incoming<Add>, _ctx: &mut Context<Self>) -> Result<u64> {
        self.0 += add.0.to_native();
        Ok(self.0)
    }
}

/// Calls with `in_flight` under way for about a second; returns calls a second.
async fn rate(adder: &ActorRef<Adder>, in_flight: usize) -> std::result::Result<f64, Box<dyn Error>> {
    let mut calls = FuturesUnordered::new();
    let (began, mut done) = (Instant::now(), 0u64);
    while began.elapsed() < Duration::from_secs(1) {
        while calls.len() < in_flight {
            calls.push(adder.ask(Add(1)));
        }
        for _ in 0..in_flight.div_ceil(2) {
            if let Some(reply) = calls.next().await {
                reply?;
                done += 1;
            }
        }
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), Box<dyn Error>> {
    let authority = Authority::create("school")?;
    let roles = || Registry::new().register::<Sum>();
    let (here, there) = (process(&authority, "n1", 1, roles())?, process(&authority, "n2", 2, roles())?);
    let local = there.spawn::<Sum>(()).await?;
    let remote = here.actor_ref::<Adder>(local.address().clone())?;
    for (name, adder) in [("same process", &local), ("over QUIC", &remote)] {
        for in_flight in [1, 1000] {
            rate(adder, in_flight).await?;
            println!("{name}, {in_flight} in flight: {:.0} calls/s", rate(adder, in_flight).await?);
        }
    }
    Ok(())
}
