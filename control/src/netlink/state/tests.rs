//! What the kernel does without telling.

use super::*;
use crate::netlink::model::{LEG_WEIGHT_DEFAULT, Mac, NeighbourState, RouteKind};

const UP: u32 = libc::IFF_UP as u32;

/// A NEWLINK message of a link with this index and these flags.
fn link(ifindex: u32, flags: u32) -> Event {
    use crate::netlink::attr::Message;
    let mut payload = vec![0; 16];
    payload[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    payload[8..12].copy_from_slice(&flags.to_ne_bytes());
    let message = Message {
        kind: 16,
        flags: 0,
        sequence: 0,
        payload: &payload,
    };
    crate::netlink::decode::decode(&message).expect("a link")
}

fn address(ifindex: u32, ip: &str, prefix_len: u8) -> Address {
    let ip = ip.parse().expect("an address");
    Address {
        ifindex,
        ip,
        prefix_len,
        scope: 0,
        peer: None,
        flags: 0,
    }
}

fn entry(dst: &str, ifindexes: &[u32]) -> RouteEntry {
    let leg = |&ifindex: &u32| Leg {
        gateway: None,
        ifindex,
        weight: LEG_WEIGHT_DEFAULT,
        onlink: false,
    };
    let path = Path {
        kind: RouteKind::Unicast,
        protocol: 4,
        pref_src: None,
        nexthop_id: None,
        legs: ifindexes.iter().map(leg).collect(),
    };
    RouteEntry {
        dst: dst.parse().expect("a prefix"),
        metric: 0,
        path,
    }
}

fn neighbour(ifindex: u32, mac: Mac) -> Neighbour {
    Neighbour {
        ifindex,
        ip: "192.0.2.1".parse().expect("an address"),
        mac: Some(mac),
        state: NeighbourState::REACHABLE,
        managed: false,
        protocol: 0,
    }
}

/// Two links that are up, with an address, a neighbour and routes.
fn state() -> State {
    let mut state = State::default();
    for event in [
        link(1, UP),
        link(2, UP),
        Event::NewAddress(address(1, "192.0.2.10", 24)),
        Event::NewAddress(address(1, "192.0.2.11", 24)),
        Event::NewNeighbour(neighbour(1, [2; 6])),
        Event::NewRoute(entry("10.1.0.0/16", &[1]), Insert::First),
        Event::NewRoute(entry("10.2.0.0/16", &[1, 2]), Insert::First),
        Event::NewRoute(entry("10.3.0.0/16", &[2]), Insert::First),
        Event::NewRoute(entry("2001:db8::/32", &[1]), Insert::First),
    ] {
        state.load(event);
    }
    state
}

fn routes(state: &State) -> Vec<String> {
    let mut routes: Vec<String> = state.routes.iter().map(|r| r.dst.to_string()).collect();
    routes.sort();
    routes
}

fn apply(state: &mut State, event: Event) -> Dirty {
    let mut dirty = Dirty::default();
    assert_eq!(state.apply(event, &mut dirty), Follow::Yes);
    dirty
}

#[test]
fn routes_go_with_their_interface_but_not_with_one_leg() {
    let mut state = state();
    let dirty = apply(&mut state, link(1, 0));
    assert_eq!(routes(&state), ["10.2.0.0/16", "10.3.0.0/16"]);
    assert_eq!((dirty.routes.len(), dirty.links.len()), (2, 1));
    apply(&mut state, link(2, 0));
    assert!(routes(&state).is_empty(), "now both legs are down");
}

#[test]
fn a_deleted_interface_takes_everything_along() {
    let mut state = state();
    let dirty = apply(&mut state, Event::DelLink(1));
    assert_eq!(
        routes(&state),
        ["10.3.0.0/16"],
        "a multipath route goes with its first leg"
    );
    assert!(state.addresses.is_empty() && state.neighbours.is_empty());
    let counts = (
        dirty.links.len(),
        dirty.addresses.len(),
        dirty.neighbours.len(),
        dirty.routes.len(),
    );
    assert_eq!(counts, (1, 1, 1, 3));
}

#[test]
fn the_last_ipv4_address_takes_ipv4_routes_along() {
    let mut state = state();
    apply(&mut state, Event::DelAddress(address(1, "192.0.2.10", 24)));
    assert_eq!(routes(&state).len(), 4);
    apply(&mut state, Event::DelAddress(address(1, "192.0.2.11", 24)));
    assert_eq!(
        routes(&state),
        ["10.2.0.0/16", "10.3.0.0/16", "2001:db8::/32"]
    );
}

#[test]
fn a_preferred_source_takes_its_routes_along_when_it_is_nowhere_any_more() {
    let mut state = state();
    let mut preferring = entry("10.4.0.0/16", &[2]);
    preferring.path.pref_src = "192.0.2.10".parse().ok();
    apply(&mut state, Event::NewRoute(preferring, Insert::First));
    apply(&mut state, Event::NewAddress(address(2, "192.0.2.10", 32)));
    apply(&mut state, Event::DelAddress(address(1, "192.0.2.10", 24)));
    assert!(
        routes(&state).contains(&"10.4.0.0/16".to_owned()),
        "link 2 has it still"
    );
    apply(&mut state, Event::DelAddress(address(2, "192.0.2.10", 32)));
    assert!(!routes(&state).contains(&"10.4.0.0/16".to_owned()));
}

#[test]
fn what_is_told_twice_changes_nothing() {
    let mut state = state();
    for event in [
        link(1, UP),
        Event::NewAddress(address(1, "192.0.2.10", 24)),
        Event::NewNeighbour(neighbour(1, [2; 6])),
        Event::NewRoute(entry("10.1.0.0/16", &[1]), Insert::First),
        Event::DelNeighbour(2, "192.0.2.1".parse().expect("an address")),
        Event::DelRoute(entry("10.1.0.0/16", &[2])),
        Event::DelAddress(address(1, "192.0.2.10", 32)),
        Event::DelLink(9),
    ] {
        let dirty = apply(&mut state, event.clone());
        let counts = (
            dirty.links.len(),
            dirty.addresses.len(),
            dirty.neighbours.len(),
            dirty.routes.len(),
        );
        assert_eq!(counts, (0, 0, 0, 0), "{event:?}");
    }
}

#[test]
fn a_nexthop_object_in_use_that_changes_asks_for_a_resync() {
    let mut state = state();
    let mut by_object = entry("10.5.0.0/16", &[2]);
    by_object.path.nexthop_id = Some(7);
    apply(&mut state, Event::NewRoute(by_object, Insert::First));
    apply(&mut state, Event::Nexthop { id: 8, gone: false });
    let changed = Event::Nexthop { id: 7, gone: false };
    assert_eq!(state.apply(changed, &mut Dirty::default()), Follow::Resync);
    let dirty = apply(&mut state, Event::Nexthop { id: 7, gone: true });
    assert_eq!(dirty.routes.len(), 1);
}

#[test]
fn a_difference_names_what_is_new_changed_and_gone() {
    let (old, mut new) = (state(), state());
    let nothing = old.diff(&new);
    let counts = (
        nothing.links.len(),
        nothing.addresses.len(),
        nothing.neighbours.len(),
        nothing.routes.len(),
    );
    assert_eq!(counts, (0, 0, 0, 0));
    apply(&mut new, link(3, UP));
    apply(&mut new, link(2, 0));
    apply(&mut new, Event::NewNeighbour(neighbour(1, [3; 6])));
    apply(&mut new, Event::NewAddress(address(3, "198.51.100.1", 24)));
    let dirty = old.diff(&new);
    assert_eq!(dirty.links, HashSet::from([2, 3]));
    assert_eq!(dirty.addresses, HashSet::from([3]));
    assert_eq!(dirty.neighbours.len(), 1);
    assert_eq!(
        dirty.routes,
        HashSet::from(["10.3.0.0/16".parse().expect("a prefix")])
    );
}
