//! What stands for the kernel in tests: flows in memory, and a small program that does with packets what the kernel's programs are to do.
//!
//! It is told nothing but [`Key`] and [`Action`], and shares no decision with the pipeline: it reads headers, and writes what the action says.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use encap::ecn::Ecn;
use encap::eth::{self, EtherType, MacAddr};
use encap::ipv4::{self, Ipv4Info};
use encap::ipv6::{self, Ipv6Info};
use encap::nat::{self, Tuple};
use encap::outer::{self, Inner, Kind};
use encap::vxlan::{self, Vni};
use encap::{checksum, l4};
use fastpath::batch::Family;
use flowtable::conn;
use hashbrown::HashMap;

use super::flow::{Action, Counts, From, Full, Kept, KernelFlows, Key, Seen, Segment, Unread, Way};

const ETHERNET: usize = eth::HEADER_LEN;

/// How many flows are told of at once.
const AT_ONCE: usize = 3;

/// A node's ends of tunnels, as the program on an uplink knows them.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The only outer destination that is taken.
    pub local: Ipv4Addr,
    /// UDP port, network and MAC address of VXLAN, if it is taken.
    pub vxlan: Option<(u16, Vni, MacAddr)>,
    /// Whether IPIP is taken.
    pub ipip: bool,
}

/// The kernel's flows. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct Fake(Arc<Mutex<State>>);

struct Hook(Box<dyn FnOnce() + Send>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// A flow, the number that it is told by, and where it is in the kernel's order.
#[derive(Debug)]
struct Flow {
    action: Action,
    counts: Counts,
    mark: u32,
    bucket: u32,
}

/// How well flows are told of together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Together {
    /// All of them.
    #[default]
    All,
    /// Every other one is missed.
    Half,
    /// It is refused.
    Refused,
}

#[derive(Debug, Default)]
struct State {
    flows: HashMap<Key, Flow>,
    most: Option<usize>,
    keeps: bool,
    together: Together,
    read_alone: u64,
    meanwhile: Option<Hook>,
    executed: u64,
}

