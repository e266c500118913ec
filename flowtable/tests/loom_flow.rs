//! The flow table's protocol under loom: all interleavings up to a number of preemptions, and all
//! orderings that the memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flowtable --release --test loom_flow`
#![cfg(loom)]

use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flowtable::Tick;
use flowtable::flow::sabotage::{self, Sabotage};
use flowtable::flow::{Action, Capacity, FlowKey, FlowRef, FlowTable4, InsertError, Key4, Seed};
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

/// The forward key of connection `n`.
const fn key(n: u32) -> Key4 {
    Key4 {
        src: n,
        dst: 0x0a00_0000 + n,
        sport: n as u16,
        dport: 80,
        protocol: 6,
    }
}

/// An action of which every word tells the others.
fn action(n: u32) -> Action<u32> {
    Action {
        generation: n,
        origin: n as u16,
        nat_addr: n,
        nat_port: n as u16,
        rule: n,
        ..Action::default()
    }
}

fn is_whole(found: &Action<u32>) -> bool {
    *found
        == Action {
            flags: found.flags,
            ..action(found.generation)
        }
}

fn insert(table: &FlowTable4, n: u32, version: u32) -> Result<(FlowRef, FlowRef), InsertError> {
    let (forward, reply) = (key(n), key(n).reversed());
    let (there, back) = (action(version), action(version));
    table.insert_pair((forward, there), (reply, back), Tick(0), (0, 0))
}

/// What a reader may find of connection `n`: nothing, or one of these versions, whole.
fn look(table: &FlowTable4, key: &Key4, versions: &[u32]) {
    if let Some((_, found)) = table.lookup(key) {
        assert!(is_whole(&found), "torn: {found:?}");
        assert!(
            versions.contains(&found.generation),
            "not of this key: {found:?}"
        );
    }
}

/// Runs `model` in every way, or with this many preemptions at most; returns in how many ways.
fn explore(
    preemptions: Option<usize>,
    model: impl Fn(Arc<FlowTable4>) + Send + Sync + 'static,
) -> usize {
    let executions = StdArc::new(AtomicUsize::new(0));
    let count = StdArc::clone(&executions);
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model(Arc::new(FlowTable4::new(Capacity::MIN, Seed([1, 2]))));
    });
    executions.load(Ordering::Relaxed)
}

fn spawn(
    table: &Arc<FlowTable4>,
    work: impl FnOnce(&FlowTable4) + 'static,
) -> thread::JoinHandle<()> {
    let table = Arc::clone(table);
    thread::spawn(move || work(&table))
}

fn join(thread: thread::JoinHandle<()>) {
    thread.join().expect("the thread ends");
}

/// Two insert the same connection; one wins, and the other knows.
fn insert_insert() -> usize {
    explore(None, |table| {
        let won = StdArc::new(AtomicUsize::new(0));
        let race = |version| {
            let won = StdArc::clone(&won);
            move |table: &FlowTable4| {
                let inserted = insert(table, 1, version);
                won.fetch_add(usize::from(inserted.is_ok()), Ordering::Relaxed);
            }
        };
        let other = spawn(&table, race(1));
        race(2)(&table);
        join(other);
        // Both may have met the other's lock.
        let won = won.load(Ordering::Relaxed);
        assert!(won <= 1, "both won");
        assert_eq!(table.len(), 2 * won, "both directions or neither");
        if won == 0 {
            insert(&table, 1, 3).expect("no lock is left");
        }
        let there = table.lookup(&key(1)).expect("it is there").0;
        let back = table.lookup(&key(1).reversed()).expect("it is there").0;
        assert_eq!(table.partner(there), Some(back));
    })
}

/// One inserts, the other looks up.
fn insert_lookup() -> usize {
    explore(Some(2), |table| {
        let reader = spawn(&table, |table| look(table, &key(1), &[1]));
        insert(&table, 1, 1).expect("nobody else inserts");
        join(reader);
        assert!(table.lookup(&key(1)).is_some());
    })
}

/// One changes an action, the other looks it up.
fn update_lookup() -> usize {
    explore(Some(1), |table| {
        let (there, _) = insert(&table, 1, 1).expect("nobody else inserts");
        let reader = spawn(&table, |table| look(table, &key(1), &[1, 2]));
        table
            .update_action(there, &action(2))
            .expect("nobody else changes it");
        join(reader);
        assert_eq!(table.lookup(&key(1)).map(|it| it.1.generation), Some(2));
    })
}

