//! Changes of a node's tables, as control would publish them.

use std::time::Duration;

use encap::eth::MacAddr;
use fastpath::batch::PeerId;
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::tables::{Tables, Way};
use ipnet::IpNet;
use pcap_tests::choices::Choices;
use pcap_tests::rig::Rig;
use pcap_tests::world::Hop;

use crate::node::*;
use crate::services::{VIP, VIP6, services};
use crate::traffic::REMOTE_POD;

/// The node's other address, of which its uplink may be given too.
pub(crate) const NODE_B: &str = "172.18.0.22";
pub(crate) const NODE6_B: &str = "2001:db8:18::22";

/// What of a node may change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "settings, each by itself")]
pub(crate) struct Plan {
    /// The next hop of what leaves the cluster.
    pub(crate) outside: Outside,
    /// Whether the first pod's MAC address is known.
    pub(crate) is_pod_known: bool,
    /// Whether each pod is there.
    pub(crate) has_pods: [bool; 2],
    /// Whether the uplink has its other addresses.
    pub(crate) has_other_address: bool,
    /// Whether the pool masquerades.
    pub(crate) masquerades: bool,
    /// Whether the other node's pods are reached without a tunnel.
    pub(crate) is_plain: bool,
    /// Whether packets of no connection that can start none are dropped.
    pub(crate) drops_invalid: bool,
    /// Whether connections are picked up in their middle.
    pub(crate) pick_up: bool,
    /// Who is behind the service.
    pub(crate) behind: Behind,
}

/// Endpoints of the service at [`VIP`] and [`VIP6`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    Nobody,
    Other,
    /// Pods of both nodes, and the first pod.
    Pods,
    Outside,
}

impl Behind {
    /// All of them, of both families.
    fn addresses(self) -> [&'static [&'static str]; 2] {
        match self {
            Self::Nobody => [&[]; 2],
            Self::Other => [&[OTHER_ADDR], &[OTHER6]],
            Self::Pods => [&[POD_ADDR, OTHER_ADDR, REMOTE_POD], &[POD6, OTHER6]],
            Self::Outside => [&[SERVER], &[SERVER6]],
        }
    }
}

/// Where what leaves the cluster goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outside {
    Router(u8),
    Unresolved,
    Unreachable,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            outside: Outside::Router(9),
            is_pod_known: true,
            has_pods: [true; 2],
            has_other_address: false,
            masquerades: true,
            is_plain: false,
            drops_invalid: true,
            pick_up: true,
            behind: Behind::Pods,
        }
    }
}

/// A change, and which pods are others than before though they look the same.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) plan: Plan,
    pub(crate) is_new: [bool; 2],
}

impl Plan {
    /// One thing changed.
    pub(crate) fn changed(&self, choices: &mut Choices<'_>) -> Change {
        let mut plan = self.clone();
        let mut is_new = [false; 2];
        let pod = choices.below(2);
        match choices.below(10) {
            9 => {
                plan.behind =
                    choices.of(&[Behind::Nobody, Behind::Other, Behind::Pods, Behind::Outside]);
            }
            0 => {
                plan.outside = choices.of(&[
                    Outside::Router(9),
                    Outside::Router(10),
                    Outside::Unresolved,
                    Outside::Unreachable,
                ]);
            }
            1 => plan.is_pod_known ^= true,
            2 => plan.has_pods[pod] ^= true,
            3 => is_new[pod] = plan.has_pods[pod],
            4 => plan.has_other_address ^= true,
            5 => plan.masquerades ^= true,
            6 => plan.is_plain ^= true,
            7 => plan.drops_invalid ^= true,
            _ => plan.pick_up ^= true,
        }
        for (at, is_new) in is_new.iter_mut().enumerate() {
            *is_new |= plan.has_pods[at] && !self.has_pods[at];
        }
        Change { plan, is_new }
    }

