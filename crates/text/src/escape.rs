//! Text that others chose, made safe to show.
//!
//! Keys, values, names and messages of peers and policies may hold what acts on a terminal (escape
//! sequences, a carriage return), what turns the direction of a line, and what nobody sees. All of it
//! is shown as an escape: `\u{1b}` for a character, `\x9b` for a byte that is no UTF-8.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Nothing is left as it is: for what has to stay on its line.
pub const LINE: &[char] = &[];
/// Line breaks and tabs stay: for text of several lines.
pub const LINES: &[char] = &['\n', '\t'];

/// Whether a character may act on a terminal, turn the direction of the text, or can't be seen.
pub fn is_hidden(c: char) -> bool {
    // All but control characters are `Default_Ignorable_Code_Point` of Unicode, separators of lines
    // and paragraphs, or annotations.
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// How a character is escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As `\u{1b}`. A backslash that looks like the start of an escape is `\u{5c}`, so that the text
    /// can be read back: for a value as it is.
    Exact,
    /// As `\u{1b}`. A backslash stays: for text in which values are escaped or quoted already.
    Text,
    /// As `\u001b`: for JSON, which says the same then.
    Json,
}

/// Appends `text`, with all that is hidden escaped, except for the characters in `keep`.
pub fn push_escaped(line: &mut String, text: &str, style: Style, keep: &[char]) {
    for (at, c) in text.char_indices() {
        let hidden = is_hidden(c) && !keep.contains(&c);
        let ambiguous = || style == Style::Exact && c == '\\' && is_escape(&text[at + 1..]);
        // Writing to a string does not fail.
        let _ = match style {
            Style::Json if hidden => c
                .encode_utf16(&mut [0; 2])
                .iter()
                .try_for_each(|unit| write!(line, "\\u{unit:04x}")),
            _ if hidden || ambiguous() => write!(line, "\\u{{{:x}}}", u32::from(c)),
            _ => {
                line.push(c);
                Ok(())
            }
        };
    }
}

/// Whether this, behind a backslash, is read as an escape.
fn is_escape(rest: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    rest.starts_with("u{") || rest.strip_prefix('x').and_then(|x| x.get(..2)).is_some_and(hex)
}

/// `text` with all that is hidden escaped, except for the characters in `keep`.
pub fn visible<'t>(text: &'t str, keep: &[char]) -> Cow<'t, str> {
    escaped(text, Style::Text, keep)
}

fn escaped<'t>(text: &'t str, style: Style, keep: &[char]) -> Cow<'t, str> {
    let hidden = |c: char| (is_hidden(c) && !keep.contains(&c)) || c == '\\';
    if !text.contains(hidden) {
        return text.into();
    }
    let mut line = String::with_capacity(text.len() + 16);
    push_escaped(&mut line, text, style, keep);
    line.into()
}

/// Bytes as text that can be read back: what is hidden and what is no UTF-8 is escaped.
pub fn exact<'t>(bytes: &'t [u8], keep: &[char]) -> Cow<'t, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return escaped(text, Style::Exact, keep);
    }
    let mut line = String::with_capacity(bytes.len() * 2);
    for chunk in bytes.utf8_chunks() {
        push_escaped(&mut line, chunk.valid(), Style::Exact, keep);
        push_bytes(&mut line, chunk.invalid());
    }
    line.into()
}

/// Appends bytes that are no UTF-8.
pub fn push_bytes(line: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(line, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an escaped text stands for.
    fn read_back(text: &str) -> Vec<u8> {
        let (mut bytes, mut rest) = (Vec::new(), text);
        while let Some(c) = rest.chars().next() {
            let after = &rest[c.len_utf8()..];
            if c == '\\'
                && let Some((code, after)) =
                    after.strip_prefix("u{").and_then(|after| after.split_once('}'))
            {
                let code = char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap();
                bytes.extend(code.to_string().bytes());
                rest = after;
            } else if c == '\\' && is_escape(after) {
                bytes.push(u8::from_str_radix(&after[1..3], 16).unwrap());
                rest = &after[3..];
            } else {
                bytes.extend(c.to_string().bytes());
                rest = after;
            }
        }
        bytes
    }

    #[test]
    fn what_acts_on_a_terminal_or_is_invisible_is_escaped() {
        for (text, shown) in [
            ("grün 21.5° 日本 C:\\data", "grün 21.5° 日本 C:\\data"),
            ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("a\rb\x7f\0\x08", "a\\u{d}b\\u{7f}\\u{0}\\u{8}"),
            ("x\u{202e}y\u{2066}z", "x\\u{202e}y\\u{2066}z"),
            ("\u{200e}\u{200f}\u{61c}", "\\u{200e}\\u{200f}\\u{61c}"),
            ("a\u{2028}b\u{2029}c", "a\\u{2028}b\\u{2029}c"),
            ("a\u{200b}b\u{feff}\u{ad}\u{e0041}", "a\\u{200b}b\\u{feff}\\u{ad}\\u{e0041}"),
            ("two\nlines", "two\\u{a}lines"),
        ] {
            assert_eq!(exact(text.as_bytes(), LINE), shown);
            assert_eq!(visible(text, LINE), shown);
        }
        let all = (0..=0x9f).filter_map(char::from_u32).filter(|c| c.is_control());
        for c in all.chain('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            assert!(is_hidden(c), "{c:?}");
        }
        assert_eq!(exact(b"a\x9b2J\xff", LINE), "a\\x9b2J\\xff");
        assert_eq!(exact(b"a\n\tb\r", LINES), "a\n\tb\\u{d}");
    }

    #[test]
    fn what_is_escaped_can_be_read_back() {
        for bytes in [
            &b"plain"[..],
            b"",
            b"\\u{1b}",
            b"\\x9b",
            b"\\\\x9b \\\x1b \\\xff \\u \\x \\xg0 \\x0",
            b"\x1b]0;title\x07\xc2\x9b\x9b\xe2\x80",
            "C:\\users\\x41 \u{202e}\u{e0041}\u{10ffff}".as_bytes(),
        ] {
            let shown = exact(bytes, LINE);
            assert_eq!(read_back(&shown), bytes, "{shown}");
            assert!(!shown.contains(is_hidden), "{shown:?}");
        }
        assert_eq!(exact(b"\\u{1b} and \\x9b", LINE), "\\u{5c}u{1b} and \\u{5c}x9b");
        // What a layer below has escaped stays as it is.
        assert_eq!(visible("\\u{1b} \x1b", LINE), "\\u{1b} \\u{1b}");
    }

    #[test]
    fn json_says_the_same_when_it_is_escaped() {
        let value = serde_json::json!({ "k\u{202e}\u{e0041}": "\x1b\u{9b}\n\\u{1b}" });
        let mut shown = String::new();
        push_escaped(&mut shown, &format!("{value:#}\n"), Style::Json, LINES);
        assert!(!shown.replace('\n', "").contains(is_hidden), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
