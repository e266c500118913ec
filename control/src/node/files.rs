//! Resources' files, read in a thread of their own: large ones take seconds, and pods, neighbours and probes do not wait so long.

use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::{Loaded, Node, RunError, Wake, pollers};
use crate::config::watch::{Changed, LOOK, Watch};
use crate::config::{DaemonConfig, Diagnostic, Diagnostics, Loader};

/// What is tried again is read for one part in so many of the time.
const PAUSE: u32 = 10;

/// Bytes of the thread's stack: what is nested as deeply as may be takes a part of it, in a debug build several megabytes.
const STACK: usize = 32 << 20;

/// A directory, and who reads it.
pub(super) struct Files {
    watch: Watch,
    asks: Sender<Changed>,
    answers: Receiver<Result<Loaded, Diagnostics>>,
    /// Signalled when there is an answer.
    answered: Wake,
    /// What was asked for, and since when; none: the thread waits.
    asked: Option<Asked>,
    /// What is to be read next.
    next: Option<Asked>,
    /// What could not be read for a reason that may pass is tried again then.
    retry_at: Option<Instant>,
}

struct Asked {
    changed: Changed,
    since: Instant,
    is_retry: bool,
}

/// What files gave.
pub(super) struct Read {
    pub(super) outcome: Result<Loaded, Diagnostics>,
    /// When it was known that there is something to read.
    pub(super) since: Instant,
    /// Nothing has changed: they could not be read the last time.
    pub(super) is_retry: bool,
}

impl Files {
    /// Has a directory that is watched read by `loader` from now on.
    ///
    /// # Errors
    /// There is no thread or descriptor to be had.
    pub(super) fn start(
        watch: Watch,
        mut loader: Loader,
        config: &DaemonConfig,
        node: &str,
    ) -> Result<Self, RunError> {
        let (asks, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let answered = pollers::wake()?;
        let (done, config, node) = (answered.clone(), config.clone(), node.to_owned());
        let work = move || {
            // Ends with the daemon, which does not wait for it.
            while let Ok(changed) = asked.recv() {
                let outcome = Node::load(&mut loader, &changed, &config, &node);
                if answer.send(outcome).is_err() {
                    return;
                }
                // A counter at its limit refuses, and then control wakes anyway.
                let _ = done.write(1);
            }
        };
        let thread = thread::Builder::new().name("files".to_owned());
        let thread = thread.stack_size(STACK);
        thread.spawn(work).map_err(|source| RunError::System {
            what: "start the thread that reads files",
            source,
        })?;
        Ok(Self {
            watch,
            asks,
            answers,
            answered,
            asked: None,
            next: None,
            retry_at: None,
        })
    }

    /// What to wait for.
    pub(super) fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let fds = [self.watch.fd(), std::os::fd::AsFd::as_fd(&*self.answered)];
        fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).into()
    }

    /// How long it may be until [`turn`](Self::turn) is called again.
    pub(super) fn timeout(&self, now: Instant) -> Duration {
        let retry = self.retry_at.map(|at| at.saturating_duration_since(now));
        let watch = self.watch.timeout(now);
        retry.map_or(watch, |retry| retry.min(watch))
    }

    /// Has files read again of which this has changed.
    pub(super) fn ask(&mut self, changed: Changed, now: Instant) {
        self.queue(Asked {
            changed,
            since: now,
            is_retry: false,
        });
    }

    /// Has read what changed, and gives what was read.
    pub(super) fn turn(&mut self, now: Instant) -> Option<Read> {
        if let Some(changed) = self.watch.drain(now) {
            self.ask(changed, now);
        }
        if self.retry_at.take_if(|at| *at <= now).is_some() {
            self.queue(Asked {
                changed: Changed::Anything,
                since: now,
                is_retry: true,
            });
        }
        let read = self.answer(now);
        if self.asked.is_none()
            && let Some(next) = self.next.take()
            && self.asks.send(next.changed.clone()).is_ok()
        {
            self.asked = Some(next);
        }
        read
    }

    /// Several changes are read at once.
    fn queue(&mut self, asked: Asked) {
        self.next = Some(match self.next.take() {
            Some(before) => Asked {
                changed: before.changed.and(asked.changed),
                since: before.since,
                is_retry: before.is_retry && asked.is_retry,
            },
            None => asked,
        });
    }

    fn answer(&mut self, now: Instant) -> Option<Read> {
        // Empties the counter; it may be empty already.
        let _ = self.answered.read();
        let outcome = match self.answers.try_recv() {
            Ok(outcome) => outcome,
            Err(TryRecvError::Disconnected) if self.asked.is_some() => {
                let message = "the thread that reads the resources has panicked; what is in force stays, and changes of files are \
                               taken after the next start: please report it with the log";
                Err(Diagnostics(vec![Diagnostic::error(message)]))
            }
            Err(_) => return None,
        };
        let asked = self.asked.take()?;
        let may_pass = outcome.as_ref().is_err_and(Diagnostics::may_pass);
        let pause = LOOK.max(now.duration_since(asked.since) * PAUSE);
        self.retry_at = may_pass.then_some(now + pause);
        Some(Read {
            outcome,
            since: asked.since,
            is_retry: asked.is_retry,
        })
    }
}
