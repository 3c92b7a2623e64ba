//! The few libtorch calls that tch lacks, behind one C++ file.
