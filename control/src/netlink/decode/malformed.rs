//! Messages that are made up, cut or changed. Their lengths are right more often than not: else the decoder would end before it
//! has seen anything.

use std::cell::Cell;

use netlink_packet_route::RouteNetlinkMessage;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use super::tests::{a_link, a_neighbour, a_route, an_address, bytes};
use super::*;
use crate::netlink::mirror::dumps;
use crate::netlink::socket::Requests;

fn config() -> Config {
    Config {
        failure_persistence: None,
        ..Config::with_cases(2000)
    }
}

/// A type that no message gives a meaning to.
const UNKNOWN: u16 = 0x3f00;

fn event(kind: u16, flags: u16, payload: &[u8]) -> Option<Event> {
    decode(&Message {
        kind,
        flags,
        sequence: 0,
        payload,
    })
}

/// Length of the fixed header of a kind of message.
const fn header_len(kind: u16) -> usize {
    match kind {
        RTM_NEWLINK | RTM_DELLINK => 16,
        RTM_NEWROUTE | RTM_DELROUTE | RTM_NEWNEIGH | RTM_DELNEIGH => 12,
        _ => 8,
    }
}

/// A record that begins with its length in 16 bits, padded.
fn record(rest: &[u8]) -> Vec<u8> {
    let mut bytes = (rest.len() as u16 + 2).to_ne_bytes().to_vec();
    bytes.extend(rest);
    bytes.resize(aligned(bytes.len()), 0);
    bytes
}

fn attribute((kind, value): (u16, Vec<u8>)) -> Vec<u8> {
    record(&[&kind.to_ne_bytes()[..], &value].concat())
}

/// What an attribute holds: numbers and addresses of all lengths, text, more attributes, legs of a route.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let plain = prop_oneof![
        vec(any::<u8>(), 0..20),
        vec(any::<u8>(), 1),
        vec(any::<u8>(), 4),
        vec(any::<u8>(), 6),
        vec(any::<u8>(), 16),
        vec(b'a'..=b'z', 1..15),
    ];
    plain.prop_recursive(2, 12, 4, |inner| {
        let attributes = vec((0..32_u16, inner).prop_map(attribute), 0..4);
        let attributes = attributes.prop_map(|all| all.concat());
        let leg = (any::<[u8; 6]>(), attributes.clone());
        let leg = leg.prop_map(|(fixed, more)| record(&[&fixed[..], &more].concat()));
        prop_oneof![attributes, vec(leg, 0..4).prop_map(|legs| legs.concat())]
    })
}

/// A fixed header as the kernel would fill it, most of the time.
fn header(kind: u16) -> impl Strategy<Value = Vec<u8>> {
    let family = match kind {
        RTM_NEWLINK | RTM_DELLINK => vec![0, 0, 0, 7],
        _ => vec![AF_INET, AF_INET, AF_INET6, 7],
    };
    let mostly_as = |usual: u8| prop_oneof![8 => Just(usual), 1 => any::<u8>()];
    let numbers = (select(family), 0..=32_u8, any::<[u8; 16]>());
    let fields = (mostly_as(0), mostly_as(0), mostly_as(254), mostly_as(1));
    (numbers, fields).prop_map(
        move |((family, length, noise), (source, class, table, is))| {
            let mut header = noise[..header_len(kind)].to_vec();
            header[..2].copy_from_slice(&[family, length]);
            if matches!(kind, RTM_NEWROUTE | RTM_DELROUTE) {
                header[2..5].copy_from_slice(&[source, class, table]);
                header[7..12].copy_from_slice(&[is, 0, 0, 0, 0]);
            }
            if matches!(kind, RTM_NEWNEIGH | RTM_DELNEIGH) {
                header[10] = source;
            }
            header
        },
    )
}

/// A kind, its header, and its attributes.
type Made = (u16, Vec<u8>, Vec<Vec<u8>>);

