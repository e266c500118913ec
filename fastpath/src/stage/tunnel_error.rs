//! ICMP errors from the underlay about packets of our tunnels: who is in the tunnel is told, as if there were none.
//! RFC 2003 section 4, RFC 2473 section 8; for VXLAN the same.
//!
//! Believed is only what quotes a packet from us to a known node that carries a packet of a live connection (RFC 5927); the
//! MTU that it names must be one that a path may have.

use encap::icmp4::{self, Icmp4Error};
use encap::icmp6::{self, Icmp6Error};
use encap::nat::{self, Tuple};
use encap::{eth, flow_hash, ipv4, ipv6, l4, vxlan};
use flowtable::Tick;

use crate::batch::{Batch, Family, Fate, Packet, PeerId};
use crate::connections::Connections;
use crate::counters::Counters;
use crate::event::{Event, Events};
use crate::io::PacketIo;
use crate::limiter::IcmpLimiter;
use crate::reason::DropReason;
use crate::stage::flow::{self, Sent};
use crate::stage::icmp;
use crate::tables::{NextHop, Tables, Tunnels, Way};

/// No path of IPv4 is believed to be narrower (RFC 791: every host takes that much).
const LEAST4: u16 = 576;

/// What the error means to who is in the tunnel.
#[derive(Clone, Copy)]
enum Told {
    /// The path is narrower: this is what fits the tunnel's outer packets, in bytes.
    Mtu(u16),
    /// The far end is not reached (RFC 2003 sections 4.1 and 4.3).
    Unreachable,
}

/// Where the packet in a tunnel's packet starts, behind the outer IP header, in bytes.
const fn inner_at(protocol: u8) -> usize {
    match protocol {
        l4::UDP => l4::UDP_HEADER_LEN + vxlan::HEADER_LEN + eth::HEADER_LEN,
        _ => 0,
    }
}

/// Takes the errors about our tunnels out of a batch, and makes errors for who is in them, into `own`.
#[cold]
#[expect(
    clippy::too_many_arguments,
    reason = "the state of the pipeline, borrowed apart"
)]
pub fn run<I: PacketIo>(
    batch: &mut Batch,
    io: &mut I,
    tables: &Tables,
    connections: &Connections,
    limiter: &mut IcmpLimiter,
    now: Tick,
    own: &mut Batch,
    (events, counters): (&mut Events, &Counters),
) {
    for packet in batch.packets() {
        if !packet.is_undecided() || !is_for_us(packet, &tables.tunnels) {
            continue;
        }
        let l3 = flow::l3_of(packet, io);
        let Some(Read {
            peer,
            told,
            source_port,
            inner,
        }) = read(packet, l3, &tables.tunnels)
        else {
            continue;
        };
        // Copied out: the error about it is made in another frame of the arena.
        let mut quote = [0; icmp6::MAX_LEN];
        let len = inner.len().min(quote.len());
        let (Some(to), Some(from)) = (quote.get_mut(..len), inner.get(..len)) else {
            continue;
        };
        to.copy_from_slice(from);
        let v6 = packet.family == Family::V6;
        let Some(about) = live(to, source_port, tables, connections) else {
            packet.drop(DropReason::IcmpUnrelated);
            continue;
        };
        if let Told::Mtu(mtu) = told {
            events.push(Event::PathMtu { peer, v6, mtu });
        }
        tell(to, &about, told, io, tables, limiter, now, own, counters);
        packet.fate = Fate::Punt;
    }
}

/// Whether a packet is an ICMP message for our end of the tunnels.
#[inline]
pub(super) fn is_for_us(packet: &Packet, tunnels: &Tunnels) -> bool {
    match packet.family {
        Family::V4 => {
            packet.ip4.protocol == l4::ICMP && tunnels.local4.map(u32::from) == Some(packet.ip4.dst)
        }
        Family::V6 => {
            packet.ip6.upper.protocol == l4::ICMPV6
                && tunnels.local6.map(u128::from) == Some(packet.ip6.dst)
        }
        Family::Unknown => false,
    }
}

/// What an error says of a tunnel packet.
struct Read<'a> {
    /// The node that it went to.
    peer: PeerId,
    told: Told,
    /// Its UDP source port; none for IPIP.
    source_port: Option<u16>,
    /// What is quoted of the packet in it.
    inner: &'a [u8],
}

