//! Address translation of packets.

use criterion::{Criterion, Throughput, criterion_group};
use encap::nat::{Tuple4, Tuple6, translate4, translate6};
use encap::{ipv4, ipv6, l4};
use flowtable::snat::{PortRng, Ports};
use std::hint::black_box;

/// Packets that take turns, so that none is in the store buffer still.
const PACKETS: usize = 64;

criterion_group!(benches, masquerade4, masquerade6, ports);

/// Translation alone: the headers are parsed already.
fn masquerade4(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nat/ipv4");
    group.throughput(Throughput::Elements(PACKETS as u64));
    for (name, protocol) in [("tcp", l4::TCP), ("udp", l4::UDP), ("icmp", l4::ICMP)] {
        let mut packet = vec![0; 60];
        packet[..4].copy_from_slice(&[0x45, 0, 0, 60]);
        packet[8..12].copy_from_slice(&[64, protocol, 0, 0]);
        packet[12..20].copy_from_slice(&[10, 65, 0, 2, 203, 0, 113, 9]);
        packet[20..28].copy_from_slice(&[8, 0, 0x12, 0x34, 0, 40, 0x12, 0x34]);
        let checksum = encap::checksum::of(&packet[..20]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        let info = ipv4::parse(&packet).unwrap();
        let mut packets = vec![(packet, info); PACKETS];
        let mut port = 0u16;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for (packet, info) in black_box(&mut packets) {
                    port = port.wrapping_add(1);
                    let to = Tuple4 {
                        src: 0xc0a8_0001,
                        dst: info.dst,
                        ports: (port, 443),
                    };
                    let _ = black_box(translate4(packet, info, to));
                }
            });
        });
    }
}

fn masquerade6(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nat/ipv6");
    group.throughput(Throughput::Elements(PACKETS as u64));
    for (name, protocol) in [("tcp", l4::TCP), ("udp", l4::UDP)] {
        let mut packet = vec![0; 80];
        packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 40, protocol, 64]);
        packet[8..40].copy_from_slice(&[0x20; 32]);
        packet[40..48].copy_from_slice(&[8, 0, 0x12, 0x34, 0, 40, 0x12, 0x34]);
        let info = ipv6::parse(&packet).unwrap();
        let mut packets = vec![(packet, info); PACKETS];
        let mut port = 0u16;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for (packet, info) in black_box(&mut packets) {
                    port = port.wrapping_add(1);
                    let to = Tuple6 {
                        src: 0xfd00 << 112 | 1,
                        dst: info.dst,
                        ports: (port, 443),
                    };
                    let _ = black_box(translate6(packet, info, to));
                }
            });
        });
    }
}

/// What a new connection pays for its port, when the first is free and when the second is.
fn ports(criterion: &mut Criterion) {
    let ports = Ports::new(Ports::DEFAULT_RANGE, [10250..=10250], [4789..=4789]);
    let mut rng = PortRng::new([1, 2]);
    let mut group = criterion.benchmark_group("nat/ports");
    for (name, nth) in [("first", 0), ("second", 1)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(&ports).udp.probes(&mut rng).nth(nth));
        });
    }
}
