//! Many connections through the file and back, and how long that takes: of a million by `KEPT_CONNECTIONS=1048576`, in a release build.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use control::keep::file;
use control::keep::format::{Head, MOST, Place, Writer};
use fastpath::connections::{Connections, Kept, KeptDirection, Origin, Sizes};
use fastpath::tables::Tables;
use flowtable::Tick;
use flowtable::flow::Capacity;

/// Four entries a connection.
fn empty(connections: u32) -> Connections {
    let sizes = Sizes {
        v4: Capacity::new((4 * connections as usize).next_power_of_two()).unwrap(),
        v6: Capacity::MIN,
        ports: 2,
        share_percent: 100,
    };
    Connections::new(&sizes, [1, 2, 3, 4])
}

/// An answered datagram.
fn kept(number: u32) -> Kept {
    let direction = KeptDirection {
        origin: Origin::Unknown,
        word: 8 << 32,
        idle: Duration::ZERO,
    };
    Kept {
        protocol: 17,
        src: Ipv4Addr::from_bits(0x0a00_0000 | number >> 4).into(),
        dst: IpAddr::from([192, 0, 2, 1]),
        ports: (number as u16, 53),
        snat: None,
        dnat: None,
        owned_by_reply: false,
        original: direction,
        reply: direction,
    }
}

#[test]
fn many_connections_are_all_there_again() {
    let number = std::env::var("KEPT_CONNECTIONS").map_or(20_000, |text| text.parse().unwrap());
    let (tables, now) = (Tables::default(), Tick(0));
    let connections = empty(number);
    // The lines of a table fill unevenly: a few are refused.
    for number in 0..MOST.min(number) {
        let _ = connections.take_over(&kept(number), &tables, now);
    }
    let name = format!("caracal-kept-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let head = Head::now("node1").unwrap();

    let begun = Instant::now();
    let mut writer = Writer::new(&head, &[Place::Unknown], connections.v4.len() as usize);
    connections.keep(0..connections.lines(), &tables, now, |kept| {
        assert!(writer.push(kept, [0, 0]));
    });
    let count = writer.len();
    let bytes = writer.finish();
    let made = begun.elapsed();
    file::write(&path, &bytes).unwrap();
    let written = begun.elapsed();
    assert_eq!(count, connections.v4.len());

    let next = empty(number);
    let begun = Instant::now();
    let saved = file::take(&path, "node1").unwrap().unwrap();
    let read = begun.elapsed();
    let origins = [Some(Origin::Unknown)];
    let taken = saved
        .connections(&origins)
        .filter(|(kept, _)| next.take_over(kept, &tables, now).is_ok())
        .count();
    let inserted = begun.elapsed();
    eprintln!(
        "{count} connections, {} MiB: made {made:?}, written {:?}; read and checked {read:?}, {taken} taken over {:?}",
        bytes.len() >> 20,
        written.saturating_sub(made),
        inserted.saturating_sub(read)
    );
    assert_eq!(taken as u32, count);
}
