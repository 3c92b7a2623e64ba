//! The hall of Lyceum: what knows both actors and texts, without libtorch.
//!
//! [`run_file`] says what a person asks for, [`run_directory`] what lies where while it runs, and [`summary`] what is
//! told at the end. CorpusReader, Packer and Controller are implemented
//! here, Synthesizer and Trainer in `lyceum-worker`, which links libtorch.

pub mod actors;
pub mod autoscale;
pub mod board;
pub mod demand;
pub mod feed;
pub mod gang;
pub mod metrics;
pub mod packing;
pub mod reader;
pub mod roles;
pub mod run_directory;
pub mod run_file;
pub mod summary;
