//! What can go wrong in the lab itself (a check that fails is a result, not an error).

use std::io;

/// Why the demonstration could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Something is missing or in the way; the text says what to do.
    #[error("{0}")]
    Refused(String),
    /// A command of the system failed.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// What it printed, or why it could not run.
        output: String,
    },
    /// The system refused an operation.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to what.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A daemon of the lab did not do what it had to.
    #[error("{0}")]
    Daemon(String),
    /// The user ended it (Ctrl-C or a signal).
    #[error("interrupted")]
    Cancelled,
}

impl DemoError {
    /// A closure for `map_err` that adds what was being done.
    pub fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Io {
            what,
            source: source.into(),
        }
    }
}

/// Result of a step of the lab.
pub type Result<T, E = DemoError> = std::result::Result<T, E>;
