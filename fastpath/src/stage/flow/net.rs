//! What differs between IPv4 and IPv6.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::nat::{self, QuoteError, Tuple};
use encap::{flow_hash, ipv4, ipv6, l4};
use flowtable::acl::Address;
use flowtable::conn;
use flowtable::flow::{FlowKey, Key4, Key6};
use flowtable::lpm::NextHopId;
use flowtable::service::{ServiceAddr, Services};

use super::{policy, related};
use crate::batch::{Family, Packet, flag};
use crate::connections::{Connections, Side};
use crate::port::Port;
use crate::tables::Tables;

/// A packet that an ICMP error quotes.
pub(super) struct Quote<N: Net> {
    /// The key of the direction that the error travels with.
    pub(super) key: N::Key,
    /// The sequence number of a TCP segment.
    pub(super) sequence: Option<u32>,
    quoted: N::Quoted,
}

/// An address family.
pub(super) trait Net: Sized {
    /// Its addresses.
    type Addr: Copy + Eq + Default + Address + ServiceAddr;
    /// Its keys.
    type Key: FlowKey<Addr = Self::Addr> + Default;
    /// What an ICMP error quotes.
    type Quoted;
    /// Which it is.
    const FAMILY: Family;
    /// Its ICMP.
    const ICMP: u8;
    /// Length of its header in ordinary packets, in bytes.
    const HEADER_LEN: usize;

    fn ip(addr: Self::Addr) -> IpAddr;
    /// The address, if it is of this family.
    fn addr(ip: IpAddr) -> Option<Self::Addr>;
    fn side(connections: &Connections) -> &Side<Self::Key>;
    fn key(packet: &Packet) -> Self::Key;
    fn make_key(tuple: Tuple<Self::Addr>, protocol: u8) -> Self::Key;
    fn tuple_of(key: &Self::Key) -> Tuple<Self::Addr>;
    fn destination_of(key: &Self::Key) -> Self::Addr;
    fn protocol_of(key: &Self::Key) -> u8;
    fn protocol(packet: &Packet) -> u8;
    /// Where the transport header starts in the IP packet, in bytes.
    fn l4_offset(packet: &Packet) -> usize;
    /// Length of the IP packet without link padding, in bytes.
    fn len(packet: &Packet) -> u32;
    fn is_later_fragment(packet: &Packet) -> bool;
    fn is_fragment(packet: &Packet) -> bool;
    /// Whether what the packet carries is behind more headers than are walked.
    fn is_upper_unknown(packet: &Packet) -> bool;
    fn tuple(packet: &Packet) -> Tuple<Self::Addr>;
    fn set_tuple(packet: &mut Packet, tuple: Tuple<Self::Addr>);
    fn set_source(packet: &mut Packet, addr: Self::Addr);
    fn set_destination(packet: &mut Packet, addr: Self::Addr);
    /// Makes the packet's addresses as known those of its bytes again.
    fn restore_addresses(packet: &mut Packet, l3: &[u8]);
    /// Source and destination in the packet's bytes.
    fn addresses_in(packet: &Packet, l3: &[u8]) -> (Self::Addr, Self::Addr);
    /// Whether the packet's transport checksum is right as it came.
    fn verify(packet: &Packet, l3: &[u8]) -> bool;
    fn route(tables: &Tables, addr: Self::Addr) -> NextHopId;
    /// The hash by which a flow takes one of several legs.
    fn leg_hash(tables: &Tables, tuple: Tuple<Self::Addr>, protocol: u8) -> u32;
    fn nat_address(port: &Port) -> Option<Self::Addr>;
    /// Whether the dataplane translates to this address still.
    fn is_nat_address(tables: &Tables, addr: Self::Addr) -> bool;
    /// The node's own address, which is nobody's but the host's.
    fn node_address(tables: &Tables) -> Option<Self::Addr>;
    /// What pods reach by services.
    fn services(tables: &Tables) -> &Services<Self::Addr>;
    /// Whether natOutgoing applies.
    fn is_masqueraded(tables: &Tables, key: &Self::Key) -> bool;
    fn quote(packet: &Packet, l3: &[u8]) -> Result<Quote<Self>, QuoteError>;
    fn translate_error(
        packet: &Packet,
        l3: &mut [u8],
        quote: &Quote<Self>,
        ends: (Self::Addr, Self::Addr),
        inner: Tuple<Self::Addr>,
    ) -> bool;

