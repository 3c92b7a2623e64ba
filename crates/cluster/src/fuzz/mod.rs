//! What comes to the cluster's processes, and what lies in their files, given as anything at all.

mod files;
mod machines;
mod words;
