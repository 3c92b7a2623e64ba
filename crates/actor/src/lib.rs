//! Roles, actors, mailboxes and references: the same call local and remote.
//!
//! **A role** is what callers know: a name, arguments, the messages it accepts and what it answers. **An actor** is an
//! implementation of a role; only the process that runs it links it. **A reference** is how it is called, in this
//! process or over QUIC, by the same line and with the same errors. What a call promises stands in
//! `docs/semantics.md`, each sentence with the test that holds it.
//!
//! ```
//! use lyceum_actor::{Accepts, Actor, Context, Handler, Incoming, Result, Role, System, SystemOptions};
//! use rkyv::{Archive, Deserialize, Serialize};
//!
//! struct Greeter;
//! impl Role for Greeter {
//!     const NAME: &'static str = "greeter";
//!     type Args = String;
//!     type Messages = (Greet,);
//! }
//! #[derive(Archive, Serialize, Deserialize)]
//! struct Greet { name: String }
//! impl Accepts<Greet> for Greeter { type Reply = String; }
//!
//! struct Polite { greeting: String }
//! impl Actor for Polite {
//!     type Role = Greeter;
//!     async fn start(greeting: String, _ctx: &mut Context<Self>) -> Result<Self> {
//!         Ok(Polite { greeting })
//!     }
//! }
//! impl Handler<Greet> for Polite {
//!     async fn handle(&mut self, greet: Incoming<Greet>, _ctx: &mut Context<Self>) -> Result<String> {
//!         Ok(format!("{}, {}", self.greeting, greet.name)) // read in place, never deserialized
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! let system = System::start(SystemOptions::default())?;
//! # runtime.block_on(async {
//! let greeter = system.spawn::<Polite>("hello".into()).await?;
//! assert_eq!(greeter.ask(Greet { name: "Ada".into() }).await?, "hello, Ada");
//! # Ok::<(), anyhow::Error>(()) })?;
//! # Ok(()) }
//! ```
//!
//! In a cluster, `ctx.cluster().spawn(args).cpus(1).named("greeter").await?` makes the same actor in a process of its
//! own; see [`Cluster`]. Its process lists the implementation in a [`Registry`].
//!
//! **Threads.** Actors run on a pool that grows while its threads compute, or own a thread
//! ([`Actor::DEDICATED_THREAD`]). All connections, deadlines and timers of a process live on one runtime. A thread of the
//! pool that has nothing to run drives it, and so handles and answers what it has read without waking another. While all
//! of them compute, and through bursts of calls, the thread `lyceum-io` drives it, which never runs user code and takes over within two milliseconds:
//! a handler that spins for ten seconds delays neither the network nor its neighbours.
//!
//! **Bounds.** A mailbox has a budget in count and bytes, shared out as credits among the processes that send to it
//! (L2); without credit a message stays with its sender, and the network's reader never waits.

#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

mod actor;
mod address;
mod call;
mod cell;
mod clock;
mod cluster;
mod context;
mod control;
mod credit;
mod death;
mod dispatch;
mod error;
mod executor;
#[cfg(test)]
mod fuzz;
mod group;
mod inbound;
mod incoming;
mod inspect;
mod kept;
mod large;
mod life;
mod link;
mod message;
mod network;
mod output;
mod pending;
mod population;
mod protocol;
mod reading;
mod reference;
mod registry;
mod relay;
mod reply;
mod role;
mod saved;
mod slot;
mod spawn;
mod stream;
mod submission;
mod suspicion;
mod system;
mod work;

pub use actor::{Actor, Handler, Reader};
pub use address::{ActorAddress, ActorId, ProcessAddress, ProcessKind};
/// What handlers and `start` return; any error can be one.
pub use anyhow::Result;
pub use call::{Ask, Tell};
pub use cluster::Cluster;
pub use context::{Context, Timer};
pub use control::{
    Amount, ControlError, ControlPlane, GangRequest, LabelRule, Lifetime, Resources, Restarts, SpawnRequest,
    Strategy,
};
pub use credit::Credits;
pub use death::{Cause, DeathReport, ProcessDeath};
pub use dispatch::HandledBy;
pub use error::CallError;
pub use group::{Group, ToAll};
pub use incoming::Incoming;
pub use inspect::{ActorWork, Inspection, Stall, ThreadStack};
pub use large::{LARGE, LargePayloads, Room};
pub use message::{Decoder, Encoder, Message, Validator, encode};
pub use output::Output;
pub use reference::ActorRef;
pub use registry::{Registry, SpawnError};
pub use reply::{Cancelled, Responder};
pub use role::{Accepts, MessageList, Reads, ReplyOf, Role, fingerprint};
pub use spawn::Spawn;
pub use stream::{Item, ItemSink, ItemStream, Items, Streamed};
pub use system::{System, SystemError, SystemOptions};
pub use work::Handling;
