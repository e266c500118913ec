//! VXLAN's source ports, which the comparison leaves out: each flow has one, from a range of its own.

use std::collections::BTreeSet;

use crate::compare::Outcome;

/// Packets of one flow, whatever else is different about them, by the beginning of their names.
const ONE_FLOW: [&str; 5] = [
    "encap/udp",
    "encap/tos-",
    "encap/class-",
    "encap/ttl-",
    "encap/bytes-",
];

/// Checks the source ports of what Caracal encapsulated.
///
/// # Panics
/// When one is out of range, fragments of a packet or packets of a flow have several, or all flows have the same.
pub(crate) fn check(outcomes: &[Outcome]) {
    let mut all = BTreeSet::<u16>::new();
    let mut of_flow = BTreeSet::<u16>::new();
    for outcome in outcomes {
        let ports = outcome.caracal.iter();
        let ports: BTreeSet<u16> = ports.filter_map(|output| output.view.source_port).collect();
        let name = &outcome.name;
        assert!(ports.len() <= 1, "{name} has the source ports {ports:?}");
        // RFC 7348 section 5.
        assert!(
            ports.iter().all(|&port| port >= 49152),
            "{name} has {ports:?}"
        );
        if ONE_FLOW.iter().any(|flow| name.starts_with(flow)) {
            of_flow.extend(&ports);
        }
        all.extend(ports);
    }
    assert!(
        of_flow.len() <= 1,
        "a flow has the source ports {of_flow:?}"
    );
    let encapsulated = outcomes
        .iter()
        .any(|outcome| outcome.name.starts_with("encap/"));
    let is_vxlan = !all.is_empty();
    assert!(
        !encapsulated || !is_vxlan || all.len() > 1,
        "all flows have the source port {all:?}"
    );
}
