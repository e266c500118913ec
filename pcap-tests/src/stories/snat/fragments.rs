//! Fragments of masqueraded connections.

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "the names of the cluster")
)]
use super::*;
use crate::build::{self, MF, UDP, counted, ip4, ip6, udp};

/// A UDP datagram of 2,000 bytes in two fragments.
fn halves(ip: &build::Ip4, ports: (u16, u16), ttl: u8) -> [Vec<u8>; 2] {
    let whole = ip.sealed(UDP, udp(ports.0, ports.1, &counted(2000)), 6);
    let (first, second) = whole[20..].split_at(1200);
    let ip = ip.clone().ttl(ttl);
    [
        ip.clone().fragment(MF).packet(UDP, first),
        ip.fragment(1200 / 8).packet(UDP, second),
    ]
}

/// The same over IPv6.
fn halves6(src: &str, dst: &str, hop_limit: u8, ports: (u16, u16)) -> [Vec<u8>; 2] {
    const FRAGMENT: u8 = 44;
    let ip = ip6(src, dst).hop_limit(hop_limit);
    let whole = ip.sealed(UDP, udp(ports.0, ports.1, &counted(2000)), 6);
    let (first, second) = whole[40..].split_at(1200);
    let one = |word: u16, data: &[u8]| {
        let header = [&[UDP, 0][..], &word.to_be_bytes(), &[0, 0, 0x12, 0x34]].concat();
        ip.packet(FRAGMENT, &[&header[..], data].concat())
    };
    [one(1, first), one(1200, second)]
}

pub(in crate::stories) fn fragments() -> Story {
    let out = |id| {
        let before = halves(&ip4(A4, SERVER4).id(id), (40_100, 9000), 64);
        (
            before,
            halves(&ip4(NODE1_4, SERVER4).id(id), (PORT, 9000), 63),
        )
    };
    let back = |id| {
        let before = halves(&ip4(SERVER4, NODE1_4).id(id), (9000, PORT), 60);
        (before, halves(&ip4(SERVER4, A4).id(id), (9000, 40_100), 59))
    };
    let (in_order, in_order_out) = out(1);
    let (swapped, swapped_out) = out(2);
    let (answer, answer_in) = back(3);
    let (late, late_in) = back(4);
    let out6 = halves6(A6, SERVER6, 64, (40_100, 9000));
    let out6_out = halves6(NODE1_6, SERVER6, 63, (PORT, 9000));
    let late6 = halves6(SERVER6, NODE1_6, 60, (9000, PORT));
    let late6_in = halves6(SERVER6, A6, 59, (9000, 40_100));
    Story {
        name: "snat-fragments",
        input: vec![
            (A, 0, from_a(&in_order[0])),
            (A, 1, from_a(&in_order[1])),
            // The later one overtook the first: it waits.
            (A, 2, from_a(&swapped[1])),
            (A, 3, from_a(&swapped[0])),
            (ETH0, 4, from_router(&answer[0])),
            (ETH0, 5, from_router(&answer[1])),
            (ETH0, 6, from_router(&late[1])),
            (ETH0, 7, from_router(&late[0])),
            (A, 8, from_a(&out6[1])),
            (A, 9, from_a(&out6[0])),
            (ETH0, 10, from_router(&late6[1])),
            (ETH0, 11, from_router(&late6[0])),
            // One whose first never comes.
            (
                A,
                12,
                from_a(&halves(&ip4(A4, SERVER4).id(5), (40_100, 9000), 64)[1]),
            ),
            (
                A,
                60_000,
                from_a(&ip4(A4, B4).udp(40_100, 9000, b"a minute later")),
            ),
        ],
        output: vec![
            (ETH0, to_router(&in_order_out[0])),
            (ETH0, to_router(&in_order_out[1])),
            (ETH0, to_router(&swapped_out[0])),
            (ETH0, to_router(&swapped_out[1])),
            (A, to_a(&answer_in[0])),
            (A, to_a(&answer_in[1])),
            (A, to_a(&late_in[0])),
            (A, to_a(&late_in[1])),
            (ETH0, to_router(&out6_out[0])),
            (ETH0, to_router(&out6_out[1])),
            (A, to_a(&late6_in[0])),
            (A, to_a(&late6_in[1])),
            (
                B,
                ethernet(
                    POD_B,
                    GATEWAY,
                    &ip4(A4, B4).ttl(63).udp(40_100, 9000, b"a minute later"),
                ),
            ),
        ],
        fates: vec![
            ETH0,
            ETH0,
            ETH0,
            ETH0,
            A,
            A,
            A,
            A,
            ETH0,
            ETH0,
            A,
            A,
            "fragment-no-first",
            B,
        ],
    }
}
