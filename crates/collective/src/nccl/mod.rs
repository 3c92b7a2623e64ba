//! Ranks on CUDA devices: NCCL, found and loaded at run time.