    /// Tables that say so; since when each pod is there is yet to be told.
    fn tables(&self) -> Tables {
        let mut world = world();
        let net = |text: &str| text.parse::<IpNet>().expect("a prefix");
        for (net, hop) in &mut world.routes {
            let is_default = net.prefix_len() == 0;
            match hop {
                Hop::Send { port, way, .. } if is_default => match self.outside {
                    Outside::Router(last) => set_mac(hop, last),
                    Outside::Unreachable => *hop = Hop::Drop(DropReason::Unreachable),
                    Outside::Unresolved => {
                        *hop = Hop::Unresolved {
                            port: *port,
                            way: *way,
                        }
                    }
                },
                Hop::Send { port, way, .. } if *port == POD && !self.is_pod_known => {
                    *hop = Hop::Unresolved {
                        port: *port,
                        way: *way,
                    };
                }
                Hop::Send {
                    way, tunnel, peer, ..
                } if *way == Way::Tunnel && self.is_plain => {
                    (*way, *tunnel, *peer) = (Way::Uplink, None, PeerId(1));
                }
                _ => {}
            }
        }
        let is_there = |hop: &Hop| match hop {
            Hop::Send { port, .. } | Hop::Unresolved { port, .. } => match *port {
                POD => self.has_pods[0],
                OTHER => self.has_pods[1],
                _ => true,
            },
            Hop::Drop(_) => true,
        };
        world.routes.retain(|(_, hop)| is_there(hop));
        let host = world
            .routes
            .iter()
            .find(|(to, _)| *to == net("172.18.0.2/32"));
        let host = host.expect("the node itself").1;
        for addr in [format!("{NODE_B}/32"), format!("{NODE6_B}/128")] {
            world.routes.insert(0, (net(&addr), host));
        }
        let mut tables = Tables {
            nat: nat(1024..=65_535, self.masquerades),
            ..world.tables()
        };
        let [four, six] = self.behind.addresses();
        let [four, six] =
            [four, six].map(|all| all.iter().map(|addr| (*addr, 53)).collect::<Vec<_>>());
        let both = [6, 17]
            .into_iter()
            .flat_map(|protocol| [(VIP, protocol, 80, &*four), (VIP6, protocol, 80, &*six)]);
        tables.services = services(&both.collect::<Vec<_>>(), false);
        tables.tracking.drops_invalid = self.drops_invalid;
        tables.tracking.pick_up = self.pick_up;
        if self.has_other_address
            && let Some(Some(uplink)) = tables.ports.first_mut()
        {
            uplink.nat4 = Some(v4(NODE_B).into());
            uplink.nat6 = Some(v6(NODE6_B).into());
            tables.nat.addresses4 = vec![v4(NODE_B).into()];
            tables.nat.addresses6 = vec![v6(NODE6_B).into()];
        }
        for (port, has) in [POD, OTHER].into_iter().zip(self.has_pods) {
            if !has {
                tables.ports[usize::from(port.0)] = None;
            }
        }
        tables
    }
}

fn set_mac(hop: &mut Hop, last: u8) {
    if let Hop::Send { mac, .. } = hop {
        *mac = MacAddr([2, 0, 0, 0, 0, last]);
    }
}

impl Change {
    /// Puts it in force.
    pub(crate) fn apply(&self, before: &Plan, rig: &mut Rig) {
        let (old, mut tables) = (rig.tables(), self.plan.tables());
        let next = old.generation + 1;
        let mut ended = false;
        for (at, id) in [POD, OTHER].into_iter().enumerate() {
            let had = old.port(id).map(|port| port.since);
            if let Some(Some(port)) = tables.ports.get_mut(usize::from(id.0)) {
                port.since = had.filter(|_| !self.is_new[at]).unwrap_or(next);
            }
            ended |= self.is_new[at] || before.has_pods[at] && !self.plan.has_pods[at];
        }
        tables.endpoints_since = if ended { next } else { old.endpoints_since };
        rig.set_tables(tables);
    }
}

/// The tables of a plan, for a rig that begins with it.
pub(crate) fn first_tables(plan: &Plan) -> Tables {
    let mut tables = plan.tables();
    for port in [POD, OTHER] {
        if let Some(Some(port)) = tables.ports.get_mut(usize::from(port.0)) {
            port.since = tables.generation;
        }
    }
    tables
}

/// The same tables again, of a newer generation: all that was decided is to be decided again.
pub(crate) fn make_stale(rig: &mut Rig) {
    let tables = rig.tables().clone();
    rig.set_tables(tables);
}

/// Something that happens to a node.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Packets(PortId, Vec<Vec<u8>>),
    Change(Change),
    Pass(Duration),
}

/// A time to pass: a moment, or long enough that what is short-lived ends. Whatever the sum of some of them, it is seconds
/// away from every timeout, so that it does not matter when in its round a sweep comes by.
pub(crate) fn time(choices: &mut Choices<'_>) -> Duration {
    if choices.once_in(6) {
        Duration::from_secs(37)
    } else {
        Duration::from_millis(100)
    }
}
