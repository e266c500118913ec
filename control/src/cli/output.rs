//! The one way by which commands write: nothing is lost in silence, and nothing panics.

use std::io::{self, ErrorKind, Write};

use super::Exit;
use crate::config::printable::printable;

/// Writes a result to standard output. Returns how the command ends: as `exit` says, if all was written.
pub(crate) fn print(text: &str, exit: Exit) -> Exit {
    print_or(text, exit, Exit::Failure)
}

/// The same, with another end than [`Exit::Failure`] if it could not.
pub(crate) fn print_or(text: &str, exit: Exit, otherwise: Exit) -> Exit {
    match write(&mut io::stdout().lock(), text) {
        Ok(()) => exit,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit,
        Err(error) => {
            failed(&error, exit);
            otherwise
        }
    }
}

/// Writes, and sees that it has arrived.
pub(crate) fn write(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// How a command ends whose result could not be written. A reader that has seen enough, as `head`, is no failure.
pub(crate) fn failed(error: &io::Error, exit: Exit) -> Exit {
    if error.kind() == ErrorKind::BrokenPipe {
        return exit;
    }
    complain(&format!("the output cannot be written: {error}"));
    Exit::Failure
}

/// Writes remarks to standard error, as they are. That they cannot be written changes nothing.
pub(crate) fn remark(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Says what went wrong, in one line.
pub(crate) fn complain(error: &dyn std::fmt::Display) {
    remark(&format!("error: {}\n", printable(&error.to_string())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone = io::Error::from(ErrorKind::BrokenPipe);
        assert_eq!(failed(&gone, Exit::Degraded), Exit::Degraded);
        let full = io::Error::from(ErrorKind::StorageFull);
        assert_eq!(failed(&full, Exit::Ok), Exit::Failure);
    }
}