fn read<'a>(packet: &Packet, l3: &'a [u8], tunnels: &Tunnels) -> Option<Read<'a>> {
    let (peer, protocol, ports, payload, mtu) = match packet.family {
        Family::V4 => {
            let quoted = nat::icmp_error4(l3, &packet.ip4).ok()?;
            if tunnels.local4.map(u32::from) != Some(quoted.tuple.src) {
                return None;
            }
            let peer = *tunnels.peers4.get(&quoted.tuple.dst)?;
            let mtu = nat::mtu_of_error4(l3, &packet.ip4).map(|mtu| mtu.max(LEAST4));
            let payload = quoted.payload(l3);
            (peer, quoted.protocol, quoted.tuple.ports, payload, mtu)
        }
        Family::V6 => {
            let quoted = nat::icmp_error6(l3, &packet.ip6).ok()?;
            if tunnels.local6.map(u128::from) != Some(quoted.tuple.src) {
                return None;
            }
            let peer = *tunnels.peers6.get(&quoted.tuple.dst)?;
            let mtu = nat::mtu_of_error6(l3, &packet.ip6);
            let mtu = mtu.map(|mtu| mtu.clamp(ipv6::MIN_MTU.into(), u16::MAX.into()) as u16);
            let payload = quoted.payload(l3);
            (peer, quoted.protocol, quoted.tuple.ports, payload, mtu)
        }
        Family::Unknown => return None,
    };
    let is_tunnel = match protocol {
        l4::UDP => ports.1 == tunnels.vxlan_port,
        ipv4::PROTOCOL_IPIP => tunnels.ipip,
        _ => false,
    };
    let inner = payload.get(inner_at(protocol)..).filter(|_| is_tunnel)?;
    Some(Read {
        peer,
        told: mtu.map_or(Told::Unreachable, Told::Mtu),
        source_port: (protocol == l4::UDP).then_some(ports.0),
        inner,
    })
}

/// The packet that was in the tunnel, and its ends as its sender knows them, if it was for a service.
enum About {
    V4(ipv4::Ipv4Info, Option<Tuple<u32>>),
    V6(ipv6::Ipv6Info, Option<Tuple<u128>>),
}

/// What is quoted of the packet in the tunnel, if it is of a live connection of a pod here (and, of TCP, may be under way: IPIP has
/// nothing else that must be guessed), and the tunnel packet had the source port that we gave it: it comes of a secret, so that only who has seen such a packet can quote one.
fn live(
    quote: &[u8],
    source_port: Option<u16>,
    tables: &Tables,
    connections: &Connections,
) -> Option<About> {
    let is_ours = |hash| source_port.is_none_or(|port| port == flow_hash::source_port(hash));
    let key = &tables.hash_key;
    let is_pod = |hop: &NextHop| matches!(hop.origin(), Some((Way::Pod, ..)));
    match quote.first()? >> 4 {
        4 => {
            let mut ip = ipv4::parse_quoted(quote).ok()?;
            let upper = quote.get(usize::from(ip.header_len())..)?;
            let ports = l4::parse_first_fragment(ip.protocol, upper).ok()?.ports();
            let tuple = Tuple {
                src: ip.src,
                dst: ip.dst,
                ports,
            };
            // As `apply` hashes it: by its connection, but for fragments.
            let Sent {
                mut hash,
                to_service,
            } = flow::sent4(connections, tuple, ip.protocol, upper)?;
            if hash == 0 || ip.is_fragment() {
                let ports = if ip.is_fragment() { (0, 0) } else { ports };
                hash = flow_hash::v4(key, ip.src, ip.dst, ip.protocol, ports);
            }
            is_ours(hash).then_some(())?;
            is_pod(tables.next_hop(tables.fib4.lookup(ip.src))).then_some(())?;
            ip.total_len = ip.total_len.min(quote.len() as u16);
            Some(About::V4(ip, to_service))
        }
        6 => {
            let mut ip = ipv6::parse_quoted(quote).ok()?;
            let upper = quote.get(usize::from(ip.upper.offset)..)?;
            let protocol = ip.upper.protocol;
            let ports = l4::parse_first_fragment(protocol, upper).ok()?.ports();
            let tuple = Tuple {
                src: ip.src,
                dst: ip.dst,
                ports,
            };
            let Sent {
                mut hash,
                to_service,
            } = flow::sent6(connections, tuple, protocol, upper)?;
            if hash == 0 || ip.is_fragment() {
                let (protocol, ports) = if ip.is_fragment() {
                    (0, (0, 0))
                } else {
                    (protocol, ports)
                };
                hash = flow_hash::v6(key, ip.src, ip.dst, protocol, ports);
            }
            is_ours(hash).then_some(())?;
            is_pod(tables.next_hop(tables.fib6.lookup(ip.src))).then_some(())?;
            let quoted = (quote.len() - ipv6::HEADER_LEN) as u16;
            ip.payload_len = ip.payload_len.min(quoted);
            Some(About::V6(ip, to_service))
        }
        _ => None,
    }
}

