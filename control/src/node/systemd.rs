//! What systemd is told (sd_notify(3)): that the daemon is ready, that it moves, that it stops.
//!
//! A datagram to the socket that `$NOTIFY_SOCKET` names. It is sent without waiting: a service manager that does not read must not stop us.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The watchdog is fed this often.
const FED_EVERY: Duration = Duration::from_secs(1);

/// The service manager, if there is one.
#[derive(Debug)]
pub(super) struct Systemd {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// The watchdog is fed next then; `None`: there is none.
    feed_at: Option<Instant>,
}

impl Systemd {
    /// That of the environment.
    pub(super) fn from_environment(now: Instant) -> Self {
        let text = |name| std::env::var_os(name).and_then(|value| value.into_string().ok());
        let is_watched = text("WATCHDOG_USEC").is_some_and(|usec| usec != "0")
            && text("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        Self::new(std::env::var_os("NOTIFY_SOCKET"), is_watched, now)
    }

    fn new(socket: Option<OsString>, is_watched: bool, now: Instant) -> Self {
        let to = socket.filter(|name| !name.is_empty()).and_then(|name| {
            let opened = open(name.as_bytes());
            let complaint = |error: &io::Error| tracing::warn!(%error, "$NOTIFY_SOCKET: systemd is told nothing");
            opened.inspect_err(complaint).ok()
        });
        let feed_at = (is_watched && to.is_some()).then_some(now);
        Self { to, feed_at }
    }

    /// Pods are served.
    pub(super) fn ready(&self) {
        self.tell("READY=1\n");
    }

    /// The daemon ends.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\n");
    }

    /// Feeds the watchdog if it is time, and all is well. Called by the control thread at every turn.
    pub(super) fn feed(&mut self, now: Instant, is_well: impl FnOnce() -> bool) {
        if self.feed_at.is_some_and(|at| at <= now) && is_well() {
            self.tell("WATCHDOG=1\n");
            self.feed_at = Some(now + FED_EVERY);
        }
    }

    fn tell(&self, what: &str) {
        let Some((socket, to)) = &self.to else {
            return;
        };
        if let Err(error) = socket.send_to_addr(what.as_bytes(), to) {
            tracing::warn!(%error, "systemd is not told {}", what.trim_end());
        }
    }
}

/// A socket that never blocks, and the address; `@` begins an abstract name.
fn open(name: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    let to = match name {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came, if anything.
    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    #[test]
    fn the_watchdog_is_fed_once_a_second_and_only_when_all_is_well() {
        let name = format!("caracal-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap());
        let manager = manager.unwrap();
        manager.set_nonblocking(true).unwrap();
        let now = Instant::now();
        let mut systemd = Systemd::new(Some(format!("@{name}").into()), true, now);
        systemd.ready();
        assert_eq!(heard(&manager).as_deref(), Some("READY=1\n"));
        let mut feed = |later, is_well| {
            systemd.feed(now + Duration::from_millis(later), || is_well);
            heard(&manager)
        };
        assert_eq!(feed(0, true).as_deref(), Some("WATCHDOG=1\n"));
        assert_eq!(feed(999, true), None, "too early");
        assert_eq!(feed(1000, false), None, "a poller stands");
        assert_eq!(feed(1001, true).as_deref(), Some("WATCHDOG=1\n"));
        systemd.stopping();
        assert_eq!(heard(&manager).as_deref(), Some("STOPPING=1\n"));
        // Nobody reads: it does not wait.
        for _ in 0..10_000 {
            systemd.ready();
        }
    }

    #[test]
    fn without_a_manager_or_a_watchdog_nothing_is_said() {
        let now = Instant::now();
        for socket in [None, Some(OsString::new()), Some("x".repeat(1000).into())] {
            let mut systemd = Systemd::new(socket, true, now);
            systemd.ready();
            systemd.feed(now, || panic!("nobody is asked"));
        }
    }
}
