//! A filter as it is written.
//!
//! ```text
//! filter  = all { "or" all }
//! all     = one { "and" one }
//! one     = { "not" } ( "(" filter ")" | test )
//! test    = [ "src" | "dst" ] ( "host" ADDRESS | "net" NETWORK | "port" PORT [ "-" PORT ] )
//!         | ( "src" | "dst" ) ( ADDRESS | NETWORK )
//!         | "proto" PROTOCOL | "tcp" | "udp" | "icmp" | "icmp6" | "sctp" | "ip" | "ip6"
//!         | "state" STATE | "endpoint" ( NAMESPACE "/" NAME | INTERFACE ) | "snat" | "dnat"
//! ```
//!
//! `and` binds stronger than `or`; `&&`, `||` and `!` are the same as the words.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use flowtable::conn::State;
use ipnet::IpNet;

use super::protocol;
use super::{Filter, Test, Which};
use crate::config::suggest;

/// The longest text, in bytes.
const LONGEST: usize = 4096;
/// The deepest nesting of parentheses.
const DEEPEST: usize = 32;

const KEYWORDS: [&str; 18] = [
    "and", "or", "not", "src", "dst", "host", "net", "port", "proto", "tcp", "udp", "icmp",
    "icmp6", "sctp", "ip", "ip6", "endpoint", "state",
];

/// Why a text is no filter, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "column {column}: {message}\n  {text}\n  {caret:>column$}",
    caret = "^"
)]
pub struct FilterError {
    /// The column where it goes wrong, in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
    /// The text, without control characters.
    text: String,
}

/// A word, and where it is.
#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    text: &'a str,
    column: usize,
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    next: usize,
    depth: usize,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// The first thing that is wrong, with its column.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut parser = Parser {
            text,
            tokens: Vec::new(),
            next: 0,
            depth: 0,
        };
        if text.len() > LONGEST {
            // Not repeated at that length.
            parser.text = "";
            return Err(parser.error(1, format!("a filter has {LONGEST} bytes at most")));
        }
        parser.tokens = tokens(text);
        let filter = parser.any()?;
        match parser.peek() {
            None => Ok(filter),
            Some(token) => {
                let expected = if token.text == ")" {
                    "there is no `(` that this closes".to_owned()
                } else {
                    format!("{token} follows a condition: `and` or `or` is missing")
                };
                Err(parser.error(token.column, expected))
            }
        }
    }
}

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text)
    }
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", without_control(self.text))
    }
}

fn without_control(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// The words, parentheses and operators of a text.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut column = 1;
    while let Some(first) = rest.chars().next() {
        let len = match first {
            _ if first.is_whitespace() => {
                column += 1;
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
                continue;
            }
            '(' | ')' | '!' => 1,
            _ if rest.starts_with("&&") || rest.starts_with("||") => 2,
            _ => {
                let ends = |at: usize, c: char| {
                    let here = rest.get(at..).unwrap_or_default();
                    c.is_whitespace()
                        || matches!(c, '(' | ')' | '!')
                        || here.starts_with("&&")
                        || here.starts_with("||")
                };
                let end = rest.char_indices().find(|&(at, c)| ends(at, c));
                end.map_or(rest.len(), |(at, _)| at)
            }
        };
        let (word, after) = rest.split_at(len);
        tokens.push(Token { text: word, column });
        column += word.chars().count();
        rest = after;
    }
    tokens
}