fn made() -> impl Strategy<Value = Made> {
    let kinds = [16_u16, 17, 20, 21, 24, 25, 28, 29, 104, 105];
    select(kinds.to_vec()).prop_flat_map(|kind| {
        let kinds = prop_oneof![4 => 1..16_u16, 1 => 16..60_u16, 1 => 0x8000..0x8020_u16];
        let attributes = vec((kinds, value()).prop_map(attribute), 0..10);
        // What a route, an address, a neighbour and a next hop are known by is of type 1 in all of them.
        let name = prop_oneof![Just(4), Just(4), Just(16), 0..20_usize];
        let name = name.prop_flat_map(|len| vec(any::<u8>(), len));
        let name = name.prop_map(|value| attribute((1, value)));
        let attributes = (name, attributes).prop_map(|(name, mut all)| {
            all.insert(all.len() / 2, name);
            all
        });
        (Just(kind), header(kind), attributes)
    })
}

fn whole((_, header, attributes): &Made) -> Vec<u8> {
    [&header[..], &attributes.concat()].concat()
}

/// What the kernel says of this machine, and messages like those that it sends, with their kinds.
fn real() -> Vec<(u16, Vec<u8>)> {
    let written = [
        RouteNetlinkMessage::NewLink(a_link()),
        RouteNetlinkMessage::NewAddress(an_address()),
        RouteNetlinkMessage::NewRoute(a_route()),
        RouteNetlinkMessage::NewNeighbour(a_neighbour()),
    ];
    let written = written.iter().map(|it| (it.message_type(), bytes(it)));
    let mut all: Vec<_> = written.collect();
    let mut requests = Requests::open().expect("a socket");
    for (what, request) in dumps() {
        // Nexthop objects may be unknown to the kernel.
        let _ = requests.dump(request, what, |message| {
            all.push((message.kind, message.payload.to_vec()));
        });
    }
    for kind in [RTM_NEWLINK, RTM_NEWADDR] {
        let count = all.iter().filter(|(other, _)| *other == kind).count();
        assert!(count > 1, "every machine has a loopback");
    }
    all
}

/// Where the attributes of a message end, its header first.
fn ends(kind: u16, payload: &[u8]) -> Vec<usize> {
    let mut ends = vec![header_len(kind)];
    let mut at = header_len(kind);
    while let Some(len) = u16_at(payload, at) {
        ends.push(at + usize::from(len));
        at += aligned(usize::from(len));
    }
    ends
}

#[test]
fn a_message_that_is_cut_says_what_its_whole_attributes_say() {
    for (kind, payload) in real() {
        let ends = ends(kind, &payload);
        for len in 0..payload.len() {
            let said = event(kind, 0, &payload[..len]);
            if let Some(end) = ends.iter().rev().find(|end| **end <= len) {
                let expected = event(kind, 0, &payload[..*end]);
                assert_eq!(said, expected, "{len} bytes of {payload:?}");
            }
        }
    }
}

#[test]
fn what_is_made_up_is_read_without_what_is_unknown_in_it() {
    let (cases, read) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(config());
    let strategy = (made(), value(), any::<prop::sample::Index>(), any::<u16>());
    let outcome = runner.run(&strategy, |(mut message, more, at, flags)| {
        let said = event(message.0, flags, &whole(&message));
        cases.set(cases.get() + 1);
        read.set(read.get() + u32::from(said.is_some()));
        let at = at.index(message.2.len() + 1);
        message.2.insert(at, attribute((UNKNOWN, more)));
        prop_assert_eq!(event(message.0, flags, &whole(&message)), said);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(
        read.get() > cases.get() / 3,
        "{read:?} of {cases:?} are understood"
    );
}

#[test]
fn real_messages_that_are_changed_are_read_or_passed_over() {
    let real = real();
    let (cases, read) = (Cell::new(0), Cell::new(0));
    let change = (any::<prop::sample::Index>(), any::<u8>());
    let strategy = (select(real), vec(change, 1..6), any::<u16>());
    let outcome =
        TestRunner::new(config()).run(&strategy, |((kind, mut payload), changes, flags)| {
            for (at, byte) in changes {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            cases.set(cases.get() + 1);
            read.set(read.get() + u32::from(event(kind, flags, &payload).is_some()));
            Ok(())
        });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(
        read.get() > cases.get() / 3,
        "{read:?} of {cases:?} are understood"
    );
}
