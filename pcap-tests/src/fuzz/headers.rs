//! The parsers of headers, each against what must hold of any result, and IPv4 and IPv6 against `etherparse`.

use encap::nat::{self, Tuple};
use encap::{arp, checksum, eth, ipv4, ipv6, l4, ndp, vxlan};
use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};

/// Ethernet, and ARP behind it.
pub(super) fn ethernet(data: &[u8]) {
    if let Ok(header) = eth::parse(data) {
        assert!(usize::from(header.header_len) <= data.len());
        assert!(matches!(header.header_len, 14 | 18 | 22));
    }
    if let Ok(message) = arp::parse(data) {
        assert!(data.len() >= 28, "{message:?}");
    }
    let _ = vxlan::parse(data);
}

/// IPv4 and what is above.
pub(super) fn ipv4(data: &[u8]) {
    let Ok(ip) = ipv4::parse(data) else { return };
    let header = Ipv4HeaderSlice::from_slice(data).expect("etherparse takes what we take");
    assert_eq!(ip.src.to_be_bytes(), header.source());
    assert_eq!(ip.dst.to_be_bytes(), header.destination());
    assert_eq!((ip.ttl, ip.protocol), (header.ttl(), header.protocol().0));
    assert_eq!(usize::from(ip.header_len()), header.slice().len());
    assert_eq!(ip.total_len, header.total_len());
    assert!(usize::from(ip.total_len) <= data.len());
    let segment = &data[usize::from(ip.header_len())..usize::from(ip.total_len)];
    upper(ip.protocol, segment);
}

/// IPv6 with its extension headers, neighbour discovery, and what is above.
pub(super) fn ipv6(data: &[u8]) {
    let Ok(ip) = ipv6::parse(data) else { return };
    let header = Ipv6HeaderSlice::from_slice(data).expect("etherparse takes what we take");
    assert_eq!(ip.src.to_be_bytes(), header.source());
    assert_eq!(ip.dst.to_be_bytes(), header.destination());
    assert_eq!(ip.hop_limit, header.hop_limit());
    assert!(ip.total_len() <= data.len());
    let offset = usize::from(ip.upper.offset);
    assert!(
        (ipv6::HEADER_LEN..=ip.total_len()).contains(&offset),
        "{ip:?}"
    );
    let _ = ndp::parse(data, &ip);
    upper(ip.upper.protocol, &data[offset..ip.total_len()]);
}

/// The quick look at ports must see what the careful one sees.
fn upper(protocol: u8, segment: &[u8]) {
    let careful = l4::parse(protocol, segment);
    if let Some(quick) = l4::ordinary_ports(protocol, segment) {
        assert_eq!(careful.map(l4::Transport::ports), Ok(quick));
    }
    let _ = l4::parse_first_fragment(protocol, segment);
    if let Some(len) = l4::tcp_header_len(segment) {
        assert!((20..=60).contains(&len));
    }
    if let Some(datagram) = l4::udp_datagram(segment) {
        assert!(datagram.len() <= segment.len() && datagram.len() >= l4::UDP_HEADER_LEN);
    }
}

/// ICMP errors over IPv4: what they quote, and that translating them leaves whole headers with right checksums.
pub(super) fn icmp_errors4(data: &[u8]) {
    let Ok(ip) = ipv4::parse(data) else { return };
    let _ = nat::mtu_of_error4(data, &ip);
    let Ok(quoted) = nat::icmp_error4(data, &ip) else {
        return;
    };
    let inner = Tuple {
        src: 0x0a41_0002,
        dst: quoted.tuple.dst,
        ports: quoted.tuple.ports,
    };
    let mut changed = data.to_vec();
    if nat::translate_error4(&mut changed, &ip, &quoted, (ip.src, inner.src), inner).is_err() {
        assert_eq!(changed, data, "what can not be translated stays as it was");
        return;
    }
    let after = ipv4::parse(&changed).expect("still a packet");
    assert_eq!((after.src, after.dst), (ip.src, inner.src));
    let again = nat::icmp_error4(&changed, &after).expect("still an error about a packet");
    assert_eq!((again.tuple.src, again.tuple.dst), (inner.src, inner.dst));
    let message = |packet: &[u8], ip: &ipv4::Ipv4Info| {
        packet[usize::from(ip.header_len())..usize::from(ip.total_len)].to_vec()
    };
    if checksum::of(&message(data, &ip)) == 0 {
        assert_eq!(
            checksum::of(&message(&changed, &after)),
            0,
            "a right checksum stays right"
        );
    }
}

/// The same over IPv6.
pub(super) fn icmp_errors6(data: &[u8]) {
    let Ok(ip) = ipv6::parse(data) else { return };
    let _ = nat::mtu_of_error6(data, &ip);
    let Ok(quoted) = nat::icmp_error6(data, &ip) else {
        return;
    };
    let inner = Tuple {
        src: 0xfd00_0041 << 96 | 2,
        dst: quoted.tuple.dst,
        ports: quoted.tuple.ports,
    };
    let mut changed = data.to_vec();
    if nat::translate_error6(&mut changed, &ip, &quoted, (ip.src, inner.src), inner).is_err() {
        assert_eq!(changed, data, "what can not be translated stays as it was");
        return;
    }
    let after = ipv6::parse(&changed).expect("still a packet");
    assert_eq!((after.src, after.dst), (ip.src, inner.src));
    let again = nat::icmp_error6(&changed, &after).expect("still an error about a packet");
    assert_eq!((again.tuple.src, again.tuple.dst), (inner.src, inner.dst));
    let is_right = |packet: &[u8], ip: &ipv6::Ipv6Info| {
        let message = &packet[usize::from(ip.upper.offset)..ip.total_len()];
        checksum::verify_v6(ip.src, ip.dst, ip.upper.protocol, message)
    };
    if is_right(data, &ip) {
        assert!(is_right(&changed, &after), "a right checksum stays right");
    }
}
