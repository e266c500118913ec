//! The pollers' threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use fastpath::connections::{Connections, Tracker};
use fastpath::counters::Counters;
use fastpath::event::{Event, Events};
use fastpath::io::xsk::{ArenaPart, Command, Reply, XskControl, XskIo};
use fastpath::pipeline::Pipeline;
use fastpath::poller::{Notify, PollMode, Poller};
use fastpath::record::{Record, Records};
use fastpath::snapshot::Publisher;
use fastpath::stopwatch::{Stopwatch, Until};
use fastpath::tables::Tables;
use fastpath::tap::{Copied, Switch, Tap, Wanted};
use flowtable::Tick;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::{RunError, Wake, offload};
use crate::config::daemon;

/// Room for events of one poller.
const EVENTS: usize = 1024;

/// Room for records of connections of one poller: half a megabyte.
const RECORDS: usize = 4096;

/// Room for copies of packets of one poller: half a megabyte.
const COPIES: usize = 2048;

/// All pollers of the process.
pub(super) struct Pollers {
    handles: Vec<Handle>,
    stop: Arc<AtomicBool>,
    /// Whether pollers tell of each connection.
    observed: Arc<AtomicBool>,
    /// What packets pollers copy.
    switch: Arc<Switch>,
    /// Until when pollers measure.
    measured: Arc<Until>,
    /// When they were started: where their clocks begin, some milliseconds more or less.
    started: Option<Instant>,
    /// What the kernel moves for them, if it does.
    in_kernel: Option<Arc<Counters>>,
}

struct Handle {
    thread: Option<JoinHandle<()>>,
    control: XskControl,
    counters: Arc<Counters>,
    events: Arc<ArrayQueue<Event>>,
    records: Arc<ArrayQueue<Record>>,
    copies: Arc<ArrayQueue<Copied>>,
}

/// A poller that is set up and not started: sockets can be given to it already.
pub(super) struct Planned {
    poller: Poller<XskIo>,
    core: Option<u16>,
}

/// Sets up one poller a part.
pub(super) fn plan(
    parts: Vec<ArenaPart>,
    config: &daemon::DaemonConfig,
    max_ports: usize,
    publisher: &mut Publisher<Tables>,
    wake: &Wake,
    connections: &Arc<Connections>,
    offload: Option<&offload::Planned>,
) -> Result<(Pollers, Vec<Planned>), RunError> {
    let stop = Arc::new(AtomicBool::new(false));
    let observed = Arc::new(AtomicBool::new(false));
    let switch = Arc::new(Switch::default());
    let measured = Arc::new(Until::default());
    let mode = match config.poll_mode {
        daemon::PollMode::Adaptive => PollMode::DEFAULT,
        daemon::PollMode::Busy => PollMode::Busy,
        daemon::PollMode::Interrupt => PollMode::Interrupt,
    };
    let (mut handles, mut planned) = (Vec::new(), Vec::new());
    let count = parts.len();
    for (index, part) in parts.into_iter().enumerate() {
        let (io, control) = XskIo::new(part, max_ports).map_err(|source| RunError::System {
            what: "create what a poller waits by",
            source,
        })?;
        if index == 0 && !io.is_called_once() {
            tracing::info!(
                "pollers wait by epoll, which costs each packet on a veth 40 to 50 ns more: \
                 io_uring needs Linux 6.15 and sysctl kernel.io_uring_disabled=0"
            );
        }
        let counters = Arc::new(Counters::new(max_ports));
        let events = Arc::new(ArrayQueue::new(EVENTS));
        let secret = super::start::random_key()?;
        let records = Arc::new(ArrayQueue::new(RECORDS));
        let copies = Arc::new(ArrayQueue::new(COPIES));
        let tracker = Tracker::new(Arc::clone(connections), (index, count), secret)
            .with_records(Records::new(Arc::clone(&records), Arc::clone(&observed)));
        let tracker = match offload {
            Some(offload) => tracker.with_offers(offload.offers()),
            None => tracker,
        };
        let pipeline = Pipeline::new(Arc::clone(&counters), Events::new(Arc::clone(&events)))
            .with_connections(tracker)
            .with_tap(Tap::new(
                Arc::clone(&copies),
                Arc::clone(&switch),
                Arc::clone(&counters),
            ))
            .with_stopwatch(Stopwatch::new(Arc::clone(&measured), Arc::clone(&counters)));
        let notify = {
            let wake = Arc::clone(wake);
            // Only a counter at its limit refuses, and then control is awake.
            Notify(Arc::new(move || {
                let _ = wake.write(1);
            }))
        };
        let tables = publisher.subscribe();
        let poller = Poller {
            io,
            pipeline,
            tables,
            mode,
            stop: Arc::clone(&stop),
            notify,
        };
        planned.push(Planned {
            poller,
            core: config.cores.get(index).map(|core| core.value),
        });
        handles.push(Handle {
            thread: None,
            control,
            counters,
            events,
            records,
            copies,
        });
    }
    let pollers = Pollers {
        handles,
        stop,
        observed,
        switch,
        measured,
        started: None,
        in_kernel: offload.map(|offload| Arc::clone(&offload.counters)),
    };
    Ok((pollers, planned))
}

