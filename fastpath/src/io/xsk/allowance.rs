//! How much of a TX ring the packets that came in together may take.
//!
//! A poller takes a batch from each queue in turn, and all of them may leave by one port. Where that port is slower than they are, its ring
//! is full but for what has drained in the last round, and whoever is served first would take all of it, in every round: one pod could keep
//! every other one from the uplink. So nobody takes more in a turn than a part of what is free, and what is left is for those
//! that come later (as the dynamic thresholds of shared switch buffers do, Choudhury and Hahne 1998).
//! A ring that is mostly free keeps nobody from anything.

/// A turn takes less than a 1/`PART` of what it leaves free: a whole batch while 320 slots are.
const PART: u32 = 4;

/// What of one TX ring was taken in the present turn. Its poller's alone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowance {
    turn: u32,
    taken: u32,
    /// The kernel did not drain the ring when it was asked to in this turn.
    is_stalled: bool,
}

impl Allowance {
    /// Takes a slot in a turn (any number that the turn before did not have) if it may. `room` says how many slots are free, exact only
    /// below what it is given.
    #[inline]
    pub(super) fn take(&mut self, turn: u32, room: impl FnOnce(u32) -> u32) -> bool {
        if self.turn != turn {
            *self = Self {
                turn,
                taken: 0,
                is_stalled: false,
            };
        }
        let wanted = self.taken.saturating_mul(PART).saturating_add(1);
        let may = room(wanted) >= wanted;
        self.taken += u32::from(may);
        may
    }

    /// Whether it is worth it to ask the kernel to drain the ring in this turn.
    #[inline]
    pub(super) const fn may_drain(&self) -> bool {
        !self.is_stalled
    }

    /// The kernel was asked, and the ring is empty now or not: whom it drains while we wait, nobody has to share with.
    pub(super) const fn drained(&mut self, is_empty: bool) {
        if is_empty {
            self.taken = 0;
        } else {
            self.is_stalled = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds over a ring of `slots` of which `drains` are sent between two rounds; each source wants to send so many packets a round.
    /// How many each sent in 1,000 rounds, after 100.
    fn rounds<const N: usize>(slots: u32, drains: u32, wants: [u32; N], rotates: bool) -> [u32; N] {
        let mut allowance = Allowance::default();
        let (mut used, mut turn) = (0_u32, 0);
        let mut sent = [0; N];
        for round in 0..1100 {
            used = used.saturating_sub(drains);
            for at in 0..N {
                let source = if rotates { (at + round) % N } else { at };
                turn += 1;
                for _ in 0..wants[source] {
                    if allowance.take(turn, |_| slots - used) {
                        used += 1;
                        sent[source] += u32::from(round >= 100);
                    }
                }
            }
        }
        sent
    }

    #[test]
    fn whoever_has_little_to_send_sends_it_however_much_others_have() {
        // The ring drains half of what the first one sends.
        let [flood, other] = rounds(2048, 32, [64, 5], false);
        assert_eq!(other, 5 * 1000);
        assert_eq!(flood, (32 - 5) * 1000, "nothing that drains is left unused");
        let [.., last] = rounds(2048, 60, [64, 64, 64, 64, 64, 64, 1], true);
        assert_eq!(last, 1000);
    }

    #[test]
    fn those_who_flood_share_evenly_when_they_take_turns_in_being_first() {
        let sent = rounds(2048, 90, [64; 4], true);
        let (least, most) = (sent.iter().min(), sent.iter().max());
        assert!(
            most.zip(least)
                .is_some_and(|(most, least)| most * 20 <= least * 21),
            "{sent:?}"
        );
        assert_eq!(sent.iter().sum::<u32>(), 90 * 1000);
    }

    #[test]
    fn a_ring_that_is_mostly_free_refuses_nobody() {
        assert_eq!(rounds(2048, 2048, [64; 20], false), [64 * 1000; 20]);
        assert_eq!(rounds(512, 512, [64, 1, 1], false), [64_000, 1000, 1000]);
    }

    #[test]
    fn a_ring_that_the_kernel_drains_on_demand_is_all_for_who_asks() {
        let mut allowance = Allowance::default();
        let (mut used, mut sent) = (0, 0);
        for _ in 0..64 {
            if !allowance.take(1, |_| 64 - used) {
                assert!(allowance.may_drain());
                used = 0;
                allowance.drained(true);
                assert!(allowance.take(1, |_| 64));
            }
            used += 1;
            sent += 1;
        }
        assert_eq!(sent, 64);
        allowance.drained(false);
        assert!(
            !allowance.may_drain(),
            "asked once, and not for each packet"
        );
        allowance.take(2, |_| 0);
        assert!(allowance.may_drain(), "in the next turn again");
    }
}
