//! Between the control loop and the thread that speaks to the API server: a mailbox, which has the latest and nothing else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;

use crate::config::Kubernetes;
use crate::desired::Service;

/// How it stands with the API server.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Condition {
    /// The server's URL, once it is known.
    pub server: Option<String>,
    /// When all services were known for the first time.
    pub synced: Option<Instant>,
    /// `Service` objects that the services last handed over are from, headless ones left out; before any: that are known.
    pub services: usize,
    /// `EndpointSlice` objects, likewise.
    pub endpoint_slices: usize,
    /// Why what is known may be old. None: the server's changes come.
    pub error: Option<Failure>,
}

/// What can not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Objects of what kind; none: of neither.
    pub kind: Option<&'static str>,
    /// Why, in words of one line.
    pub why: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(kind) = self.kind {
            write!(f, "{kind}: ")?;
        }
        f.write_str(&self.why)
    }
}

/// How often what is done.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two changes of services at least: each has all flows look at their ways again.
    pub pace: Duration,
    /// After so long without the server the credentials are read anew: they may be others by now.
    pub anew: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            pace: Duration::from_secs(1),
            anew: Duration::from_mins(1),
        }
    }
}

/// What is for the control loop. Written by the thread, read by the loop.
#[derive(Default)]
struct Mail {
    /// All services, if they are others than those that were taken.
    services: Option<Arc<Vec<Service>>>,
    condition: Condition,
    /// Nothing comes any more.
    has_ended: bool,
}

/// The mailbox, and what is signalled when something was put there.
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    come: EventFd,
}

/// The thread, as the control loop sees it. It ends some time after this is dropped; nobody waits for it.
pub struct Link {
    mailbox: Arc<Mailbox>,
    /// Dropped: the thread is to end.
    #[cfg(feature = "kubernetes")]
    _running: tokio::sync::oneshot::Sender<()>,
    condition: Condition,
}

impl Link {
    /// Begins to follow the services of a cluster, for the pods of the node `node`.
    ///
    /// # Errors
    /// There is no thread or descriptor to be had; in a program without the library, always.
    pub fn start(settings: &Kubernetes, node: &str) -> io::Result<Self> {
        Self::start_at(settings, node, Timing::default())
    }

    /// The same, at another pace.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    #[cfg(feature = "kubernetes")]
    pub fn start_at(settings: &Kubernetes, node: &str, timing: Timing) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new()?);
        let (running, stopped) = tokio::sync::oneshot::channel();
        let (settings, node) = (settings.clone(), node.to_owned());
        let work = super::work::Work::new(settings, timing, node, mailbox.clone());
        // Here, where it can still be said that there is none.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name(THREAD)
            .build()?;
        mailbox.clone().filled_by(move || {
            runtime.block_on(work.until(stopped));
            // A name that is being looked up is waited for by nobody.
            runtime.shutdown_background();
        })?;
        Ok(Self {
            mailbox,
            _running: running,
            condition: Condition::default(),
        })
    }

    /// Nothing, in a program without the library.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "kubernetes"))]
    pub fn start_at(_: &Kubernetes, _: &str, _: Timing) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Readable when there is something to take.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.mailbox.come.as_fd()
    }

    /// How it stands, as it was taken last.
    pub const fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Takes what has come: how it stands now is [`condition`](Self::condition); all services, if they have changed.
    pub fn take(&mut self) -> Option<Arc<Vec<Service>>> {
        // Empties the counter.
        if self.mailbox.come.read().is_err() {
            return None;
        }
        let mut mail = self.mailbox.lock();
        self.condition.clone_from(&mail.condition);
        if mail.has_ended {
            self.condition.error = Some(Failure {
                kind: None,
                why: PANICKED.to_owned(),
            });
        }
        mail.services.take()
    }
}

const PANICKED: &str = "the thread that speaks to it has panicked, and is back after the next start: please report it with the log";

impl Mailbox {
    #[cfg(feature = "kubernetes")]
    fn new() -> io::Result<Self> {
        use nix::sys::eventfd::EfdFlags;
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self {
            mail: Mutex::default(),
            come: EventFd::from_flags(flags)?,
        })
    }

    /// Starts the thread that puts something there. However that ends, it is said.
    #[cfg(feature = "kubernetes")]
    fn filled_by(self: Arc<Self>, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let end = End(self);
        let thread = std::thread::Builder::new().name(THREAD.to_owned());
        thread.spawn(move || {
            let _end = end;
            work();
        })?;
        Ok(())
    }

    /// Puts there how it stands, and all services if they have changed.
    #[cfg(feature = "kubernetes")]
    pub(super) fn put(&self, condition: Condition, services: Option<Arc<Vec<Service>>>) {
        let mut mail = self.lock();
        if services.is_none() && mail.condition == condition {
            return;
        }
        mail.condition = condition;
        mail.services = services.or(mail.services.take());
        drop(mail);
        // A counter at its limit refuses, and then control wakes anyway.
        let _ = self.come.write(1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Mail> {
        // Whole at any time: it is written in one go.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says at its drop that the thread has ended, in a panic too.
#[cfg(feature = "kubernetes")]
struct End(Arc<Mailbox>);

#[cfg(feature = "kubernetes")]
impl Drop for End {
    fn drop(&mut self) {
        self.0.lock().has_ended = true;
        let _ = self.0.come.write(1);
    }
}

/// The name of the thread.
#[cfg(feature = "kubernetes")]
const THREAD: &str = "kubernetes";

#[cfg(all(test, feature = "kubernetes"))]
mod tests {
    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;

    #[test]
    fn a_panic_of_the_thread_wakes_the_loop() {
        let mailbox = Arc::new(Mailbox::new().expect("a mailbox"));
        let (running, _stopped) = tokio::sync::oneshot::channel();
        let mut link = Link {
            mailbox: mailbox.clone(),
            _running: running,
            condition: Condition::default(),
        };
        let filled = mailbox.filled_by(|| panic!("as it must not"));
        filled.expect("a thread");
        let mut fds = [PollFd::new(link.fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, 30_000u16).expect("poll"), 1, "nothing comes");
        assert_eq!(link.take(), None);
        let error = link.condition().error.as_ref().expect("an error");
        assert!(error.why.contains("panicked"), "{error}");
        assert_eq!(link.take(), None);
        assert!(link.condition().error.is_some(), "it stays");
    }
}
