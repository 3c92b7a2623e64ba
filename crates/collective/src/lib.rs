//! All-reduce and its kin over raw buffers: shared memory, QUIC, NCCL.
