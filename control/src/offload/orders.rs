//! How control, and pollers, speak to the worker.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;

use fastpath::poller::Notify;

use super::compile::Devices;

/// Control's end. Whatever it says, the worker is woken, and does it within milliseconds. Clones are of the same worker.
#[derive(Clone, Debug, Default)]
pub struct Orders(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    thread: OnceLock<Thread>,
    stop: AtomicBool,
    paused: AtomicBool,
    /// Counts up each time that connections were removed.
    flushes: AtomicU64,
    /// The devices, and which version of them that is.
    devices: Mutex<(u64, Arc<Devices>)>,
    /// The version that the worker has acted on.
    devices_done: AtomicU64,
}

impl Orders {
    /// Wakes the worker: there are new tables, or candidates.
    pub fn call(&self) {
        if let Some(thread) = self.0.thread.get() {
            thread.unpark();
        }
    }

    /// What pollers wake it by.
    pub fn notify(&self) -> Notify {
        let orders = self.clone();
        Notify(Arc::new(move || orders.call()))
    }

    /// Has the kernel do nothing while that is so: all packets come to pollers.
    pub fn pause(&self, paused: bool) {
        self.0.paused.store(paused, Ordering::Relaxed);
        self.call();
    }

    /// Connections were removed: the kernel is to forget them now.
    pub fn flush(&self) {
        self.0.flushes.fetch_add(1, Ordering::Relaxed);
        self.call();
    }

    /// Other devices are served: with new ones before the tables that need them are published, and when a port is not served any more before
    /// anything else is done about it, whatever becomes of the tables. Returns the version of what was said, for [`Self::devices_done`].
    pub fn set_devices(&self, devices: Devices) -> u64 {
        let version = {
            let mut cell = self.devices_cell();
            *cell = (cell.0 + 1, Arc::new(devices));
            cell.0
        };
        self.call();
        version
    }

    /// The version of devices that the worker has acted on: the kernel has nothing that comes in or leaves by devices that it did not
    /// serve any more. A port's number, or a device's index, means nothing to the kernel from then on, and can be another's. [`u64::MAX`] once the worker has ended.
    pub fn devices_done(&self) -> u64 {
        self.0.devices_done.load(Ordering::Acquire)
    }

    /// Has the kernel forget everything, and the thread end.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
        self.call();
    }

    /// The calling thread is the one to be woken.
    pub(super) fn set_thread(&self) {
        let _ = self.0.thread.set(std::thread::current());
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.0.stop.load(Ordering::Relaxed)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.0.paused.load(Ordering::Relaxed)
    }

    pub(super) fn flushes(&self) -> u64 {
        self.0.flushes.load(Ordering::Relaxed)
    }

    /// The devices, and which version of them that is.
    pub(super) fn devices(&self) -> (u64, Arc<Devices>) {
        let cell = self.devices_cell();
        (cell.0, Arc::clone(&cell.1))
    }

    /// The worker has acted on this version.
    pub(super) fn set_devices_done(&self, version: u64) {
        self.0.devices_done.store(version, Ordering::Release);
    }

    fn devices_cell(&self) -> std::sync::MutexGuard<'_, (u64, Arc<Devices>)> {
        self.0
            .devices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
