//! A node as a replay sees it: the same compiler, fed from files.

use std::collections::BTreeMap;
use std::sync::Arc;

use encap::eth::MacAddr;
use encap::flow_hash::HashKey;
use encap::outer::Macs;
use fastpath::policy::Decider;
use fastpath::port::PortId;
use fastpath::tables::Tables;
use ipnet::IpNet;

use super::kernel::Kernel;
use super::kernel_file::{KernelFile, LinkFacts, LinkRole};
use crate::compile::{CompileError, Compiler, PortRole, PortSpec};
use crate::desired::Desired;
use crate::node::HostPorts;

/// The host port's name where no file gives another.
pub const HOST_PORT: &str = "caracal0";

/// The MAC address of the host's side of every pod's veth, as Calico's CNI makes it.
const POD_GATEWAY_MAC: MacAddr = MacAddr([0xee; 6]);
/// The host port's MAC addresses where no file gives others: the dataplane's end and the host's.
const HOST_MACS: (MacAddr, MacAddr) = (
    MacAddr([2, 0xca, 0xca, 0, 0, 1]),
    MacAddr([2, 0xca, 0xca, 0, 0, 2]),
);
/// An uplink's where nothing tells.
const UPLINK_MAC: MacAddr = MacAddr([2, 0xca, 0xca, 0, 0, 3]);
/// Who sent a packet that was captured without an Ethernet header, where that is not known.
const STRANGER_MAC: MacAddr = MacAddr([2, 0xca, 0xca, 0, 0, 4]);
const MTU: u16 = 1500;

/// An uplink that no file describes: it has the Node resource's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssumedUplink {
    /// Its name.
    pub name: String,
    /// Its MAC address, as far as a capture tells.
    pub mac: Option<MacAddr>,
}

/// A node: its compiler and its kernel's state.
#[derive(Debug)]
pub struct ReplayNode {
    compiler: Compiler,
    kernel: Kernel,
}

impl ReplayNode {
    /// A node in the wanted state, with its kernel's. `seed` makes the choice of outer source ports.
    ///
    /// # Errors
    /// When the routes or the policy do not fit the tables.
    pub fn new(
        desired: Desired,
        file: &KernelFile,
        assumed: Option<&AssumedUplink>,
        seed: u64,
    ) -> Result<Self, CompileError> {
        let mut compiler = Compiler::new(HashKey([seed, !seed]));
        let specs = ports(&desired, file, assumed);
        for spec in specs
            .iter()
            .filter_map(|(spec, served)| served.then_some(spec))
        {
            compiler.ports_mut().insert(spec.clone());
        }
        let ifindex = |name: &str| {
            let mut specs = specs.iter();
            specs
                .find(|(spec, _)| spec.name == name)
                .map(|(spec, _)| spec.ifindex)
        };
        let addresses = assumed.and_then(|uplink| {
            let node = desired.local_node()?;
            let v4 = node.v4.map(IpNet::from).into_iter();
            let index = ifindex(&uplink.name)?;
            Some(
                v4.chain(node.v6.map(IpNet::from))
                    .map(move |net| (index, net)),
            )
        });
        let kernel = Kernel::new(file, addresses.into_iter().flatten(), ifindex);
        // As on a host that uses no port itself.
        compiler.set_nat_ports(Arc::new(HostPorts::default().left_for_nat(&desired.felix)));
        compiler.set_desired(desired, &kernel)?;
        compiler.kernel_routes(kernel.routes())?;
        compiler.kernel_addresses(kernel.addresses(), kernel.neighbours(), &kernel)?;
        Ok(Self { compiler, kernel })
    }

    /// The tables, with the next generation number.
    pub fn tables(&mut self) -> Tables {
        self.compiler.tables(&self.kernel)
    }

    /// What denied a packet, in words.
    pub(super) fn why(&self, by: Decider) -> Option<String> {
        let reason = self.compiler.policy().reason(by)?;
        Some(reason.to_string())
    }

    /// What control does when a pod tells its MAC address.
    pub fn learn(&mut self, port: PortId, mac: MacAddr) {
        self.compiler.learn(port, mac);
    }

    /// A port by its interface's name.
    pub fn port(&self, name: &str) -> Option<PortId> {
        self.compiler.ports().by_name(name)
    }

    /// All ports by number, with their names.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, &str)> {
        let ports = self.compiler.ports().iter();
        ports.map(|(id, spec)| (id, spec.name.as_str()))
    }

    /// Ethernet addresses for a packet that came in by a port without any.
    pub fn macs_in(&self, port: PortId) -> Macs {
        let ports = self.compiler.ports();
        let Some(spec) = ports.get(port) else {
            return Macs {
                dst: STRANGER_MAC,
                src: STRANGER_MAC,
            };
        };
        let src = match spec.role {
            PortRole::Host(mac) => mac,
            PortRole::Pod => {
                let mut endpoints = self.compiler.desired().endpoints.iter();
                let endpoint = endpoints.find(|endpoint| endpoint.interface == spec.name);
                let mac = endpoint.and_then(|endpoint| endpoint.mac);
                mac.map_or(STRANGER_MAC, |mac| MacAddr(mac.0))
            }
            PortRole::Uplink => STRANGER_MAC,
        };
        Macs { dst: spec.mac, src }
    }
}

/// Every interface, in the order of their numbers: the pods' first (sorted by name), then the file's, then the host's.
/// With each goes whether the dataplane serves it.
fn ports(
    desired: &Desired,
    file: &KernelFile,
    assumed: Option<&AssumedUplink>,
) -> Vec<(PortSpec, bool)> {
    let described: BTreeMap<&str, &LinkFacts> = file
        .links
        .iter()
        .map(|link| (link.name.value.as_str(), link))
        .collect();
    let mut pods: Vec<&str> = desired
        .endpoints
        .iter()
        .map(|endpoint| endpoint.interface.as_str())
        .collect();
    pods.sort_unstable();
    pods.dedup();
    let mut specs = Vec::new();
    let mut add = |name: &str, link: Option<&LinkFacts>, mac: MacAddr, role, served| {
        specs.push((
            PortSpec {
                name: name.to_owned(),
                ifindex: specs.len() as u32 + 1,
                mac: link.and_then(|link| link.mac).unwrap_or(mac),
                mtu: link.map_or(MTU, |link| link.mtu),
                partial_checksums: link
                    .and_then(|link| link.partial_checksums)
                    .unwrap_or(role != PortRole::Uplink),
                role,
            },
            served,
        ));
    };
    for name in &pods {
        let link = described.get(name).copied();
        add(name, link, POD_GATEWAY_MAC, PortRole::Pod, true);
    }
    let is_host = |link: &&LinkFacts| match link.role {
        Some(role) => role == LinkRole::Host,
        None => link.name.value == HOST_PORT,
    };
    for link in &file.links {
        let name = link.name.value.as_str();
        if !pods.contains(&name) && !is_host(&link) {
            let served = link.role != Some(LinkRole::Other);
            add(name, Some(link), UPLINK_MAC, PortRole::Uplink, served);
        }
    }
    if let Some(uplink) = assumed {
        let mac = uplink.mac.unwrap_or(UPLINK_MAC);
        add(&uplink.name, None, mac, PortRole::Uplink, true);
    }
    let host = file.links.iter().find(is_host);
    let peer = host.and_then(|link| link.peer_mac).unwrap_or(HOST_MACS.1);
    let name = host.map_or(HOST_PORT, |link| link.name.value.as_str());
    add(name, host, HOST_MACS.0, PortRole::Host(peer), true);
    specs
}
