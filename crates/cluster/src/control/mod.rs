//! The control plane, pure: what the head and the agents decide, without I/O, clock or randomness.
//!
//! [`Head::apply`] takes an event and the time since this term began, and gives the records to commit and the effects
//! to release after that; [`Agent::apply`] likewise, without records. Both speak one [vocabulary]. Everything is kept
//! in ordered maps and whole numbers, so that the same events give the same decisions everywhere.
//!
//! What holds, whatever is lost, delayed or delivered twice, and is asserted by `tests/simulation.rs`:
//!
//! - **C1** A process number is launched at most once, and only the newest of an actor's is effective.
//! - **C2** What the processes of a node hold never exceeds what the node has.
//! - **C3** After a job's end nothing of it is left: no actor, name, process or resource.
//! - **C4** A spawn that no present node can ever hold is refused at once.
//! - **C5** A name is one actor's: of all that ask for it at once with `or_get`, all get the same.
//! - **C6** An actor that is bound to its spawner runs or waits only while that does, or is being ended.
//! - **C7** On a node that is cordoned or drained nothing is started; who drains it is told when it is empty.
//! - **C8** The members of a gang are given processes at once, or none is; while some have none, the others are being ended.
//! - **C9** A node that joins is a node from then on, in later terms too, until it has left and nothing refers to it any more.

mod agent;
pub mod elastic;
mod head;
pub mod offer;
pub mod placement;
pub mod record;
pub mod resources;
#[allow(
    missing_docs,
    reason = "the resolvers that rkyv derives for variants with named fields carry no docs"
)]
pub mod vocabulary;

pub use agent::{Agent, AgentEffect, AgentEvent, AgentOptions, Ending, Watcher};
pub use head::{CordonRule, Head, HeadEffect, HeadEvent, HeadOptions, NodeOptions};
