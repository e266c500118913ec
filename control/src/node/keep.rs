//! Connections that outlive the daemon: kept at an orderly stop, taken over at the next start.
//!
//! They are taken over as soon as it is known which interface is whose, and before the first packet of a pod meets tables that
//! know it: before the pollers start, or, where Felix says what is whose, when it has said all for the first time. Until then they wait in memory,
//! and a daemon that is stopped meanwhile keeps them as they came.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use fastpath::connections::{Connections, Kept, LeftOut, Origin};
use fastpath::tables::Tables;
use flowtable::Tick;

use super::Node;
use super::lingering::Lingering;
use super::offload::Offload;
use super::ports::Served;
use crate::compile::Compiler;
use crate::config::DaemonConfig;
use crate::config::daemon::FailMode;
use crate::keep::file;
use crate::keep::format::{Head, Place, Saved, Writer};
use crate::words::counted;

/// A stop writes connections no longer than this; what it has not come to is left out.
const LONGEST: Duration = Duration::from_secs(1);

/// Lines of the tables between two looks at the clock: some 65,000 entries.
const LINES: usize = 1024;

/// For how long after the stop answers to translated connections are kept from the host. The far ends send again meanwhile, and a start
/// that comes later has lost those.
const AWAY: Duration = Duration::from_mins(10);

/// Answers that nobody is there for, and that the host must not see.
#[derive(Debug)]
pub(super) struct Away {
    /// Where they go to.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// And to which ports there.
    pub(super) ports: Lingering,
    /// Until when, by `CLOCK_BOOTTIME`.
    pub(super) until: Duration,
}

impl Away {
    fn new(stopped: Duration) -> Self {
        Self {
            addresses: BTreeSet::new(),
            ports: Lingering::default(),
            until: stopped.saturating_add(AWAY),
        }
    }

    fn of(saved: &Saved) -> Self {
        let mut away = Self::new(saved.head.stopped);
        for (kept, _) in saved.connections(&[]) {
            away.add(&kept);
        }
        away
    }

    fn add(&mut self, kept: &Kept) {
        if let Some((address, _)) = kept.snat {
            self.addresses.insert(address);
            self.ports.note_kept(kept);
        }
    }

    /// None of no answers.
    fn some(self) -> Option<Self> {
        (!self.addresses.is_empty()).then_some(self)
    }
}

/// Connections of the run before, and which of them are here.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// Those that wait to be taken over.
    waiting: Option<Saved>,
    /// How many were taken over.
    pub(super) taken: u64,
    /// How many were not.
    pub(super) left_out: u64,
}

impl Inherited {
    /// Takes the file that a run before has left. What is wrong with it is said once, and costs no more than the connections.
    pub(super) fn open(config: &DaemonConfig, node: &str) -> Self {
        let path = file::path(&config.control_socket);
        let waiting = file::take(&path, node).unwrap_or_else(|why| {
            let path = path.display();
            tracing::warn!("{path}: not used: {why}; connections of the run before begin anew");
            None
        });
        Self {
            waiting: waiting.filter(|_| config.connections.keep),
            ..Self::default()
        }
    }

    /// The answers of those that wait, if there are any and the host is not to see them: where the kernel forwards, they may be to what it has
    /// translated.
    pub(super) fn away(&self, config: &DaemonConfig) -> Option<Away> {
        if config.fail_mode == FailMode::Open {
            return None;
        }
        Away::of(self.waiting.as_ref()?).some()
    }

    /// Whether some wait to be taken over.
    pub(super) const fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether a start that fails has some to keep, be they taken over or not.
    pub(super) const fn is_any(&self) -> bool {
        self.is_waiting() || self.taken > 0
    }

    /// Puts those that wait back for the next start, as they came. How many there are; none: none wait.
    pub(super) fn put_back(&self, config: &DaemonConfig) -> std::io::Result<Option<u32>> {
        let Some(saved) = &self.waiting else {
            return Ok(None);
        };
        file::write(&file::path(&config.control_socket), saved.bytes())?;
        Ok(Some(saved.len()))
    }

    /// Takes over what holds, as decided by `tables`; those that are published next must be newer.
    fn take_over(
        &mut self,
        connections: &Connections,
        compiler: &Compiler,
        tables: &Tables,
        now: Tick,
    ) {
        let Some(saved) = self.waiting.take() else {
            return;
        };
        let begun = Instant::now();
        let stopped = saved.head.stopped;
        // Should the clock be no more to be had, they are as old as they may be.
        let away = file::since_boot().map_or(file::OLDEST, |now| now.saturating_sub(stopped));
        let places = saved.places.iter();
        let origins: Vec<_> = places.map(|place| compiler.origin(place)).collect();
        let is_there = |place: u16| origins.get(usize::from(place)).is_some_and(Option::is_some);
        let mut left_out = BTreeMap::<LeftOut, u64>::new();
        for (kept, places) in saved.connections(&origins) {
            let taken = if away > file::OLDEST {
                Err(LeftOut::Expired)
            } else if places.into_iter().all(is_there) {
                connections.take_over(&aged(kept, away), tables, now)
            } else {
                Err(LeftOut::Endpoint)
            };
            match taken {
                Ok(()) => self.taken += 1,
                Err(why) => *left_out.entry(why).or_default() += 1,
            }
        }
        self.left_out = left_out.values().sum();
        let why: Vec<_> = left_out
            .iter()
            .map(|(why, count)| format!("{} {count}", why.name()))
            .collect();
        let why = if why.is_empty() {
            "none".to_owned()
        } else {
            why.join(", ")
        };
        tracing::info!(
            took = ?begun.elapsed(),
            "took over {} of the run before; left out: {why}",
            counted(self.taken, "connection")
        );
    }
}

