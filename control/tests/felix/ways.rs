//! Where Felix's routes lead. A destination may be a workload of both sides: of the node that has it, and of the one whose
//! block it is of.

use control::desired::Way;
use control::felix::proto::{Payload, RouteUpdate};

use crate::{calculated, told};

const REMOTE_WORKLOAD: i32 = 1;
const LOCAL_WORKLOAD: i32 = 4;
const REMOTE_TUNNEL: i32 = 16;
const LOCAL_TUNNEL: i32 = 32;

fn way(dst: &str, types: i32, change: impl FnOnce(&mut RouteUpdate)) -> Option<Way> {
    let mut route = RouteUpdate {
        dst: dst.to_owned(),
        types,
        ip_pool_type: 2,
        dst_node_name: "node2".to_owned(),
        dst_node_ip: "192.0.2.2".to_owned(),
        ..RouteUpdate::default()
    };
    change(&mut route);
    let got = calculated(&told("node1", [Payload::RouteUpdate(route)])).unwrap();
    assert!(got.problems.is_empty());
    got.desired.routes[0].way()
}

#[test]
fn blocks_and_what_is_borrowed_of_them() {
    let ours = |it: &mut RouteUpdate| it.dst_node_name = "node1".to_owned();
    assert_eq!(way("10.0.0.0/8", 0, |_| {}), None);
    assert_eq!(
        way("10.1.0.0/26", LOCAL_WORKLOAD, ours),
        Some(Way::Blackhole)
    );
    assert_eq!(
        way("10.2.0.0/26", REMOTE_WORKLOAD, |_| {}),
        Some(Way::Vxlan)
    );
    let both = LOCAL_WORKLOAD | REMOTE_WORKLOAD;
    // Another node's pod with an address of our block; our pod with one of another node's.
    assert_eq!(
        way("10.1.0.9/32", both, |it| it.borrowed = true),
        Some(Way::Vxlan)
    );
    let pod = |it: &mut RouteUpdate| {
        ours(it);
        it.borrowed = true;
        it.local_workload = true;
    };
    assert_eq!(way("10.2.0.9/32", both, pod), Some(Way::LocalEndpoint));
}

#[test]
fn tunnel_addresses() {
    let inside = REMOTE_TUNNEL | REMOTE_WORKLOAD;
    assert_eq!(way("10.2.0.1/32", inside, |_| {}), Some(Way::Vxlan));
    let borrowed = REMOTE_TUNNEL | LOCAL_WORKLOAD;
    assert_eq!(
        way("10.1.0.1/32", borrowed, |it| it.borrowed = true),
        Some(Way::Vxlan)
    );
    assert_eq!(way("10.9.0.1/32", REMOTE_TUNNEL, |_| {}), None);
    let own = LOCAL_TUNNEL | LOCAL_WORKLOAD;
    assert_eq!(way("10.1.0.1/32", own, |_| {}), None);
}
