//! Test doubles for this crate and those above it. Behind the feature `testing`.

mod lossy;

pub use lossy::{Faults, LossySocket};