    /// The packet's transport header and what follows, without link padding.
    #[inline(always)]
    fn l4_of<'a>(packet: &Packet, l3: &'a [u8]) -> &'a [u8] {
        l3.get(Self::l4_offset(packet)..Self::len(packet) as usize)
            .unwrap_or_default()
    }

    /// What a packet is looked up by. An ICMP query's identifier stands where a client's port would, and its type where the
    /// server's: of two that ping each other each has a connection of its own, whatever their identifiers, and what policy
    /// says about one type is not said about another. A later fragment has both from its first.
    #[inline(always)]
    fn key_in<'a>(packet: &Packet, l3: impl FnOnce() -> &'a [u8]) -> Self::Key {
        if Self::protocol(packet) != Self::ICMP || Self::is_later_fragment(packet) {
            return Self::key(packet);
        }
        let kind = Self::l4_of(packet, l3()).first().copied().unwrap_or(0);
        let tuple = Tuple {
            ports: Self::icmp_ports(packet.ports.0, kind),
            ..Self::tuple(packet)
        };
        Self::make_key(tuple, Self::ICMP)
    }

    /// What stands for ports in the key of an ICMP message of this type.
    fn icmp_ports(id: u16, kind: u8) -> (u16, u16) {
        match (Self::ICMP, kind) {
            (l4::ICMP, 0) => (icmp_service(id, 8), id),
            (l4::ICMP, 14 | 16 | 18) | (l4::ICMPV6, 129) => (icmp_service(id, kind - 1), id),
            _ => (id, icmp_service(id, kind)),
        }
    }

    /// What the packets of a key of the direction that began are for: the port, or of ICMP the type.
    fn service(key: &Self::Key) -> u16 {
        let port = Self::tuple_of(key).ports.1;
        if Self::protocol_of(key) == Self::ICMP {
            port & 0xff
        } else {
            port
        }
    }

    /// The ports of a query, or of any first packet, from a port to a [service](Self::service).
    fn ports_to(protocol: u8, port: u16, service: u16) -> (u16, u16) {
        if protocol == Self::ICMP {
            (port, icmp_service(port, service as u8))
        } else {
            (port, service)
        }
    }

    /// The key of the direction against a packet that an ICMP error quotes. `kind` is its type, if it is ICMP.
    fn key_against(tuple: Tuple<Self::Addr>, protocol: u8, kind: Option<u8>) -> Self::Key {
        let mut tuple = tuple;
        if protocol == Self::ICMP {
            tuple.ports = Self::icmp_ports(tuple.ports.0, kind.unwrap_or(0));
        }
        Self::make_key(tuple.reversed(), protocol)
    }

    /// Whether the packet is an ICMP error, whose ports mean nothing.
    #[inline(always)]
    fn is_icmp_error(packet: &Packet, l3: &[u8]) -> bool {
        Self::protocol(packet) == Self::ICMP
            && !Self::is_later_fragment(packet)
            && Self::l4_of(packet, l3)
                .first()
                .is_some_and(|&kind| l4::is_icmp_error(Self::ICMP, kind))
    }

    /// Makes the packet's addresses and ports as known those of its bytes again.
    #[cold]
    fn restore(packet: &mut Packet, l3: &[u8]) {
        packet.flags &= !flag::TRANSLATE;
        Self::restore_addresses(packet, l3);
        packet.ports = Self::ports_in(packet, l3);
    }

    /// The ports in the packet's bytes; those as known of a later fragment, which has none.
    fn ports_in(packet: &Packet, l3: &[u8]) -> (u16, u16) {
        if Self::is_later_fragment(packet) {
            return packet.ports;
        }
        let l4 = Self::l4_of(packet, l3);
        l4::parse(Self::protocol(packet), l4).map_or((0, 0), l4::Transport::ports)
    }

    /// [`key_in`](Self::key_in) of a packet as it came, though it may be known by a service's backend already.
    fn key_as_it_came(packet: &Packet, l3: &[u8]) -> Self::Key {
        if !packet.has(flag::TRANSLATE) {
            return Self::key_in(packet, || l3);
        }
        let (src, dst) = Self::addresses_in(packet, l3);
        let ports = Self::ports_in(packet, l3);
        Self::make_key(Tuple { src, dst, ports }, Self::protocol(packet))
    }

    /// A TCP segment's facts; `None` for other protocols and for what is no segment.
    #[inline(always)]
    fn segment(packet: &Packet, l3: &[u8]) -> Option<conn::Segment> {
        let l4 = Self::l4_of(packet, l3);
        conn::Segment::read(l4, l4.len())
    }
}

