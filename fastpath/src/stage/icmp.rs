//! ICMP errors about packets that could not be forwarded. RFC 792, 1812 section 4.3, 4443.

use encap::icmp4::{self, Icmp4Error};
use encap::icmp6::{self, Icmp6Error};
use encap::{eth, flow_hash, ipv4, ipv6};
use flowtable::Tick;

use crate::batch::{Batch, Family, Fate, Packet, flag};
use crate::counters::Counters;
use crate::io::PacketIo;
use crate::limiter::IcmpLimiter;
use crate::port::PortId;
use crate::reason::DropReason;
use crate::stage::decap::came_by_tunnel;
use crate::tables::{NextHop, Tables};

/// What an error tells.
#[derive(Clone, Copy)]
enum Report {
    TimeExceeded,
    NoRoute,
    Unreachable,
    Prohibited,
    PortUnreachable,
    TooBig { mtu: u16 },
}

/// Makes the ICMP errors that a batch's dropped packets call for, into `own`. What they are about stays dropped.
pub fn run<I: PacketIo>(
    batch: &mut Batch,
    io: &mut I,
    tables: &Tables,
    limiter: &mut IcmpLimiter,
    now: Tick,
    own: &mut Batch,
    counters: &Counters,
) {
    for packet in batch.packets() {
        let Fate::Drop(reason) = packet.fate else {
            continue;
        };
        if packet.has(flag::ORIGINATED) {
            continue;
        }
        if let Some(report) = report_of(reason, packet, tables) {
            send(packet, report, io, tables, limiter, now, own, counters);
        }
    }
}

/// What is to be told about a packet that was dropped for this reason, if anything.
fn report_of(reason: DropReason, packet: &Packet, tables: &Tables) -> Option<Report> {
    Some(match reason {
        DropReason::TtlExpired => Report::TimeExceeded,
        DropReason::NoRoute => Report::NoRoute,
        DropReason::Unreachable | DropReason::NeighbourUnresolved => Report::Unreachable,
        DropReason::Prohibited | DropReason::EndpointToHostRejected => Report::Prohibited,
        // As kube-proxy's REJECT: a client of TCP is refused at once.
        DropReason::ServiceNoBackend | DropReason::ServiceNoPort => Report::PortUnreachable,
        DropReason::ServiceLoop if tables.services.refuses_strays => Report::PortUnreachable,
        DropReason::MtuExceeded => match tables.next_hop(packet.next_hop) {
            NextHop::Send(adjacency) => Report::TooBig { mtu: adjacency.mtu },
            NextHop::Resolve(_) | NextHop::Drop(_) | NextHop::Group(_) => return None,
        },
        _ => return None,
    })
}

#[expect(
    clippy::too_many_arguments,
    reason = "the state of the pipeline, borrowed apart"
)]
fn send<I: PacketIo>(
    about: &Packet,
    report: Report,
    io: &mut I,
    tables: &Tables,
    limiter: &mut IcmpLimiter,
    now: Tick,
    own: &mut Batch,
    counters: &Counters,
) {
    // The quote is copied out and in again: two frames of one arena can not be borrowed at once.
    let mut message = [0; icmp6::MAX_LEN];
    let Some(len) = build(about, report, io, tables, &mut message) else {
        return;
    };
    if let Some(message) = message.get(..len) {
        originate(message, io, tables, limiter, now, own, counters);
    }
}

