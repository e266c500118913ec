//! Waiting by `epoll`: each packet of a socket calls us, whether we sleep or not.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Events taken at once; the others stay for the next call.
const EVENTS: usize = 64;

#[derive(Debug)]
pub(super) struct Always {
    epoll: Epoll,
    events: [EpollEvent; EVENTS],
}

impl Always {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            events: [EpollEvent::empty(); EVENTS],
        })
    }

    pub(super) fn add(&self, fd: impl AsFd, key: u64) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, key);
        Ok(self.epoll.add(fd, event)?)
    }

    pub(super) fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(self.epoll.delete(fd)?)
    }

    /// Appends the keys of what is ready.
    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        ready: &mut Vec<u64>,
    ) -> io::Result<()> {
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            // Rounded up: a wait of less than a millisecond must not become a spin.
            Some(time) => {
                EpollTimeout::try_from(time.as_micros().div_ceil(1000)).unwrap_or(EpollTimeout::MAX)
            }
        };
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        ready.extend(self.events.iter().take(count).map(EpollEvent::data));
        Ok(())
    }
}
