//! The file of connections that a stop leaves.

use std::time::Duration;

use control::keep::format::{Head, Place, Saved, Writer};
use fastpath::connections::{Kept, KeptDirection, Origin};
use flowtable::flow::SEEN_UNIT;

/// What is read is what was written: as a file; and, since a fuzzer does not find checksums, as what a right one is put on.
pub(super) fn file(data: &[u8]) {
    look_at(data.to_vec());
    let mut sealed = data.to_vec();
    Writer::seal(&mut sealed);
    look_at(sealed);
}

fn look_at(data: Vec<u8>) {
    let Ok(saved) = Saved::read(data) else {
        return;
    };
    let mut again = Writer::new(&saved.head, &saved.places, saved.len() as usize);
    for (kept, places) in saved.connections(&[]) {
        assert!(again.push(&kept, places), "no more than may be written");
    }
    assert_eq!(again.len(), saved.len());
    assert_eq!(again.finish(), saved.bytes());
}

/// One with a connection of each family and every kind of place, and an empty one.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let head = Head {
        boot: *b"0123456789abcdef",
        netns: 1,
        stopped: Duration::from_secs(2),
        node: "node1".to_owned(),
    };
    let places = [
        Place::Unknown,
        Place::External,
        Place::Host,
        Place::Uplink("eth0".to_owned()),
        Place::Node("node2".to_owned()),
        Place::Pod {
            ifindex: 7,
            interface: "cali1".to_owned(),
            namespace: "ns".to_owned(),
            name: "pod".to_owned(),
            nets: vec!["10.0.0.1/32".to_owned()],
        },
    ];
    let direction = KeptDirection {
        origin: Origin::Unknown,
        word: 0x1234_5678_9abc_def0,
        idle: SEEN_UNIT * 9,
    };
    let address = |text: &str| text.parse().expect("an address");
    let mut file = Writer::new(&head, &places, 2);
    for (src, dst, snat, dnat) in [
        (
            "10.0.0.1",
            "192.0.2.1",
            Some((address("198.51.100.1"), 5000)),
            None,
        ),
        (
            "fd00::1",
            "2001:db8::1",
            None,
            Some((address("fd00::2"), 8080)),
        ),
    ] {
        let kept = Kept {
            protocol: 6,
            src: address(src),
            dst: address(dst),
            ports: (40_000, 80),
            snat,
            dnat,
            owned_by_reply: snat.is_none(),
            original: direction,
            reply: direction,
        };
        assert!(file.push(&kept, [5, 3]));
    }
    vec![file.finish(), Writer::new(&head, &[], 0).finish()]
}
