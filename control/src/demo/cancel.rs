//! Ctrl-C and SIGTERM end the demonstration in good order: a thread reads them from a signalfd and raises a flag
//! that every wait looks at, so that the lab is removed by the normal way out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::error::{DemoError, Result};

/// The longest time that a wait sleeps before it looks at the flag.
pub const SLICE: Duration = Duration::from_millis(50);

/// Raised once when the user wants to stop.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Blocks SIGINT, SIGTERM and SIGHUP in this thread and in all that it starts, and watches for them.
    /// To be called before any other thread exists.
    ///
    /// # Errors
    /// When the system refuses the signalfd.
    pub fn on_signals() -> Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals
            .thread_block()
            .map_err(DemoError::io("blocking signals"))?;
        let fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
            .map_err(DemoError::io("signalfd"))?;
        let cancel = Self::default();
        let raised = cancel.clone();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                while let Ok(Some(_)) = fd.read_signal() {
                    raised.raise();
                }
            })
            .map_err(DemoError::io("starting the signal thread"))?;
        Ok(cancel)
    }

    /// Asks everything to stop.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True once stopping was asked for.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// [`DemoError::Cancelled`] once stopping was asked for.
    pub fn check(&self) -> Result<()> {
        if self.is_raised() {
            return Err(DemoError::Cancelled);
        }
        Ok(())
    }

    /// Waits until `done` says true, at most `limit`; says whether it did.
    ///
    /// # Errors
    /// [`DemoError::Cancelled`] once stopping was asked for.
    pub fn wait_until(&self, limit: Duration, mut done: impl FnMut() -> bool) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            self.check()?;
            if done() {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}
