//! One line of the answer.

use std::fmt::Display;

/// How it is with what was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As it should be.
    Ok,
    /// The daemon runs, and something is not as it could be, or could not be looked at.
    Warn,
    /// The daemon does not start, or can do nothing.
    Missing,
}

impl State {
    /// In JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Missing => "missing",
        }
    }
}

/// What was looked at, what was found, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: a word that stays the same.
    pub check: &'static str,
    /// Of which interface or file, where there are several.
    pub of: Option<String>,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do. There is something unless the state is [`State::Ok`].
    pub todo: Option<String>,
}

impl Finding {
    /// All is well.
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            of: None,
            state: State::Ok,
            found: found.into(),
            todo: None,
        }
    }

    /// Something is not as it could be.
    pub(super) fn warn(
        check: &'static str,
        found: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Warn,
            todo: Some(todo.into()),
            ..Self::ok(check, found)
        }
    }

    /// It does not do without.
    pub(super) fn missing(
        check: &'static str,
        found: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Missing,
            ..Self::warn(check, found, todo)
        }
    }

    /// A process that may run outside of this container. `then`: what it would do.
    pub(super) fn unseen(check: &'static str, then: &str) -> Self {
        Self::warn(
            check,
            format!("not seen from a container: where it runs on the node, {then}"),
            "run this on the node itself, too",
        )
    }

    /// It could not be looked at.
    pub(super) fn unknown(check: &'static str, error: &impl Display) -> Self {
        Self::warn(
            check,
            format!("could not be looked at: {error}"),
            "run this as root; what is there is not known",
        )
    }

    /// What the daemon would say, and end. Errors say what is wrong, and after a semicolon what to do.
    pub(super) fn refused(check: &'static str, error: &impl ToString) -> Self {
        let text = error.to_string();
        let (found, todo) = text
            .split_once("; ")
            .unwrap_or((&text, "the daemon would say the same"));
        Self::missing(check, found, todo)
    }

    /// The daemon would go on.
    pub(super) fn only_a_warning(mut self) -> Self {
        self.state = State::Warn;
        self
    }

    /// Of one of several.
    pub(super) fn of(mut self, what: impl Into<String>) -> Self {
        self.of = Some(what.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_daemon_is_what_is_wrong_and_what_to_do() {
        let finding = Finding::refused("x", &"no frames; use fewer; or none");
        assert_eq!(finding.found, "no frames");
        assert_eq!(finding.todo.as_deref(), Some("use fewer; or none"));
        assert!(Finding::refused("x", &"no frames").todo.is_some());
    }
}
