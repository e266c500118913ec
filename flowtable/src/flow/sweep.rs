//! Expiry, and looking at all connections: a few lines of tags at a time.

use core::ops::Range;

use super::key::FlowKey;
use super::table::FlowTable;
use super::tags::{LANES, LINE_WORDS, others};
use super::view::{FlowRef, View};

/// Where a sweep goes on. Each poller has its own, over lines of its own.
#[derive(Clone, Debug)]
pub struct Cursor {
    first: usize,
    step: usize,
    next: usize,
}

impl Cursor {
    /// The cursor of poller `poller` of `pollers`: it visits every `pollers`-th line, so that all lines
    /// belong to somebody and none to two.
    #[must_use]
    pub const fn new(poller: usize, pollers: usize) -> Self {
        Self {
            first: poller,
            step: if pollers == 0 { 1 } else { pollers },
            next: poller,
        }
    }

    /// The next line of a table of `lines` lines.
    const fn advance(&mut self, lines: usize) -> usize {
        if self.next >= lines {
            self.next = self.first % lines;
        }
        let line = self.next;
        self.next += self.step;
        line
    }
}

impl Default for Cursor {
    /// Visits all lines.
    fn default() -> Self {
        Self::new(0, 1)
    }
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepStats {
    /// Slots that were looked at.
    pub slots: usize,
    /// Entries in use among them, both directions counted, when they were looked at.
    pub used: usize,
    /// Connections that were removed, two entries each.
    pub removed: usize,
    /// Connections that another poller was changing; they are found the next time.
    pub busy: usize,
    /// Overflow flags that were cleared.
    pub cleared: usize,
}

/// What a slot holds, as far as a walk over connections goes.
enum Slot<K: FlowKey> {
    /// A forward entry: the connection's two views, that one first.
    Connection(View<K>, View<K>),
    /// A reply's entry: its connection is seen at the forward one.
    Reply,
    /// Another poller is changing the connection.
    Busy,
}

impl<K: FlowKey> FlowTable<K> {
    /// How many lines of tags there are, 64 slots each.
    pub fn lines(&self) -> usize {
        self.tags.lines().len()
    }

    /// Visits the connections whose forward entry is in one of these lines: the forward view, then the reply's. Each is
    /// seen once in a walk over all lines, since entries stay where they are; those that come or go
    /// meanwhile may be missed. Pollers are not held up. Changes nothing, and `removed` stays 0.
    pub fn visit(
        &self,
        lines: Range<usize>,
        mut visit: impl FnMut(&View<K>, &View<K>),
    ) -> SweepStats {
        let mut stats = SweepStats::default();
        for line in lines.start..lines.end.min(self.lines()) {
            self.fetch(line, &mut stats);
            for slot in self.used_slots(line) {
                match self.slot(slot) {
                    Slot::Connection(forward, reply) => visit(&forward, &reply),
                    Slot::Reply => {}
                    Slot::Busy => stats.busy += 1,
                }
            }
        }
        stats
    }

    /// Looks at the connections of the next `lines` lines of tags (64 slots each) and removes those of
    /// which `expired` says so; the next call goes on behind them.
    ///
    /// `expired` sees each connection once a round, when its forward entry's line is visited: the forward
    /// view, then the reply's. `removed` sees those that this call removed.
    pub fn sweep(
        &self,
        cursor: &mut Cursor,
        lines: usize,
        mut expired: impl FnMut(&View<K>, &View<K>) -> bool,
        mut removed: impl FnMut(&View<K>, &View<K>),
    ) -> SweepStats {
        let mut stats = SweepStats::default();
        for _ in 0..lines {
            let line = cursor.advance(self.lines());
            self.sweep_line(line, &mut expired, &mut removed, &mut stats);
        }
        stats
    }

    fn sweep_line(
        &self,
        line: usize,
        expired: &mut impl FnMut(&View<K>, &View<K>) -> bool,
        removed: &mut impl FnMut(&View<K>, &View<K>),
        stats: &mut SweepStats,
    ) {
        self.fetch(line, stats);
        for slot in self.used_slots(line) {
            match self.slot(slot) {
                Slot::Connection(forward, reply) if expired(&forward, &reply) => {
                    if self.remove_pair(forward.flow) {
                        stats.removed += 1;
                        removed(&forward, &reply);
                    } else {
                        stats.busy += 1;
                    }
                }
                Slot::Connection(..) | Slot::Reply => {}
                Slot::Busy => stats.busy += 1,
            }
        }
        for word in line * LINE_WORDS..(line + 1) * LINE_WORDS {
            let tags = self.tags.load(word);
            // While its home is full a key's way back would be of no use.
            if tags.overflows() && tags.used().len() < LANES && self.clear_overflow(word) {
                stats.cleared += 1;
            }
        }
    }

