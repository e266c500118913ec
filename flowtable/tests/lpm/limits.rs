//! Limits, refusals and batch lengths.

use flowtable::lpm::{LpmError, NextHopId, Prefix4, Prefix6, Rib4, Rib6};

fn hop(id: u16) -> NextHopId {
    NextHopId::new(id).unwrap()
}

#[test]
fn next_hops_have_fifteen_bits() {
    assert_eq!(NextHopId::new(0), Some(NextHopId::NONE));
    assert_eq!(NextHopId::new(0x7fff), Some(NextHopId::MAX));
    assert_eq!(NextHopId::new(0x8000), None);
}

#[test]
fn a_route_without_a_next_hop_is_refused() {
    assert_eq!(
        Rib4::new().insert(Prefix4::DEFAULT, NextHopId::NONE),
        Err(LpmError::NoNextHop)
    );
    assert_eq!(
        Rib6::new().insert(Prefix6::DEFAULT, NextHopId::NONE),
        Err(LpmError::NoNextHop)
    );
}

#[test]
fn a_table_without_free_groups_refuses_and_stays_as_it_is() {
    let mut rib = Rib4::new();
    rib.insert(Prefix4::DEFAULT, hop(1)).unwrap();
    let host = |slot: u32| Prefix4::host(0x0a00_0001 + (slot << 8));
    for slot in 0..0x8000 {
        rib.insert(host(slot), hop(2)).unwrap();
    }
    assert_eq!(
        rib.insert(host(0x8000), hop(2)),
        Err(LpmError::TooManyGroups)
    );
    assert_eq!(rib.len(), 0x8001);
    assert_eq!(rib.get(host(0x8000)), None);
    assert_eq!(rib.lpm().lookup(host(0x8000).addr()), hop(1));

    // A /24 that has a group takes more, and a freed group is used again.
    rib.insert(Prefix4::host(0x0a00_0002), hop(3)).unwrap();
    rib.remove(host(7)).unwrap();
    rib.insert(host(0x18000), hop(4)).unwrap();
    assert_eq!(rib.lpm().lookup(host(0x18000).addr()), hop(4));
    assert_eq!(rib.lpm().lookup(host(0x18000).addr() + 1), hop(1));
    assert_eq!(rib.lpm().lookup(host(7).addr()), hop(1));

    // An error in the middle of a list is an error of the whole.
    let routes: Vec<_> = (0..=0x8000).map(|slot| (host(slot), hop(1))).collect();
    assert_eq!(
        Rib4::from_routes(&routes).err(),
        Some(LpmError::TooManyGroups)
    );
}

#[test]
fn a_batch_of_any_length_is_looked_up_and_the_rest_left_alone() {
    let mut rib4 = Rib4::new();
    let mut rib6 = Rib6::new();
    rib4.insert(Prefix4::DEFAULT, hop(1)).unwrap();
    rib6.insert(Prefix6::DEFAULT, hop(1)).unwrap();
    for len in [0, 1, 63, 64, 65, 128, 130, 200] {
        let mut out = vec![hop(9); 150];
        rib4.lpm().lookup_batch(&vec![7; len], &mut out);
        let filled = len.min(out.len());
        assert!(
            out[..filled].iter().all(|&found| found == hop(1))
                && out[filled..].iter().all(|&left| left == hop(9))
        );

        let mut out = vec![hop(9); 150];
        rib6.lpm().lookup_batch(&vec![7; len], &mut out);
        assert!(
            out[..filled].iter().all(|&found| found == hop(1))
                && out[filled..].iter().all(|&left| left == hop(9))
        );
    }
}