/// One removes a connection and puts the next into one of its slots, the other looks the first up, by its
/// key or by its reference.
fn reuse_lookup(by_key: bool) -> usize {
    explore(Some(if by_key { 1 } else { 3 }), move |table| {
        let (there, back) = insert(&table, 1, 1).expect("nobody else inserts");
        let reader = spawn(&table, move |table| {
            if by_key {
                look(table, &key(1).reversed(), &[1]);
            } else {
                for (flow, other) in [(there, back), (back, there)] {
                    let partner = table.partner(flow);
                    assert!(partner.is_none_or(|it| it == other), "not ours");
                }
            }
        });
        assert!(table.remove_pair(there));
        let (next, _) = insert(&table, 2, 2).expect("nobody else inserts");
        assert_eq!(next.slot(), back.slot(), "else nothing is reused");
        join(reader);
        assert!(table.lookup(&key(1)).is_none());
        assert!(table.lookup(&key(2)).is_some());
    })
}

/// One removes a connection and makes it anew in the same slots, so that even its partner is the same; the other looks it up.
fn renewal_lookup() -> usize {
    explore(Some(1), |table| {
        let before = insert(&table, 1, 1).expect("nobody else inserts");
        let reader = spawn(&table, |table| look(table, &key(1), &[1, 2]));
        assert!(table.remove_pair(before.0));
        let after = insert(&table, 1, 2).expect("nobody else inserts");
        let slots = |(there, back): (FlowRef, FlowRef)| (there.slot(), back.slot());
        assert_eq!(slots(before), slots(after), "else nothing is reused");
        join(reader);
        assert_eq!(table.lookup(&key(1)).map(|it| it.1.generation), Some(2));
    })
}

/// Two remove the same connection from its two ends.
fn remove_remove() -> usize {
    explore(None, |table| {
        let (there, back) = insert(&table, 1, 1).expect("nobody else inserts");
        let removed = StdArc::new(AtomicUsize::new(0));
        let count = StdArc::clone(&removed);
        let other = spawn(&table, move |table| {
            count.fetch_add(usize::from(table.remove_pair(back)), Ordering::Relaxed);
        });
        let ours = usize::from(table.remove_pair(there));
        join(other);
        assert_eq!(ours + removed.load(Ordering::Relaxed), 1, "one of the two");
        assert!(table.is_empty());
        insert(&table, 1, 2).expect("nothing is left behind");
    })
}

/// One removes a connection, the other changes one of its directions.
fn remove_update() -> usize {
    explore(None, |table| {
        let (there, back) = insert(&table, 1, 1).expect("nobody else inserts");
        let other = spawn(&table, move |table| {
            let _ = table.update_action(back, &action(2));
        });
        if !table.remove_pair(there) {
            assert_eq!(table.len(), 2, "both directions or neither");
        }
        join(other);
        assert!(table.is_empty() || table.remove_pair(there));
        assert!(table.is_empty());
    })
}

fn is_thorough(executions: usize) {
    println!("{executions} executions");
    assert!(executions > 20, "{executions} executions check nothing");
}

#[test]
fn one_of_two_who_insert_the_same_key_wins() {
    is_thorough(insert_insert());
}

#[test]
fn a_lookup_sees_an_inserted_entry_whole_or_not_at_all() {
    is_thorough(insert_lookup());
}

#[test]
fn a_lookup_sees_an_action_before_or_after_its_change() {
    is_thorough(update_lookup());
}

#[test]
fn a_lookup_sees_a_connection_before_or_after_its_renewal() {
    is_thorough(renewal_lookup());
}

#[test]
fn a_lookup_never_sees_the_next_user_of_a_slot() {
    is_thorough(reuse_lookup(true));
}

#[test]
fn a_reference_never_leads_to_the_next_user_of_a_slot() {
    is_thorough(reuse_lookup(false));
}

#[test]
fn one_of_two_who_remove_a_connection_does() {
    is_thorough(remove_remove());
}

#[test]
fn a_change_does_not_bring_a_removed_entry_back() {
    is_thorough(remove_update());
}

#[test]
#[should_panic(expected = "torn")]
fn loom_catches_a_reader_without_its_fence() {
    sabotage::set(Sabotage::NoReadFence);
    update_lookup();
}

#[test]
#[should_panic(expected = "torn")]
fn loom_catches_a_writer_without_its_fence() {
    sabotage::set(Sabotage::NoWriteFence);
    update_lookup();
}

#[test]
#[should_panic(expected = "torn")]
fn loom_catches_a_reader_that_does_not_compare_versions() {
    sabotage::set(Sabotage::NoVersion);
    update_lookup();
}

#[test]
#[should_panic(expected = "torn")]
fn loom_catches_entries_published_without_release() {
    sabotage::set(Sabotage::NoRelease);
    insert_lookup();
}

#[test]
#[should_panic(expected = "both won")]
fn loom_catches_writers_that_mind_no_lock() {
    sabotage::set(Sabotage::NoLock);
    insert_insert();
}
