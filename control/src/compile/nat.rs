//! natOutgoing as the pollers ask it.

use std::net::IpAddr;
use std::sync::Arc;

use fastpath::port::PortId;
use fastpath::tables::{Nat, Tracking};
use flowtable::snat::{NatPools, Pool as Range, Ports};
use ipnet::IpNet;

use super::{Compiler, PortRole};
use crate::desired::{AllowedUse, Desired, NatExclusions, Node, Pool};

/// Which connections are masqueraded, with which ports (`felix/rules/nat.go`, `felix/dataplane/linux/masq_mgr.go`).
pub(super) fn nat(desired: &Desired, ports: &Arc<Ports>) -> Nat {
    let pools = || desired.pools.iter().filter(|pool| counts(pool));
    let excluded = || {
        let nodes = desired.nodes.values().flat_map(Node::addresses);
        nodes.filter(|_| desired.felix.nat_exclusions == NatExclusions::IpPoolsAndHostIps)
    };
    Nat {
        rules4: NatPools::new(
            pools().filter_map(|pool| match pool.cidr {
                IpNet::V4(net) => Some(Range {
                    addresses: net.network().into()..=net.broadcast().into(),
                    masquerades: pool.masquerade,
                }),
                IpNet::V6(_) => None,
            }),
            excluded().filter_map(|addr| match addr {
                IpAddr::V4(addr) => Some(addr.into()),
                IpAddr::V6(_) => None,
            }),
        ),
        rules6: NatPools::new(
            pools().filter_map(|pool| match pool.cidr {
                IpNet::V6(net) => Some(Range {
                    addresses: net.network().into()..=net.broadcast().into(),
                    masquerades: pool.masquerade,
                }),
                IpNet::V4(_) => None,
            }),
            excluded().filter_map(|addr| match addr {
                IpAddr::V6(addr) => Some(addr.into()),
                IpAddr::V4(_) => None,
            }),
        ),
        ports: Arc::clone(ports),
        ..Nat::default()
    }
}

/// The uplinks that `iptablesNATOutgoingInterfaceFilter` leaves out.
pub(super) fn untouched(compiler: &Compiler) -> Vec<PortId> {
    let Some(filter) = &compiler.desired.felix.nat_outgoing_interfaces else {
        return Vec::new();
    };
    let uplinks = compiler.ports.iter();
    uplinks
        .filter(|(_, spec)| spec.role == PortRole::Uplink && !is_meant(filter, &spec.name))
        .map(|(id, _)| id)
        .collect()
}

/// Whether an interface is the one that iptables' `-o` names: all those that begin so, with a `+` at the end.
fn is_meant(filter: &str, interface: &str) -> bool {
    match filter.strip_suffix('+') {
        Some(prefix) => interface.starts_with(prefix),
        None => interface == filter,
    }
}

/// Whether a pool's addresses are inside. Disabled pools are; one of load balancers' addresses alone is not.
fn counts(pool: &Pool) -> bool {
    pool.allowed_uses != [AllowedUse::LoadBalancer]
}

/// How connections are tracked.
pub(super) fn tracking(desired: &Desired, pick_up: bool) -> Tracking {
    Tracking {
        timeouts: desired.felix.conntrack,
        pick_up,
        drops_invalid: !desired.felix.disable_conntrack_invalid_check,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::desired::EncapMode;

    fn pool(cidr: &str, masquerade: bool, uses: &[AllowedUse]) -> Pool {
        Pool {
            name: cidr.to_owned(),
            cidr: cidr.parse().unwrap(),
            masquerade,
            ipip_mode: EncapMode::Never,
            vxlan_mode: EncapMode::Never,
            disabled: cidr.starts_with("10.2."),
            allowed_uses: uses.to_vec(),
        }
    }

    fn desired() -> Desired {
        let mut desired = Desired {
            node_name: "a".to_owned(),
            pools: vec![
                pool("10.1.0.0/16", true, &[AllowedUse::Workload]),
                pool("10.2.0.0/16", true, &[AllowedUse::Workload]),
                pool("10.3.0.0/16", false, &[AllowedUse::Workload]),
                pool("10.4.0.0/16", true, &[AllowedUse::LoadBalancer]),
                pool("fd00:1::/48", true, &[AllowedUse::Workload]),
            ],
            ..Desired::default()
        };
        desired.nodes.insert(
            "b".to_owned(),
            Node {
                name: "b".to_owned(),
                v4: Some("192.0.2.2/24".parse().unwrap()),
                v6: Some("2001:db8::2/64".parse().unwrap()),
                ..Node::default()
            },
        );
        desired
    }

    #[test]
    fn a_pool_masquerades_towards_everything_outside_of_all_pools() {
        let nat = nat(&desired(), &Arc::default());
        let v4 = |src: [u8; 4], dst: [u8; 4]| {
            let number = |addr: [u8; 4]| Ipv4Addr::from(addr).to_bits();
            nat.rules4.masquerades(number(src), number(dst))
        };
        assert!(v4([10, 1, 0, 1], [8, 8, 8, 8]));
        assert!(v4([10, 2, 0, 1], [8, 8, 8, 8]), "a disabled pool's too");
        assert!(!v4([10, 3, 0, 1], [8, 8, 8, 8]), "without natOutgoing");
        assert!(!v4([10, 4, 0, 1], [8, 8, 8, 8]), "nobody lives there");
        assert!(!v4([8, 8, 8, 8], [10, 1, 0, 1]));
        assert!(
            !v4([10, 1, 0, 1], [10, 1, 255, 255]),
            "the last address is inside"
        );
        assert!(!v4([10, 1, 0, 1], [10, 2, 0, 1]), "disabled pools count");
        assert!(!v4([10, 1, 0, 1], [10, 3, 0, 1]));
        assert!(v4([10, 1, 0, 1], [10, 4, 0, 1]), "load balancers' do not");
        assert!(v4([10, 1, 0, 1], [192, 0, 2, 2]), "nodes are outside");
        let pod6 = "fd00:1::7".parse::<std::net::Ipv6Addr>().unwrap().to_bits();
        assert!(nat.rules6.masquerades(pod6, 1 << 125));
        assert!(!nat.rules6.masquerades(pod6, pod6 + 1));
    }

    #[test]
    fn interfaces_are_named_as_iptables_names_them() {
        for (filter, interface, meant) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth+", "eth01", true),
            ("eth+", "ens1", false),
            ("+", "ens1", true),
            ("e+h0", "eth0", false),
        ] {
            assert_eq!(is_meant(filter, interface), meant, "{filter} {interface}");
        }
    }

    #[test]
    fn nodes_are_left_alone_when_asked() {
        let mut desired = desired();
        desired.felix.nat_exclusions = NatExclusions::IpPoolsAndHostIps;
        let nat = nat(&desired, &Arc::default());
        let pod = u32::from_be_bytes([10, 1, 0, 1]);
        let node = u32::from_be_bytes([192, 0, 2, 2]);
        assert!(!nat.rules4.masquerades(pod, node));
        assert!(nat.rules4.masquerades(pod, node + 1));
    }
}
