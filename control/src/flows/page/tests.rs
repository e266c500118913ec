//! Pages over tables that tests filled themselves.

use std::collections::BTreeSet;

use fastpath::connections::Sizes;
use flowtable::conn::{Facts, first};
use flowtable::flow::{Action, Capacity, FlowKey as _, Key4, Key6, flag};

use super::*;

/// Ports 1 and 2 are pods, 3 is one without an endpoint, 9 is gone.
struct Plain;

impl Names for Plain {
    fn port(&self, id: PortId) -> Option<Cow<'_, str>> {
        (id.0 < 9).then(|| format!("port{}", id.0).into())
    }

    fn endpoint(&self, id: PortId) -> Option<Cow<'_, str>> {
        (id.0 == 1 || id.0 == 2).then(|| format!("ns/pod{}", id.0).into())
    }

    fn is_hosts(&self, id: PortId, address: IpAddr) -> bool {
        id.0 == 1 && address == IpAddr::from([0, 0, 0, 10])
    }

    fn node(&self, id: PeerId) -> Option<Cow<'_, str>> {
        (id.0 == 5).then(|| "worker5".into())
    }
}

fn tables(entries: usize) -> Connections {
    let capacity = Capacity::new(entries).unwrap();
    let sizes = Sizes {
        v4: capacity,
        v6: Capacity::MIN,
        ports: 10,
        share_percent: 100,
    };
    Connections::new(&sizes, [1, 2, 3, 4])
}

fn key(n: u32, protocol: u8) -> Key4 {
    Key4 {
        src: n,
        dst: 0x0808_0808,
        sport: n as u16,
        dport: 53,
        protocol,
    }
}

fn from_port(origin: u16) -> Action<u32> {
    Action {
        origin,
        ..Action::default()
    }
}

/// Inserts a connection of pod 1; its first packet has `bytes` bytes.
fn insert(connections: &Connections, n: u32, protocol: u8, bytes: u32) {
    let key = key(n, protocol);
    let side = &connections.v4;
    let reply = (key.reversed(), from_port(3));
    let made = side.insert(1, |table| {
        table.insert_pair((key, from_port(1)), reply, Tick(0), (1, 0))
    });
    side.table.touch(made.unwrap().0, Tick(0), bytes);
}

fn pages<'a>(connections: &'a Connections, filter: Option<&'a Filter<Vec<PortId>>>) -> Pages<'a> {
    static RULES: RuleCounters = RuleCounters::new();
    Pages {
        connections,
        timeouts: &Timeouts::DEFAULT,
        rules: &RULES,
        now: Tick(3_000_000_000),
        filter,
    }
}

/// All pages, one after the other.
fn all(pages: &Pages<'_>, params: &FlowsParams) -> Vec<Flows> {
    let mut all = Vec::new();
    let mut params = params.clone();
    loop {
        let page = pages.list(&params, &Plain);
        let next = page.next;
        all.push(page);
        match next {
            Some(next) => {
                assert!(next > params.from, "it goes on");
                params.from = next;
            }
            None => return all,
        }
    }
}

fn filter(text: &str) -> Filter<Vec<PortId>> {
    let none = |_: &String| Ok::<_, ()>(Vec::new());
    Filter::parse(text).unwrap().resolve(&none).unwrap()
}

#[test]
fn a_walk_over_all_pages_shows_each_connection_once() {
    let connections = tables(1 << 15);
    for n in 0..10_000 {
        insert(&connections, n, 17, 100);
    }
    let pages = pages(&connections, None);
    let shown = all(&pages, &FlowsParams::default());
    assert!(shown.len() > 2, "no answer is huge");
    assert!(shown.iter().all(|page| page.flows.len() <= MAX_FLOWS));
    let sources: BTreeSet<_> = shown
        .iter()
        .flat_map(|page| page.flows.iter().map(|flow| flow.src))
        .collect();
    assert_eq!(sources.len(), 10_000);
    assert_eq!(
        shown.iter().map(|page| page.flows.len()).sum::<usize>(),
        10_000
    );
    assert_eq!(shown.iter().map(|page| page.matched).sum::<u64>(), 10_000);

    // Fewer rows than there are: the others are counted all the same.
    let few = FlowsParams {
        limit: Some(7),
        ..FlowsParams::default()
    };
    let shown = all(&pages, &few);
    assert_eq!(shown.iter().map(|page| page.matched).sum::<u64>(), 10_000);
    assert_eq!(shown[0].flows.len(), 7);
    let beyond = FlowsParams {
        from: usize::MAX,
        ..few
    };
    assert_eq!(pages.list(&beyond, &Plain), Flows::default());
}

