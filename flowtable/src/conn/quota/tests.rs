use super::*;

const CAPACITY: u32 = 1 << 20;

fn quota() -> Quota {
    Quota::new(8, Limits::of(CAPACITY))
}

fn make(quota: &Quota, endpoint: u16, count: u32) {
    for _ in 0..count {
        quota.created(endpoint);
    }
}

#[test]
fn an_endpoint_has_at_most_its_share() {
    let quota = quota();
    make(&quota, 3, CAPACITY / 4 - 1);
    assert_eq!(quota.may_create(3, CAPACITY / 4 - 1), Ok(()));
    quota.created(3);
    assert_eq!(quota.may_create(3, CAPACITY / 4), Err(Denied::Quota));
    assert_eq!(quota.may_create(4, CAPACITY / 4), Ok(()));
    quota.removed(3);
    assert_eq!(quota.may_create(3, CAPACITY / 4), Ok(()));
}

#[test]
fn the_reserve_is_for_endpoints_that_have_few() {
    let quota = quota();
    let filled = CAPACITY - CAPACITY / 16;
    make(&quota, 3, 1024);
    make(&quota, 4, 1023);
    assert_eq!(quota.may_create(3, filled - 1), Ok(()));
    assert_eq!(quota.may_create(3, filled), Err(Denied::Full));
    assert_eq!(quota.may_create(4, filled), Ok(()));
    assert_eq!(quota.may_create(4, CAPACITY - 1), Ok(()));
    assert_eq!(quota.may_create(4, CAPACITY), Err(Denied::Full));
}

#[test]
fn counts_do_not_fall_below_zero_and_endpoints_without_a_count_have_none() {
    let quota = quota();
    quota.removed(3);
    assert_eq!(quota.count(3), 0);
    quota.created(8);
    assert_eq!(quota.count(8), 0);
    assert_eq!(quota.may_create(8, 0), Ok(()));
}

#[test]
fn what_counts_for_no_endpoint_leaves_the_reserve() {
    let quota = quota();
    let filled = CAPACITY - CAPACITY / 16;
    assert_eq!(quota.may_create(u16::MAX, filled - 1), Ok(()));
    assert_eq!(quota.may_create(u16::MAX, filled), Err(Denied::Full));
    assert_eq!(quota.may_create(3, filled), Ok(()));
}

#[test]
fn small_tables_have_limits_too() {
    let limits = Limits::of(64);
    assert_eq!((limits.share, limits.reserve, limits.few), (16, 4, 16));
}

fn candidate(state: State, idle: u64) -> Candidate {
    Candidate {
        state,
        idle: Duration::from_secs(idle),
    }
}

#[test]
fn the_oldest_embryonic_connection_goes_first() {
    let line = [
        candidate(State::Established, 5000),
        candidate(State::TimeWait, 200),
        candidate(State::SynSent, 1),
        candidate(State::Unreplied, 9),
        candidate(State::SynReceived, 8),
        candidate(State::Assured, 300),
    ];
    let first = |line: &[Candidate]| {
        let ranks = line.iter().filter_map(|one| Some((one.rank()?, one.state)));
        ranks.max_by_key(|(rank, _)| *rank).map(|(_, state)| state)
    };
    assert_eq!(first(&line), Some(State::Unreplied));
    assert_eq!(first(&line[..3]), Some(State::SynSent));
    assert_eq!(first(&line[..2]), Some(State::TimeWait));
    assert_eq!(first(&line[..1]), None);
}
