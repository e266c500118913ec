//! Pod A: nothing, one connection's packets, or each packet of another connection, as fast as the generator can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use benches::cpu;
use benches::generator::Generator;

/// Packets sent at once.
const BATCH: u32 = 64;
/// Of so many connections, none comes twice in a measurement.
const MANY: u32 = u32::MAX / 16;

/// What pod A does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Load {
    /// Nothing.
    None = 0,
    /// Sends packets of one connection.
    Old = 1,
    /// Sends packets of ever new connections.
    New = 2,
}

impl Load {
    pub(crate) const ALL: [Self; 3] = [Self::None, Self::Old, Self::New];

    /// Its name in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Old => "one connection",
            Self::New => "new connections",
        }
    }
}

/// The generator in a thread of its own; ends when dropped.
pub(crate) struct Spray {
    load: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Spray {
    /// Starts it on `core`, with nothing to do.
    pub(crate) fn start(mut generator: Generator, core: usize) -> Self {
        let load = Arc::new(AtomicU8::new(Load::None as u8));
        let stop = Arc::new(AtomicBool::new(false));
        let (told, stopped) = (Arc::clone(&load), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            // Without it the figures are of another machine, and no worse.
            let _ = cpu::pin_to(core);
            while !stopped.load(Ordering::Relaxed) {
                let load = told.load(Ordering::Relaxed);
                if load == Load::None as u8 {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                generator.set_flows(if load == Load::New as u8 { MANY } else { 1 });
                if generator.send(BATCH).is_err() {
                    return;
                }
            }
        });
        Self {
            load,
            stop,
            thread: Some(thread),
        }
    }

    /// Does something else from now on.
    pub(crate) fn set(&self, load: Load) {
        self.load.store(load as u8, Ordering::Relaxed);
    }
}

impl Drop for Spray {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
