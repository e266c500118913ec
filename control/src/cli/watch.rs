//! `-w`: what a command shows, again and again.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Cli, Exit, Output, ask, output};
use crate::api::Method;

/// Puts the cursor at a terminal's first place, and clears what follows.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Whether a command shows its result more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Watch {
    /// Again and again, every so many seconds; 1 unless said.
    #[arg(
        short,
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "1",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    watch: Option<u32>,
}

impl Watch {
    /// Whether the result is shown more than once.
    pub(super) const fn is_on(self) -> bool {
        self.watch.is_some()
    }

    /// Shows the result once, or until it cannot be shown.
    pub(super) fn repeat(self, mut show: impl FnMut() -> Result<Exit, Exit>) -> Exit {
        loop {
            match (show(), self.watch) {
                (Ok(_), Some(seconds)) => std::thread::sleep(Duration::from_secs(seconds.into())),
                (Ok(exit) | Err(exit), _) => return exit,
            }
        }
    }

    /// Asks a question and shows what `render` makes of the answer, and how the command would end with it.
    pub(super) fn ask<T: DeserializeOwned>(
        self,
        cli: &Cli,
        method: &Method,
        render: impl Fn(&T) -> (String, Exit),
    ) -> Exit {
        self.repeat(|| {
            let answer = ask::ask(cli, method.clone())?;
            let (text, exit) = render(&answer);
            let mut stdout = io::stdout().lock();
            let clear = self.clear(&stdout, cli.output);
            match output::write(&mut stdout, &format!("{clear}{text}")) {
                Ok(()) => Ok(exit),
                Err(error) => Err(output::failed(&error, exit)),
            }
        })
    }

    /// What has the next result take the place of the one before: on a terminal, for people.
    pub(super) fn clear(self, stdout: &io::StdoutLock<'_>, output: Output) -> &'static str {
        if self.is_on() && stdout.is_terminal() && output != Output::Json {
            CLEAR
        } else {
            ""
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_shown_until_it_cannot_be() {
        let shown = |watch, ends: [Result<Exit, Exit>; 2]| {
            let mut ends = ends.into_iter();
            let exit = Watch { watch }.repeat(|| ends.next().unwrap());
            (exit, ends.count())
        };
        let (well, gone) = (Ok(Exit::Degraded), Err(Exit::Unreachable));
        assert_eq!(shown(None, [well, gone]), (Exit::Degraded, 1));
        assert_eq!(shown(None, [gone, well]), (Exit::Unreachable, 1));
        assert_eq!(shown(Some(1), [gone, well]), (Exit::Unreachable, 1));
        assert_eq!(shown(Some(1), [well, gone]), (Exit::Unreachable, 0));
    }
}