/// What stands for a server's port in the key of an ICMP query with this identifier: its type, below something that the identifier
/// is not. A query is never taken for an answer to another one then, whatever its identifier: if each number were the other one's
/// service, the upper byte of each would be one more than that of the other.
const fn icmp_service(id: u16, kind: u8) -> u16 {
    (id & 0xff00).wrapping_add(0x100) | kind as u16
}

/// A packet that was sent, of a known connection.
pub(in crate::stage) struct Sent<A> {
    /// Its hash ([`Packet::flow_hash`]).
    pub(in crate::stage) hash: u32,
    /// Its ends as it came, if it was for a service.
    pub(in crate::stage) to_service: Option<Tuple<A>>,
}

/// What is known of a packet that was sent with these ends, if it is of a connection, and may be under way if it is of TCP.
/// `upper` is what is there of its transport header, at least 8 bytes.
pub(in crate::stage) fn sent4(
    connections: &Connections,
    tuple: Tuple<u32>,
    protocol: u8,
    upper: &[u8],
) -> Option<Sent<u32>> {
    sent::<V4>(connections, tuple, protocol, upper)
}

/// The same for IPv6.
pub(in crate::stage) fn sent6(
    connections: &Connections,
    tuple: Tuple<u128>,
    protocol: u8,
    upper: &[u8],
) -> Option<Sent<u128>> {
    sent::<V6>(connections, tuple, protocol, upper)
}

fn sent<N: Net>(
    connections: &Connections,
    tuple: Tuple<N::Addr>,
    protocol: u8,
    upper: &[u8],
) -> Option<Sent<N::Addr>> {
    // By the other direction: what was translated is known by what it came with, and answered by what it was sent with.
    let against = N::key_against(tuple, protocol, upper.first().copied());
    let table = &N::side(connections).table;
    let (back, action) = table.lookup(&against)?;
    let flow = table.partner(back)?;
    if protocol == l4::TCP {
        let &[_, _, _, _, sequence @ ..] = upper.first_chunk::<8>()?;
        related::is_under_way(table, flow, back, u32::from_be_bytes(sequence)).then_some(())?;
    }
    if policy::is_denial(&action) {
        return None;
    }
    let key = table.partner_key(back)?;
    let came = N::tuple_of(&key);
    Some(Sent {
        hash: table.flow_hash(&key),
        to_service: (came.dst != tuple.dst).then_some(came),
    })
}

/// IPv4.
pub(super) struct V4;
/// IPv6.
pub(super) struct V6;

impl Net for V4 {
    type Addr = u32;
    type Key = Key4;
    type Quoted = nat::Quoted4;
    const FAMILY: Family = Family::V4;
    const ICMP: u8 = l4::ICMP;
    const HEADER_LEN: usize = ipv4::MIN_HEADER_LEN;

    fn ip(addr: u32) -> IpAddr {
        Ipv4Addr::from_bits(addr).into()
    }

    fn addr(ip: IpAddr) -> Option<u32> {
        match ip {
            IpAddr::V4(ip) => Some(ip.to_bits()),
            IpAddr::V6(_) => None,
        }
    }

    #[inline(always)]
    fn side(connections: &Connections) -> &Side<Key4> {
        &connections.v4
    }

    #[inline(always)]
    fn key(packet: &Packet) -> Key4 {
        Key4 {
            src: packet.ip4.src,
            dst: packet.ip4.dst,
            sport: packet.ports.0,
            dport: packet.ports.1,
            protocol: packet.ip4.protocol,
        }
    }

    #[inline(always)]
    fn make_key(tuple: Tuple<u32>, protocol: u8) -> Key4 {
        Key4 {
            src: tuple.src,
            dst: tuple.dst,
            sport: tuple.ports.0,
            dport: tuple.ports.1,
            protocol,
        }
    }

    #[inline(always)]
    fn protocol(packet: &Packet) -> u8 {
        packet.ip4.protocol
    }

    #[inline(always)]
    fn l4_offset(packet: &Packet) -> usize {
        packet.ip4.header_len().into()
    }

    #[inline(always)]
    fn len(packet: &Packet) -> u32 {
        packet.ip4.total_len.into()
    }

    fn tuple_of(key: &Key4) -> Tuple<u32> {
        Tuple {
            src: key.src,
            dst: key.dst,
            ports: (key.sport, key.dport),
        }
    }

    fn destination_of(key: &Key4) -> u32 {
        key.dst
    }