#[test]
fn a_page_ends_after_so_many_entries() {
    let connections = tables(1 << 18);
    for n in 0..50_000 {
        insert(&connections, n, 17, 100);
    }
    let count = FlowsParams {
        limit: Some(0),
        ..FlowsParams::default()
    };
    let shown = all(&pages(&connections, None), &count);
    assert_eq!(shown.iter().map(|page| page.matched).sum::<u64>(), 50_000);
    assert_eq!(shown.len(), 2, "100,000 entries");
    assert!(shown.iter().all(|page| page.flows.is_empty()));
}

#[test]
fn the_largest_are_shown_the_largest_first() {
    let connections = tables(1 << 15);
    for n in 0..5000 {
        insert(&connections, n, 17, (n * 7919) % 5000);
    }
    let top = FlowsParams {
        limit: Some(3),
        top: Some(FlowsBy::Bytes),
        ..FlowsParams::default()
    };
    let page = pages(&connections, None).list(&top, &Plain);
    let bytes: Vec<_> = page.flows.iter().map(|flow| flow.original.bytes).collect();
    assert_eq!((bytes, page.matched), (vec![4999, 4998, 4997], 5000));
}

#[test]
fn connections_are_counted_by_kind() {
    let connections = tables(1 << 10);
    for n in 0..5 {
        insert(&connections, n, 17, 1);
    }
    insert(&connections, 0, 1, 1);
    insert(&connections, 1, 89, 1);
    // One of a port that is gone, and one from a tunnel to the host: of no endpoint.
    for (n, origin) in [(100, 9), (101, 0x8005)] {
        let key = key(n, 17);
        let reply = (key.reversed(), from_port(3));
        let seen = first(&Facts::Datagram, true).unwrap().to_bits();
        connections
            .v4
            .table
            .insert_pair((key, from_port(origin)), reply, Tick(0), (seen, seen))
            .unwrap();
    }
    let params = FlowsParams {
        limit: Some(0),
        counts: true,
        ..FlowsParams::default()
    };
    let counts = |filter: Option<&Filter<Vec<PortId>>>| {
        let page = pages(&connections, filter).list(&params, &Plain);
        serde_json::to_value(page.counts.unwrap()).unwrap()
    };
    let expected = serde_json::json!({
        "state": { "ASSURED": 2, "UNREPLIED": 7 },
        "protocol": { "udp": 7, "icmp": 1, "89": 1 },
        "endpoint": { "ns/pod1": 7, "gone": 1, "none": 1 },
    });
    assert_eq!(counts(None), expected);
    let icmp = serde_json::json!({
        "state": { "UNREPLIED": 1 }, "protocol": { "icmp": 1 }, "endpoint": { "ns/pod1": 1 },
    });
    assert_eq!(counts(Some(&filter("icmp"))), icmp);
}

#[test]
fn states_are_counted_in_their_order() {
    for (at, state) in State::ALL.into_iter().enumerate() {
        assert_eq!(state as usize, at, "{}", state.name());
    }
}

