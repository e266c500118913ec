//! IP sets under any sequence of changes.

use std::net::IpAddr;

use flowtable::acl::{Member, Members, Net, SetId, SetWriter, Sets};
use flowtable::lpm::Prefix4;

use crate::generate::Random;
use crate::naive::{NaiveSets, port_set_holds, set_holds};

const SETS: u32 = 40;

fn assert_sets(sets: &Sets, naive: &NaiveSets, random: &mut Random) {
    for _ in 0..40 {
        let packet = random.packet();
        for set in (0..=SETS).map(SetId) {
            let expected = set_holds(naive, set, packet.source);
            let found = match packet.source {
                IpAddr::V4(addr) => sets.contains(set, addr.to_bits()),
                IpAddr::V6(addr) => sets.contains(set, addr.to_bits()),
            };
            assert_eq!(found, expected, "{set:?} {}", packet.source);
            for port in [0, 80, 443] {
                let expected = port_set_holds(naive, set, packet.source, 6, port);
                let found = match packet.source {
                    IpAddr::V4(addr) => sets.contains_port(set, addr.to_bits(), 6, port),
                    IpAddr::V6(addr) => sets.contains_port(set, addr.to_bits(), 6, port),
                };
                assert_eq!(found, expected, "{set:?} {} {port}", packet.source);
            }
        }
    }
}

#[test]
fn sets_equal_lists_after_any_changes_and_snapshots_stay() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let (mut writer, mut naive) = (SetWriter::default(), NaiveSets::new());
        let mut snapshots = Vec::new();
        for step in 0..600 {
            let set = SetId(random.below(SETS as usize) as u32);
            let members = naive.entry(set).or_default();
            match random.below(100) {
                0 => {
                    writer.clear(set);
                    members.clear();
                }
                1 => {
                    let new: Vec<_> = (0..random.below(20)).map(|_| random.member()).collect();
                    writer.replace(set, &new).unwrap();
                    *members = new.into_iter().collect();
                }
                2..30 => {
                    let member = random.member();
                    assert_eq!(writer.remove(set, &member), members.remove(&member));
                }
                _ => {
                    let member = random.member();
                    assert_eq!(writer.add(set, &member), Ok(members.insert(member)));
                }
            }
            if step % 200 == 100 {
                snapshots.push((writer.snapshot(), naive.clone()));
            }
        }
        snapshots.push((writer.snapshot(), naive));
        for (sets, naive) in &snapshots {
            assert_sets(sets, naive, &mut random);
        }
        for set in (0..SETS).map(SetId) {
            writer.clear(set);
        }
        assert!(writer.is_empty());
        assert_sets(&writer.snapshot(), &NaiveSets::new(), &mut random);
    }
}

#[test]
fn an_address_in_more_nested_prefixes_than_there_is_room_for_is_in_all_their_sets() {
    let mut writer = SetWriter::default();
    for len in 0..=32_u32 {
        let net = Prefix4::containing(0x0a00_0001, len as u8).unwrap();
        writer.add(SetId(len), &Member::Net(Net::V4(net))).unwrap();
    }
    let sets = writer.snapshot();
    for (addr, longest) in [(0x0a00_0001_u32, 32), (0x0a00_0000, 31), (0x0a80_0001, 8)] {
        let mut members = [Members::NONE];
        sets.members_batch(&[addr], &mut members);
        for len in 0..=32 {
            assert_eq!(
                sets.holds(&members[0], addr, SetId(len)),
                len <= longest,
                "{addr:x}/{len}"
            );
        }
    }
    assert!(!sets.contains(SetId::NONE, 0x0a00_0001_u32));
}

#[test]
fn a_set_takes_memory_by_its_members_and_gives_it_back() {
    let mut writer = SetWriter::default();
    let empty = writer.memory_bytes();
    let host = |at: u32| Member::Net(Net::V4(Prefix4::host(at)));
    let members: Vec<_> = (0..20_000).map(host).collect();
    writer.replace(SetId(1), &members).unwrap();
    let full = writer.memory_bytes();
    assert!((20_000 * 8..20_000 * 40).contains(&full), "{full}");
    writer.replace(SetId(2), &members).unwrap();
    assert!(
        writer.memory_bytes() < full + 4096,
        "addresses are there once"
    );
    writer.clear(SetId(1));
    writer.clear(SetId(2));
    assert!(
        writer.memory_bytes() < empty + 16_384,
        "{}",
        writer.memory_bytes()
    );
}
