//! The screen that is drawn again and again, and its keys.

use std::fmt::Write as _;
use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};

use super::render::{Part, render};
use super::{EVERY, Eye};
use crate::api::Client;
use crate::cli::{Cli, Exit, ask, output};
use crate::config::printable::printable;

/// A screen of its own without a cursor, on which long lines end at its edge, and back to what was there.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// The rest of a line, and of the screen.
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &str = "\x1b[J";

/// A terminal that gives each key at once. It is what it was before when this is dropped.
struct Terminal {
    before: Termios,
}

impl Terminal {
    fn take() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        // Ctrl-C stays a signal.
        raw.local_flags &= !(LocalFlags::ICANON | LocalFlags::ECHO);
        raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 0;
        raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
        let terminal = Self { before };
        output::write(&mut io::stdout().lock(), ENTER)?;
        Ok(terminal)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = output::write(&mut io::stdout().lock(), LEAVE);
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

pub(super) fn run(cli: &Cli) -> Exit {
    // Nothing is drawn where there is no daemon.
    let client = match ask::connect(cli) {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    let outcome = signals().and_then(|signals| {
        let _terminal = Terminal::take()?;
        draw(cli, client, &signals)
    });
    match outcome {
        Ok(()) => Exit::Ok,
        Err(error) => {
            output::complain(&format!("the terminal: {error}"));
            Exit::Failure
        }
    }
}

/// The signals that end it in good order.
fn signals() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(SignalFd::with_flags(&signals, flags)?)
}

fn draw(cli: &Cli, client: Client, signals: &SignalFd) -> io::Result<()> {
    let mut client = Some(client);
    let mut eye = Eye::default();
    let (mut part, mut stands) = (Part::All, false);
    let mut due = Instant::now();
    let mut trouble = None;
    loop {
        let now = Instant::now();
        if now >= due && !stands {
            due = now + EVERY;
            trouble = look(cli, &mut client, &mut eye).err();
        }
        let text = match (&trouble, eye.top()) {
            (Some(error), _) => format!("{}\n", printable(error)),
            (None, None) => "a second …\n".to_owned(),
            (None, Some(top)) => render(top, part),
        };
        show(&text, stands)?;
        let left = if stands {
            None
        } else {
            Some(due.saturating_duration_since(Instant::now()))
        };
        match wait(left, signals)? {
            Some(Key::End) => return Ok(()),
            Some(Key::Part(wanted)) => part = wanted,
            Some(Key::Stand) => stands = !stands,
            None => {}
        }
    }
}

/// Looks; after trouble over a connection of its own.
fn look(cli: &Cli, client: &mut Option<Client>, eye: &mut Eye) -> Result<(), String> {
    let mut connected = match client.take() {
        Some(client) => client,
        None => Client::connect(&cli.socket, ask::PATIENCE).map_err(|error| error.to_string())?,
    };
    eye.look(&mut connected)
        .map_err(|error| error.to_string())?;
    *client = Some(connected);
    Ok(())
}

fn show(text: &str, stands: bool) -> io::Result<()> {
    output::write(&mut io::stdout().lock(), &screen(text, stands))
}

/// Each line at its place. A terminal takes those beyond its last for the last, where the keys stand then.
fn screen(text: &str, stands: bool) -> String {
    let keys = if stands {
        "stands: space goes on   q ends"
    } else {
        "c p f d: a part   a: all   space: stand   q: end"
    };
    let mut screen = String::new();
    for (row, line) in (1..).zip(text.lines().chain(["", keys])) {
        let _ = write!(screen, "\x1b[{row};1H{line}{CLEAR_LINE}");
    }
    screen + CLEAR_REST
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    End,
    Part(Part),
    Stand,
}

const fn key(byte: u8) -> Option<Key> {
    Some(match byte {
        b'q' => Key::End,
        b'a' => Key::Part(Part::All),
        b'c' => Key::Part(Part::Cores),
        b'p' => Key::Part(Part::Ports),
        b'f' => Key::Part(Part::Flows),
        b'd' => Key::Part(Part::Drops),
        b' ' => Key::Stand,
        _ => return None,
    })
}

/// Waits for a key, a signal, or until the time is over.
fn wait(left: Option<Duration>, signals: &SignalFd) -> io::Result<Option<Key>> {
    let stdin = io::stdin();
    let timeout = left.map_or(PollTimeout::NONE, |left| {
        PollTimeout::try_from(left.as_millis() as u64 + 1).unwrap_or(PollTimeout::MAX)
    });
    let mut fds = [
        PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let [of_keys, _] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
    if matches!(signals.read_signal(), Ok(Some(_))) {
        return Ok(Some(Key::End));
    }
    if of_keys.is_empty() {
        return Ok(None);
    }
    let mut byte = [0];
    match nix::unistd::read(&stdin, &mut byte)? {
        // Who hung up has no more keys.
        0 => Ok(Some(Key::End)),
        _ => Ok(key(byte[0])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_is_said() {
        assert_eq!(key(b'q'), Some(Key::End));
        assert_eq!(key(b' '), Some(Key::Stand));
        assert_eq!(key(b'f'), Some(Key::Part(Part::Flows)));
        assert_eq!(key(b'x'), None);
    }

    #[test]
    fn every_line_is_put_at_its_place_and_the_rest_cleared() {
        let text = screen("a\nb\n", true);
        assert_eq!(
            text,
            "\x1b[1;1Ha\x1b[K\x1b[2;1Hb\x1b[K\x1b[3;1H\x1b[K\x1b[4;1Hstands: space goes on   q ends\x1b[K\x1b[J"
        );
    }
}
