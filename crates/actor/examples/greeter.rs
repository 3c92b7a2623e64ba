//! Two systems, as two processes would be, and a greeter that is called from both.
//!
//! ```text
//! cargo run -p lyceum-actor --example greeter
//! ```

use std::{error::Error, time::Duration};

use lyceum_actor::{Accepts, Actor, Context, Handler, Incoming, Registry, Result, Role};
use lyceum_wire::Authority;
use rkyv::{Archive, Deserialize, Serialize};

mod common;
use common::process;

/// What callers know.
struct Greeter;

#[derive(Archive, Serialize, Deserialize)]
struct Greet {
    name: String,
}

impl Role for Greeter {
    const NAME: &'static str = "greeter";
    type Args = String;
    type Messages = (Greet,);
}

impl Accepts<Greet> for Greeter {
    type Reply = String;
}

/// What the process that runs it knows.
struct Polite {
    greeting: String,
    greeted: u32,
}

impl Actor for Polite {
    type Role = Greeter;

    async fn start(greeting: String, _ctx: &mut Context<Self>) -> Result<Self> {
        Ok(Polite { greeting, greeted: 0 })
    }
}

impl Handler<Greet> for Polite {
    async fn handle(&mut self, greet: Incoming<Greet>, _ctx: &mut Context<Self>) -> Result<String> {
        anyhow::ensure!(!greet.name.is_empty(), "nobody can be greeted without a name");
        self.greeted += 1;
        Ok(format!("{}, {} ({} so far)", self.greeting, greet.name, self.greeted))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), Box<dyn Error>> {
    let authority = Authority::create("school")?;
    let roles = || Registry::new().register::<Polite>();
    let (here, there) = (process(&authority, "n1", 1, roles())?, process(&authority, "n2", 2, roles())?);

    let local = there.spawn::<Polite>("hello".into()).await?;
    let remote = here.actor_ref::<Greeter>(local.address().clone())?;
    println!("from its own process: {}", local.ask(Greet { name: "Ada".into() }).await?);
    println!("from another process: {}", remote.ask(Greet { name: "Grace".into() }).await?);
    if let Err(error) = remote.ask(Greet { name: String::new() }).await {
        println!("an error from there: {error}");
    }

    there.shut_down(Duration::from_secs(1)).await;
    println!("its end, seen from here: {}", remote.died().await);
    here.shut_down(Duration::from_secs(1)).await;
    Ok(())
}
