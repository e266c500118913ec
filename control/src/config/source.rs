//! Texts and places in them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One file's name and text. Cheap to share: every place in the file points back to it.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it came from, as it is shown to the user.
    pub path: PathBuf,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// A text under a name.
    pub fn new(path: impl AsRef<Path>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            path: path.as_ref().to_path_buf(),
            text: text.into(),
        })
    }
}

/// A range of bytes of one source.
#[derive(Clone, PartialEq, Eq)]
pub struct Span {
    /// The file.
    pub source: Arc<Source>,
    /// First byte.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_and_column();
        write!(f, "{}:{line}:{column}", self.source.path.display())
    }
}

impl Span {
    /// Line and column of the first byte, both from 1, the column in characters.
    pub fn line_and_column(&self) -> (usize, usize) {
        let before = self.text_before();
        let line = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before.get(line_start..).unwrap_or("").chars().count() + 1;
        (line, column)
    }

    /// The line that the span starts in, without its end-of-line characters.
    pub fn line_text(&self) -> &str {
        let start = self.text_before().rfind('\n').map_or(0, |at| at + 1);
        let rest = self.source.text.get(start..).unwrap_or("");
        rest.split('\n').next().unwrap_or("").trim_end_matches('\r')
    }

    /// The bytes of the span.
    pub fn text(&self) -> &str {
        self.source
            .text
            .get(self.start..self.start.saturating_add(self.len))
            .unwrap_or("")
    }

    /// Number of the YAML document that the span lies in, from 1.
    pub fn document(&self) -> usize {
        let before = self.text_before();
        let mut document = 1;
        let mut content = false;
        for line in before.lines() {
            let line = line.trim_end();
            if line == "---" || line.starts_with("--- ") {
                document += usize::from(content);
                content = true;
            } else if !line.is_empty() && !line.starts_with('#') && !line.starts_with('%') {
                content = true;
            }
        }
        document
    }

    fn text_before(&self) -> &str {
        let mut end = self.start.min(self.source.text.len());
        while !self.source.text.is_char_boundary(end) {
            end -= 1;
        }
        self.source.text.get(..end).unwrap_or("")
    }
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub at: Span,
}

impl<T: PartialEq> PartialEq for Located<T> {
    /// Compares values: the same configuration moved to another line is the same.
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T> std::ops::Deref for Located<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, needle: &str) -> Span {
        Span {
            source: Source::new("a.yaml", text),
            start: text.find(needle).unwrap(),
            len: needle.len(),
        }
    }

    #[test]
    fn lines_and_columns_count_from_one_in_characters() {
        let span = at("a: 1\nkéy: value\r\n", "value");
        assert_eq!(span.line_and_column(), (2, 6));
        assert_eq!(span.line_text(), "kéy: value");
        assert_eq!(span.text(), "value");
    }

    #[test]
    fn documents_are_counted_with_or_without_a_leading_marker() {
        assert_eq!(at("x: 1\n---\ny: 2\n", "x").document(), 1);
        assert_eq!(at("x: 1\n---\ny: 2\n", "y").document(), 2);
        assert_eq!(at("# hello\n---\nx: 1\n---\ny: 2\n", "x").document(), 1);
        assert_eq!(at("# hello\n---\nx: 1\n---\ny: 2\n", "y").document(), 2);
    }
}
