use proptest::prelude::*;

use super::*;

fn leg(number: u8, weight: u16) -> Leg {
    Leg {
        ifindex: 2 + u32::from(number % 3),
        neighbour: Some(if number.is_multiple_of(2) {
            IpAddr::from([192, 0, 2, number])
        } else {
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)])
        }),
        weight,
    }
}

/// Whose each bucket is.
fn owners(legs: &[Leg]) -> Vec<Leg> {
    let spread = spread(legs);
    let owner = |&number: &u8| legs[usize::from(number)];
    spread.legs().iter().map(owner).collect()
}

fn some_legs() -> impl Strategy<Value = Vec<Leg>> {
    proptest::collection::btree_map(0..40_u8, 1..9_u16, 2..9).prop_map(|legs| {
        legs.into_iter()
            .map(|(number, weight)| leg(number, weight))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn flows_are_shared_as_the_weights_say(legs in some_legs()) {
        let owners = owners(&legs);
        let whole: u32 = legs.iter().map(|leg| u32::from(leg.weight)).sum();
        for leg in &legs {
            let found = owners.iter().filter(|owner| *owner == leg).count() as f64;
            let share = f64::from(leg.weight) / f64::from(whole);
            let expected = share * BUCKETS as f64;
            // Five standard deviations of as many draws.
            let tolerance = 5.0 * (expected * (1.0 - share)).sqrt();
            prop_assert!((found - expected).abs() <= tolerance, "{found} of {expected} for {leg:?} of {legs:?}");
        }
    }

    #[test]
    fn a_leg_that_goes_moves_its_own_flows_only(legs in some_legs(), which: prop::sample::Index) {
        let gone = legs[which.index(legs.len())];
        let rest: Vec<Leg> = legs.iter().filter(|leg| **leg != gone).copied().collect();
        for (before, after) in owners(&legs).iter().zip(owners(&rest)) {
            prop_assert!(*before == gone || *before == after);
            prop_assert!(after != gone);
        }
    }

    #[test]
    fn it_does_not_matter_in_which_order_the_legs_are(legs in some_legs()) {
        let mut turned = legs.clone();
        turned.reverse();
        prop_assert_eq!(owners(&legs), owners(&turned));
    }

    #[test]
    fn more_weight_takes_flows_and_gives_none(legs in some_legs(), which: prop::sample::Index) {
        let at = which.index(legs.len());
        let mut heavier = legs.clone();
        heavier[at].weight += 3;
        for (before, after) in owners(&legs).iter().zip(owners(&heavier)) {
            prop_assert!(after == heavier[at] || *before == after);
        }
    }
}

#[test]
fn two_equal_legs_have_about_half_each() {
    let shares = shares(&[leg(0, 1), leg(1, 1)]);
    assert_eq!(
        shares.iter().map(|share| u32::from(*share)).sum::<u32>(),
        100
    );
    assert!(
        shares.iter().all(|share| (47..=53).contains(share)),
        "{shares:?}"
    );
    assert!(super::shares(&[]).is_empty());
}

#[test]
fn equal_legs_share_a_spread_and_tables_after_have_the_same() {
    let mut spreads = Spreads::default();
    let (one, other) = ([leg(0, 1), leg(1, 1)], [leg(0, 1), leg(1, 2)]);
    assert_eq!(spreads.over(&one), Some(0));
    assert_eq!(spreads.over(&other), Some(1));
    assert_eq!(spreads.over(&one), Some(0));
    let before = spreads.all().to_vec();
    assert_eq!(before.len(), 2);
    spreads.restart();
    assert!(spreads.all().is_empty());
    assert_eq!(spreads.over(&other), Some(0));
    assert_eq!(spreads.all(), &before[1..]);
}