#[test]
fn a_row_says_what_is_known_and_no_more() {
    let connections = tables(1 << 10);
    let there = Action {
        flags: flag::NAT_SRC,
        nat_addr: 0xc000_0201,
        nat_port: 77,
        generation: 4,
        ..from_port(1)
    };
    let ping = key(10, 1);
    let answer = Key4 {
        dst: 0xc000_0201,
        dport: 77,
        ..ping.reversed()
    };
    let made = connections.v4.insert(1, |table| {
        let answers = (answer, from_port(0x8005));
        table.insert_pair((ping, there), answers, Tick(0), (1, 0))
    });
    connections.v4.table.touch(made.unwrap().0, Tick(0), 84);
    let six = Key6 {
        src: 1,
        dst: 2,
        sport: 3,
        dport: 4,
        protocol: 6,
    };
    let action = Action {
        origin: 0x8000,
        ..Action::default()
    };
    let made = connections.v6.insert(u16::MAX, |table| {
        table.insert_pair((six, action), (six.reversed(), action), Tick(0), (0, 0))
    });
    made.unwrap();
    let page = pages(&connections, None).list(&FlowsParams::default(), &Plain);
    let shown = serde_json::to_value(&page.flows).unwrap();
    let expected = serde_json::json!([
        {
            "protocol": "icmp", "state": "UNREPLIED",
            "src": "0.0.0.10", "src_port": null, "dst": "8.8.8.8", "dst_port": null, "icmp_id": 10,
            "icmp_type": 53, "from_host": true,
            "snat": { "addr": "192.0.2.1", "port": null, "icmp_id": 77 }, "dnat": null,
            "endpoint": "ns/pod1",
            "original": {
                "port": "port1", "node": null, "origin": "port 1", "packets": 1, "bytes": 84, "generation": 4
            },
            "reply": {
                "port": null, "node": "worker5", "origin": "node 5", "packets": 0, "bytes": 0, "generation": 0
            },
            "idle_seconds": 2, "expires_seconds": 57,
        },
        {
            "protocol": "tcp", "state": "NONE",
            "src": "::1", "src_port": 3, "dst": "::2", "dst_port": 4, "icmp_id": null,
            "icmp_type": null, "from_host": false,
            "snat": null, "dnat": null, "endpoint": null,
            "original": {
                "port": null, "node": null, "origin": "unknown", "packets": 0, "bytes": 0, "generation": 0
            },
            "reply": {
                "port": null, "node": null, "origin": "unknown", "packets": 0, "bytes": 0, "generation": 0
            },
            "idle_seconds": 2, "expires_seconds": 17,
        },
    ]);
    assert_eq!(shown, expected, "{shown:#}");
}

#[test]
fn what_came_to_rest_is_not_active() {
    let connections = tables(1 << 10);
    insert(&connections, 1, 17, 100);
    insert(&connections, 2, 17, 100);
    let pages = Pages {
        now: Tick(5_000_000_000),
        ..pages(&connections, None)
    };
    let mut last = None;
    pages.connections.visit(
        0..pages.connections.lines(),
        pages.timeouts,
        pages.now,
        |one, flow| {
            if one.src == "0.0.0.2".parse::<std::net::IpAddr>().unwrap() {
                last = Some(flow);
            }
        },
    );
    connections
        .v4
        .table
        .touch(last.unwrap(), Tick(4_000_000_000), 100);
    let matched = |active| {
        let params = FlowsParams {
            active,
            ..FlowsParams::default()
        };
        all(&pages, &params)
            .iter()
            .map(|page| page.matched)
            .sum::<u64>()
    };
    assert_eq!(matched(None), 2);
    assert_eq!(matched(Some(6)), 2);
    assert_eq!(matched(Some(2)), 1);
    assert_eq!(matched(Some(0)), 0);
}

#[test]
fn flushing_removes_what_is_meant_and_counts_it_down() {
    let connections = tables(1 << 18);
    for n in 0..40_000 {
        insert(&connections, n, if n % 4 == 0 { 6 } else { 17 }, 1);
    }
    let filter = filter("proto tcp");
    let flush = |filter: Option<&Filter<Vec<PortId>>>| {
        let mut sum = Flushed::default();
        loop {
            let part = pages(&connections, filter).flush(sum.next.unwrap_or(0));
            sum.matched += part.matched;
            sum.removed += part.removed;
            sum.busy += part.busy;
            sum.next = part.next;
            if sum.next.is_none() {
                return (sum.matched, sum.removed, sum.busy);
            }
        }
    };
    assert_eq!(flush(Some(&filter)), (10_000, 10_000, 0));
    assert_eq!(
        (connections.v4.len(), connections.v4.quota.count(1)),
        (30_000, 30_000)
    );
    assert_eq!(flush(Some(&filter)), (0, 0, 0));
    assert_eq!(flush(None), (30_000, 30_000, 0));
    assert_eq!(
        (connections.v4.len(), connections.v4.quota.count(1)),
        (0, 0)
    );
}
