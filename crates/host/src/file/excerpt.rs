//! The line that is wrong, with a mark below the place.

use std::fmt;
use std::ops::Range;

/// `12:8: what`, and the line.
#[derive(Debug)]
pub(super) struct Excerpt {
    message: String,
    /// From 1.
    line: usize,
    /// From 1, in characters.
    column: usize,
    /// As much of the line as is worth showing.
    shown: String,
    /// Where the mark begins in it, in characters.
    indent: usize,
    /// How long the mark is.
    length: usize,
}

/// More of a line than this is not shown.
const WIDTH: usize = 120;

impl Excerpt {
    pub fn new(text: &str, at: Range<usize>, message: &str) -> Excerpt {
        let start = floor(text, at.start);
        let (before, after) = text.split_at(start);
        let (_, left) = before.rsplit_once('\n').unwrap_or(("", before));
        let right = after.split(['\n', '\r']).next().unwrap_or_default();
        let marked = text.get(start..floor(text, at.end)).unwrap_or_default();
        let marked = marked.split(['\n', '\r']).next().unwrap_or_default();
        let column = left.chars().count();
        // What is far to the left of the mark is left out.
        let skipped = column.saturating_sub(WIDTH / 2);
        let line = left.chars().chain(right.chars());
        let shown = line.skip(skipped).take(WIDTH);
        let indent = column - skipped;
        Excerpt {
            message: message.to_owned(),
            line: Excerpt::line(text, start),
            column: column + 1,
            shown: shown
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
            indent,
            length: marked.chars().count().clamp(1, WIDTH - indent),
        }
    }

    /// The number of the line at `at`, from 1.
    pub fn line(text: &str, at: usize) -> usize {
        let before = text.as_bytes().iter().take(at);
        before.filter(|byte| **byte == b'\n').count() + 1
    }
}

fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Excerpt {
            message,
            line,
            column,
            shown,
            indent,
            length,
        } = self;
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "{line}:{column}: {message}")?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {}", shown.trim_end())?;
        write!(
            f,
            "{margin} | {}{}",
            " ".repeat(*indent),
            "^".repeat(*length)
        )
    }
}
