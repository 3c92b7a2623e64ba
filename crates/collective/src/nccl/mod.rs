//! Ranks on CUDA devices: NCCL, found and loaded at run time by path.
//!
//! [`NcclLibrary`] is the loaded library; a GPU node has it inside its Python environment's `nvidia/nccl/lib`. cudarc's
//! own loader does not look for `libnccl.so.2`, so the functions are bound here, with cudarc's types.

mod library;

pub use library::{NcclError, NcclLibrary};
