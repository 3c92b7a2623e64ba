//! A description as Debian writes it, made readable.
//!
//! In the control format a description's first line is the summary; further lines
//! begin with one space, ` .` is an empty line, and lines that are indented deeper
//! stand as they are. Here paragraphs become one line each, blocks are parted by an
//! empty line, and list items (`*`, `-`, `+`, `o`, `•`) lines that begin with `* `
//! (nested ones with `  * `).

/// The longest description that is kept, in bytes; the longest real one has 24 KB.
const DESCRIPTION_BYTES: usize = 32 << 10;

/// A cleaned description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The one-line summary.
    pub summary: String,
    /// Blocks: a paragraph on one line, or lines of a list or of preformatted text.
    pub paragraphs: Vec<String>,
}

/// Cleans the value of a `Description-en` field. `None` when there is no summary or no
/// text, when it is too long, or when it holds characters that no reader could make sense of
/// (the replacement character) or the pair format's own markers.
pub fn description(raw: &str) -> Option<Description> {
    if raw.len() > DESCRIPTION_BYTES || raw.contains('\u{fffd}') || has_marker(raw) {
        return None;
    }
    let mut lines = raw.lines();
    let summary = squeeze(lines.next()?);
    let mut paragraphs = Vec::new();
    let mut block: Vec<&str> = Vec::new();
    for line in lines {
        let line = line.strip_prefix([' ', '\t']).unwrap_or(line);
        if line.trim() == "." || line.trim().is_empty() {
            paragraphs.extend(render(&block));
            block.clear();
        } else {
            block.push(line);
        }
    }
    paragraphs.extend(render(&block));
    (!summary.is_empty() && !paragraphs.is_empty()).then_some(Description { summary, paragraphs })
}

fn has_marker(text: &str) -> bool {
    ["<CON>", "</CON>", "<QUE>", "<ANS>", "</END>", "<s>", "</s>"].iter().any(|marker| text.contains(marker))
}

/// One block of lines (no empty one among them) as one paragraph.
fn render(block: &[&str]) -> Option<String> {
    let mut lines: Vec<Line> = Vec::new();
    let mut first_indent = None;
    for raw in block {
        let indent = raw.len() - raw.trim_start().len();
        if let Some(item) = bullet(raw) {
            let level = usize::from(indent > *first_indent.get_or_insert(indent) + 1);
            lines.push(Line { kind: Kind::Item { indent, level }, text: squeeze(item), width: raw.len() });
            continue;
        }
        let text = squeeze(raw);
        match lines.last_mut() {
            Some(last) if last.is_continued_by(indent, &text) => {
                last.text.push(' ');
                last.text.push_str(&text);
                last.width = raw.len();
            }
            _ => {
                let kind = if indent > 0 { Kind::Preformatted } else { Kind::Prose };
                lines.push(Line { kind, text, width: raw.len() });
            }
        }
    }
    let rendered: Vec<String> = lines
        .into_iter()
        .filter(|line| !line.text.is_empty())
        .map(|line| match line.kind {
            Kind::Item { level: 0, .. } => format!("* {}", line.text),
            Kind::Item { .. } => format!("  * {}", line.text),
            Kind::Preformatted => format!("  {}", line.text),
            Kind::Prose => line.text,
        })
        .collect();
    (!rendered.is_empty()).then(|| rendered.join("\n"))
}

enum Kind {
    Prose,
    Preformatted,
    Item { indent: usize, level: usize },
}

struct Line {
    kind: Kind,
    text: String,
    /// Bytes of the last raw line that went into it.
    width: usize,
}

impl Line {
    fn is_continued_by(&self, indent: usize, text: &str) -> bool {
        match self.kind {
            Kind::Prose => indent == 0,
            Kind::Preformatted => false,
            // Without a hanging indent only a full line that goes on in lower case is taken for one.
            Kind::Item { indent: own, .. } => {
                indent > own || (self.width > 60 && text.starts_with(char::is_lowercase))
            }
        }
    }
}

/// The text of a list item, if the line is one.
fn bullet(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let mut characters = line.chars();
    let mark = characters.next()?;
    let rest = characters.as_str();
    let is_bullet = match mark {
        '*' | '+' | '•' | '·' | '-' | '–' => rest.starts_with([' ', '\t']),
        'o' => rest.starts_with("  "),
        _ => false,
    };
    (is_bullet && !rest.trim().is_empty()).then(|| rest.trim())
}

/// Control characters out, runs of white space to one space.
fn squeeze(line: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let line: String = line.chars().map(printable).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_lines_become_one_and_a_lone_dot_parts_paragraphs() {
        let cleaned = description("short text\n One two\n three.\n .\n Four.").expect("clean");
        assert_eq!(cleaned.summary, "short text");
        assert_eq!(cleaned.paragraphs, ["One two three.", "Four."]);
    }

    #[test]
    fn lists_stay_readable() {
        let raw = "s\n Features:\n  * fast and\n    small\n  - portable\n     + nested\n after";
        let cleaned = description(raw).expect("clean");
        assert_eq!(cleaned.paragraphs, ["Features:\n* fast and small\n* portable\n  * nested\nafter"]);
    }

    #[test]
    fn a_dash_in_prose_and_preformatted_lines_are_left_alone() {
        let cleaned = description("s\n one -- two\n   $ run --it\n   $ again").expect("clean");
        assert_eq!(cleaned.paragraphs, ["one -- two\n  $ run --it\n  $ again"]);
    }

    #[test]
    fn nothing_comes_of_an_empty_or_odd_description() {
        for raw in ["", "only a summary", "s\n .\n .", "s\n a <CON> b", "s\n bad \u{fffd}", " \n x"] {
            assert_eq!(description(raw), None, "{raw:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics_and_no_line_is_empty(raw in "[ .*\\-+o\na-zA-Zé\t\u{7}]{0,200}") {
            if let Some(cleaned) = description(&raw) {
                for paragraph in &cleaned.paragraphs {
                    proptest::prop_assert!(paragraph.lines().all(|line| !line.trim().is_empty()));
                }
            }
        }
    }
}
