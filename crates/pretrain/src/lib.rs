//! The hall of Lyceum: what knows both actors and texts, without libtorch.
//!
//! [`run_file`] says what a person asks for, [`demand`] whether a cluster can hold it, [`run_directory`] what lies where
//! while it runs, and [`summary`] what is told at the end. [`roles`] has the five roles and their messages, [`limits`]
//! the bounds of all that waits between them. CorpusReader, Packer and Controller are implemented here ([`actors`]),
//! each around a mind without an actor ([`reader`], [`packing`], and the conduct of a run); Synthesizer and Trainer in
//! `lyceum-worker`, which links libtorch. [`feed`] is reader and packing in one process, for a run without a cluster.

pub mod actors;
mod ask;
pub mod board;
mod conduct;
pub mod demand;
pub mod evaluation;
mod failure;
pub mod feed;
mod gang;
pub mod identity;
pub mod limits;
pub mod metrics;
pub mod packing;
mod pool;
pub mod reader;
pub mod roles;
pub mod run_directory;
pub mod run_file;
pub mod summary;
