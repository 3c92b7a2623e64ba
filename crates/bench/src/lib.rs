//! The place of benchmarks and their peers; the measurements so far are examples of the crates they measure.