/// Puts an ICMP error of ours on its way, if the limit for where it goes allows it.
pub(super) fn originate<I: PacketIo>(
    message: &[u8],
    io: &mut I,
    tables: &Tables,
    limiter: &mut IcmpLimiter,
    now: Tick,
    own: &mut Batch,
    counters: &Counters,
) {
    let key = &tables.hash_key;
    let (ip4, ip6) = (ipv4::parse(message), ipv6::parse(message));
    let hash = match (&ip4, &ip6) {
        (Ok(ip), _) => flow_hash::v4(key, ip.dst, 0, 0, (0, 0)),
        (_, Ok(ip)) => flow_hash::v6(key, ip.dst, 0, 0, (0, 0)),
        _ => return,
    };
    if !limiter.allows(hash, now) {
        counters.icmp_limited.add(1);
        return;
    }
    if own.is_full() {
        return;
    }
    let Some(mut frame) = io.alloc() else { return };
    frame.len = message.len() as u16;
    let room = frame.of(io.chunk(&frame));
    if room.len() != message.len() {
        return io.free(frame);
    }
    room.copy_from_slice(message);
    // Nobody's port: it came in by none.
    match own.push(frame, PortId(u16::MAX)) {
        Ok(packet) => {
            packet.flags = flag::ORIGINATED;
            if let Ok(ip) = ip4 {
                packet.ip4 = ip;
                packet.family = Family::V4;
            } else if let Ok(ip) = ip6 {
                packet.ip6 = ip;
                packet.family = Family::V6;
            }
        }
        Err(frame) => io.free(frame),
    }
}

/// Builds the error's IP packet; its length. `None` when none may be sent.
fn build<I: PacketIo>(
    about: &Packet,
    report: Report,
    io: &mut I,
    tables: &Tables,
    room: &mut [u8; icmp6::MAX_LEN],
) -> Option<usize> {
    let l3 = about
        .frame
        .of(io.chunk(&about.frame))
        .get(usize::from(about.l3)..)?;
    let port = tables.port(about.in_port)?;
    let tunnels = &tables.tunnels;
    match about.family {
        Family::V4 => {
            // Into a tunnel only the tunnel's own address is believed at the other end.
            let tunnel = tunnels
                .icmp_source4
                .filter(|_| came_by_tunnel(about))
                .map(u32::from);
            let source = tunnel.or(port.icmp_source4)?;
            let error = match report {
                Report::TimeExceeded => Icmp4Error::TimeExceeded,
                Report::NoRoute => Icmp4Error::NetUnreachable,
                Report::Unreachable => Icmp4Error::HostUnreachable,
                Report::Prohibited => Icmp4Error::Prohibited,
                Report::PortUnreachable => Icmp4Error::PortUnreachable,
                Report::TooBig { mtu } => Icmp4Error::FragmentationNeeded { mtu },
            };
            if !icmp4::may_answer(l3, &about.ip4) {
                return None;
            }
            // Shorter than any MTU and never fragmented on its way: the identification says nothing (RFC 6864).
            icmp4::error(room, error, source, about.ip4.id, l3, &about.ip4)
        }
        Family::V6 => {
            let tunnel = tunnels
                .icmp_source6
                .filter(|_| came_by_tunnel(about))
                .map(u128::from);
            let source = tunnel.or(port.icmp_source6)?;
            let error = match report {
                Report::TimeExceeded => Icmp6Error::TimeExceeded,
                Report::NoRoute => Icmp6Error::NoRoute,
                Report::Unreachable => Icmp6Error::AddressUnreachable,
                Report::Prohibited => Icmp6Error::Prohibited,
                Report::PortUnreachable => Icmp6Error::PortUnreachable,
                // A sender believes no less (RFC 8201 section 4), and a tunnel's entry says no less (RFC 2473 section 7.1).
                Report::TooBig { mtu } => Icmp6Error::PacketTooBig {
                    mtu: mtu.max(ipv6::MIN_MTU).into(),
                },
            };
            if !icmp6::may_answer(error, l3, &about.ip6) {
                return None;
            }
            icmp6::error(room, error, source, l3, &about.ip6)
        }
        Family::Unknown => None,
    }
}

/// The shortest chunk that holds an error behind its headroom.
const _: () = assert!(icmp6::MAX_LEN + eth::HEADER_LEN + crate::io::HEADROOM as usize <= 2048);
