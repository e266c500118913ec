//! The draw of ports: uniform, within the set, without repetition.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use flowtable::snat::{MAX_PROBES, PortRng, PortSet, Ports};
use proptest::collection::vec;
use proptest::prelude::*;

const VXLAN: u16 = 4789;

fn rng() -> PortRng {
    PortRng::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210])
}

fn node_ports() -> Ports {
    let excluded = [179..=179, 10250..=10250, 30000..=32767];
    let udp = [VXLAN..=VXLAN, 30000..=32767];
    Ports::new(Ports::DEFAULT_RANGE, excluded, udp)
}

/// The chi-square statistic of counts that should be equal, less its expected value, in standard deviations.
fn deviation(counts: &[u32]) -> f64 {
    let expected = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
    let statistic: f64 = counts
        .iter()
        .map(|count| (f64::from(*count) - expected).powi(2) / expected)
        .sum();
    let freedom = (counts.len() - 1) as f64;
    (statistic - freedom) / (2.0 * freedom).sqrt()
}

#[test]
fn no_port_of_udp_is_that_of_vxlan_or_reserved() {
    // Row N6, Calico #12244: 200 k connections, and what is tried when the first choice is taken.
    let (ports, mut rng) = (node_ports(), rng());
    for _ in 0..200_000 {
        for port in ports.udp.probes(&mut rng).take(3) {
            assert!(port >= 1024 && port != VXLAN && !(30000..=32767).contains(&port));
        }
    }
    let udp: BTreeSet<_> = (0..1_200_000)
        .filter_map(|_| ports.udp.probes(&mut rng).next())
        .collect();
    assert_eq!(udp.len(), 65536 - 1024 - 1 - 2768, "every other is reached");
}

#[test]
fn each_probe_is_uniform_over_the_set() {
    let (ports, mut rng) = (node_ports(), rng());
    for (nth, draws) in [(0, 300_000), (1, 300_000), (2, 200_000), (127, 30_000)] {
        let mut by_port = vec![0u32; 1 << 16];
        for _ in 0..draws {
            let port = ports.tcp.probes(&mut rng).nth(nth).unwrap();
            by_port[usize::from(port)] += 1;
        }
        let members: Vec<_> = (0..=u16::MAX)
            .filter(|port| ports.tcp.contains(*port))
            .map(|port| by_port[usize::from(port)])
            .collect();
        // Five standard deviations: the seed is fixed, so this either holds or does not.
        assert!(
            deviation(&members).abs() < 5.0,
            "{nth}: {}",
            deviation(&members)
        );
        let regions: Vec<_> = members
            .chunks(1000)
            .map(|c| c.iter().sum::<u32>())
            .collect();
        let whole = &regions[..members.len() / 1000];
        assert!(deviation(whole).abs() < 5.0, "{nth}: {}", deviation(whole));
    }
}

#[test]
fn one_port_tells_nothing_of_the_next_connections() {
    // Differences of successive first choices are as uniform as the choices.
    let (set, mut rng) = (PortSet::new([0..=u16::MAX], []), rng());
    let mut last = 0;
    let mut counts = vec![0; 256];
    for _ in 0..200_000 {
        let port = set.probes(&mut rng).next().unwrap();
        counts[usize::from(port.wrapping_sub(last) >> 8)] += 1;
        last = port;
    }
    assert!(deviation(&counts).abs() < 5.0, "{}", deviation(&counts));
    let keys = [[1, 0], [2, 0], [0, 1]].map(|key| PortRng::new(key).next_u64());
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
}

#[test]
fn the_first_probe_does_not_tell_the_second() {
    // A prime number of ports, so that every distance between probes will do as it was drawn.
    let (set, mut rng) = (PortSet::new([0..=65520], []), rng());
    let mut counts = vec![0; 252];
    for _ in 0..200_000 {
        let probes: Vec<_> = set.probes(&mut rng).take(2).map(u32::from).collect();
        let distance = (probes[1] + set.len() - probes[0]) % set.len();
        counts[(distance as usize - 1) / 260] += 1;
    }
    assert!(deviation(&counts).abs() < 5.0, "{}", deviation(&counts));
}

#[test]
fn an_empty_set_has_no_port_and_a_set_of_one_has_one() {
    let mut rng = rng();
    let empty = PortSet::new([7..=9], [0..=65535]);
    assert!(empty.is_empty() && empty.probes(&mut rng).next().is_none());
    for port in [0, 1, 4789, u16::MAX] {
        let one = PortSet::new([port..=port], []);
        assert_eq!(one.probes(&mut rng).collect::<Vec<_>>(), [port]);
    }
    let all = PortSet::new([0..=u16::MAX], []);
    assert_eq!(all.len(), 65536);
    assert_eq!(all.probes(&mut rng).len(), MAX_PROBES as usize);
}

#[test]
fn a_protocol_draws_from_its_own_ports() {
    // The configured range is for TCP and UDP.
    let Ports {
        tcp,
        udp,
        others,
        identifiers,
        protocols,
    } = Ports::new(40000..=41000, [40001..=40001], [40002..=40002]);
    let has = |set: &PortSet, members: &[u16]| members.iter().all(|it| set.contains(*it));
    let lacks = |set: &PortSet, others: &[u16]| !others.iter().any(|it| set.contains(*it));
    assert!(has(&tcp, &[40000, 40002]) && lacks(&tcp, &[40001, 39999, 41001]));
    assert!(has(&udp, &[40001]) && lacks(&udp, &[40002]));
    assert!(has(&others, &[1024, 65535]) && lacks(&others, &[1023]));
    assert!(has(&identifiers, &[0, 65535]));
    // Of what has ports, or may be a tunnel's of ours, none is translated by its addresses alone.
    assert!(has(&protocols, &[47, 50, 255]));
    assert!(lacks(&protocols, &[0, 1, 4, 6, 17, 33, 58, 132, 136, 256]));
    let without = Ports::protocols_without([47]);
    assert!(lacks(&without, &[47]) && has(&without, &[50]));
}

fn ranges() -> impl Strategy<Value = Vec<RangeInclusive<u16>>> {
    let port = || prop_oneof![4 => 0..400u16, 1 => any::<u16>(), 1 => 65400..=u16::MAX];
    let range = prop_oneof![
        6 => (port(), 0..40u16).prop_map(|(first, len)| first..=first.saturating_add(len)),
        1 => (port(), port()).prop_map(|(first, last)| first..=last),
    ];
    vec(range, 0..8)
}

proptest! {
    #[test]
    fn a_set_is_its_ranges_without_the_exclusions(ranges in ranges(), excluded in ranges(), key in any::<[u64; 2]>()) {
        let set = PortSet::new(ranges.clone(), excluded.clone());
        let members: BTreeSet<_> = (0..=u16::MAX)
            .filter(|port| ranges.iter().any(|r| r.contains(port)) && !excluded.iter().any(|r| r.contains(port)))
            .collect();
        prop_assert_eq!(set.len() as usize, members.len());
        for port in 0..=u16::MAX {
            prop_assert_eq!(set.contains(port), members.contains(&port));
        }
        let mut rng = PortRng::new(key);
        let probes: Vec<_> = set.probes(&mut rng).collect();
        prop_assert_eq!(probes.len(), members.len().min(MAX_PROBES as usize));
        let distinct: BTreeSet<_> = probes.iter().copied().collect();
        prop_assert_eq!(distinct.len(), probes.len());
        prop_assert!(distinct.is_subset(&members));
    }
}