/// A connection some time later.
fn aged(mut kept: Kept, time: Duration) -> Kept {
    kept.original.idle += time;
    kept.reply.idle += time;
    kept
}

impl Node {
    /// Takes over connections of the run before. The ports must be there; the tables that are published afterwards are newer than
    /// the connections.
    pub(super) fn take_over_connections(&mut self) {
        if !self.inherited.is_waiting() {
            return;
        }
        let tables = self.compiler.tables(&self.mirror);
        // Pollers that have not been started begin at zero.
        let now = self.pollers.now().unwrap_or_default();
        self.inherited
            .take_over(&self.connections, &self.compiler, &tables, now);
        self.stale = true;
    }
}

/// Keeps answers to translated connections from the host, since the pollers are about to end. Not where the kernel
/// forwards meanwhile: they may be to what it has translated.
pub(super) fn lose_answers<'a>(
    config: &DaemonConfig,
    served: impl IntoIterator<Item = &'a mut Served>,
    offload: Option<&mut Offload>,
) {
    if !config.connections.keep || config.fail_mode == FailMode::Open {
        return;
    }
    let until = file::since_boot().ok().map(|now| now + AWAY);
    for served in served {
        // Should the kernel refuse, the host resets what it sees.
        let _ = served.set_away_until(until);
    }
    if let Some(offload) = offload {
        let _ = offload.tcx.set_away(until);
    }
}

/// What connections are kept of.
pub(super) struct Keeper<'a> {
    pub(super) config: &'a DaemonConfig,
    pub(super) node: &'a str,
    pub(super) compiler: &'a Compiler,
    pub(super) tables: &'a Tables,
    pub(super) connections: &'a Connections,
    pub(super) inherited: &'a Inherited,
    /// By the pollers' clock, when they had ended.
    pub(super) now: Tick,
}

impl Keeper<'_> {
    /// Keeps the connections for the next start, and says which of their answers are to be lost until then. None, where the kernel forwards
    /// meanwhile: such answers may be to what it has translated.
    pub(super) fn keep(&self) -> Option<Away> {
        if !self.config.connections.keep {
            return None;
        }
        let path = file::path(&self.config.control_socket);
        let kept = match self.inherited.put_back(self.config) {
            // They are still to be taken over, and there are no others: no pod was known.
            Ok(Some(count)) => Ok((count, true, self.inherited.away(self.config))),
            Ok(None) => self.write(&path),
            Err(error) => Err(error),
        };
        match kept {
            Ok((0, ..)) => None,
            Ok((count, all, away)) => {
                let rest = if all { "" } else { ", and no more: too many" };
                let path = path.display();
                let count = counted(count.into(), "connection");
                tracing::info!("kept {count} for the next start: {path}{rest}");
                away.filter(|_| self.config.fail_mode == FailMode::Closed)
            }
            Err(error) => {
                let path = path.display();
                tracing::warn!("{path}: connections are not kept: {error}");
                None
            }
        }
    }

    /// Writes them: how many, whether these are all, and their answers.
    fn write(&self, path: &Path) -> std::io::Result<(u32, bool, Option<Away>)> {
        let begun = Instant::now();
        let head = Head::now(self.node)?;
        let mut away = Away::new(head.stopped);
        let (places, numbers) = self.places();
        let number = |origin: Origin| numbers.get(&origin).copied();
        let Connections { v4, v6, .. } = self.connections;
        let mut file = Writer::new(&head, &places, (v4.len() + v6.len()) as usize);
        let mut all = true;
        for first in (0..self.connections.lines()).step_by(LINES) {
            if begun.elapsed() > LONGEST {
                all = false;
                break;
            }
            let lines = first..first + LINES;
            self.connections.keep(lines, self.tables, self.now, |kept| {
                let ends = [kept.original, kept.reply].map(|it| number(it.origin));
                if let [Some(there), Some(back)] = ends {
                    let mut kept = *kept;
                    if self.config.fail_mode == FailMode::Open {
                        kept.miss();
                    }
                    if file.push(&kept, [there, back]) {
                        away.add(&kept);
                    } else {
                        all = false;
                    }
                }
            });
        }
        let count = file.len();
        if count > 0 {
            file::write(path, &file.finish())?;
        }
        Ok((count, all, away.some()))
    }

    /// Where connections may come from, and the number of each in the file.
    fn places(&self) -> (Vec<Place>, HashMap<Origin, u16>) {
        let mut places = Vec::new();
        let mut numbers = HashMap::new();
        for origin in self.compiler.origins() {
            if let Some(place) = self.compiler.place(origin)
                && let Ok(number) = u16::try_from(places.len())
            {
                numbers.insert(origin, number);
                places.push(place);
            }
        }
        (places, numbers)
    }
}
