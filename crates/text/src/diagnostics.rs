//! What is wrong with a TOML file: all of it at once, each with its line.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{secretless, without_secrets};

/// All diagnostics of one file.
#[derive(Debug, thiserror::Error)]
pub struct FileError {
    path: PathBuf,
    diagnostics: Vec<Diagnostic>,
}

#[derive(Debug)]
struct Diagnostic {
    /// Both from 1; the column counts characters.
    line: usize,
    column: usize,
    message: String,
    /// The line, or what of it may be shown.
    source: String,
    /// Length of what is wrong in that line, in characters; `None` where the line is not shown as it
    /// is.
    width: Option<usize>,
}

impl FileError {
    /// All that was found, in a line.
    pub fn in_a_line(&self) -> String {
        let all: Vec<_> = self.diagnostics.iter().map(|diagnostic| self.head(diagnostic)).collect();
        all.join("; ")
    }

    fn head(&self, Diagnostic { line, column, message, .. }: &Diagnostic) -> String {
        format!("{}:{line}:{column}: {message}", self.path.display())
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.diagnostics.len() {
            1 => write!(f, "there is a problem in {path}")?,
            n => write!(f, "there are {n} problems in {path}")?,
        }
        for diagnostic in &self.diagnostics {
            let gutter = diagnostic.line.to_string();
            let space = " ".repeat(gutter.len());
            let indent = " ".repeat(diagnostic.column - 1);
            write!(f, "\n{}\n  {gutter} | {}", self.head(diagnostic), diagnostic.source)?;
            if let Some(width) = diagnostic.width {
                write!(f, "\n  {space} | {indent}{}", "^".repeat(width.max(1)))?;
            }
        }
        Ok(())
    }
}

/// What is shown of a line that may have a secret in it: no value, as it may lack a quote or have any
/// character. `None` for all other lines.
fn presentable(source: &str) -> Option<String> {
    if !source.contains('@') && without_secrets(source) == source {
        return None;
    }
    Some(match source.split_once('=') {
        Some((key, _)) if secretless(key) == key => format!("{key}= ***"),
        _ => "***".to_owned(),
    })
}

/// Collects the diagnostics of a file.
pub struct Diagnostics<'a> {
    path: &'a Path,
    text: &'a str,
    found: Vec<(Range<usize>, String)>,
}

impl<'a> Diagnostics<'a> {
    /// None yet, of the file `path` with this text.
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text, found: Vec::new() }
    }

    /// Notes what is wrong with these bytes of the text.
    pub fn add(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.found.push((span, message.into()));
    }

    /// The line of a byte of the text, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.before(at).matches('\n').count() + 1
    }

    /// # Errors
    /// [`FileError`] when there are any.
    pub fn check(self) -> Result<(), FileError> {
        if self.found.is_empty() { Ok(()) } else { Err(self.into_error()) }
    }

    /// All of them, in the order of the text.
    pub fn into_error(mut self) -> FileError {
        self.found.sort_by_key(|(span, _)| span.start);
        let diagnostics = self.found.iter().map(|(span, message)| self.diagnostic(span, message));
        FileError { path: self.path.to_owned(), diagnostics: diagnostics.collect() }
    }

    fn diagnostic(&self, span: &Range<usize>, message: &str) -> Diagnostic {
        let before = self.before(span.start);
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let source = self.text[start..].lines().next().unwrap_or_default();
        let column = before[start..].chars().count() + 1;
        let rest = self.text.get(span.clone()).and_then(|wrong| wrong.lines().next());
        let (source, width) = match presentable(source) {
            Some(shown) => (shown, None),
            // A tab is one character, and so wide that the marks below would be off.
            None => (source.replace('\t', " "), Some(rest.unwrap_or_default().chars().count())),
        };
        let message = without_secrets(message).into_owned();
        Diagnostic { line: self.line(span.start), column, message, source, width }
    }

    fn before(&self, at: usize) -> &'a str {
        &self.text[..self.text.floor_char_boundary(at)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_its_line_and_marks_what_is_wrong() {
        let text = "[host]\n  ä = \"b\"\nc";
        let mut diagnostics = Diagnostics::new(Path::new("x.toml"), text);
        diagnostics.add(text.len()..text.len(), "no value");
        diagnostics.add(9..11, "unknown");
        let error = diagnostics.check().unwrap_err();
        let expected = "there are 2 problems in x.toml
x.toml:2:3: unknown
  2 |   ä = \"b\"
    |   ^
x.toml:3:2: no value
  3 | c
    |  ^";
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.in_a_line(), "x.toml:2:3: unknown; x.toml:3:2: no value");
    }

    #[test]
    fn a_line_with_a_secret_is_not_shown() {
        for line in [
            "a = \"http://me:hunter2@b",
            "a = \"http://me:hunter'hunter2@b\"",
            "a = http://b/?token=hunter2",
            "a = \"me:hunter2@b\"",
            "\"http://me:hunter2@b\" = 1",
            "\"http://b/?x=hunter2\" = 1",
            "http://me:hunter2@b",
        ] {
            let mut diagnostics = Diagnostics::new(Path::new("x.toml"), line);
            diagnostics.add(4..5, format!("no value: {}", line.replace('\'', "")));
            let error = diagnostics.into_error();
            let shown = format!("{error} {error:?} {}", error.in_a_line());
            assert!(shown.contains("x.toml:1:5: no value") && shown.contains("***"), "{shown}");
            assert!(!shown.contains("hunter2") && !shown.contains("me:"), "{shown}");
        }
    }

    #[test]
    fn a_file_without_problems_is_fine() {
        assert!(Diagnostics::new(Path::new("x.toml"), "").check().is_ok());
    }
}
