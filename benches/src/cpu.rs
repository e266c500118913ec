//! The processor: this thread's time on it, and which one it is.

use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// The time that this thread has run, without the time that others ran on its core.
///
/// # Panics
/// If the system has no such clock; Linux always has.
#[must_use]
pub fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("Linux has a clock for each thread")
        .into()
}

/// The time that this thread spends in `work`.
pub fn time<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = thread_time();
    let made = work();
    (made, thread_time().saturating_sub(start))
}

/// Keeps this thread, and what it starts, on the last core that it may use; returns its number.
///
/// # Errors
/// What the system says.
pub fn pin_to_last_core() -> nix::Result<usize> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let core = (0..CpuSet::count())
        .rev()
        .find(|&core| allowed.is_set(core) == Ok(true))
        .unwrap_or(0);
    pin_to(core)?;
    Ok(core)
}

/// Keeps this thread, and what it starts, on this core.
///
/// # Errors
/// What the system says, as when there is no such core.
pub fn pin_to(core: usize) -> nix::Result<()> {
    pin(0, core)
}

/// Keeps a thread of the system, known by its number (0: this one), on this core.
///
/// # Errors
/// What the system says, as when there is no such thread or core.
pub fn pin(thread: i32, core: usize) -> nix::Result<()> {
    let mut one = CpuSet::new();
    one.set(core)?;
    sched_setaffinity(Pid::from_raw(thread), &one)
}
