//! What comes from a policy goes to the log as one short printable line, and not too often.

use edgestore_text::{is_hidden, without_secrets};

/// Longest line, in bytes. What follows is cut.
const LINE_BYTES: usize = 1024;

/// `text` on one line: cut, with everything escaped that could forge a line, move the cursor, turn
/// the direction of the text or hide in it, and without the secrets of URLs: a policy may repeat a
/// setting.
pub(super) fn printable(text: &str) -> String {
    let text = without_secrets(text);
    let cut = &text[..text.floor_char_boundary(LINE_BYTES)];
    let mut line = String::with_capacity(cut.len());
    for c in cut.chars() {
        match c {
            '\t' => line.push(' '),
            _ if is_hidden(c) => line.extend(c.escape_default()),
            _ => line.push(c),
        }
    }
    if cut.len() < text.len() {
        line.push('…');
    }
    line
}

/// Counts the lines of one tick.
pub(super) struct Quota {
    left: u32,
    told: bool,
}

/// What may be logged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// The line.
    Line,
    /// One line that says that no more lines follow.
    Last,
    /// Nothing.
    Nothing,
}

impl Quota {
    pub(super) fn new(lines: u32) -> Self {
        Self { left: lines, told: false }
    }

    pub(super) fn take(&mut self) -> Grant {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            Grant::Line
        } else if std::mem::replace(&mut self.told, true) {
            Grant::Nothing
        } else {
            Grant::Last
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_short_line() {
        assert_eq!(printable("a\nb\x1b[2J\tc"), "a\\nb\\u{1b}[2J c");
        assert_eq!(printable("x\u{202e}y"), "x\\u{202e}y");
        assert_eq!(printable("größe"), "größe");
        assert_eq!(printable("a\u{200b}b\u{61c}c"), "a\\u{200b}b\\u{61c}c");
        assert_eq!(printable("bad `http://me:hunter2@a`"), "bad `http://***@a`");
        let long = printable(&"ä".repeat(600));
        assert_eq!(long.chars().count(), 513);
        assert!(long.ends_with("ä…"));
    }

    #[test]
    fn the_end_of_the_lines_is_told_once() {
        let mut quota = Quota::new(2);
        let grants: Vec<_> = (0..5).map(|_| quota.take()).collect();
        use Grant::*;
        assert_eq!(grants, [Line, Line, Last, Nothing, Nothing]);
    }
}
