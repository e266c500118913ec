//! Sleeping until a socket has something, or somebody wakes us.
//!
//! A poller spins while there is traffic and sleeps here when there is none. With 250 sockets a sleep must not cost a look at each.
//!
//! A socket that somebody waits for costs each of its packets a call of whoever waits, in the softirq that brings it, whether it sleeps or was
//! woken long ago. So we wait by io_uring, once for each sleep (`once`), and by `epoll` (`always`) where that is not to be had.

mod always;
mod once;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use self::always::Always;
use self::once::Once;
use super::QueuePort;

/// The key of the waker's own event.
const WAKER: u64 = u64::MAX;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// Sockets that have something, or had since the last wait; 0 with `waker` false means that the time was up.
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

/// The descriptors one poller waits for. The thread that waits first is the only one that may wait.
#[derive(Debug)]
pub struct WaitSet {
    how: How,
    event: Arc<EventFd>,
    /// Keys of what the last wait reported.
    ready: Vec<u64>,
}

#[derive(Debug)]
enum How {
    Once(Box<Once>),
    Always(Box<Always>),
}

impl WaitSet {
    /// An empty set, in the way that costs packets least.
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        Once::new().map_or_else(
            |_| Self::by_epoll(),
            |once| Self::with(How::Once(Box::new(once))),
        )
    }

    /// An empty set that waits by `epoll`, as [`WaitSet::new`] makes it where io_uring is switched off, forbidden or too old.
    ///
    /// # Errors
    ///
    /// As [`WaitSet::new`].
    pub fn by_epoll() -> io::Result<Self> {
        Self::with(How::Always(Box::new(Always::new()?)))
    }

    fn with(how: How) -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let mut set = Self {
            how,
            event: Arc::new(event),
            ready: Vec::new(),
        };
        let event = Arc::clone(&set.event);
        set.watch(event.as_fd(), WAKER)?;
        Ok(set)
    }

    /// Whether a packet calls us once a sleep, and not each time.
    pub const fn is_called_once(&self) -> bool {
        matches!(self.how, How::Once(_))
    }

    /// A handle that wakes this set.
    pub fn waker(&self) -> Waker {
        Waker {
            event: Arc::clone(&self.event),
        }
    }

    /// Waits for packets on `port` too, under `key`.
    ///
    /// A device that goes does not end a wait: the kernel's `poll` says nothing about a socket that it has
    /// unbound. Watch the links by netlink, or ask [`QueuePort::health`] now and then.
    ///
    /// # Errors
    ///
    /// As [`WaitSet::add`].
    pub fn add_port(&mut self, port: &QueuePort, key: u64) -> io::Result<()> {
        self.add(port.fd(), key)
    }

    /// Waits for `fd` too, under `key` (any number but `u64::MAX`). Let the set [forget](WaitSet::remove) it before it is closed: the set may
    /// hold it open.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl` says; `EINVAL` for the reserved key.
    pub fn add(&mut self, fd: impl AsFd, key: u64) -> io::Result<()> {
        if key == WAKER {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        self.watch(fd, key)
    }

    fn watch(&mut self, fd: impl AsFd, key: u64) -> io::Result<()> {
        match &mut self.how {
            How::Once(once) => {
                once.add(fd.as_fd().as_raw_fd(), key);
                self.ready.reserve(once.len());
                Ok(())
            }
            How::Always(always) => always.add(fd, key),
        }
    }

    /// No longer waits for `fd`, nor holds it open.
    ///
    /// # Errors
    ///
    /// The set may hold `fd` open still. Not but by a thread that is not the one that waits.
    pub fn remove(&mut self, fd: impl AsFd) -> io::Result<()> {
        match &mut self.how {
            How::Once(once) => once.remove(fd.as_fd().as_raw_fd()),
            How::Always(always) => {
                // It refuses what it does not know, and holds nothing open.
                let _ = always.remove(fd);
                Ok(())
            }
        }
    }

    /// No longer waits for `port`, nor holds it open.
    ///
    /// # Errors
    ///
    /// As [`WaitSet::remove`].
    pub fn remove_port(&mut self, port: &QueuePort) -> io::Result<()> {
        self.remove(port.fd())
    }

    /// Sleeps until a socket has something, the waker is called or `timeout` is over (`None`: for ever).
    /// A signal ends it like a timeout. Looking once is `Some(Duration::ZERO)`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Woken> {
        self.ready.clear();
        match &mut self.how {
            How::Once(once) => once.wait(timeout, &mut self.ready)?,
            How::Always(always) => always.wait(timeout, &mut self.ready)?,
        }
        let waker = self.ready.iter().position(|&key| key == WAKER);
        if let Some(at) = waker {
            self.ready.swap_remove(at);
            // Empties the counter. It may be empty already: never blocks.
            let _ = self.event.read();
        }
        Ok(Woken {
            ready: self.ready.len(),
            waker: waker.is_some(),
        })
    }

    /// Keys of the sockets that the last wait reported.
    pub fn ready(&self) -> impl Iterator<Item = u64> + '_ {
        self.ready.iter().copied()
    }
}
