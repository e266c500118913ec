//! Connections that the kernel repeats: what pollers say of those that are under way, and what of an entry is needed for it.
//!
//! A poller offers an entry that has taken a few packets ([`Offers`]). One thread of control takes the offers: it asks what is done with the
//! entry's packets ([`Connections::offer`]), tells the kernel, and from then on they do not come to pollers. It tells the entry what the kernel
//! counted ([`Connections::credit`]), and asks when tables change whether the same would be done still ([`Connections::recheck`]).

use core::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use encap::eth::MacAddr;
use flowtable::conn::{self, Unseen};
use flowtable::flow::FlowRef;

use crate::batch::Family;
#[cfg(doc)]
use crate::connections::Connections;
use crate::connections::Origin;
use crate::poller::Notify;
use crate::port::PortId;
use crate::tables::Adjacency;

/// An entry that a poller tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which table it is in.
    pub family: Family,
    /// The entry.
    pub flow: FlowRef,
    /// Why it is told of.
    pub why: Why,
}

/// Why a poller tells of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is under way, and its packets come to the poller.
    UnderWay,
    /// Of TCP, while it is under way: this segment, with SYN, FIN or RST, came and was judged; its checksum is right. If the kernel has the
    /// entry, the tracker's words were not up to that, and it is to be judged again.
    Judged(conn::Segment),
}

/// A poller's end of the ring of candidates. A full ring loses them: what is under way is told of again. What was judged takes the
/// place of the oldest.
#[derive(Debug)]
pub struct Offers {
    ring: Arc<ArrayQueue<Candidate>>,
    /// How whoever takes them is woken.
    call: Notify,
    /// Whether he is to be woken this round.
    pending: Cell<bool>,
}

impl Offers {
    /// Candidates go into `ring`; who takes them is woken by `call`, once a round at most.
    pub fn new(ring: Arc<ArrayQueue<Candidate>>, call: Notify) -> Self {
        Self {
            ring,
            call,
            pending: Cell::new(false),
        }
    }

    /// An entry is under way.
    pub(crate) fn under_way(&self, family: Family, flow: FlowRef) {
        self.push(family, flow, Why::UnderWay);
    }

    /// A segment that may end its connection was judged, and its endpoint takes it.
    #[cold]
    pub(crate) fn judged(&self, family: Family, flow: FlowRef, segment: conn::Segment) {
        self.push(family, flow, Why::Judged(segment));
    }

    fn push(&self, family: Family, flow: FlowRef, why: Why) {
        // Always: who takes them may have found the ring empty a moment ago, and gone to sleep.
        self.pending.set(true);
        let candidate = Candidate { family, flow, why };
        if let (Err(_), Why::Judged(_)) = (self.ring.push(candidate), why) {
            // Nobody would tell of it again.
            let _ = self.ring.force_push(candidate);
        }
    }

    /// Wakes who takes candidates, if it is time.
    pub(crate) fn call(&self) {
        if self.pending.replace(false) {
            (self.call.0)();
        }
    }
}

/// What is done with the packets of a direction that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Established {
    /// Which table its entry is in.
    pub family: Family,
    /// Its entry.
    pub flow: FlowRef,
    /// That of the other direction.
    pub partner: FlowRef,
    /// 6 or 17: TCP or UDP.
    pub protocol: u8,
    /// Source and port, as packets come in: of what came by a tunnel the inner ones.
    pub src: (IpAddr, u16),
    /// Destination and port, of the same family.
    pub dst: (IpAddr, u16),
    /// Where packets come in: a port of a pod or an uplink, or a node whose tunnel has one outer source.
    pub origin: Origin,
    /// The port that they come in by; of what comes by a tunnel the one that the way back leads by, if there is a way back.
    pub in_port: Option<PortId>,
    /// What is in front of the IP packet as it comes in, in bytes.
    pub front: usize,
    /// The source of frames, of what comes from a pod.
    pub from_mac: Option<MacAddr>,
    /// The outer source, of what comes by a tunnel.
    pub peer: Option<Ipv4Addr>,
    /// How packets leave: to a pod, by an uplink, or by a tunnel over IPv4.
    pub adjacency: Adjacency,
    /// Of which outer source port and identification come ([`Packet::flow_hash`](crate::batch::Packet::flow_hash)). Not 0.
    pub flow_hash: u32,
    /// What source and port become, if they are translated.
    pub source: Option<(IpAddr, u16)>,
    /// What destination and port become, if they are translated.
    pub destination: Option<(IpAddr, u16)>,
}

/// Why a direction is not one for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NotOffered {
    /// The connection is gone, or is being changed.
    Gone,
    /// These tables did not decide it, or would not decide it so.
    Stale,
    /// It is neither TCP nor UDP.
    Protocol,
    /// It is a denial.
    Denied,
    /// Of TCP: not both sides have acknowledged, or it is being closed.
    State,
    /// Its packets come from the host, or nobody knows from where.
    Origin,
    /// The MAC address of the pod that it comes from is not known.
    Sender,
    /// The node whose tunnel it comes by has not one address of IPv4 there.
    Peer,
    /// It goes to the host, or the next hop is not known at this moment.
    Way,
    /// It leaves by VXLAN over IPv6.
    Rewrite,
    /// There is policy that remembers no connection.
    Untracked,
}

impl NotOffered {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Gone,
        Self::Stale,
        Self::Protocol,
        Self::Denied,
        Self::State,
        Self::Origin,
        Self::Sender,
        Self::Peer,
        Self::Way,
        Self::Rewrite,
        Self::Untracked,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gone => "connection gone",
            Self::Stale => "decided by other tables",
            Self::Protocol => "neither TCP nor UDP",
            Self::Denied => "denied",
            Self::State => "not established",
            Self::Origin => "comes from the host",
            Self::Sender => "pod's MAC address not known",
            Self::Peer => "node without one address",
            Self::Way => "next hop not known or the host",
            Self::Rewrite => "tunnel over IPv6",
            Self::Untracked => "untracked policy",
        }
    }
}

/// What became of what is done with a direction's packets, now that there are other tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rechecked {
    /// The same is done with them, though the entry says that older tables decided it.
    Same,
    /// The connection is gone, or an endpoint of it.
    Gone,
    /// Something else is, or it is to be decided anew.
    Changed,
}

/// What the kernel passed of a direction since the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Packets.
    pub packets: u64,
    /// Their IP packets' bytes.
    pub bytes: u64,
    /// Of TCP: what the tracker did not see. All of it since it was inserted, or what came of late.
    pub unseen: Unseen,
}
