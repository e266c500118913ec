//! What the kernel counted of a flow: as it was read last, and as far as the flow table has it.

use super::flow::Counts;

/// A flow's counts. The kernel's are absolute, and what is read later is never less: of how often they are read nothing depends.
#[derive(Debug, Default)]
pub(super) struct Tally {
    read: Counts,
    /// The pass in which that was; they begin with 2.
    pass: u64,
    /// Whether it was read together with others, some time before it is told.
    is_old: bool,
    /// Packets and bytes that the flow table has.
    told: (u64, u64),
}

impl Tally {
    /// This was read, in this pass.
    pub(super) const fn note(&mut self, read: Counts, pass: u64) {
        (self.read, self.pass, self.is_old) = (read, pass, false);
    }

    /// The same of one that was read together with others.
    pub(super) const fn note_together(&mut self, read: Counts, pass: u64) {
        self.note(read, pass);
        self.is_old = true;
    }

    /// Has it read again if it was read together with others.
    pub(super) const fn renew_old(&mut self) {
        if self.is_old {
            self.renew();
        }
    }

    /// What was read in this pass.
    pub(super) fn of(&self, pass: u64) -> Option<Counts> {
        (self.pass == pass).then_some(self.read)
    }

    /// Has it read again, though that was done in this pass.
    pub(super) const fn renew(&mut self) {
        self.pass = 0;
    }

    /// Whether what was read says nothing that the flow table does not have.
    pub(super) const fn is_told(&self) -> bool {
        // What is counted at a packet's beginning and at its end may be read in between.
        self.read.packets == self.told.0
            && self.read.bytes == self.told.1
            && self.read.closing.is_none()
    }

    /// The packets and bytes that were read, and that the flow table does not have: it has them from now on.
    pub(super) const fn tell(&mut self) -> (u64, u64) {
        let Counts { packets, bytes, .. } = self.read;
        let (packets_told, bytes_told) = self.told;
        if packets == packets_told {
            // Bytes without a packet are one's that is being counted: they come with the next.
            return (0, 0);
        }
        self.told = (packets, bytes);
        (
            packets.saturating_sub(packets_told),
            bytes.saturating_sub(bytes_told),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::flow::Segment;

    const fn counted(packets: u64, bytes: u64) -> Counts {
        Counts {
            packets,
            bytes,
            seen: None,
            closing: None,
        }
    }

    #[test]
    fn what_is_read_twice_is_told_once() {
        let mut tally = Tally::default();
        assert!(tally.is_told() && tally.of(1).is_none());
        tally.note(counted(3, 300), 1);
        assert!(!tally.is_told());
        assert_eq!(tally.tell(), (3, 300));
        tally.note(counted(3, 300), 1);
        assert!(tally.is_told());
        assert_eq!(tally.tell(), (0, 0));
        tally.note(counted(5, 420), 2);
        tally.note(counted(6, 500), 2);
        assert_eq!(tally.tell(), (3, 200));
        // In the middle of a packet's being counted.
        tally.note(counted(7, 500), 3);
        assert_eq!(tally.tell(), (1, 0));
        tally.note(counted(7, 590), 4);
        assert_eq!(tally.tell(), (0, 0));
        tally.note(counted(8, 600), 5);
        assert_eq!(tally.tell(), (1, 100));
    }

    #[test]
    fn what_was_read_holds_for_its_pass() {
        let mut tally = Tally::default();
        tally.note(counted(3, 300), 7);
        assert_eq!(tally.of(7), Some(counted(3, 300)));
        assert_eq!(tally.of(8), None);
        tally.renew_old();
        assert_eq!(tally.of(7), Some(counted(3, 300)));
        tally.renew();
        assert_eq!(tally.of(7), None);
        tally.note_together(counted(4, 400), 7);
        assert_eq!(tally.of(7), Some(counted(4, 400)));
        tally.renew_old();
        assert_eq!(tally.of(7), None);
    }

    #[test]
    fn what_may_end_a_flow_is_news_without_a_packet() {
        let closing = Segment {
            seq: 1,
            ack: 2,
            payload_len: 0,
            window: 3,
            flags: 4,
        };
        let mut tally = Tally::default();
        tally.note(
            Counts {
                closing: Some(closing),
                ..Counts::default()
            },
            1,
        );
        assert!(!tally.is_told());
    }
}
