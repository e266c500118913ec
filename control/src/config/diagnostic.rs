//! What is wrong with a configuration, and how it is shown: compiler style or JSON.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::printable::printable;
use super::source::Span;
use crate::words::counted_as;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but probably does not do what was meant.
    Warning,
    /// Something worth knowing.
    Note,
}

impl Severity {
    /// `error`, `warning` or `note`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }

    fn color(self) -> &'static str {
        match self {
            Self::Error => "\x1b[1;31m",
            Self::Warning => "\x1b[1;33m",
            Self::Note => "\x1b[1;36m",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// Where; `None` when no text is at fault (a missing file, a missing resource).
    pub at: Option<Span>,
    /// What the caret says: what is expected, a suggestion.
    pub label: String,
    /// The resource it is about, such as `IPPool default`.
    pub resource: Option<String>,
    /// Second places and advice, each shown on a line of its own.
    pub notes: Vec<(String, Option<Span>)>,
    /// Nothing has to be changed: it may be gone by itself the next time.
    pub may_pass: bool,
}

impl Diagnostic {
    /// A finding without a place yet.
    pub fn new(severity: Severity, message: impl Into<String>) -> Self {
        Self {
            severity,
            message: message.into(),
            at: None,
            label: String::new(),
            resource: None,
            notes: Vec::new(),
            may_pass: false,
        }
    }

    /// An error.
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, message)
    }

    /// A warning.
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, message)
    }

    /// Says where, and what the caret says.
    #[must_use]
    pub fn at(mut self, span: &Span, label: impl Into<String>) -> Self {
        self.at = Some(span.clone());
        self.label = label.into();
        self
    }

    /// Says what resource it is about.
    #[must_use]
    pub fn about(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Adds a second place.
    #[must_use]
    pub fn see(mut self, note: impl Into<String>, span: &Span) -> Self {
        self.notes.push((note.into(), Some(span.clone())));
        self
    }

    /// Adds advice.
    #[must_use]
    pub fn help(mut self, note: impl Into<String>) -> Self {
        self.notes.push((note.into(), None));
        self
    }

    /// The finding as `caracal validate` shows it, without a final newline.
    pub fn render(&self, color: bool) -> String {
        let (on, bold, off) = if color {
            (self.severity.color(), "\x1b[1m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let mut out = format!(
            "{on}{}{off}{bold}: {}{off}",
            self.severity.as_str(),
            printable(&self.message)
        );
        let width = self.at.as_ref().map_or(2, |span| {
            let (line, _) = span.line_and_column();
            line.to_string().len().max(2)
        });
        match &self.at {
            Some(span) => self.render_place(&mut out, span, width, on, off),
            None => {
                if let Some(resource) = &self.resource {
                    let _ = write!(out, "\n{:width$}--> {}", "", printable(resource));
                }
            }
        }
        for (note, span) in &self.notes {
            let _ = write!(out, "\n{:width$} = {}", "", printable(note));
            if let Some(span) = span {
                let (line, column) = span.line_and_column();
                let path = span.source.path.display().to_string();
                let _ = write!(out, ": {}:{line}:{column}", printable(&path));
            }
        }
        out
    }

    fn render_place(&self, out: &mut String, span: &Span, width: usize, on: &str, off: &str) {
        let (line, column) = span.line_and_column();
        let path = span.source.path.display().to_string();
        let path = printable(&path);
        let _ = write!(out, "\n{:width$}--> {path}:{line}:{column}", "");
        if let Some(resource) = &self.resource {
            let (document, resource) = (span.document(), printable(resource));
            let _ = write!(out, "  (document {document}, {resource})");
        }
        let (excerpt, offset) = excerpt(span.line_text(), column - 1);
        if excerpt.is_empty() {
            return;
        }
        let first_line = span.text().split('\n').next().unwrap_or("").trim_end();
        let room = excerpt.chars().count().saturating_sub(offset);
        let carets = first_line.chars().count().clamp(1, room.max(1));
        let _ = write!(
            out,
            "\n{:width$} |\n{line:>width$} | {excerpt}\n{:width$} | ",
            "", ""
        );
        let _ = write!(out, "{:offset$}{on}{}", "", "^".repeat(carets));
        if !self.label.is_empty() {
            let _ = write!(out, " {}", printable(&self.label));
        }
        out.push_str(off);
    }

    /// The finding as one JSON object (schema `caracal.diagnostic/v1`).
    pub fn to_json(&self) -> Value {
        let place = |span: &Span| {
            let (line, column) = span.line_and_column();
            json!({ "file": span.source.path.display().to_string(), "line": line, "column": column,
                    "document": span.document(), "text": span.text() })
        };
        json!({
            "severity": self.severity.as_str(),
            "message": self.message,
            "label": self.label,
            "resource": self.resource,
            "at": self.at.as_ref().map(place),
            "notes": self.notes.iter()
                .map(|(note, span)| json!({ "message": note, "at": span.as_ref().map(place) }))
                .collect::<Vec<_>>(),
        })
    }
}

/// The part of a line that is worth showing, tabs made blanks, and the place of `column` (from 0) in it.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    const WIDEST: usize = 120;
    let clean: Vec<char> = line
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if clean.len() <= WIDEST {
        return (clean.into_iter().collect(), column);
    }
    let start = column.saturating_sub(WIDEST / 2).min(clean.len() - WIDEST);
    let shown = clean.iter().skip(start).take(WIDEST).collect();
    (shown, column - start.min(column))
}