impl KernelFlows for Fake {
    fn insert(&mut self, key: &Key, action: &Action, mark: u32) -> Result<(), Full> {
        let mut state = self.state();
        if let Some(Hook(happens)) = state.meanwhile.take() {
            happens();
        }
        if state.most.is_some_and(|most| state.flows.len() >= most) {
            return Err(Full);
        }
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let flow = Flow {
            action: *action,
            counts: Counts::default(),
            mark,
            bucket: (hasher.finish() >> 33) as u32,
        };
        state.flows.insert(*key, flow);
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<Option<Counts>, Kept> {
        let mut state = self.state();
        if state.keeps {
            return Err(Kept);
        }
        let removed = state.flows.remove(key);
        Ok(removed.map(|flow| flow.counts))
    }

    fn read(&mut self, key: &Key) -> Option<Counts> {
        let mut state = self.state();
        state.read_alone += 1;
        state.flows.get(key).map(|flow| flow.counts)
    }

    fn read_next(
        &mut self,
        family: Family,
        place: Option<u32>,
        each: &mut dyn FnMut(u32, Counts),
    ) -> Result<Option<u32>, Unread> {
        let state = self.state();
        if state.together == Together::Refused {
            return Err(Unread);
        }
        let from = place.unwrap_or(0);
        let is_next = |(key, flow): &(&Key, &Flow)| family_of(key) == family && flow.bucket >= from;
        let mut next: Vec<_> = state.flows.iter().filter(is_next).collect();
        next.sort_unstable_by_key(|(_, flow)| flow.bucket);
        let end = next.get(AT_ONCE).map(|(_, flow)| flow.bucket);
        let told = next
            .iter()
            .take_while(|(_, flow)| end.is_none_or(|end| flow.bucket < end));
        for (_, flow) in told {
            if state.together == Together::All || flow.bucket % 2 == 0 {
                each(flow.mark, flow.counts);
            }
        }
        Ok(end)
    }
}

const fn family_of(key: &Key) -> Family {
    match key.src.0 {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

impl Fake {
    /// One that takes so many flows and no more.
    #[must_use]
    pub fn with_room_for(most: usize) -> Self {
        let fake = Self::default();
        fake.state().most = Some(most);
        fake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has.
    pub fn flows(&self) -> Vec<(Key, Action, Counts)> {
        let state = self.state();
        let flows = state.flows.iter();
        flows
            .map(|(key, flow)| (*key, flow.action, flow.counts))
            .collect()
    }

    /// Tells of its flows together so from now on.
    pub fn tell_together(&self, together: Together) {
        self.state().together = together;
    }

    /// How many times it was asked for one flow.
    pub fn read_alone(&self) -> u64 {
        self.state().read_alone
    }

    /// Packets that it sent itself.
    pub fn executed(&self) -> u64 {
        self.state().executed
    }

    /// Refuses to forget anything, or not any more.
    pub fn keep(&self, keeps: bool) {
        self.state().keeps = keeps;
    }

    /// Has something happen while the next flow is inserted.
    pub fn meanwhile(&self, happens: impl FnOnce() + Send + 'static) {
        self.state().meanwhile = Some(Hook(Box::new(happens)));
    }

    /// Forgets all, as when the programs are loaded anew.
    pub fn lose_all(&self) {
        self.state().flows.clear();
    }

    /// Forgets a flow.
    pub fn lose(&self, key: &Key) {
        self.state().flows.remove(key);
    }

    /// Counts as if packets of a flow had passed, the last of which showed this.
    pub fn carry(&self, key: &Key, packets: u64, bytes: u64, seen: Option<Seen>) {
        if let Some(Flow { counts, .. }) = self.state().flows.get_mut(key) {
            counts.packets += packets;
            counts.bytes += bytes;
            counts.seen = seen.or(counts.seen);
        }
    }

    /// Treats a frame that comes in by a device. The device that it is sent by, and the frame as it is then, at a pod as it arrives there;
    /// `None`: it goes to the pollers. `ends` are the node's, on an uplink.
    pub fn receive(
        &self,
        device: u32,
        ends: Option<&Ends>,
        frame: &[u8],
    ) -> Option<(u32, Vec<u8>)> {
        let (front, mut l3) = frame.split_at_checked(ETHERNET)?;
        let (_, src, ethertype) = eth::fields(front.first_chunk()?);
        let mut from = From::Device(device);
        let mut outer = None;
        let mut family = ethertype;
        if let Some(ends) = ends
            && ethertype == EtherType::IPV4
            && let Some((source, inner_family, inner)) = open(ends, l3)
        {
            (from, outer, family, l3) = (From::Tunnel, Some(source), inner_family, inner);
        }
        let packet = Packet::read(family, l3)?;
        let key = Key {
            from,
            protocol: packet.protocol,
            src: packet.src,
            dst: packet.dst,
        };
        let mut state = self.state();
        let Flow { action, counts, .. } = state.flows.get_mut(&key)?;
        let is_right = action.from_mac.is_none_or(|mac| mac.0 == *src)
            && action.peer == outer
            && packet.ttl > 1
            && packet.len <= usize::from(action.mtu);
        if !is_right || counts.closing.is_some() {
            return None;
        }
        if let Some(segment) = packet.segment {
            if !segment.flags.is_plain_ack() {
                let may_end = conn::Flags::SYN.0 | conn::Flags::FIN.0 | conn::Flags::RST.0;
                if segment.flags.0 & may_end != 0 {
                    counts.closing = Some(Segment {
                        seq: segment.seq,
                        ack: segment.ack,
                        payload_len: segment.payload_len,
                        window: segment.window,
                        flags: segment.flags.0,
                    });
                }
                return None;
            }
            let window = counts.seen.map_or(0, |seen| seen.window);
            counts.seen = Some(Seen {
                ack: segment.ack,
                end: segment.end(),
                window: window.max(segment.window),
            });
        }
        counts.packets += 1;
        counts.bytes += packet.len as u64;
        let sent = execute(action, &packet, l3.get(..packet.len)?)?;
        let out = action.out;
        state.executed += 1;
        Some((out, sent))
    }

    /// Whether a device is one that frames of a flow leave by as into a pod.
    pub fn is_pod(&self, device: u32) -> bool {
        let state = self.state();
        let mut all = state.flows.values();
        all.any(|Flow { action, .. }| action.out == device && action.way == Way::Pod)
    }
}

/// What a tunnel's packet has in it, if it is one of ours without anything unusual: outer source, and the inner packet.
fn open<'a>(ends: &Ends, l3: &'a [u8]) -> Option<(Ipv4Addr, EtherType, &'a [u8])> {
    let ip = ipv4::parse(l3).ok()?;
    if ip.dst != ends.local.to_bits() || ip.has_options() || ip.is_fragment() {
        return None;
    }
    let payload = l3.get(20..ip.total_len.into())?;
    let (family, inner) = match (ip.protocol, ends.vxlan) {
        (l4::UDP, Some((port, vni, mac))) => {
            let (udp, rest) = payload.split_at_checked(8)?;
            let (header, rest) = rest.split_at_checked(vxlan::HEADER_LEN)?;
            let (ethernet, inner) = rest.split_at_checked(ETHERNET)?;
            let (dst, _, family) = eth::fields(ethernet.first_chunk()?);
            let word = |at: usize| udp.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
            let is_ours = word(2)? == port
                && usize::from(word(4)?) == payload.len()
                && word(6)? == 0
                && vxlan::parse(header) == Ok(vni)
                && *dst == mac.0;
            is_ours.then_some((family, inner))?
        }
        (ipv4::PROTOCOL_IPIP, _) if ends.ipip => (EtherType::IPV4, payload),
        _ => return None,
    };
    let inner_tos = match family {
        EtherType::IPV6 => (inner.first()? & 0x0f) << 4 | inner.get(1)? >> 4,
        _ => *inner.get(1)?,
    };
    // What changes the inner packet is for the pollers.
    let (inner_ecn, outer_ecn) = (Ecn::of(inner_tos), Ecn::of(ip.tos));
    let is_kept = encap::ecn::decapsulate(inner_ecn, outer_ecn) == Ok(inner_ecn);
    is_kept.then_some((Ipv4Addr::from_bits(ip.src), family, inner))
}

/// A packet that nearly all packets are like.
struct Packet {
    family: outer::Family,
    protocol: u8,
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
    ttl: u8,
    tos: u8,
    /// Of the IP packet, in bytes.
    len: usize,
    id: u16,
    dont_fragment: bool,
    segment: Option<conn::Segment>,
    ip4: Option<Ipv4Info>,
    ip6: Option<Ipv6Info>,
}

impl Packet {
    fn read(family: EtherType, l3: &[u8]) -> Option<Self> {
        let (mut packet, header) = match family {
            EtherType::IPV4 => {
                let ip = ipv4::parse(l3).ok()?;
                let is_plain = !ip.has_options() && !ip.is_fragment();
                let packet = Self {
                    family: outer::Family::V4,
                    protocol: ip.protocol,
                    src: (Ipv4Addr::from_bits(ip.src).into(), 0),
                    dst: (Ipv4Addr::from_bits(ip.dst).into(), 0),
                    ttl: ip.ttl,
                    tos: ip.tos,
                    len: ip.total_len.into(),
                    id: ip.id,
                    dont_fragment: ip.dont_fragment(),
                    segment: None,
                    ip4: Some(ip),
                    ip6: None,
                };
                (is_plain.then_some(packet)?, 20)
            }
            EtherType::IPV6 => {
                let ip = ipv6::parse(l3).ok()?;
                let is_plain =
                    usize::from(ip.upper.offset) == ipv6::HEADER_LEN && !ip.is_fragment();
                let packet = Self {
                    family: outer::Family::V6,
                    protocol: ip.upper.protocol,
                    src: (std::net::Ipv6Addr::from_bits(ip.src).into(), 0),
                    dst: (std::net::Ipv6Addr::from_bits(ip.dst).into(), 0),
                    ttl: ip.hop_limit,
                    tos: ip.traffic_class,
                    len: ip.total_len(),
                    id: 0,
                    dont_fragment: true,
                    segment: None,
                    ip4: None,
                    ip6: Some(ip),
                };
                (is_plain.then_some(packet)?, ipv6::HEADER_LEN)
            }
            _ => return None,
        };
        let upper = l3.get(header..packet.len)?;
        let ports = l4::ordinary_ports(packet.protocol, upper)?;
        if packet.protocol == l4::TCP {
            packet.segment = Some(conn::Segment::read(upper, upper.len())?);
        }
        (packet.src.1, packet.dst.1) = ports;
        Some(packet)
    }
}

fn execute(action: &Action, packet: &Packet, l3: &[u8]) -> Option<Vec<u8>> {
    let len = action.rewrite.len();
    let mut frame = vec![0; len];
    frame.extend(l3);
    let ip = frame.get_mut(len..)?;
    let (src, dst) = (
        action.source.unwrap_or(packet.src),
        action.destination.unwrap_or(packet.dst),
    );
    let is_translated = action.source.is_some() || action.destination.is_some();
    let ports = (src.1, dst.1);
    // What a pod's stack left to the device.
    if action.from_mac.is_some() {
        match (&packet.ip4, &packet.ip6) {
            (Some(info), _) => drop(checksum::complete_partial_v4(ip, info)),
            (_, Some(info)) => drop(checksum::complete_partial_v6(ip, info)),
            _ => {}
        }
    }
    match (src.0, dst.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) if is_translated => {
            let (src, dst) = (src.to_bits(), dst.to_bits());
            let to = Tuple { src, dst, ports };
            nat::forward_ordinary4(ip, packet.protocol, to).then_some(())?;
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) if is_translated => {
            let (src, dst) = (src.to_bits(), dst.to_bits());
            let to = Tuple { src, dst, ports };
            nat::forward_ordinary6(ip, packet.protocol, to).then_some(())?;
        }
        (IpAddr::V4(_), _) => drop(ipv4::decrement_ttl(ip)?),
        (IpAddr::V6(_), _) => drop(ipv6::decrement_hop_limit(ip)?),
    }
    let is_shifted = action.rewrite.kind() != Kind::Ipip || !packet.dont_fragment;
    let flow_hash = if is_shifted { action.flow_hash } else { 0 };
    let inner = Inner {
        len: packet.len as u16,
        family: packet.family,
        ecn: Ecn::of(packet.tos),
        dont_fragment: packet.dont_fragment,
        flow_hash,
        id: packet.id.wrapping_add((flow_hash >> 16) as u16),
    };
    action.rewrite.write(&mut frame, &inner).ok()?;
    Some(frame)
}