    /// Has the processor fetch the entries of a line, and those of the other directions.
    fn fetch(&self, line: usize, stats: &mut SweepStats) {
        stats.slots += LINE_WORDS * LANES;
        for slot in self.used_slots(line) {
            self.prefetch_entry(slot);
            stats.used += 1;
        }
        // The other directions' entries are anywhere.
        for slot in self.used_slots(line) {
            self.prefetch_slot(self.entry(slot).head().partner() as usize);
        }
    }

    #[inline(always)]
    fn slot(&self, slot: usize) -> Slot<K> {
        let Some(view) = self.view_slot(slot) else {
            return Slot::Busy;
        };
        if view.is_reply() {
            return Slot::Reply;
        }
        match self.partner(view.flow).and_then(|flow| self.view(flow)) {
            Some(partner) => Slot::Connection(view, partner),
            None => Slot::Busy,
        }
    }

    /// The line of tags where a key belongs.
    pub fn line_of(&self, key: &K) -> usize {
        self.tags.home(self.hasher.hash(key.blocks())).word / LINE_WORDS
    }

    /// Of the connections that have an entry in a line, the one with the highest rank: which of them goes when there is no room. If
    /// none goes, the next of `lines` lines from `first` on, around at the table's end, is searched.
    /// `may` says of an entry whether its connection is worth a look at the other direction; `rank` sees the forward view, then the
    /// reply's, and none says that the connection stays.
    pub fn victim<R: Ord>(
        &self,
        first: usize,
        lines: usize,
        may: impl Fn(&View<K>) -> bool,
        mut rank: impl FnMut(&View<K>, &View<K>) -> Option<R>,
    ) -> Option<FlowRef> {
        (0..lines.min(self.lines())).find_map(|next| {
            let line = first.wrapping_add(next) % self.lines();
            self.victim_in(line, &may, &mut rank)
        })
    }

    fn victim_in<R: Ord>(
        &self,
        line: usize,
        may: impl Fn(&View<K>) -> bool,
        mut rank: impl FnMut(&View<K>, &View<K>) -> Option<R>,
    ) -> Option<FlowRef> {
        for slot in self.used_slots(line) {
            self.prefetch_entry(slot);
        }
        let ranked = self.used_slots(line).filter_map(|slot| {
            let one = self.view_slot(slot).filter(&may)?;
            let other = self.partner(one.flow).and_then(|flow| self.view(flow))?;
            let rank = if one.is_reply() {
                rank(&other, &one)
            } else {
                rank(&one, &other)
            };
            Some((rank?, one.flow))
        });
        ranked
            .max_by(|(a, _), (b, _)| a.cmp(b))
            .map(|(_, flow)| flow)
    }

    /// Clears the overflow flag of a word, if all keys at home there are there.
    #[cold]
    fn clear_overflow(&self, word: usize) -> bool {
        // While it is locked no key at home here can be inserted elsewhere.
        if !self.tags.try_lock(word) {
            return false;
        }
        let is_needed = others(word).any(|other| {
            self.tags.load(other).used().any(|lane| {
                // Who has no view is on its way in or out: no key of ours can be on its way in.
                self.view_slot(other * LANES + lane).is_some_and(|view| {
                    self.tags.home(self.hasher.hash(view.key.blocks())).word == word
                })
            })
        });
        if !is_needed {
            self.tags.clear_overflow(word);
        }
        self.tags.unlock(word);
        !is_needed
    }

    /// The slots of a line that have a tag.
    pub(super) fn used_slots(&self, line: usize) -> impl Iterator<Item = usize> {
        (line * LINE_WORDS..(line + 1) * LINE_WORDS).flat_map(|word| {
            self.tags
                .load(word)
                .used()
                .map(move |lane| word * LANES + lane)
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Action, Capacity, FlowTable4, Key4, Seed};
    use super::*;
    use crate::Tick;

    #[test]
    fn a_walk_in_parts_sees_each_connection_once() {
        let table = FlowTable4::new(Capacity::MIN, Seed([3, 4]));
        for n in 0..200 {
            let key = Key4 {
                src: n,
                dst: !n,
                protocol: 17,
                ..Key4::default()
            };
            let action = Action::default();
            table
                .insert_pair((key, action), (key.reversed(), action), Tick(0), (0, 0))
                .unwrap();
        }
        assert_eq!(table.lines(), 16);
        let mut seen = BTreeMap::new();
        let (mut slots, mut used) = (0, 0);
        for first in (0..table.lines()).step_by(5) {
            // The last part ends beyond the table.
            let stats = table.visit(first..first + 5, |forward, reply| {
                assert!(!forward.is_reply() && reply.is_reply());
                assert_eq!(reply.key, forward.key.reversed());
                *seen.entry(forward.key.src).or_insert(0) += 1;
            });
            (slots, used) = (slots + stats.slots, used + stats.used);
            assert_eq!((stats.removed, stats.busy), (0, 0));
        }
        assert_eq!((slots, used), (1024, 400));
        assert_eq!(seen.len(), 200);
        assert!(seen.values().all(|&times| times == 1));
        assert_eq!(table.len(), 400, "it changes nothing");
    }
}