    fn protocol_of(key: &Key4) -> u8 {
        key.protocol
    }

    #[inline(always)]
    fn is_later_fragment(packet: &Packet) -> bool {
        packet.ip4.is_later_fragment()
    }

    fn is_fragment(packet: &Packet) -> bool {
        packet.ip4.is_fragment()
    }

    fn is_upper_unknown(_: &Packet) -> bool {
        false
    }

    #[inline(always)]
    fn tuple(packet: &Packet) -> Tuple<u32> {
        Tuple {
            src: packet.ip4.src,
            dst: packet.ip4.dst,
            ports: packet.ports,
        }
    }

    #[inline(always)]
    fn set_tuple(packet: &mut Packet, tuple: Tuple<u32>) {
        (packet.ip4.src, packet.ip4.dst) = (tuple.src, tuple.dst);
        packet.ports = tuple.ports;
    }

    #[inline(always)]
    fn set_source(packet: &mut Packet, addr: u32) {
        packet.ip4.src = addr;
    }

    #[inline(always)]
    fn set_destination(packet: &mut Packet, addr: u32) {
        packet.ip4.dst = addr;
    }

    fn restore_addresses(packet: &mut Packet, l3: &[u8]) {
        packet.ip4.read_addresses(l3);
    }

    fn addresses_in(packet: &Packet, l3: &[u8]) -> (u32, u32) {
        let mut ip = packet.ip4;
        ip.read_addresses(l3);
        (ip.src, ip.dst)
    }

    fn verify(packet: &Packet, l3: &[u8]) -> bool {
        let mut ip = packet.ip4;
        ip.read_addresses(l3);
        encap::checksum::verify_v4(ip.src, ip.dst, ip.protocol, Self::l4_of(packet, l3))
    }

    #[inline]
    fn route(tables: &Tables, addr: u32) -> NextHopId {
        tables.fib4.lookup(addr)
    }

    fn leg_hash(tables: &Tables, tuple: Tuple<u32>, protocol: u8) -> u32 {
        flow_hash::v4(
            &tables.hash_key,
            tuple.src,
            tuple.dst,
            protocol,
            tuple.ports,
        )
    }

    #[inline]
    fn nat_address(port: &Port) -> Option<u32> {
        port.nat4
    }

    fn node_address(tables: &Tables) -> Option<u32> {
        tables.tunnels.local4.map(Ipv4Addr::to_bits)
    }

    fn services(tables: &Tables) -> &Services<u32> {
        &tables.services.v4
    }

    fn is_nat_address(tables: &Tables, addr: u32) -> bool {
        tables.nat.addresses4.contains(&addr)
    }

    #[inline]
    fn is_masqueraded(tables: &Tables, key: &Key4) -> bool {
        tables.nat.rules4.masquerades(key.src, key.dst)
    }

    fn quote(packet: &Packet, l3: &[u8]) -> Result<Quote<Self>, QuoteError> {
        let quoted = nat::icmp_error4(l3, &packet.ip4)?;
        let key = Self::key_against(quoted.tuple, quoted.protocol, quoted.icmp_type);
        Ok(Quote {
            key,
            sequence: quoted.tcp_sequence,
            quoted,
        })
    }

    fn translate_error(
        packet: &Packet,
        l3: &mut [u8],
        quote: &Quote<Self>,
        ends: (u32, u32),
        inner: Tuple<u32>,
    ) -> bool {
        nat::translate_error4(l3, &packet.ip4, &quote.quoted, ends, inner).is_ok()
    }
}

impl Net for V6 {
    type Addr = u128;
    type Key = Key6;
    type Quoted = nat::Quoted6;
    const FAMILY: Family = Family::V6;
    const ICMP: u8 = l4::ICMPV6;
    const HEADER_LEN: usize = ipv6::HEADER_LEN;

    fn ip(addr: u128) -> IpAddr {
        Ipv6Addr::from_bits(addr).into()
    }

    fn addr(ip: IpAddr) -> Option<u128> {
        match ip {
            IpAddr::V6(ip) => Some(ip.to_bits()),
            IpAddr::V4(_) => None,
        }
    }

    #[inline(always)]
    fn side(connections: &Connections) -> &Side<Key6> {
        &connections.v6
    }

    #[inline(always)]
    fn key(packet: &Packet) -> Key6 {
        Key6 {
            src: packet.ip6.src,
            dst: packet.ip6.dst,
            sport: packet.ports.0,
            dport: packet.ports.1,
            protocol: packet.ip6.upper.protocol,
        }
    }

