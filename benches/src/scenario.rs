//! Ways through the pipeline: tables and packets that benches and tests run.

mod chain;
mod established;
mod packets;
mod tables;

use std::sync::Arc;

use encap::eth::MacAddr;
use fastpath::connections::Connections;
use fastpath::policy::Policies;
use fastpath::port::PortId;
use fastpath::tables::Tables;
use flowtable::lpm::{NextHopId, Prefix4, Prefix6, Rib4, Rib6};

use crate::routes::{Address, Route, Spread, addresses, bgp1m, calico1k, calico1k6};

pub use chain::Chain;
pub use established::empty as no_connections;
pub use packets::{fragments4, udp4, udp4_of, unreachable4};
use packets::{tcp4, tunnelled, udp6};
use tables::{POD_HOPS, tables};

/// The uplink's port.
pub const UPLINK: PortId = PortId(0);
/// The pods' ports: 1 to this.
pub const PODS: u16 = 4;
/// Bytes of a packet as a pod sends it, without the frame check sequence.
pub const PACKET_LEN: usize = 64;

const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const VTEP_MAC: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 1]);
const LOCAL4: u32 = 0xc0a8_0001;
const LOCAL6: u128 = 0x2001_0db8 << 96 | 1;
/// The pod's IPv4 address is the one behind this.
pub const POD4: u32 = 0xac10_0000;
const POD6: u128 = 0xfd00_0099 << 96;
const OVERLAY_MTU: u16 = 1400;

/// Tables, and packets that come in by [`Scenario::in_ports`], all of one length.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What happens to the packets.
    pub chain: Chain,
    /// The tables.
    pub tables: Tables,
    /// The connections that the packets belong to, established. None where none are kept track of.
    pub connections: Option<Arc<Connections>>,
    /// One packet a flow, one behind the other.
    packets: Vec<u8>,
    packet_len: usize,
}

impl Scenario {
    /// The scenario with this many flows.
    ///
    /// # Panics
    /// Never: the routes are made to fit.
    #[must_use]
    pub fn new(chain: Chain, flows: usize) -> Self {
        Self::under(&Policies::allowing_all(usize::from(PODS) + 1), chain, flows)
    }

    /// The same under these policies, which allow the connections that it needs.
    ///
    /// # Panics
    /// They do not.
    #[must_use]
    pub fn under(policies: &Policies, chain: Chain, flows: usize) -> Self {
        let mut scenario = Self::of(chain, flows, false).judged_by(policies);
        if chain.is_stateful() {
            let firsts = chain.is_tcp().then(|| Self::of(chain, flows, true));
            let made = established::establish(&scenario, firsts.as_ref().unwrap_or(&scenario));
            scenario.connections = Some(made.connections);
            if chain.is_reply() {
                scenario.packets = made.answers;
            }
        }
        scenario
    }

    /// The same with the first packets of its connections, none of which is made yet.
    #[must_use]
    pub fn beginning(chain: Chain, flows: usize) -> Self {
        Self::of(chain, flows, true)
    }

    /// The same under other policies.
    #[must_use]
    pub fn judged_by(mut self, policies: &Policies) -> Self {
        self.tables.policies = policies.clone();
        self
    }

    fn of(chain: Chain, flows: usize, begins: bool) -> Self {
        let mut tables = tables(chain);
        let mut packets = Vec::new();
        if chain.is_v6() {
            let routes = calico1k6();
            let pods = (1..=PODS).map(|pod| (POD6 + u128::from(pod), 128, POD_HOPS + pod));
            let pairs: Vec<_> = routes.iter().copied().chain(pods).map(pair6).collect();
            tables.fib6 = Rib6::from_routes(&pairs).expect("they fit").snapshot();
            for (flow, dst) in (0..).zip(remote(&routes, flows)) {
                packets.extend(udp6(POD6 + 1, dst, flow));
            }
        } else {
            let routes = if chain == Chain::Forward4Bgp {
                bgp1m()
            } else {
                calico1k()
            };
            let pods = (1..=PODS).map(|pod| (POD4 + u32::from(pod), 32, POD_HOPS + pod));
            let pairs: Vec<_> = routes.iter().copied().chain(pods).map(pair4).collect();
            tables.fib4 = Rib4::from_routes(&pairs).expect("they fit").snapshot();
            for (flow, there) in (0..).zip(remote(&routes, flows)) {
                if chain.is_decap() {
                    let peer = tables.fib4.lookup(there).get();
                    let pod = POD4 + 1 + flow % u32::from(PODS);
                    packets.extend(tunnelled(chain, peer, &udp4(there, pod, flow)));
                } else if chain.is_tcp() {
                    packets.extend(tcp4(POD4 + 1, there, flow, begins));
                } else {
                    packets.extend(udp4(POD4 + 1, there, flow));
                }
            }
        }
        Self {
            chain,
            tables,
            connections: None,
            packet_len: packets.len() / flows,
            packets,
        }
    }

    /// Bytes of each packet.
    #[must_use]
    pub const fn packet_len(&self) -> usize {
        self.packet_len
    }

    /// How many flows there are.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.packets.len() / self.packet_len
    }

    /// The packet of flow number `flow`, counted from the start again after the last.
    #[must_use]
    pub fn packet(&self, flow: usize) -> &[u8] {
        let at = flow % self.flows() * self.packet_len;
        &self.packets[at..at + self.packet_len]
    }

    /// The packets of `count` flows from number `first` on, counted from the start again after the last.
    pub fn packets(&self, first: usize, count: usize) -> impl Iterator<Item = &[u8]> {
        let from = first % self.flows() * self.packet_len;
        self.packets[from..]
            .chunks_exact(self.packet_len)
            .chain(self.packets.chunks_exact(self.packet_len).cycle())
            .take(count)
    }

    /// The ports that the packets come in by, four of them: any packet may come by any of them.
    #[must_use]
    pub fn in_ports(&self) -> Vec<PortId> {
        if self.chain.comes_by_uplink() {
            vec![UPLINK; PODS.into()]
        } else {
            (1..=PODS).map(PortId).collect()
        }
    }

    /// The ports that they leave by.
    #[must_use]
    pub fn out_ports(&self) -> Vec<PortId> {
        if self.chain.comes_by_uplink() {
            (1..=PODS).map(PortId).collect()
        } else {
            vec![UPLINK]
        }
    }
}

/// `count` addresses behind the routes; the default route, 0/8 and 127/8 left out.
fn remote<A: Address>(routes: &[Route<A>], count: usize) -> Vec<A> {
    let is_host = |addr: A| !matches!(addr.to_bits() >> (A::BITS - 8), 0 | 127);
    let specific: Vec<_> = routes
        .iter()
        .copied()
        .filter(|it| it.1 > 0 && is_host(it.0))
        .collect();
    addresses(&specific, Spread::Uniform, count)
}

fn pair4((addr, len, hop): Route<u32>) -> (Prefix4, NextHopId) {
    let prefix = Prefix4::containing(addr, len).expect("a length of IPv4");
    (prefix, NextHopId::new(hop).expect("a small number"))
}

fn pair6((addr, len, hop): Route<u128>) -> (Prefix6, NextHopId) {
    let prefix = Prefix6::containing(addr, len).expect("a length of IPv6");
    (prefix, NextHopId::new(hop).expect("a small number"))
}
