//! Texts out of nothing but a seed: simple enough to be learnt in a few steps, and all different.

/// Numbers that a seed decides (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }
}

/// The text of document `number`: three sentences, the first of which names it.
pub fn document(seed: u64, number: u64) -> String {
    let mut dice = Dice::new(seed ^ (number << 20));
    let mut text = format!("Entry {number} is about the library.");
    for _ in 0..2 {
        let adjective = dice.one_of(&["small", "large", "fast", "quiet", "shared", "simple"]);
        let noun = dice.one_of(&["parser", "compiler", "library", "server", "editor", "kernel"]);
        let verb = dice.one_of(&["reads", "writes", "checks", "sorts", "packs", "sends"]);
        let object = dice.one_of(&["files", "texts", "numbers", "packages", "frames", "tables"]);
        text += &format!(" The {adjective} {noun} {verb} {object}.");
    }
    text
}

/// JSON lines of the first `count` documents.
pub fn documents(seed: u64, count: u64) -> String {
    let line = |number| serde_json::json!({ "text": document(seed, number) }).to_string() + "\n";
    (0..count).map(line).collect()
}
