//! Documents, tokenizer, order, packing and mixing: no libtorch.
