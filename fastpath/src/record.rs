//! What pollers tell about connections: that one was allowed or denied, and which `Log` rules its first packet met.
//!
//! Only who is judged is told of. A packet of a connection, or of a denial, that is remembered tells nothing; nor does
//! anything but `Log` rules while nobody observes. Bounded: a full ring loses records, and they are counted.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crossbeam_queue::ArrayQueue;
use flowtable::Tick;
use flowtable::acl::{L4, RuleId};

use crate::batch::PeerId;
use crate::counters::Counters;
use crate::limiter::Bucket;
use crate::policy::{Decider, End};
use crate::port::PortId;
use crate::reason::DropReason;

/// What `Log` rules may tell a second, and at once; the rest is counted. As with a limit on iptables' LOG.
pub const LOG_RATE: u64 = 100;

/// Something that a poller tells about the first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, by the poller's clock.
    pub at: Tick,
    /// What became of it.
    pub verdict: Verdict,
    /// The packet's source, before it is translated.
    pub src: IpAddr,
    /// Its destination, of one to a service the backend.
    pub dst: IpAddr,
    /// The service's address and port, if it was sent to one.
    pub service: Option<(IpAddr, u16)>,
    /// Its IP protocol.
    pub protocol: u8,
    /// Its ports or ICMP type.
    pub l4: L4,
    /// The port that it came in by.
    pub in_port: PortId,
    /// The node whose tunnel it came by; [`PeerId::NONE`]: none.
    pub peer: PeerId,
    /// Where it comes from, as policy sees it.
    pub from: End,
    /// Where it goes.
    pub to: End,
    /// The packet's own number, of those who number packets.
    pub tag: u32,
}

/// What became of the first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The connection is made.
    Allowed {
        /// What decided for the endpoint that it comes from.
        source: Decider,
        /// What decided for the endpoint that it goes to.
        destination: Decider,
        /// What the source is translated to, if it is.
        snat: Option<(IpAddr, u16)>,
    },
    /// It is dropped, or a connection that was allowed ends.
    Denied {
        /// For this reason.
        reason: DropReason,
        /// What decided.
        by: Decider,
    },
    /// It met a `Log` rule. What becomes of it is told apart.
    Logged(RuleId),
}

/// A poller's end of the ring of records.
#[derive(Debug)]
pub struct Records {
    ring: Arc<ArrayQueue<Record>>,
    /// Set by control while anybody observes.
    observed: Arc<AtomicBool>,
    /// What it said when it was looked at last: once a batch.
    is_observed: bool,
    /// `None`: no limit.
    logs: Option<Bucket>,
    pending: bool,
}

impl Records {
    /// Records go into `ring`, which control drains; those of verdicts only while `observed` is set.
    pub fn new(ring: Arc<ArrayQueue<Record>>, observed: Arc<AtomicBool>) -> Self {
        Self {
            ring,
            observed,
            is_observed: false,
            logs: Some(Bucket::default()),
            pending: false,
        }
    }

    /// The same, where `Log` rules tell of all that they match.
    #[must_use]
    pub const fn without_limit(mut self) -> Self {
        self.logs = None;
        self
    }

    /// Looks whether anybody observes.
    pub(crate) fn look(&mut self) {
        self.is_observed = self.observed.load(Relaxed);
    }

    /// Whether anybody did when it was looked.
    pub(crate) const fn is_observed(&self) -> bool {
        self.is_observed
    }

    /// Whether a `Log` rule may be told of now.
    pub(crate) fn may_log(&mut self, now: Tick) -> bool {
        let logs = self.logs.as_mut();
        logs.is_none_or(|logs| logs.take(now, LOG_RATE, LOG_RATE))
    }

    pub(crate) fn push(&mut self, record: Record, counters: &Counters) {
        if self.ring.push(record).is_err() {
            counters.records_lost.add(1);
        }
        // Control looks by itself before long; it is woken only when there would soon be no room.
        self.pending |= self.ring.len() * 2 >= self.ring.capacity();
    }

    /// Whether the ring filled up since the last call: then control needs waking.
    pub(crate) const fn take_pending(&mut self) -> bool {
        core::mem::replace(&mut self.pending, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged() -> Record {
        let addr = IpAddr::from([10, 0, 0, 1]);
        Record {
            at: Tick(0),
            verdict: Verdict::Logged(RuleId(1)),
            src: addr,
            dst: addr,
            service: None,
            protocol: 6,
            l4: L4::Other,
            in_port: PortId(1),
            peer: PeerId::NONE,
            from: End::Elsewhere,
            to: End::Host,
            tag: 0,
        }
    }

    #[test]
    fn control_is_woken_before_the_ring_is_full() {
        let counters = Counters::new(1);
        let ring = Arc::new(ArrayQueue::new(4));
        let mut records = Records::new(Arc::clone(&ring), Arc::default());
        records.push(logged(), &counters);
        assert!(!records.take_pending());
        records.push(logged(), &counters);
        assert!(records.take_pending());
        assert!(!records.take_pending(), "once");
        while ring.pop().is_some() {}
        records.push(logged(), &counters);
        assert!(!records.take_pending());
        assert_eq!(counters.records_lost.get(), 0);
    }

    #[test]
    fn who_observes_is_seen_at_the_next_look() {
        let observed = Arc::new(AtomicBool::new(true));
        let mut records = Records::new(Arc::new(ArrayQueue::new(1)), Arc::clone(&observed));
        assert!(!records.is_observed());
        records.look();
        assert!(records.is_observed());
        observed.store(false, Relaxed);
        records.look();
        assert!(!records.is_observed());
    }
}
