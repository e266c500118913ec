use proptest::prelude::*;

use super::*;

fn backends(count: usize) -> Vec<(u32, u16)> {
    (0..count as u32).map(|n| (0x0af4_0100 + n, 8080)).collect()
}

fn shares(frontend: &Frontend<u32>) -> HashMap<(u32, u16), usize> {
    let mut shares = HashMap::new();
    for hash in 0..frontend.table.len() as u32 {
        *shares
            .entry(frontend.choose(1, hash).expect("a backend"))
            .or_insert(0) += 1;
    }
    shares
}

#[test]
fn all_backends_have_the_same_share() {
    for count in [1, 2, 3, 7, 100, 2000] {
        let frontend = Frontend::new(backends(count), false);
        let shares = shares(&frontend);
        assert_eq!(shares.len(), count);
        let (least, most) = (shares.values().min(), shares.values().max());
        assert!(most.expect("some") - least.expect("some") <= 1, "{count}");
    }
    let all = Frontend::new(backends(MAX_BACKENDS + 1), false);
    assert_eq!(all.backends().len(), MAX_BACKENDS);
    assert_eq!(shares(&all).len(), MAX_BACKENDS);
}

#[test]
fn without_backends_none_is_chosen() {
    let none = Frontend::<u32>::new(Vec::new(), true);
    assert_eq!(none.choose(1, 2), None);
}

/// Where the table keeps its size.
#[test]
fn a_backend_that_leaves_moves_few_of_the_others_connections() {
    for count in [3, 10, 100] {
        let all = backends(count);
        let before = Frontend::new(all.clone(), false);
        let after = Frontend::new(all[1..].to_vec(), false);
        let mut moved = 0;
        let hashes = (0..100_000_u32).map(|n| n.wrapping_mul(0x9e37_79b9));
        for hash in hashes {
            let (old, new) = (before.choose(1, hash), after.choose(1, hash));
            moved += usize::from(old != new && old != Some(all[0]));
        }
        println!("of {count} backends one leaves: {moved} of 100,000 move to another");
        // Of random ones nearly all would.
        assert!(moved < 5_000, "{count}: {moved}");
    }
}

#[test]
fn a_client_with_affinity_has_one_backend_whatever_its_ports() {
    let sticky = Frontend::new(backends(5), true);
    let mut seen = HashSet::new();
    for client in 0..1000_u32 {
        let own = sticky.choose(client, 0);
        assert!((1..50).all(|hash| sticky.choose(client, hash) == own));
        seen.insert(own);
    }
    assert_eq!(seen.len(), 5, "clients share the backends");
    let free = Frontend::new(backends(5), false);
    assert!((1..50).any(|hash| free.choose(7, hash) != free.choose(7, 0)));
}

/// What an affine client gets must not change from version to version: nodes of two versions agree.
#[test]
fn the_choice_is_the_same_everywhere() {
    let sticky = Frontend::new(backends(3), true);
    let chosen: Vec<_> = (0..8)
        .map(|client| sticky.choose(0x0af4_0200 + client, 0))
        .map(|it| it.map(|(addr, _)| addr & 0xff))
        .collect();
    assert_eq!(chosen, EXPECTED.map(Some));
}

const EXPECTED: [u32; 8] = [1, 2, 0, 0, 1, 1, 2, 2];

proptest! {
    #[test]
    fn an_address_and_port_are_what_a_list_says(
        entries in prop::collection::vec(((0..4_u32, prop::sample::select(vec![6_u8, 17]), 0..4_u16), 0..3_usize), 0..20),
        own in prop::collection::vec(0..5_u32, 0..3),
        ranges in prop::collection::vec((0..5_u32, 0..5_u32), 0..2),
        asked in prop::collection::vec((0..5_u32, prop::sample::select(vec![6_u8, 17]), 0..5_u16), 50),
    ) {
        let frontends: Vec<_> = entries
            .iter()
            .map(|&(key, count)| (key, Arc::new(Frontend::new(backends(count), false))))
            .collect();
        let services = Services::new(frontends.iter().cloned(), own.iter().copied());
        let services = services.alone_in(ranges.iter().map(|&(first, last)| first..=last));
        for key in asked {
            let of_key = frontends.iter().rev().find(|(it, _)| *it == key);
            let expected = match of_key {
                Some((_, frontend)) => Service::Port(&**frontend),
                None if own.contains(&key.0) => Service::NoPort,
                None if ranges.iter().any(|&(first, last)| first <= key.0 && key.0 <= last) => Service::Stray,
                None => Service::None,
            };
            prop_assert_eq!(services.at(key.0, key.1, key.2), expected);
        }
    }

    #[test]
    fn the_order_of_backends_means_little(mut all in prop::collection::hash_set(any::<(u128, u16)>(), 2..20)) {
        let all: Vec<_> = all.drain().collect();
        let reversed: Vec<_> = all.iter().rev().copied().collect();
        let (one, other) = (Frontend::new(all, false), Frontend::new(reversed, false));
        let same = (0..4093_u32).filter(|&hash| one.choose(0, hash) == other.choose(0, hash));
        prop_assert!(same.count() > 2046);
    }
}