impl<'a> Parser<'a> {
    fn error(&self, column: usize, message: impl Into<String>) -> FilterError {
        FilterError {
            column,
            message: message.into(),
            text: without_control(self.text),
        }
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.next).copied()
    }

    fn take(&mut self) -> Option<Token<'a>> {
        let token = self.peek()?;
        self.next += 1;
        Some(token)
    }

    /// Takes the next word if it is one of these.
    fn takes(&mut self, words: &[&str]) -> bool {
        let is_one = self.peek().is_some_and(|token| {
            words
                .iter()
                .any(|word| token.text.eq_ignore_ascii_case(word))
        });
        self.next += usize::from(is_one);
        is_one
    }

    /// The next word, which has to be there; `what` says what it should be.
    fn word(&mut self, what: &str) -> Result<Token<'a>, FilterError> {
        match self.take() {
            Some(token) if !matches!(token.text, "(" | ")" | "!" | "&&" | "||") => Ok(token),
            Some(token) => Err(self.error(token.column, format!("{what} is missing here"))),
            None => {
                let end = self.text.trim_end().chars().count() + 1;
                Err(self.error(end, format!("{what} is missing at the end")))
            }
        }
    }

    fn any(&mut self) -> Result<Filter, FilterError> {
        let first = self.all()?;
        let mut parts = vec![first];
        while self.takes(&["or", "||"]) {
            parts.push(self.all()?);
        }
        Ok(single(parts, Filter::Any))
    }

    fn all(&mut self) -> Result<Filter, FilterError> {
        let first = self.one()?;
        let mut parts = vec![first];
        while self.takes(&["and", "&&"]) {
            parts.push(self.one()?);
        }
        Ok(single(parts, Filter::All))
    }

    fn one(&mut self) -> Result<Filter, FilterError> {
        let mut negated = false;
        while self.takes(&["not", "!"]) {
            negated = !negated;
        }
        let opening = self.peek();
        let inner = if self.takes(&["("]) {
            let column = opening.map_or(1, |token| token.column);
            self.depth += 1;
            if self.depth > DEEPEST {
                return Err(self.error(column, format!("more than {DEEPEST} `(` in each other")));
            }
            let inner = self.any()?;
            if !self.takes(&[")"]) {
                return Err(match self.peek() {
                    None => self.error(column, "no `)` closes this"),
                    Some(token) => self.error(
                        token.column,
                        format!("{token} follows a condition: `and`, `or` or `)` is missing"),
                    ),
                });
            }
            self.depth -= 1;
            inner
        } else {
            Filter::Test(self.test()?)
        };
        Ok(if negated {
            Filter::Not(Box::new(inner))
        } else {
            inner
        })
    }

    fn test(&mut self) -> Result<Test<String>, FilterError> {
        let token = self.word("a condition")?;
        let word = token.text.to_ascii_lowercase();
        Ok(match word.as_str() {
            "src" => self.end(Which::Source)?,
            "dst" => self.end(Which::Destination)?,
            "host" | "net" | "port" => {
                self.next -= 1;
                self.end(Which::Either)?
            }
            "proto" => {
                let name = self.word("a protocol")?;
                let number = protocol::number(name.text);
                let error =
                    || self.error(name.column, unknown("protocol", name, protocol::names()));
                Test::Protocol(number.ok_or_else(error)?)
            }
            "ip" => Test::Ipv6(false),
            "ip6" => Test::Ipv6(true),
            "state" => Test::State(self.state()?),
            "endpoint" => Test::Endpoint(
                self.word("an endpoint's or interface's name")?
                    .text
                    .to_owned(),
            ),
            "snat" => Test::Snat,
            "dnat" => Test::Dnat,
            _ if word.starts_with(char::is_alphabetic) && protocol::number(&word).is_some() => {
                Test::Protocol(protocol::number(&word).unwrap_or_default())
            }
            _ => {
                let message = if network(token.text).is_some() {
                    format!("{token} needs `src`, `dst`, `host` or `net` in front of it")
                } else {
                    let known = KEYWORDS.into_iter().chain(["snat", "dnat"]);
                    unknown("condition", token, known)
                };
                return Err(self.error(token.column, message));
            }
        })
    }

    /// What follows `src` or `dst`.
    fn end(&mut self, which: Which) -> Result<Test<String>, FilterError> {
        if self.takes(&["port"]) {
            return Ok(Test::Port(which, self.ports()?));
        }
        if self.takes(&["host"]) {
            let token = self.word("an address")?;
            let addr: Option<IpAddr> = token.text.parse().ok();
            let error = || self.error(token.column, format!("{token} is no address"));
            return Ok(Test::Address(which, addr.ok_or_else(error)?.into()));
        }
        self.takes(&["net"]);
        let token = self.word("an address or a network")?;
        let error = || {
            self.error(
                token.column,
                format!("{token} is no address and no network"),
            )
        };
        Ok(Test::Address(which, network(token.text).ok_or_else(error)?))
    }

    fn ports(&mut self) -> Result<RangeInclusive<u16>, FilterError> {
        let token = self.word("a port")?;
        let (first, last) = token
            .text
            .split_once('-')
            .unwrap_or((token.text, token.text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
            _ => Err(self.error(
                token.column,
                format!("{token} is no port (0 to 65535) and no range of ports (1000-2000)"),
            )),
        }
    }

    fn state(&mut self) -> Result<State, FilterError> {
        let token = self.word("a state")?;
        let name = token.text.replace('-', "_");
        let known = State::ALL.into_iter();
        let state = known
            .clone()
            .find(|state| state.name().eq_ignore_ascii_case(&name));
        let error = || {
            let names = known.map(State::name);
            self.error(token.column, unknown("state", token, names))
        };
        state.ok_or_else(error)
    }
}

/// What holds several parts, unless there is one only.
fn single(mut parts: Vec<Filter>, several: fn(Vec<Filter>) -> Filter) -> Filter {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            several(parts)
        }
    }
}

fn network(text: &str) -> Option<IpNet> {
    let addr = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(addr)
}

fn unknown<'a>(what: &str, token: Token<'_>, known: impl Iterator<Item = &'a str>) -> String {
    let hint = suggest::nearest(token.text, known)
        .map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    format!("{token} is no {what}{hint}")
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod words;
