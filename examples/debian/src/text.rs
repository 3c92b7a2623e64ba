//! A context as the tasks see it: nothing but the text itself.

/// The context's parts: `name - summary`, a blank line, the body.
#[derive(Debug, Clone)]
pub struct Text<'a> {
    /// The whole context.
    pub context: &'a str,
    /// The package's name.
    pub name: &'a str,
    /// The one-line summary.
    pub summary: &'a str,
    /// All after the first line.
    pub body: &'a str,
    /// What the first line that is a list item says, without end punctuation.
    pub first_item: Option<&'a str>,
}

/// Writes a context.
pub fn compose(name: &str, summary: &str, paragraphs: &[String]) -> String {
    format!("{name} - {summary}\n\n{}", paragraphs.join("\n\n"))
}

impl<'a> Text<'a> {
    /// Takes a context apart; `None` when it is not of the form [`compose`] writes.
    pub fn parse(context: &'a str) -> Option<Self> {
        let (head, body) = context.split_once("\n\n")?;
        let (name, summary) = head.split_once(" - ")?;
        if name.is_empty()
            || name.contains(char::is_whitespace)
            || summary.contains('\n')
            || summary.is_empty()
        {
            return None;
        }
        let first_item = body.lines().find_map(item);
        Some(Self { context, name, summary, body, first_item })
    }

    /// Lines of running text: no list items, nothing preformatted.
    pub fn prose(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.body.lines().filter(|line| item(line).is_none() && !line.starts_with(' ') && !line.is_empty())
    }

    /// The sentences of the running text, without their full stops.
    pub fn sentences(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.prose().flat_map(sentences)
    }
}

fn item(line: &str) -> Option<&str> {
    let item = line.trim_start().strip_prefix("* ")?;
    Some(item.trim_end_matches(['.', ',', ';', ':', ' ']))
}

/// Cuts a line into sentences, without their full stops.
pub fn sentences(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        if rest.is_empty() {
            return None;
        }
        let end = sentence_end(rest);
        let sentence = rest[..end].trim_end_matches(['.', ' ']);
        rest = rest[end..].trim_start_matches('.');
        Some(sentence)
    })
}

/// The byte at which the first sentence's full stop stands (the text's length if it has none).
fn sentence_end(text: &str) -> usize {
    for (at, _) in text.match_indices(". ") {
        let word = text[..at].rsplit([' ', '(']).next().unwrap_or_default();
        let abbreviation =
            matches!(word, "e.g" | "i.e" | "etc" | "vs" | "cf" | "Dr" | "Mr" | "St" | "no" | "resp");
        let next = text[at + 2..].chars().next();
        if !abbreviation && !next.is_some_and(char::is_lowercase) {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_taken_apart_and_put_together() {
        let context =
            compose("foo-dev", "tools - and more", &["First. Second e.g. this.".into(), "* a.\n* b;".into()]);
        let text = Text::parse(&context).expect("a context");
        assert_eq!((text.name, text.summary), ("foo-dev", "tools - and more"));
        assert_eq!(text.first_item, Some("a"));
        assert_eq!(text.sentences().collect::<Vec<_>>(), ["First", "Second e.g. this"]);
    }

    #[test]
    fn a_text_without_a_star_has_no_list() {
        let text = Text::parse("foo - bar\n\n2 * 3 is 6\n*bold*").expect("a context");
        assert_eq!(text.first_item, None);
        let text = Text::parse("foo - bar\n\nHas:\n  * a\n* b").expect("a context");
        assert_eq!(text.first_item, Some("a"), "also of a nested list");
    }

    #[test]
    fn what_is_not_a_context_is_refused() {
        for odd in ["", "no blank line", "a b - c\n\nd", "name\n\nbody", " - s\n\nb"] {
            assert!(Text::parse(odd).is_none(), "{odd:?}");
        }
    }
}
