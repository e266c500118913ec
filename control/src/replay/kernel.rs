//! The kernel's state as a [`KernelFile`] describes it.

use std::collections::HashMap;
use std::net::IpAddr;

use encap::eth::MacAddr;
use ipnet::IpNet;

use super::kernel_file::KernelFile;
use crate::compile::{KernelHop, KernelLeg, KernelView};

/// Routes and neighbours, looked up the slow way: a replay asks a few times only.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    routes: Vec<(IpNet, KernelHop)>,
    neighbours: HashMap<(u32, IpAddr), MacAddr>,
    addresses: Vec<(u32, IpNet)>,
}

impl Kernel {
    /// The file's state, where `ifindex` gives each link its number. `addresses` are those of links that the file does
    /// not describe, with their links' numbers.
    pub fn new(
        file: &KernelFile,
        addresses: impl IntoIterator<Item = (u32, IpNet)>,
        ifindex: impl Fn(&str) -> Option<u32>,
    ) -> Self {
        let mut kernel = Self::default();
        let described = file.links.iter().flat_map(|link| {
            let index = ifindex(&link.name.value);
            let addresses = link.addresses.iter();
            addresses.filter_map(move |&net| Some((index?, net)))
        });
        for (index, net) in described.chain(addresses) {
            kernel.addresses.push((index, net));
            if net.prefix_len() < net.max_prefix_len() {
                let hop = KernelHop::OnLink { ifindex: index };
                kernel.routes.push((net.trunc(), hop));
            }
        }
        for route in &file.routes {
            let legs = route.legs.iter().filter_map(|leg| {
                Some(KernelLeg {
                    gateway: leg.via,
                    ifindex: ifindex(&leg.dev.value)?,
                    weight: leg.weight,
                })
            });
            let legs: Vec<_> = legs.collect();
            let hop = match (route.nowhere, legs.as_slice()) {
                (Some(nowhere), _) => nowhere.into(),
                (None, []) => continue,
                (
                    None,
                    &[
                        KernelLeg {
                            gateway, ifindex, ..
                        },
                    ],
                ) => match gateway {
                    Some(gateway) => KernelHop::Via { gateway, ifindex },
                    None => KernelHop::OnLink { ifindex },
                },
                (None, _) => KernelHop::Legs(legs),
            };
            kernel.routes.push((route.to, hop));
        }
        for neighbour in &file.neighbours {
            if let Some(index) = ifindex(&neighbour.dev.value) {
                let key = (index, neighbour.address);
                kernel.neighbours.insert(key, neighbour.mac);
            }
        }
        kernel
    }

    /// The prefixes of all routes with the best route to each.
    pub fn routes(&self) -> impl Iterator<Item = (IpNet, Option<&KernelHop>)> {
        self.routes.iter().map(|(net, hop)| (*net, Some(hop)))
    }

    /// All neighbours.
    pub fn neighbours(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        self.neighbours.keys().copied()
    }

    /// The node's own addresses, with the prefixes of their subnets.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> {
        self.addresses.iter().map(|(_, net)| *net)
    }
}

impl KernelView for Kernel {
    fn route(&self, addr: IpAddr) -> Option<KernelHop> {
        let holding = self.routes.iter().filter(|(net, _)| net.contains(&addr));
        // Of equal prefixes the last one said counts, as for `exact`.
        holding
            .max_by_key(|(net, _)| net.prefix_len())
            .map(|(_, hop)| hop.clone())
    }

    fn exact(&self, prefix: IpNet) -> Option<KernelHop> {
        let mut same = self.routes.iter().filter(|(net, _)| *net == prefix);
        same.next_back().map(|(_, hop)| hop.clone())
    }

    fn mac(&self, ifindex: u32, addr: IpAddr) -> Option<MacAddr> {
        self.neighbours.get(&(ifindex, addr)).copied()
    }

    fn source(&self, ifindex: u32, v6: bool) -> Option<IpAddr> {
        let mut on_link = self.addresses.iter().filter(|(index, _)| *index == ifindex);
        let found = on_link.find(|(_, net)| net.addr().is_ipv6() == v6);
        found.map(|(_, net)| net.addr())
    }

    fn addresses(&self, ifindex: u32) -> Vec<IpAddr> {
        let on_link = self.addresses.iter().filter(|(index, _)| *index == ifindex);
        on_link.map(|(_, net)| net.addr()).collect()
    }
}
