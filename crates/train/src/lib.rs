//! Block-by-block backward, flat optimizer, step and checkpoint.