/// Makes the error for the packet's sender, from the gateway that the sender knows.
#[expect(
    clippy::too_many_arguments,
    reason = "the state of the pipeline, borrowed apart"
)]
fn tell<I: PacketIo>(
    quote: &[u8],
    about: &About,
    told: Told,
    io: &mut I,
    tables: &Tables,
    limiter: &mut IcmpLimiter,
    now: Tick,
    own: &mut Batch,
    counters: &Counters,
) {
    let mut message = [0; icmp6::MAX_LEN];
    let built = match about {
        About::V4(ip, to_service) => {
            let port = out_port(tables, tables.fib4.lookup(ip.src));
            let source = port.and_then(|port| port.icmp_source4);
            let error = match told {
                // The sender may fragment it: then we do, as soon as control knows.
                Told::Mtu(_) if !ip.dont_fragment() => None,
                Told::Mtu(mtu) => Some(Icmp4Error::FragmentationNeeded {
                    mtu: less_overhead(tables, tables.fib4.lookup(ip.dst), mtu),
                }),
                Told::Unreachable => Some(Icmp4Error::HostUnreachable),
            };
            let built = source.zip(error).and_then(|(source, error)| {
                icmp4::may_answer(quote, ip)
                    .then(|| icmp4::error(&mut message, error, source, ip.id, quote, ip))?
            });
            built.filter(|&len| as_sent4(message.get_mut(..len), *to_service).is_some())
        }
        About::V6(ip, to_service) => {
            let port = out_port(tables, tables.fib6.lookup(ip.src));
            let source = port.and_then(|port| port.icmp_source6);
            let error = match told {
                Told::Mtu(mtu) => Icmp6Error::PacketTooBig {
                    mtu: less_overhead(tables, tables.fib6.lookup(ip.dst), mtu)
                        .max(ipv6::MIN_MTU)
                        .into(),
                },
                Told::Unreachable => Icmp6Error::AddressUnreachable,
            };
            let built = source.and_then(|source| {
                icmp6::may_answer(error, quote, ip)
                    .then(|| icmp6::error(&mut message, error, source, quote, ip))?
            });
            built.filter(|&len| as_sent6(message.get_mut(..len), *to_service).is_some())
        }
    };
    if let Some(message) = built.and_then(|len| message.get(..len)) {
        icmp::originate(message, io, tables, limiter, now, own, counters);
    }
}

/// Has an error quote the packet with the ends that it came with, if it was for a service.
fn as_sent4(message: Option<&mut [u8]>, to_service: Option<Tuple<u32>>) -> Option<()> {
    let message = message?;
    let Some(came) = to_service else {
        return Some(());
    };
    let ip = ipv4::parse(message).ok()?;
    let quoted = nat::icmp_error4(message, &ip).ok()?;
    nat::translate_error4(message, &ip, &quoted, (ip.src, ip.dst), came).ok()
}

/// The same for IPv6.
fn as_sent6(message: Option<&mut [u8]>, to_service: Option<Tuple<u128>>) -> Option<()> {
    let message = message?;
    let Some(came) = to_service else {
        return Some(());
    };
    let ip = ipv6::parse(message).ok()?;
    let quoted = nat::icmp_error6(message, &ip).ok()?;
    nat::translate_error6(message, &ip, &quoted, (ip.src, ip.dst), came).ok()
}

fn out_port(tables: &Tables, hop: flowtable::lpm::NextHopId) -> Option<&crate::port::Port> {
    let (_, _, port) = tables.next_hop(hop).origin()?;
    tables.port(port)
}

/// What fits into the tunnel when `mtu` bytes of outer packet get through.
fn less_overhead(tables: &Tables, hop: flowtable::lpm::NextHopId, mtu: u16) -> u16 {
    let hop = match tables.next_hop(hop) {
        // One tunnel, whichever leg.
        NextHop::Group(group) => tables.next_hop(group.first),
        hop => hop,
    };
    match hop {
        NextHop::Send(adjacency) => adjacency
            .mtu
            .min(mtu.saturating_sub(adjacency.rewrite.mtu_overhead())),
        NextHop::Resolve(_) | NextHop::Drop(_) | NextHop::Group(_) => mtu,
    }
}
