//! The hall: roles, run file, CorpusReader, Packer and Controller. No libtorch.