/// Most findings that are shown: finding out lines and columns costs a walk through the file each.
pub const MOST_SHOWN: usize = 200;

/// Findings of one load, in the order of files and lines.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Adds a finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// True if a finding is an error.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Whether a finding is one that may be gone by itself the next time.
    pub fn may_pass(&self) -> bool {
        self.0.iter().any(|finding| finding.may_pass)
    }

    /// Number of findings of one severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.0.iter().filter(|d| d.severity == severity).count()
    }

    /// Sorts by file and place; findings without a place come first.
    pub fn sort(&mut self) {
        fn key(finding: &Diagnostic) -> Option<(&Path, usize, Severity)> {
            let at = finding.at.as_ref();
            at.map(|span| (&*span.source.path, span.start, finding.severity))
        }
        self.0.sort_by(|one, other| key(one).cmp(&key(other)));
    }

    /// The findings as text, one blank line between them, with a final newline if there is any. Of very many
    /// only the first [`MOST_SHOWN`] are shown, and how many there are more.
    pub fn render(&self, color: bool) -> String {
        let mut rendered: Vec<String> = self
            .0
            .iter()
            .take(MOST_SHOWN)
            .map(|d| d.render(color))
            .collect();
        if rendered.is_empty() {
            return String::new();
        }
        if let Some(more) = self
            .0
            .len()
            .checked_sub(MOST_SHOWN)
            .filter(|more| *more > 0)
        {
            rendered.push(format!(
                "note: {} not shown",
                counted_as(more as u64, "more is", "more are")
            ));
        }
        rendered.join("\n\n") + "\n"
    }

    /// The findings as a JSON array; of very many the first [`MOST_SHOWN`].
    pub fn to_json(&self) -> Value {
        Value::Array(
            self.0
                .iter()
                .take(MOST_SHOWN)
                .map(Diagnostic::to_json)
                .collect(),
        )
    }
}

impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

impl From<Vec<Diagnostic>> for Diagnostics {
    fn from(list: Vec<Diagnostic>) -> Self {
        Self(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::Source;

    #[test]
    fn very_long_lines_are_shown_around_the_place() {
        let text = format!("{}x: here{}", " ".repeat(5000), "y".repeat(5000));
        let span = Span {
            source: Source::new("a.json", text),
            start: 5003,
            len: 4,
        };
        let shown = Diagnostic::error("wrong").at(&span, "this").render(false);
        let lines: Vec<&str> = shown.lines().collect();
        let column = lines[4].find('^').unwrap();
        assert_eq!(&lines[3][column..column + 4], "here");
        assert!(lines[3].len() < 140);
        assert!(lines[4].ends_with("^^^^ this"));
    }

    #[test]
    fn nothing_that_is_quoted_can_forge_a_line_or_speak_to_the_terminal() {
        let forged = "x\u{1b}[2K\nerror: forged";
        let span = Span {
            source: Source::new(format!("a{forged}.yaml"), "a: b\n".to_owned()),
            start: 3,
            len: 1,
        };
        let error = Diagnostic::error(forged).at(&span, forged).about(forged);
        let error = error.see(forged, &span).help(forged);
        let placeless = Diagnostic::error(forged).about(forged);
        for shown in [error.render(false), placeless.render(false)] {
            assert!(!shown.contains('\u{1b}'), "{shown:?}");
            let errors = shown.lines().filter(|line| line.starts_with("error"));
            assert_eq!(errors.count(), 1, "{shown}");
            assert!(shown.contains("x\\u{1b}[2K\\nerror: forged"), "{shown}");
        }
    }

    #[test]
    fn of_very_many_findings_the_first_are_shown() {
        let all = |count| {
            let all = (0..count).map(|n| Diagnostic::error(format!("e{n}")));
            Diagnostics(all.collect())
        };
        for (more, end) in [
            (0, ""),
            (1, "\nnote: 1 more is not shown\n"),
            (3, "\nnote: 3 more are not shown\n"),
        ] {
            let many = all(MOST_SHOWN + more);
            let text = many.render(false);
            assert!(text.ends_with(&format!("error: e199\n{end}")), "{more}");
            assert_eq!(many.count(Severity::Error), MOST_SHOWN + more);
        }
    }

    #[test]
    fn colour_is_only_added() {
        let span = Span {
            source: Source::new("a.yaml", "a: b\n"),
            start: 3,
            len: 1,
        };
        let error = Diagnostic::error("wrong").at(&span, "this").help("do that");
        let coloured = error.render(true);
        let plain: String = coloured
            .split('\x1b')
            .enumerate()
            .map(|(index, part)| {
                if index == 0 {
                    part
                } else {
                    part.split_once('m').unwrap().1
                }
            })
            .collect();
        assert_eq!(plain, error.render(false));
        assert_ne!(plain, coloured);
    }
}
