//! Test doubles for this crate and those above it. Behind the feature `testing`.

mod frames;
mod lossy;
mod relay;
mod rogue;

pub use frames::{to_bytes, to_frames};
pub use lossy::{Faults, LossySocket};
pub use relay::LossyRelay;
pub use rogue::{Rogue, RogueHost, hostile_datagrams, oversized_frame, sound_hello};
