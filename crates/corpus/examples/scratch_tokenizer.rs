//! scratch
use lyceum_corpus::document::{DocumentReader, ReaderOptions};
use lyceum_corpus::tokenizer::{Tokenizer, TrainOptions};
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (out, files) = arguments.split_first().unwrap();
    let reader = DocumentReader::new(0, ReaderOptions::new(files.iter().map(Into::into).collect()));
    let texts: Vec<String> = reader.map(|d| d.unwrap().text).collect();
    let options = TrainOptions { vocabulary: 4096, ..TrainOptions::default() };
    let tokenizer = Tokenizer::train(texts.iter(), options).unwrap();
    tokenizer.save(out).unwrap();
    let (mut bytes, mut tokens) = (0, 0);
    for text in texts.iter().take(2000) { bytes += text.len(); tokens += tokenizer.encode_text(text).unwrap().len(); }
    println!("{} tokens in vocabulary, {:.2} bytes a token", tokenizer.vocabulary(), bytes as f64 / tokens as f64);
}
