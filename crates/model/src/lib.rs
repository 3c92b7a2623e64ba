//! Llama and Mistral on tch: Hugging Face in, Hugging Face out, generation.
