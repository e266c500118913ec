use proptest::prelude::*;

use super::*;

fn addr(v6: bool) -> BoxedStrategy<IpAddr> {
    if v6 {
        any::<u128>()
            .prop_map(|bits| Ipv6Addr::from_bits(bits).into())
            .boxed()
    } else {
        any::<u32>()
            .prop_map(|bits| Ipv4Addr::from_bits(bits).into())
            .boxed()
    }
}

fn direction() -> impl Strategy<Value = KeptDirection> {
    let origin = Just(Origin::Unknown);
    (origin, any::<u64>(), any::<u32>()).prop_map(|(origin, word, idle)| KeptDirection {
        origin,
        word,
        idle: SEEN_UNIT * idle,
    })
}

fn kept() -> impl Strategy<Value = Kept> {
    any::<bool>().prop_flat_map(|v6| {
        let to = || proptest::option::of((addr(v6), any::<u16>()));
        let ends = (addr(v6), addr(v6), any::<(u16, u16)>(), to(), to());
        let rest = (any::<u8>(), any::<bool>(), direction(), direction());
        (ends, rest).prop_map(
            |((src, dst, ports, snat, dnat), (protocol, owned_by_reply, original, reply))| Kept {
                protocol,
                src,
                dst,
                ports,
                snat,
                dnat,
                owned_by_reply,
                original,
                reply,
            },
        )
    })
}

fn place() -> impl Strategy<Value = Place> {
    let name = || "[a-z0-9.-]{0,20}";
    let nets = proptest::collection::vec(name(), 0..3);
    prop_oneof![
        Just(Place::Unknown),
        Just(Place::External),
        Just(Place::Host),
        name().prop_map(Place::Uplink),
        name().prop_map(Place::Node),
        (any::<u32>(), name(), name(), name(), nets).prop_map(
            |(ifindex, interface, namespace, name, nets)| Place::Pod {
                ifindex,
                interface,
                namespace,
                name,
                nets,
            }
        ),
    ]
}

fn head() -> impl Strategy<Value = Head> {
    let numbers = (any::<[u8; 16]>(), any::<u64>(), any::<u64>());
    (numbers, "[a-z0-9.-]{1,20}").prop_map(|((boot, netns, stopped), node)| Head {
        boot,
        netns,
        stopped: Duration::from_nanos(stopped),
        node,
    })
}

/// A head, places, and connections with the indexes of theirs.
type Content = (Head, Vec<Place>, Vec<(Kept, [u16; 2])>);

fn content() -> impl Strategy<Value = Content> {
    let places = proptest::collection::vec(place(), 1..6);
    (head(), places).prop_flat_map(|(head, places)| {
        let index = || 0..places.len() as u16;
        let at = (index(), index()).prop_map(|(there, back)| [there, back]);
        let connections = proptest::collection::vec((kept(), at), 0..20);
        (Just(head), Just(places), connections)
    })
}

fn write((head, places, connections): &Content) -> Vec<u8> {
    let mut file = Writer::new(head, places, connections.len());
    for (kept, at) in connections {
        assert!(file.push(kept, *at));
    }
    file.finish()
}

proptest! {
    #[test]
    fn what_is_read_is_what_was_written(content in content()) {
        let saved = Saved::read(write(&content)).unwrap();
        let (head, places, connections) = content;
        prop_assert_eq!(saved.len() as usize, connections.len());
        prop_assert_eq!(saved.connections(&[]).collect::<Vec<_>>(), connections);
        prop_assert_eq!((saved.head, saved.places), (head, places));
    }

    #[test]
    fn what_is_cut_off_or_added_to_is_refused(content in content(), cut in any::<prop::sample::Index>()) {
        let mut bytes = write(&content);
        let shorter = bytes[..cut.index(bytes.len())].to_vec();
        prop_assert!(Saved::read(shorter).is_err());
        bytes.push(0);
        prop_assert!(Saved::read(bytes).is_err());
    }

    #[test]
    fn what_differs_in_a_few_bits_is_refused(content in content(), flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..4)) {
        let good = write(&content);
        let mut bytes = good.clone();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        prop_assume!(bytes != good);
        prop_assert!(Saved::read(bytes).is_err());
    }
}

/// A content that a right checksum does not make right.
#[test]
fn a_right_checksum_is_not_all() {
    let head = Head {
        boot: [1; 16],
        netns: 2,
        stopped: Duration::from_secs(3),
        node: "n".to_owned(),
    };
    let direction = KeptDirection {
        origin: Origin::Unknown,
        word: 0,
        idle: Duration::ZERO,
    };
    let kept = Kept {
        protocol: 6,
        src: Ipv4Addr::LOCALHOST.into(),
        dst: Ipv4Addr::BROADCAST.into(),
        ports: (1, 2),
        snat: None,
        dnat: None,
        owned_by_reply: false,
        original: direction,
        reply: direction,
    };
    let good = write(&(head.clone(), vec![Place::Host], vec![(kept, [0, 0])]));
    let record = good.len() - RECORD_V4;
    for (at, value, why) in [
        (record + 1, 0x80, "a flag that there is not"),
        (record + 1, IS_V6, "longer than it is"),
        (record + 1, IS_TO_SERVICE, "a backend that there is not"),
        (record + 2, 1, "a place that there is not"),
        (record + 10, 1, "a port of no translation"),
        (record - 5, 9, "a kind of place that there is not"),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        Writer::seal(&mut bytes);
        let refused = Saved::read(bytes).unwrap_err();
        assert!(
            matches!(refused, FormatError::Content(_)),
            "{why}: {refused}"
        );
    }
    assert_eq!(Saved::read(b"PK\x03\x04".to_vec()), Err(FormatError::Magic));
    assert_eq!(good[8], 1, "without services, as before there were any");
    let to_service = Kept {
        dnat: Some((Ipv4Addr::LOCALHOST.into(), 80)),
        ..kept
    };
    let mut service = write(&(head.clone(), vec![Place::Host], vec![(to_service, [0, 0])]));
    assert_eq!(service[8], 2);
    assert!(Saved::read(service.clone()).is_ok());
    service[8] = 1;
    Writer::seal(&mut service);
    assert!(matches!(Saved::read(service), Err(FormatError::Content(_))));
    let mut other = good;
    other[8] = 3;
    assert_eq!(Saved::read(other), Err(FormatError::Version(3)));
}
