//! Expiry, a few lines of tags at a time.

use super::key::FlowKey;
use super::table::FlowTable;
use super::tags::{LANES, LINE_WORDS, others};
use super::view::View;

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

impl<K: FlowKey> FlowTable<K> {
    /// Looks at the connections of the next `lines` lines of tags (64 slots each) and removes those of
    /// which `expired` says so; the next call goes on behind them.
    ///
    /// `expired` sees each connection once a round, when its forward entry's line is visited: the forward
    /// view, then the reply's.
    pub fn sweep(
        &self,
        cursor: &mut Cursor,
        lines: usize,
        mut expired: impl FnMut(&View<K>, &View<K>) -> bool,
    ) -> SweepStats {
        let mut stats = SweepStats::default();
        for _ in 0..lines {
            let line = cursor.advance(self.tags.lines().len());
            self.sweep_line(line, &mut expired, &mut stats);
        }
        stats
    }

    fn sweep_line(
        &self,
        line: usize,
        expired: &mut impl FnMut(&View<K>, &View<K>) -> bool,
        stats: &mut SweepStats,
    ) {
        stats.slots += LINE_WORDS * LANES;
        for slot in self.used_slots(line) {
            self.prefetch_entry(slot);
            stats.used += 1;
        }
        // The other directions' entries are anywhere.
        for slot in self.used_slots(line) {
            self.prefetch_slot(self.entry(slot).head().partner() as usize);
        }
        for slot in self.used_slots(line) {
            let Some(view) = self.view_slot(slot) else {
                stats.busy += 1;
                continue;
            };
            if view.is_reply() {
                continue;
            }
            let partner = self.partner(view.flow).and_then(|flow| self.view(flow));
            let Some(partner) = partner else {
                stats.busy += 1;
                continue;
            };
            if expired(&view, &partner) {
                if self.remove_pair(view.flow) {
                    stats.removed += 1;
                } else {
                    stats.busy += 1;
                }
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
