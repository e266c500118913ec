//! How many chunks wait in a fill ring: few while the queue is quiet, more while it is busy.
//!
//! A chunk in a fill ring is of no use to anybody else, and a node has hundreds of queues, of which few are busy at a time. A
//! burst that finds the ring empty is lost: TCP alone sends hundreds of packets at once. So each queue has a few chunks at
//! rest, and one that ran low has twice as many the next time, as long as its poller's part has some for that
//! ([`ArenaPart::set_extra`](super::ArenaPart::set_extra)). What a quiet queue has too many of goes back as packets come.

/// A queue runs low when fewer than 1/`LOW` of its chunks are left.
const LOW: u32 = 4;
/// Chunks that may wait in the RX ring beside those in the fill ring: about a batch.
const UNREAD: u32 = 64;

/// The chunks of one queue's receive side. Its poller's alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stock {
    /// In the fill ring while the queue is quiet.
    rest: u32,
    /// In the fill ring at most.
    most: u32,
    /// In the fill ring now, as far as there are chunks.
    goal: u32,
    /// What was claimed of the part's extra chunks.
    claimed: u32,
    ran_low: bool,
}

impl Stock {
    /// At rest, in a fill ring of so many slots.
    pub(super) fn new(rest: u32, slots: u32) -> Self {
        let rest = rest.clamp(1, slots);
        Self {
            rest,
            most: slots,
            goal: rest,
            claimed: 0,
            ran_low: false,
        }
    }

    /// Packets came. `left` chunks are still in the fill ring. `extra` is what the part has for those who need more.
    #[inline]
    pub(super) fn note(&mut self, left: u32, extra: &mut u32) {
        if left < self.goal / LOW {
            self.grow(extra);
        }
    }

    #[cold]
    fn grow(&mut self, extra: &mut u32) {
        self.ran_low = true;
        let goal = (2 * self.goal).min(self.most);
        let claimed = goal.saturating_sub(self.rest).max(self.claimed);
        if claimed - self.claimed <= *extra {
            *extra -= claimed - self.claimed;
            (self.goal, self.claimed) = (goal, claimed);
        }
    }

    /// How many chunks are to go into the fill ring, of which `left` are there and `receiving` on the whole receive side.
    #[inline]
    pub(super) fn wanted(&self, left: u32, receiving: u32) -> u32 {
        let in_ring = self.goal.saturating_sub(left);
        in_ring.min((self.goal + UNREAD).saturating_sub(receiving))
    }

    /// Some time has passed: a queue that never ran low needs fewer. What it has, on its whole receive side, stays claimed.
    pub(super) fn relax(&mut self, receiving: u32, extra: &mut u32) {
        if !std::mem::take(&mut self.ran_low) {
            self.goal = (self.goal / 2).max(self.rest);
        }
        let needed = self.goal.max(receiving.saturating_sub(UNREAD));
        let needed = needed.saturating_sub(self.rest);
        let over = self.claimed.saturating_sub(needed);
        self.claimed -= over;
        *extra += over;
    }

    /// The queue goes.
    pub(super) fn give_back(&mut self, extra: &mut u32) {
        *extra += std::mem::take(&mut self.claimed);
        self.goal = self.rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_busy_queue_has_more_and_a_quiet_one_gives_them_back() {
        let (mut extra, mut stock) = (1000, Stock::new(128, 512));
        assert_eq!(stock.wanted(0, 0), 128);
        // A quarter is left: that is enough.
        stock.note(32, &mut extra);
        assert_eq!((stock.goal, extra), (128, 1000));
        stock.note(31, &mut extra);
        assert_eq!((stock.goal, extra), (256, 872));
        stock.note(0, &mut extra);
        stock.note(0, &mut extra);
        assert_eq!(
            (stock.goal, extra),
            (512, 616),
            "no more than the ring takes"
        );
        assert_eq!(stock.wanted(0, 512), 64, "what is unread counts");
        stock.relax(0, &mut extra);
        assert_eq!(stock.goal, 512, "it ran low meanwhile");
        stock.relax(512, &mut extra);
        assert_eq!(
            (stock.goal, extra),
            (256, 680),
            "they are in the ring still"
        );
        assert_eq!(stock.wanted(300, 300), 0);
        stock.relax(200, &mut extra);
        assert_eq!((stock.goal, extra), (128, 992));
        stock.give_back(&mut extra);
        assert_eq!(extra, 1000);
    }

    #[test]
    fn nobody_has_what_others_have_taken() {
        let mut extra = 130;
        let mut stocks = [Stock::new(128, 512); 2];
        for stock in &mut stocks {
            stock.note(0, &mut extra);
        }
        assert_eq!((stocks[0].goal, stocks[1].goal, extra), (256, 128, 2));
        stocks[0].give_back(&mut extra);
        stocks[1].note(0, &mut extra);
        assert_eq!((stocks[1].goal, extra), (256, 2));
    }

    proptest! {
        /// Queues whose packets come as they like, and a part that has just what they are promised.
        #[test]
        fn no_chunk_is_promised_twice(
            steps in prop::collection::vec((0..4_usize, 0..600_u32, 0..8_u8), 1..300),
        ) {
            const REST: u32 = 16;
            const EXTRA: u32 = 100;
            const SLOTS: u32 = 128;
            let mut extra = EXTRA;
            // Of each queue: its stock, chunks in the fill ring, chunks unread.
            let mut queues = [(Stock::new(REST, SLOTS), 0, 0); 4];
            for (queue, packets, what) in steps {
                let (stock, fill, unread) = &mut queues[queue];
                match what {
                    0 => stock.relax(*fill + *unread, &mut extra),
                    1 => {
                        stock.give_back(&mut extra);
                        (*fill, *unread) = (0, 0);
                    }
                    _ => {
                        let came = packets.min(*fill);
                        *fill -= came;
                        *unread += came;
                        *unread -= UNREAD.min(*unread);
                        stock.note(*fill, &mut extra);
                        *fill += stock.wanted(*fill, *fill + *unread);
                    }
                }
                prop_assert!(*fill <= SLOTS);
                let claimed: u32 = queues.iter().map(|(stock, ..)| stock.claimed).sum();
                prop_assert_eq!(claimed + extra, EXTRA);
                let held: u32 = queues.iter().map(|(_, fill, unread)| fill + unread).sum();
                prop_assert!(held <= 4 * (REST + UNREAD) + EXTRA);
            }
        }
    }
}
