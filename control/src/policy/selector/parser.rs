//! Text to expressions. Errors say where in the text.

use std::collections::BTreeSet;

use super::expr::Expr;
use crate::config::suggest::nearest;

/// Deepest nesting of parentheses.
const MAX_DEPTH: usize = 64;

/// What is wrong with a selector, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SelectorError {
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub label: String,
    /// First byte of what is wrong.
    pub at: usize,
    /// Its length in bytes; 0 at the end.
    pub len: usize,
}

/// Reads a selector. An empty one selects everything.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(text: &str) -> Result<Expr, SelectorError> {
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
    };
    parser.skip_blanks();
    if parser.rest().is_empty() {
        return Ok(Expr::All);
    }
    let expr = parser.any_of()?;
    if parser.rest().is_empty() {
        return Ok(expr);
    }
    let wrong = parser.word();
    let (message, label) = match wrong {
        ")" => (
            "a `)` without its `(`".to_owned(),
            "take this out".to_owned(),
        ),
        "&" | "and" | "AND" => (
            format!("`{wrong}` is no operator"),
            "did you mean `&&`?".to_owned(),
        ),
        "|" | "or" | "OR" => (
            format!("`{wrong}` is no operator"),
            "did you mean `||`?".to_owned(),
        ),
        _ => (
            format!("unexpected `{wrong}`"),
            "expected `&&`, `||` or the end".to_owned(),
        ),
    };
    Err(parser.error(message, label, wrong.len()))
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Takes a text if it comes next, and the blanks behind it.
    fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
            self.skip_blanks();
        }
        found
    }

    /// What stands here, for messages: a name, or one character.
    fn word(&self) -> &'t str {
        let rest = self.rest();
        let name = identifier(rest);
        if !name.is_empty() {
            return name;
        }
        let length = rest.chars().next().map_or(0, char::len_utf8);
        rest.get(..length).unwrap_or("")
    }

    fn error(
        &self,
        message: impl Into<String>,
        label: impl Into<String>,
        len: usize,
    ) -> SelectorError {
        SelectorError {
            message: message.into(),
            label: label.into(),
            at: self.at,
            len,
        }
    }

    fn any_of(&mut self) -> Result<Expr, SelectorError> {
        let mut parts = vec![self.all_of()?];
        while self.take("||") {
            parts.push(self.all_of()?);
        }
        Ok(one_or(parts, Expr::Or))
    }

    fn all_of(&mut self) -> Result<Expr, SelectorError> {
        let mut parts = vec![self.term()?];
        while self.take("&&") {
            parts.push(self.term()?);
        }
        Ok(one_or(parts, Expr::And))
    }

    fn term(&mut self) -> Result<Expr, SelectorError> {
        let mut negated = false;
        while self.take("!") {
            negated = !negated;
        }
        let term = self.positive_term()?;
        Ok(if negated { term.negated() } else { term })
    }

    fn positive_term(&mut self) -> Result<Expr, SelectorError> {
        if self.rest().starts_with('(') {
            return self.group();
        }
        let name = identifier(self.rest());
        if name.is_empty() {
            return Err(self.no_term());
        }
        if self.rest()[name.len()..].starts_with('(') {
            return self.function(name);
        }
        self.at += name.len();
        self.skip_blanks();
        self.comparison(name)
    }

    fn no_term(&self) -> SelectorError {
        let label = "expected a label, `has(label)`, `all()`, `!` or `(`";
        match self.word() {
            "" => self.error("the selector ends too early", label, 0),
            word @ ("'" | "\"") => self.error(
                "a label has no quotes",
                "only values have quotes",
                word.len(),
            ),
            word => self.error(format!("unexpected `{word}`"), label, word.len()),
        }
    }

    fn group(&mut self) -> Result<Expr, SelectorError> {
        let start = self.at;
        if self.depth == MAX_DEPTH {
            let label = format!("{MAX_DEPTH} levels at most");
            return Err(self.error("parentheses are nested too deeply", label, 1));
        }
        self.depth += 1;
        self.take("(");
        let inner = self.any_of()?;
        if !self.take(")") {
            if self.rest().is_empty() {
                self.at = start;
                return Err(self.error("a `(` without its `)`", "opened here", 1));
            }
            let word = self.word();
            return Err(self.error(
                format!("unexpected `{word}`"),
                "expected `&&`, `||` or `)`",
                word.len(),
            ));
        }
        self.depth -= 1;
        Ok(inner)
    }

    fn function(&mut self, name: &'t str) -> Result<Expr, SelectorError> {
        let wrong_name = |this: &Self| {
            let label = match nearest(name, ["all", "has", "global"]) {
                Some(known) => format!("did you mean `{known}()`?"),
                None => "there are `has(label)`, `all()` and `global()`".to_owned(),
            };
            this.error(format!("unknown function `{name}`"), label, name.len())
        };
        if !["all", "has", "global"].contains(&name) {
            return Err(wrong_name(self));
        }
        self.at += name.len();
        self.take("(");
        let expr = match name {
            "all" => Expr::All,
            "global" => Expr::Global,
            _ => {
                let key = identifier(self.rest());
                if key.is_empty() {
                    let word = self.word();
                    return Err(self.error(
                        "has() needs a label",
                        "such as `has(app)`, without quotes",
                        word.len(),
                    ));
                }
                self.at += key.len();
                self.skip_blanks();
                Expr::Has(key.to_owned())
            }
        };
        if self.take(")") {
            return Ok(expr);
        }
        let word = self.word();
        Err(self.error(format!("expected `)` to end {name}("), "", word.len()))
    }

    fn comparison(&mut self, key: &'t str) -> Result<Expr, SelectorError> {
        let key = key.to_owned();
        if self.take("==") {
            return Ok(Expr::Eq(key, self.value()?));
        }
        if self.take("!=") {
            return Ok(Expr::Ne(key, self.value()?));
        }
        if self.take("contains") {
            return Ok(Expr::Contains(key, self.value()?));
        }
        if self.take_both("starts", "with") {
            return Ok(Expr::StartsWith(key, self.value()?));
        }
        if self.take_both("ends", "with") {
            return Ok(Expr::EndsWith(key, self.value()?));
        }
        if self.take_both("not", "in") {
            return Ok(Expr::NotIn(key, self.set()?));
        }
        if self.take("in") {
            return Ok(Expr::In(key, self.set()?));
        }
        let word = self.word();
        let label = match word {
            "=" | ":" => "did you mean `==`?".to_owned(),
            "" if self.at == self.text.len() => {
                format!("did you mean `has({key})`?")
            }
            _ => "expected ==, !=, in, not in, contains, starts with or ends with".to_owned(),
        };
        Err(self.error(
            format!("no operator behind the label `{key}`"),
            label,
            word.len(),
        ))
    }

    fn take_both(&mut self, first: &str, second: &str) -> bool {
        let start = self.at;
        if self.take(first) && self.take(second) {
            return true;
        }
        self.at = start;
        false
    }

    fn value(&mut self) -> Result<String, SelectorError> {
        let rest = self.rest();
        let quote = rest.chars().next().filter(|c| ['\'', '"'].contains(c));
        let Some(quote) = quote else {
            let word = self.word();
            let label = match word {
                "" => "expected a value in quotes".to_owned(),
                word => format!("put it in quotes: '{word}'"),
            };
            return Err(self.error("a value must be in quotes", label, word.len()));
        };
        let Some(length) = rest[1..].find(quote) else {
            let len = rest.len();
            return Err(self.error(
                "a quote is not closed",
                format!("expected another {quote}"),
                len,
            ));
        };
        let value = rest[1..=length].to_owned();
        self.at += length + 2;
        self.skip_blanks();
        Ok(value)
    }

    fn set(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let start = self.at;
        if !self.take("{") {
            let word = self.word();
            let label = "such as {'a', 'b'}";
            return Err(self.error("a set must be in braces", label, word.len()));
        }
        let mut values = BTreeSet::new();
        while !self.rest().starts_with('}') {
            if self.rest().is_empty() {
                self.at = start;
                return Err(self.error("a `{` without its `}`", "opened here", 1));
            }
            values.insert(self.value()?);
            if !self.take(",") {
                break;
            }
        }
        if self.take("}") {
            return Ok(values);
        }
        let word = self.word();
        Err(self.error("a set is not closed", "expected `,` or `}`", word.len()))
    }
}

fn one_or(mut parts: Vec<Expr>, join: fn(Vec<Expr>) -> Expr) -> Expr {
    if parts.len() == 1 {
        parts.remove(0)
    } else {
        join(parts)
    }
}

/// The label name at the start of a text.
fn identifier(text: &str) -> &str {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    &text[..end]
}
