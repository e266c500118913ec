//! Waiting by io_uring: the first packet of a socket calls us and takes us off the socket's list, on which we are put again before the next
//! sleep. What comes in between finds nobody to call.
//!
//! The kernel holds a descriptor that is waited for, so it must be taken off before it is closed.

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode, squeue};

/// Entries handed to the kernel at once; more go in several calls.
const ENTRIES: u32 = 64;
/// Completions that have room; the kernel keeps more until these are taken.
const COMPLETIONS: u32 = 1024;
/// Stands for "taken off", where a number of `watched` stands for its turn.
const TAKEN_OFF: u64 = u64::MAX;
/// How often the kernel is asked to take a descriptor off its list, and how long each time.
const TRIES: u32 = 10;
const TRY: Duration = Duration::from_millis(10);

pub(super) struct Once {
    ring: IoUring,
    /// Belongs to the thread that waited first.
    is_enabled: bool,
    /// A number stays a descriptor's for as long as the kernel knows it.
    watched: Vec<Option<Watched>>,
    /// Numbers of those to be put on their lists before the next sleep.
    off: Vec<usize>,
}

struct Watched {
    fd: RawFd,
    key: u64,
    /// On its socket's list, or its completion is under way.
    is_on: bool,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once")
            .field("watched", &self.len())
            .finish_non_exhaustive()
    }
}

impl Once {
    /// # Errors
    ///
    /// The kernel has no io_uring, forbids it, or is older than Linux 6.15: it would count our sleeping as waiting for a disk, which operators would see and
    /// some governors speed the processor up for.
    pub(super) fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            // Completions are worked out in our own calls, and interrupt nobody.
            .setup_single_issuer()
            .setup_defer_taskrun()
            // Until the thread is known.
            .setup_r_disabled()
            .build(ENTRIES)?;
        if !ring.params().is_feature_no_iowait() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self {
            ring,
            is_enabled: false,
            watched: Vec::new(),
            off: Vec::new(),
        })
    }

    /// How many there may be to wait for.
    pub(super) const fn len(&self) -> usize {
        self.watched.len()
    }

    pub(super) fn add(&mut self, fd: RawFd, key: u64) {
        let watched = Some(Watched {
            fd,
            key,
            is_on: false,
        });
        let free = self.watched.iter().position(Option::is_none);
        let number = free.unwrap_or(self.watched.len());
        if let Some(slot) = self.watched.get_mut(number) {
            *slot = watched;
        } else {
            self.watched.push(watched);
        }
        self.off.reserve(self.watched.len());
        self.off.push(number);
    }

    /// # Errors
    ///
    /// The kernel may hold the descriptor still.
    pub(super) fn remove(&mut self, fd: RawFd) -> io::Result<()> {
        let number = self
            .watched
            .iter()
            .position(|it| it.as_ref().is_some_and(|it| it.fd == fd));
        let Some(number) = number else { return Ok(()) };
        self.take_off(number)?;
        self.off.retain(|&it| it != number);
        if let Some(slot) = self.watched.get_mut(number) {
            *slot = None;
        }
        Ok(())
    }

    /// Appends the keys of what is ready.
    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        ready: &mut Vec<u64>,
    ) -> io::Result<()> {
        if !self.is_enabled {
            self.ring.submitter().register_enable_rings()?;
            self.is_enabled = true;
        }
        // Off until the entry is under way: an error must not leave one that is neither on nor off.
        while let Some(&number) = self.off.last() {
            if let Some(Some(watched)) = self.watched.get(number) {
                let entry = opcode::PollAdd::new(Fd(watched.fd), libc::POLLIN as u32).build();
                self.push(&entry.user_data(number as u64))?;
            }
            if let Some(Some(watched)) = self.watched.get_mut(number) {
                watched.is_on = true;
            }
            self.off.pop();
        }
        self.enter(timeout)?;
        self.collect(ready);
        Ok(())
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: an entry that begins or ends waiting for a descriptor names no memory.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)
    }

    /// Hands the entries to the kernel, and waits until something is complete.
    fn enter(&self, timeout: Option<Duration>) -> io::Result<()> {
        let time = timeout.map(Timespec::from);
        let args = SubmitArgs::new();
        let args = time.as_ref().map_or(args, |time| args.timespec(time));
        let submitter = self.ring.submitter();
        match submitter.submit_with_args_and_flags(1, &args, EnterFlags::NO_IOWAIT) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn collect(&mut self, ready: &mut Vec<u64>) {
        let Self {
            ring, watched, off, ..
        } = self;
        for completion in ring.completion() {
            let number = completion.user_data() as usize;
            let Some(slot) = watched.get_mut(number) else {
                continue;
            };
            let Some(it) = slot else { continue };
            it.is_on = false;
            match -completion.result() {
                // Closed behind our back: its number may be another's by now.
                libc::EBADF => {
                    *slot = None;
                    continue;
                }
                libc::ECANCELED => {}
                _ => ready.push(it.key),
            }
            off.push(number);
        }
    }

    /// Takes a descriptor off its list. When this returns the kernel holds it no longer.
    fn take_off(&mut self, number: usize) -> io::Result<()> {
        let is_on = |set: &Self| matches!(set.watched.get(number), Some(Some(it)) if it.is_on);
        // What is ready besides is found so again: it is put on its list before the next sleep.
        let mut others = Vec::new();
        let mut tries = 0..TRIES;
        while is_on(self) {
            tries.next().ok_or(io::ErrorKind::TimedOut)?;
            // More than once: one that was ready and has nothing any more is put on its list again instead, when the kernel comes to it.
            let entry = opcode::PollRemove::new(number as u64).build();
            self.push(&entry.user_data(TAKEN_OFF))?;
            self.enter(Some(TRY))?;
            self.collect(&mut others);
        }
        Ok(())
    }
}

impl Drop for Once {
    /// Without it the kernel would let go of the descriptors some time after.
    fn drop(&mut self) {
        for number in 0..self.watched.len() {
            if self.take_off(number).is_err() {
                return;
            }
        }
    }
}
