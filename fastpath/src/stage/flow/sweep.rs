//! Expiry, a little a round: no poller stops for it.

use core::time::Duration;

use flowtable::Tick;
use flowtable::flow::{Cursor, FlowKey, FlowTable, View};

use super::evict::{age_of, settle};
use super::fragments::end as end_fragments;
use super::net::{Net, V4, V6};
use super::{BY_TUNNEL, is_newer, policy, short};
use crate::connections::{Side, Tracker};
use crate::counters::Counters;
use crate::port::PortId;
use crate::tables::Tables;

/// In this time a busy poller comes round its part of the tables.
const ROUND: Duration = Duration::from_secs(2);
/// The most lines of tags that are looked at at once: some 20 microseconds where they are full of entries.
const LINES: usize = 32;
/// The same while connections of endpoints that are gone have to go, within 100 ms.
const LINES_IN_HASTE: usize = 256;
/// The most entries that are looked at at once.
const ENTRIES: usize = 1024;

/// How far a poller's sweeps are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    last: Tick,
    /// Lines that are due, and what is left over of a line, in nanoseconds of [`ROUND`].
    due: usize,
    rest: u64,
    /// Lines yet to be looked at for connections of endpoints that are gone.
    in_haste: usize,
    /// The generation up to which such connections are gone.
    ended: u64,
}

impl Sweep {
    /// Whether the next part should not wait for packets.
    pub const fn is_in_haste(&self) -> bool {
        self.in_haste > 0
    }
}

/// Removes the connections that are due, of the next few lines of this poller's part of the tables.
pub fn run(tracker: &mut Tracker, tables: &Tables, now: Tick, counters: &Counters) {
    let Tracker {
        connections,
        cursors,
        sweep,
        pollers,
        fragments,
        released,
        ..
    } = tracker;
    let lines =
        (lines_of(&connections.v4.table) + lines_of(&connections.v6.table)).div_ceil(*pollers);
    if tables.endpoints_since > sweep.ended {
        // Of a poller that has just begun nobody is gone.
        if sweep.ended > 0 {
            end_fragments(fragments, released, tables, sweep.ended);
        }
        sweep.ended = tables.generation;
        sweep.in_haste = lines;
    }
    if connections.v4.is_empty() && connections.v6.is_empty() {
        *sweep = Sweep {
            last: now,
            ended: sweep.ended,
            ..Sweep::default()
        };
        return;
    }
    sweep.fall_due(lines, now);
    let most = if sweep.in_haste > 0 {
        LINES_IN_HASTE
    } else {
        LINES
    };
    let count = sweep.due.max(sweep.in_haste).min(most);
    if count == 0 {
        return;
    }
    // Both tables in proportion, so that both are done together.
    let share4 = (count * lines_of(&connections.v4.table))
        .div_ceil(lines * *pollers)
        .min(count);
    let mut looked = 0;
    let mut swept = 0;
    swept += some::<V4>(
        &connections.v4,
        &mut cursors.0,
        share4,
        tables,
        now,
        counters,
        &mut looked,
    );
    swept += some::<V6>(
        &connections.v6,
        &mut cursors.1,
        (count - share4).max(1),
        tables,
        now,
        counters,
        &mut looked,
    );
    sweep.due = sweep.due.saturating_sub(swept);
    sweep.in_haste = sweep.in_haste.saturating_sub(swept);
}

impl Sweep {
    /// Adds the lines that the time since the last call makes due.
    fn fall_due(&mut self, lines: usize, now: Tick) {
        let round = ROUND.as_nanos() as u64;
        let passed = (now.since(self.last).as_nanos() as u64).min(round);
        self.last = now;
        let work = passed * lines as u64 + self.rest;
        self.rest = work % round;
        self.due = (self.due + (work / round) as usize).min(lines);
    }
}

fn lines_of<K: FlowKey>(table: &FlowTable<K>) -> usize {
    (table.capacity() / 64).max(1)
}

/// Sweeps some lines of one table, fewer where they are full. Returns how many.
fn some<N: Net>(
    side: &Side<N::Key>,
    cursor: &mut Cursor,
    lines: usize,
    tables: &Tables,
    now: Tick,
    counters: &Counters,
    looked: &mut usize,
) -> usize {
    if side.is_empty() {
        return lines;
    }
    let timeouts = tables.tracking.timeouts.scaled(side.fill());
    let (mut swept, mut expired, mut ended) = (0, 0, 0);
    while swept < lines && *looked < ENTRIES {
        let stats = side.table.sweep(
            cursor,
            1,
            |forward, reply| {
                let is_over = is_over(forward, reply, tables);
                let has_expired = || {
                    let (age, timeout) = age_of::<N>(forward, reply, &timeouts, now);
                    age >= timeout
                };
                let count = u64::from(!policy::is_denial(&forward.action));
                if is_over {
                    ended += count;
                } else if has_expired() {
                    expired += count;
                } else {
                    return false;
                }
                true
            },
            |forward, reply| {
                settle::<N>(side, forward, reply, &tables.policies.counters);
            },
        );
        *looked += stats.used;
        swept += 1;
    }
    counters.connections_expired.add(expired);
    counters.connections_ended.add(ended);
    swept
}

/// Whether an endpoint of the connection is gone, or has become another one.
pub(super) fn is_over<K: FlowKey>(forward: &View<K>, reply: &View<K>, tables: &Tables) -> bool {
    let [forward, reply] =
        [forward, reply].map(|view| (view.action.origin, view.action.generation));
    is_gone(tables, forward) || is_gone(tables, reply)
}

/// Whether the endpoint that an entry's packets came from is gone, or another one than when it was decided. Tables that are older than
/// the entry do not know: it was decided by a poller that has newer ones, or taken over by control, which is about to publish some.
pub(super) fn is_gone(tables: &Tables, (origin, generation): (u16, u32)) -> bool {
    let is_of_newer = generation
        .wrapping_sub(short(tables.generation))
        .cast_signed()
        > 0;
    if origin & BY_TUNNEL != 0 || is_of_newer {
        return false;
    }
    match tables.port(PortId(origin)) {
        Some(port) => port.since != 0 && is_newer(port.since, generation),
        None => true,
    }
}
