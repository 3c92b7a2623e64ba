//! What the head decides, event by event.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod asking;
mod closing;
mod gangs;
mod harness;
mod members;
mod names;
mod papers;
mod programs;
mod progress;
mod queue;
mod restarts;
mod saved;
mod silence;
mod watches;