impl Pollers {
    /// Starts the threads.
    pub(super) fn start(&mut self, planned: Vec<Planned>) -> Result<(), RunError> {
        self.started = Some(Instant::now());
        for (index, (handle, planned)) in self.handles.iter_mut().zip(planned).enumerate() {
            let (ready, pinned) = std::sync::mpsc::sync_channel(1);
            let Planned { poller, core } = planned;
            let work = move || {
                let outcome = core.map_or(Ok(()), pin);
                let go = outcome.is_ok();
                if ready.send(outcome).is_ok() && go {
                    poller.run();
                }
            };
            let thread = std::thread::Builder::new()
                .name(format!("poller-{index}"))
                .spawn(work);
            handle.thread = Some(thread.map_err(|source| RunError::System {
                what: "start a poller's thread",
                source,
            })?);
            pinned.recv().unwrap_or(Err(RunError::PollerDied(index)))?;
        }
        Ok(())
    }

    /// The time by the pollers' clocks; none before they are started.
    pub(super) fn now(&self) -> Option<Tick> {
        let elapsed = self.started?.elapsed();
        Some(Tick(elapsed.as_nanos() as u64))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.handles.len()
    }

    /// Wakes all.
    pub(super) fn wake(&self) {
        for handle in &self.handles {
            handle.control.wake();
        }
    }

    /// Sends a command to one poller, which must have room for it before long.
    pub(super) fn send(&self, index: usize, mut command: Command) {
        let Some(handle) = self.handles.get(index) else {
            return;
        };
        while let Err(back) = handle.control.send(command) {
            command = back;
            std::thread::sleep(Duration::from_millis(1));
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// What pollers said since the last call.
    pub(super) fn replies(&self) -> Vec<(usize, Reply)> {
        let all = self.handles.iter().enumerate();
        all.flat_map(|(index, handle)| {
            std::iter::from_fn(move || Some((index, handle.control.reply()?)))
        })
        .collect()
    }

    /// What pollers saw since the last call.
    pub(super) fn events(&self) -> Vec<Event> {
        self.handles
            .iter()
            .flat_map(|handle| std::iter::from_fn(|| handle.events.pop()))
            .collect()
    }

    /// Has pollers tell of each connection, or only of `Log` rules.
    pub(super) fn set_observed(&self, observed: bool) {
        self.observed.store(observed, Ordering::Relaxed);
    }

    /// What pollers told of connections since the last call; of one poller what was there at the beginning of the call, so that it
    /// has an end.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for handle in &self.handles {
            let there = handle.records.len();
            records.extend(std::iter::from_fn(|| handle.records.pop()).take(there));
        }
        records.sort_by_key(|record| record.at);
        records
    }

    /// Has pollers copy these packets, or none.
    pub(super) fn set_captured(&self, wanted: Option<Wanted>) {
        self.switch.set(wanted);
    }

    /// Has pollers measure where their time goes, until then at least.
    pub(super) fn measure_until(&self, until: Tick) {
        self.measured.extend(until);
    }

    /// What pollers copied since the last call; of one poller what was there at the beginning of the call, so that it has an end.
    pub(super) fn copies(&self) -> Vec<Copied> {
        let mut copies = Vec::new();
        for handle in &self.handles {
            let there = handle.copies.len();
            copies.extend(std::iter::from_fn(|| handle.copies.pop()).take(there));
        }
        // Those of one poller stay in order.
        copies.sort_by_key(|copied| copied.at);
        copies
    }

    /// Each poller's counters.
    pub(super) fn own_counters(&self) -> impl Iterator<Item = &Arc<Counters>> + Clone {
        self.handles.iter().map(|handle| &handle.counters)
    }

    /// The counters of all who move packets: pollers, and the kernel for them.
    pub(super) fn counters(&self) -> impl Iterator<Item = &Arc<Counters>> + Clone {
        self.own_counters().chain(&self.in_kernel)
    }

    /// Where their clocks begin; none before they are started.
    pub(super) const fn started(&self) -> Option<Instant> {
        self.started
    }

    /// A poller whose thread ended though nobody asked it to.
    pub(super) fn dead(&self) -> Option<usize> {
        self.handles
            .iter()
            .position(|handle| handle.thread.as_ref().is_some_and(JoinHandle::is_finished))
    }

    /// Ends all threads and waits for them.
    pub(super) fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
        for handle in &mut self.handles {
            if let Some(thread) = handle.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a poller had panicked");
            }
        }
    }
}

/// Pins the calling thread to a core, and looks whether it is there.
pub(super) fn pin(core: u16) -> Result<(), RunError> {
    let failed = |errno: nix::errno::Errno| RunError::Core {
        core,
        source: errno.into(),
    };
    let mut set = CpuSet::new();
    set.set(usize::from(core)).map_err(failed)?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(failed)
}

/// Makes the descriptor that pollers wake control by.
pub(super) fn wake() -> Result<Wake, RunError> {
    use nix::sys::eventfd::{EfdFlags, EventFd};
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let event =
        EventFd::from_value_and_flags(0, flags).map_err(RunError::system("create an eventfd"))?;
    Ok(Arc::new(event))
}