    #[inline(always)]
    fn make_key(tuple: Tuple<u128>, protocol: u8) -> Key6 {
        Key6 {
            src: tuple.src,
            dst: tuple.dst,
            sport: tuple.ports.0,
            dport: tuple.ports.1,
            protocol,
        }
    }

    #[inline(always)]
    fn protocol(packet: &Packet) -> u8 {
        packet.ip6.upper.protocol
    }

    #[inline(always)]
    fn l4_offset(packet: &Packet) -> usize {
        packet.ip6.upper.offset.into()
    }

    #[inline(always)]
    fn len(packet: &Packet) -> u32 {
        packet.ip6.total_len() as u32
    }

    fn tuple_of(key: &Key6) -> Tuple<u128> {
        Tuple {
            src: key.src,
            dst: key.dst,
            ports: (key.sport, key.dport),
        }
    }

    fn destination_of(key: &Key6) -> u128 {
        key.dst
    }

    fn protocol_of(key: &Key6) -> u8 {
        key.protocol
    }

    #[inline(always)]
    fn is_later_fragment(packet: &Packet) -> bool {
        packet.ip6.is_later_fragment()
    }

    fn is_fragment(packet: &Packet) -> bool {
        packet.ip6.is_fragment()
    }

    fn is_upper_unknown(packet: &Packet) -> bool {
        packet.ip6.upper.is_unknown()
    }

    #[inline(always)]
    fn tuple(packet: &Packet) -> Tuple<u128> {
        Tuple {
            src: packet.ip6.src,
            dst: packet.ip6.dst,
            ports: packet.ports,
        }
    }

    #[inline(always)]
    fn set_tuple(packet: &mut Packet, tuple: Tuple<u128>) {
        (packet.ip6.src, packet.ip6.dst) = (tuple.src, tuple.dst);
        packet.ports = tuple.ports;
    }

    #[inline(always)]
    fn set_source(packet: &mut Packet, addr: u128) {
        packet.ip6.src = addr;
    }

    #[inline(always)]
    fn set_destination(packet: &mut Packet, addr: u128) {
        packet.ip6.dst = addr;
    }

    fn restore_addresses(packet: &mut Packet, l3: &[u8]) {
        packet.ip6.read_addresses(l3);
    }

    fn addresses_in(packet: &Packet, l3: &[u8]) -> (u128, u128) {
        let mut ip = packet.ip6;
        ip.read_addresses(l3);
        (ip.src, ip.dst)
    }

    fn verify(packet: &Packet, l3: &[u8]) -> bool {
        let mut ip = packet.ip6;
        ip.read_addresses(l3);
        encap::checksum::verify_v6(ip.src, ip.dst, ip.upper.protocol, Self::l4_of(packet, l3))
    }

    #[inline]
    fn route(tables: &Tables, addr: u128) -> NextHopId {
        tables.fib6.lookup(addr)
    }

    fn leg_hash(tables: &Tables, tuple: Tuple<u128>, protocol: u8) -> u32 {
        flow_hash::v6(
            &tables.hash_key,
            tuple.src,
            tuple.dst,
            protocol,
            tuple.ports,
        )
    }

    #[inline]
    fn nat_address(port: &Port) -> Option<u128> {
        port.nat6
    }

    fn node_address(tables: &Tables) -> Option<u128> {
        tables.tunnels.local6.map(Ipv6Addr::to_bits)
    }

    fn services(tables: &Tables) -> &Services<u128> {
        &tables.services.v6
    }

    fn is_nat_address(tables: &Tables, addr: u128) -> bool {
        tables.nat.addresses6.contains(&addr)
    }

    #[inline]
    fn is_masqueraded(tables: &Tables, key: &Key6) -> bool {
        tables.nat.rules6.masquerades(key.src, key.dst)
    }

    fn quote(packet: &Packet, l3: &[u8]) -> Result<Quote<Self>, QuoteError> {
        let quoted = nat::icmp_error6(l3, &packet.ip6)?;
        let key = Self::key_against(quoted.tuple, quoted.protocol, quoted.icmp_type);
        Ok(Quote {
            key,
            sequence: quoted.tcp_sequence,
            quoted,
        })
    }

    fn translate_error(
        packet: &Packet,
        l3: &mut [u8],
        quote: &Quote<Self>,
        ends: (u128, u128),
        inner: Tuple<u128>,
    ) -> bool {
        nat::translate_error6(l3, &packet.ip6, &quote.quoted, ends, inner).is_ok()
    }
}
