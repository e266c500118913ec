//! The last packets, and which of them are meant.

use std::collections::VecDeque;

use fastpath::port::PortId;

use super::Head;
use crate::api::MAX_RECORDS;
use crate::api::report::{Captured, CapturedPacket, Moment};
use crate::flows::Filter;

/// Packets that are kept; some megabytes.
const KEPT: usize = 16 * 1024;

/// A packet that was captured.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) at: PortId,
    pub(crate) head: Option<Head>,
    pub(crate) report: CapturedPacket,
}

/// Which packets are meant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meant {
    /// Only those that were dropped.
    pub(crate) drops: bool,
    /// Only those at this port.
    pub(crate) port: Option<PortId>,
    /// Only those.
    pub(crate) filter: Option<Filter<Vec<PortId>>>,
}

impl Meant {
    fn means(&self, packet: &Packet) -> bool {
        (!self.drops || packet.report.moment == Moment::Dropped)
            && self.port.is_none_or(|port| port == packet.at)
            && self
                .filter
                .as_ref()
                .is_none_or(|filter| Head::is_meant(packet.head.as_ref(), packet.at, filter))
    }
}

/// The last packets, by a number that counts up.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    packets: VecDeque<Packet>,
    /// The number of the next packet.
    next: u64,
}

impl Kept {
    /// Keeps a packet, at the cost of the oldest when there are too many.
    pub(crate) fn push(&mut self, packet: Packet) {
        if self.packets.len() == KEPT {
            self.packets.pop_front();
        }
        self.packets.push_back(packet);
        self.next += 1;
    }

    /// Nobody captures: forgets all.
    pub(crate) fn clear(&mut self) {
        self.packets = VecDeque::new();
    }

    /// The packets after a number; without one those from now on.
    pub(crate) fn answer(&self, after: Option<u64>, meant: &Meant) -> Captured {
        let first = self.next - self.packets.len() as u64;
        // A number from before the daemon was started again may be too high.
        let after = after.unwrap_or(self.next).min(self.next);
        let start = after.max(first);
        let mut answer = Captured {
            next: self.next,
            missed: start - after,
            ..Captured::default()
        };
        let left = self.packets.iter().skip((start - first) as usize);
        for (number, packet) in (start..).zip(left) {
            if answer.packets.len() == MAX_RECORDS {
                answer.next = number;
                answer.more = true;
                break;
            }
            if meant.means(packet) {
                answer.packets.push(packet.report.clone());
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(at: u16, moment: Moment) -> Packet {
        Packet {
            at: PortId(at),
            head: None,
            report: CapturedPacket {
                moment,
                ..CapturedPacket::default()
            },
        }
    }

    #[test]
    fn packets_are_answered_in_parts_and_those_that_were_forgotten_are_told() {
        let (mut kept, all) = (Kept::default(), Meant::default());
        kept.push(packet(1, Moment::In));
        let first = kept.answer(None, &all);
        assert_eq!((first.packets.len(), first.next), (0, 1), "from now on");
        for _ in 0..KEPT + 10 {
            kept.push(packet(1, Moment::In));
        }
        let part = kept.answer(Some(first.next), &all);
        assert_eq!(
            (part.packets.len(), part.missed, part.more),
            (MAX_RECORDS, 10, true)
        );
        assert_eq!(part.next, 11 + MAX_RECORDS as u64);
        let rest = kept.answer(Some(kept.next - 3), &all);
        assert_eq!((rest.packets.len(), rest.missed, rest.more), (3, 0, false));
        let restarted = kept.answer(Some(u64::MAX), &all);
        assert_eq!((restarted.packets.len(), restarted.next), (0, kept.next));
        kept.clear();
        assert_eq!(kept.answer(Some(kept.next - 3), &all).missed, 3);
    }

    #[test]
    fn only_what_is_meant() {
        let mut kept = Kept::default();
        for at in [1, 2] {
            for moment in [Moment::In, Moment::Dropped] {
                kept.push(packet(at, moment));
            }
        }
        let count = |meant: &Meant| kept.answer(Some(0), meant).packets.len();
        assert_eq!(count(&Meant::default()), 4);
        let drops = Meant {
            drops: true,
            ..Meant::default()
        };
        assert_eq!(count(&drops), 2);
        let port = Meant {
            port: Some(PortId(2)),
            ..drops
        };
        assert_eq!(count(&port), 1);
    }
}
