//! What the user sees while the demonstration runs: on standard error what is going on, on standard output one
//! line a conversation (not in JSON, which comes at the end).

use std::io::{IsTerminal, Write as _};

use super::pairs::Pair;
use super::report::{Outcome, line};
use super::scenario::Family;
use super::steps::Audience;
use crate::cli::Output;

/// Prints a line to standard error. Whoever does not read it does not end the demonstration.
pub fn tell(line: &str) {
    tell_part(&format!("{line}\n"));
}

fn tell_part(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Collects the outcomes and shows them as they come.
#[derive(Debug)]
pub struct Progress {
    output: Output,
    /// Standard error is a terminal: the line of what is going on can be overwritten.
    live: bool,
    pending: bool,
    outcomes: Vec<Outcome>,
}

impl Progress {
    /// For the given form of output.
    pub fn new(output: Output) -> Self {
        Self {
            output,
            live: std::io::stderr().is_terminal(),
            pending: false,
            outcomes: Vec::new(),
        }
    }

    /// Says what is going on.
    pub fn note(&mut self, text: &str) {
        self.clear();
        tell(text);
    }

    /// All that came, in order.
    pub fn into_outcomes(mut self) -> Vec<Outcome> {
        self.clear();
        std::mem::take(&mut self.outcomes)
    }

    fn clear(&mut self) {
        if self.pending {
            tell_part("\r\x1b[K");
            self.pending = false;
        }
    }
}

impl Audience for Progress {
    fn step(&mut self, number: usize, of: usize, title: &str) {
        self.note(&format!("[{number}/{of}] {title}"));
    }

    fn conversation(&mut self, family: Family, pair: &Pair) {
        if self.live {
            self.clear();
            let (from, to) = (pair.from.label(), pair.to.label());
            tell_part(&format!("  … {family} {}: {from} -> {to}", pair.name));
            self.pending = true;
        }
    }

    fn results(&mut self, outcomes: Vec<Outcome>) {
        self.clear();
        match self.output {
            // Gone readers do not end the demonstration: its exit code still counts.
            Output::Table | Output::Wide => {
                drop(writeln!(std::io::stdout(), "{}", line(&outcomes)));
            }
            Output::Json => tell(&format!("  {}", line(&outcomes))),
        }
        self.outcomes.extend(outcomes);
    }
}
