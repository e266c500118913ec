//! Sleeping until a socket has something, or somebody wakes us.
//!
//! A poller spins while there is traffic and sleeps here when there is none. `epoll`, since with 250
//! sockets a sleep must not cost a look at each.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::QueuePort;

/// The key of the waker's own event.
const WAKER: u64 = u64::MAX;
/// Events taken at once; the others stay for the next call.
const EVENTS: usize = 64;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// Sockets that have something; 0 with `waker` false means that the time was up.
    pub ready: usize,
    /// [`Waker::wake`] was called.
    pub waker: bool,
}

/// Wakes a [`WaitSet`] from any thread.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<EventFd>,
}

impl Waker {
    /// Ends the current or the next wait. Many calls before it make one.
    pub fn wake(&self) {
        // Only a counter at its limit refuses, and then the event is pending anyway.
        let _ = self.event.write(1);
    }
}

/// The descriptors one poller waits for.
#[derive(Debug)]
pub struct WaitSet {
    epoll: Epoll,
    event: Arc<EventFd>,
    events: [EpollEvent; EVENTS],
    /// How many of `events` are sockets' from the last wait.
    ready: usize,
}

impl WaitSet {
    /// An empty set.
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&event, EpollEvent::new(EpollFlags::EPOLLIN, WAKER))?;
        Ok(Self {
            epoll,
            event: Arc::new(event),
            events: [EpollEvent::empty(); EVENTS],
            ready: 0,
        })
    }

    /// A handle that wakes this set.
    pub fn waker(&self) -> Waker {
        Waker {
            event: Arc::clone(&self.event),
        }
    }

    /// Waits for packets on `port` too, under `key`. It leaves the set when its socket is closed.
    ///
    /// A device that goes does not end a wait: the kernel's `poll` says nothing about a socket that it has
    /// unbound. Watch the links by netlink, or ask [`QueuePort::health`] now and then.
    ///
    /// # Errors
    ///
    /// As [`WaitSet::add`].
    pub fn add_port(&self, port: &QueuePort, key: u64) -> io::Result<()> {
        self.add(port.fd(), key)
    }

    /// Waits for `fd` too, under `key` (any number but `u64::MAX`). It leaves the set when it is closed.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl` says; `EINVAL` for the reserved key.
    pub fn add(&self, fd: impl AsFd, key: u64) -> io::Result<()> {
        if key == WAKER {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(self
            .epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, key))?)
    }

    /// No longer waits for `fd`.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl` says.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(self.epoll.delete(fd)?)
    }

    /// No longer waits for `port`.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl` says.
    pub fn remove_port(&self, port: &QueuePort) -> io::Result<()> {
        self.remove(port.fd())
    }

    /// Sleeps until a socket has something, the waker is called or `timeout` is over (`None`: for ever).
    /// A signal ends it like a timeout. Looking once is `Some(Duration::ZERO)`.
    ///
    /// # Errors
    ///
    /// What `epoll_wait` says.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Woken> {
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            // Rounded up: a wait of less than a millisecond must not become a spin.
            Some(time) => {
                EpollTimeout::try_from(time.as_micros().div_ceil(1000)).unwrap_or(EpollTimeout::MAX)
            }
        };
        self.ready = 0;
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut waker = false;
        for at in 0..count.min(EVENTS) {
            if self
                .events
                .get(at)
                .is_some_and(|event| event.data() == WAKER)
            {
                waker = true;
                // Empties the counter. It may be empty already: never blocks.
                let _ = self.event.read();
            } else {
                self.events.swap(self.ready, at);
                self.ready += 1;
            }
        }
        Ok(Woken {
            ready: self.ready,
            waker,
        })
    }

    /// Keys of the sockets that the last wait reported.
    pub fn ready(&self) -> impl Iterator<Item = u64> + '_ {
        self.events.iter().take(self.ready).map(EpollEvent::data)
    }
}
