//! A direction of a connection as the kernel's programs know it: what it is found by, what is done, and what was counted.

use std::net::{IpAddr, Ipv4Addr};

use encap::eth::MacAddr;
use encap::outer::Rewrite;
use fastpath::batch::Family;

/// What a packet's flow is found by: its ends as it comes in (of what came by a tunnel the inner ones), and where it comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Where it comes in.
    pub from: From,
    /// 6 or 17: TCP or UDP. Others are not offloaded.
    pub protocol: u8,
    /// Source address and port.
    pub src: (IpAddr, u16),
    /// Destination address and port, of the same family.
    pub dst: (IpAddr, u16),
}

/// Where packets of a flow come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum From {
    /// By this device, by its interface index, without a tunnel. Below 2^24.
    Device(u32),
    /// By a tunnel, whatever uplink its packets come by.
    Tunnel,
}

/// What is done with the packets of a flow. Complete: the program asks nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// The interface index of the device to send by: of a pod the host's end of its veth.
    pub out: u32,
    /// How it leaves.
    pub way: Way,
    /// The longest IP packet that may go this way, in bytes, before outer headers.
    pub mtu: u16,
    /// What the frame's source must be, of what comes from a pod.
    pub from_mac: Option<MacAddr>,
    /// The outer source that packets must come with, of what comes by a tunnel.
    pub peer: Option<Ipv4Addr>,
    /// What is put in front of the IP packet. Never of [`encap::outer::Kind::Vxlan6`].
    pub rewrite: Rewrite,
    /// The flow's hash ([`fastpath::batch::Packet::flow_hash`]), of which outer source port and identification come, as pollers make them.
    pub flow_hash: u32,
    /// What source and port become, if they are translated.
    pub source: Option<(IpAddr, u16)>,
    /// What destination and port become, if they are translated.
    pub destination: Option<(IpAddr, u16)>,
}

/// How packets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Into the pod behind the device: at its end of the veth, as received there.
    Pod,
    /// Out of the device, an uplink.
    Uplink,
}

/// What the program counted of a flow since it was inserted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets on the wire: those that a super-frame stands for.
    pub packets: u64,
    /// Their IP packets' bytes (of a super-frame each packet's own headers are counted).
    pub bytes: u64,
    /// Of TCP: what the latest segment showed. `None` while there was none.
    pub seen: Option<Seen>,
    /// Of TCP: the first segment with SYN, FIN or RST. It went to the pollers, and so does all that comes after it. Nobody has looked at
    /// its checksum: what it means is for a poller to say.
    pub closing: Option<Segment>,
}

/// What the latest segment of a direction showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its acknowledgement.
    pub ack: u32,
    /// The sequence number after it.
    pub end: u32,
    /// The largest window so far, as written in headers (not scaled).
    pub window: u16,
}

/// A segment that may change its connection's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its sequence number.
    pub seq: u32,
    /// Its acknowledgement.
    pub ack: u32,
    /// The bytes that it carries.
    pub payload_len: u32,
    /// Its window, not scaled.
    pub window: u16,
    /// The header's byte of flags.
    pub flags: u8,
}

/// The kernel refuses to forget a flow: it may be known still, and its packets be sent by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept;

/// There is no room for another flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Nothing can be read of many flows at once: they are to be asked for one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread;

/// The flows that the kernel's programs know. One thread writes them.
pub trait KernelFlows {
    /// Has packets of this flow treated so from now on. A flow that is known begins anew. `mark` is the number that it is told by in
    /// [`read_next`](Self::read_next).
    ///
    /// # Errors
    /// There is no room, or the kernel refuses; then they come to the pollers, as before.
    fn insert(&mut self, key: &Key, action: &Action, mark: u32) -> Result<(), Full>;

    /// Has packets of this flow come to the pollers again: it is not known afterwards. What was counted; `None` if it was not known, or that
    /// cannot be read.
    ///
    /// # Errors
    /// The kernel refuses. Whoever owns the flow owns it still, and is to try again.
    fn remove(&mut self, key: &Key) -> Result<Option<Counts>, Kept>;

    /// What was counted so far, if it is known.
    fn read(&mut self, key: &Key) -> Option<Counts>;

    /// What was counted so far of a family's next flows, some hundreds at the most, in an order of the kernel's: `each` gets a flow's mark, and its
    /// counts. The first are had with `None`, those after them with the place that was returned. No place: that was the last.
    ///
    /// A flow that comes or goes between the first and the last may be among them or not, and one may be told twice. What is not among them is
    /// asked for by [`read`](Self::read).
    ///
    /// # Errors
    /// The kernel refuses. What was told before holds.
    fn read_next(
        &mut self,
        family: Family,
        place: Option<u32>,
        each: &mut dyn FnMut(u32, Counts),
    ) -> Result<Option<u32>, Unread>;
}
