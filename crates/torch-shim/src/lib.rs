//! The few libtorch calls that tch lacks, behind one C++ file.
//!
//! - [`tensor_over`]: a tensor over somebody's memory that keeps its owner alive, so that a mapped file or a sealed
//!   batch becomes a tensor without a copy (L4);
//! - [`observe`]: which integers libtorch's operations are given and what its CPU allocator does, the witness of L4;
//! - [`fused_adamw`]: one optimizer step over one flat tensor, on any device;
//! - [`PackedLinear`]: a weight in oneDNN's layout, for products with few rows on the CPU;
//! - [`load_cuda`] and [`driver_devices`]: libtorch's CUDA part, loaded at run time;
//! - [`device_memory`] and [`empty_cache`]: an accelerator's caching allocator.
//!
//! Exceptions do not cross the border: they are [`ShimError`]s.
#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

mod device;
mod error;
mod ffi;
mod linear;
mod observe;
mod optimizer;
mod over;

pub use device::{DeviceMemory, device_memory, driver_devices, empty_cache, load_cuda};
pub use error::ShimError;
pub use linear::PackedLinear;
pub use observe::{Seen, observe};
pub use optimizer::{AdamW, fused_adamw};
pub use over::tensor_over;
