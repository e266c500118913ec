//! Host endpoints' policy on what the host itself sends and gets: which table the kernel is to have, and that it has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::host_counts::HostCounts;
use super::{Node, RunError, start};
use crate::compile::{KernelHop, KernelView};
use crate::config::HostEndpoints;
use crate::desired::{Desired, Endpoint};
use crate::netlink::Mirror;
use crate::netlink::host_port::{DATAPLANE_END, HOST_END};
use crate::nft::{
    Condition, Counters, ENFORCED, Keeper, KnownSets, Nft, NftError, Rendered, View, render,
};
use crate::policy::Model;
use crate::policy::legs::{host_endpoint, wildcard};
use crate::trace::HostTable;

/// What could not be tried at all is tried again this much later.
const RETRY: Duration = Duration::from_secs(10);

/// The table of the host's own traffic, and what it was made of.
#[derive(Debug, Default)]
pub(super) struct HostPolicy {
    /// None as long as no host endpoint of this node was seen.
    keeper: Option<Keeper>,
    sets: KnownSets,
    counters: Counters,
    made_of: Option<MadeOf>,
    /// Whether that may be another by now.
    pub(super) is_stale: bool,
    /// Whether the table of a former run was taken away.
    is_former_gone: bool,
    /// Why there is no table that could be wished for; it is tried again then.
    failed: Option<(String, Instant)>,
}

impl HostPolicy {
    /// The interfaces of which a host endpoint is their own.
    pub(super) fn interfaces_of(&self, endpoint: &str) -> Vec<String> {
        let interfaces = self.made_of.iter().flat_map(|made_of| &made_of.interfaces);
        let own = interfaces.filter(|(_, own)| *own == endpoint);
        own.map(|(interface, _)| interface.clone()).collect()
    }

    /// The table as it is to be, for who asks what it says of a packet; `route` has the interface by which the kernel's route to an address leads.
    pub(super) fn table<'a>(
        &'a self,
        route: &'a dyn Fn(IpAddr) -> Option<String>,
    ) -> Option<HostTable<'a>> {
        let made_of = self.made_of.as_ref();
        let made_of = made_of.filter(|_| self.keeper.is_some() && !self.counters.is_empty())?;
        Some(HostTable {
            interfaces: &made_of.interfaces,
            peers: &made_of.peers,
            vxlan: made_of.vxlan,
            is_in_force: self.keeper.as_ref().map(Keeper::condition)
                == Some(Condition {
                    has_table: true,
                    ..Condition::default()
                })
                && self.failed.is_none(),
            route,
        })
    }

    /// What the table has decided so far; nothing where there is none.
    pub(super) fn counts(&self) -> HostCounts<'_> {
        let counts = self.keeper.as_ref().filter(|_| !self.counters.is_empty());
        let counts = counts.map(Keeper::counters);
        HostCounts::new(&self.counters, counts.unwrap_or_default())
    }
}

/// What a table depends on.
#[derive(Debug)]
struct MadeOf {
    model: Arc<Model>,
    interfaces: BTreeMap<String, String>,
    pod_prefixes: Vec<String>,
    pod_interfaces: BTreeSet<String>,
    pods: BTreeSet<IpNet>,
    peers: BTreeSet<IpNet>,
    vxlan: Option<u16>,
}

impl MadeOf {
    fn of(desired: &Desired, mirror: &Mirror) -> Self {
        let pods = desired.endpoints.iter();
        let nets = |pod: &Endpoint| {
            let v4 = pod.ipv4_nets.iter().copied().map(IpNet::V4);
            let v6 = pod.ipv6_nets.iter().copied().map(IpNet::V6);
            v4.chain(v6).collect::<Vec<_>>()
        };
        Self {
            pod_interfaces: pods.clone().map(|pod| pod.interface.clone()).collect(),
            pods: pods.flat_map(nets).collect(),
            interfaces: interfaces(desired, mirror),
            pod_prefixes: desired.felix.interface_prefixes.clone(),
            peers: peers(desired),
            vxlan: start::vxlan_port(desired),
            model: Arc::clone(&desired.policy),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.model, &other.model)
            && self.interfaces == other.interfaces
            && self.pod_prefixes == other.pod_prefixes
            && self.pod_interfaces == other.pod_interfaces
            && self.pods == other.pods
            && self.peers == other.peers
            && self.vxlan == other.vxlan
    }
}

impl Node {
    /// Puts the first table in force, or takes away what a former daemon left.
    ///
    /// # Errors
    /// The host's own traffic would not be judged as host endpoints ask for.
    pub(super) fn begin_host_policy(&mut self) -> Result<(), RunError> {
        let rendered = self.host_policy_table()?;
        if rendered.ruleset.is_empty() {
            self.remove_former_table();
            return Ok(());
        }
        let keeper = Keeper::start(Nft::find()?, rendered.ruleset)?;
        tracing::info!("{ENFORCED}");
        self.host_policy.keeper = Some(keeper);
        self.host_policy.counters = rendered.counters;
        Ok(())
    }

    /// Takes away what a former daemon left, once it is known that nothing is wanted: a source may yet say what is.
    fn remove_former_table(&mut self) {
        let node = self.compiler.desired().local_node();
        let is_known = node.is_some_and(|node| node.addresses().next().is_some());
        let is_wanted = self.config.host_endpoints == HostEndpoints::Enforced;
        if self.host_policy.is_former_gone || is_wanted && !is_known {
            return;
        }
        self.host_policy.is_former_gone = true;
        match Nft::find().and_then(|nft| nft.remove()) {
            Ok(true) => tracing::info!("the table of host endpoints of a former run is removed"),
            Ok(false) | Err(NftError::Missing) => {}
            Err(error) => {
                // As where the kernel has no nftables.
                tracing::debug!(%error, "whether a former run left a table of host endpoints");
            }
        }
    }

    /// Has the table that follows from what is known now, where anything may have changed.
    pub(super) fn sync_host_policy(&mut self, now: Instant) {
        let policy = &mut self.host_policy;
        let is_due = policy.failed.as_ref().is_some_and(|(_, at)| *at <= now);
        let model = &self.compiler.desired().policy;
        let known = policy.made_of.as_ref();
        let is_stale = std::mem::take(&mut policy.is_stale)
            || known.is_some_and(|known| !Arc::ptr_eq(&known.model, model));
        if self.config.host_endpoints != HostEndpoints::Enforced || !(is_due || is_stale) {
            return;
        }
        let made_of = MadeOf::of(self.compiler.desired(), &self.mirror);
        let known = self.host_policy.made_of.as_ref();
        if !is_due && known.is_some_and(|known| known.is_same(&made_of)) {
            return;
        }
        let done = self.wish_host_policy().map_err(|error| error.to_string());
        let failed = done.err();
        let said = self.host_policy.failed.take().map(|(said, _)| said);
        if let Some(error) = failed.as_ref().filter(|_| failed != said) {
            tracing::error!(%error, "host endpoints are not enforced on the host's own traffic as they should be");
        }
        self.host_policy.failed = failed.map(|error| (error, now + RETRY));
    }

    fn wish_host_policy(&mut self) -> Result<(), RunError> {
        let Rendered { ruleset, counters } = self.host_policy_table()?;
        if self.host_policy.keeper.is_none() && ruleset.is_empty() {
            self.remove_former_table();
            return Ok(());
        }
        let policy = &mut self.host_policy;
        match &mut policy.keeper {
            Some(keeper) => keeper.wish(ruleset),
            None => policy.keeper = Some(Keeper::start_soon(Nft::find()?, ruleset)?),
        }
        policy.counters = counters;
        Ok(())
    }

    /// When it is to be tried again.
    pub(super) fn host_policy_due(&self) -> Option<Instant> {
        self.host_policy.failed.as_ref().map(|(_, at)| *at)
    }

    /// How it stands with the kernel's table.
    pub(super) fn host_policy_condition(&self) -> Condition {
        let policy = &self.host_policy;
        let kept = policy.keeper.as_ref().map(Keeper::condition);
        let kept = kept.unwrap_or_default();
        let failed = policy.failed.as_ref().map(|(error, _)| error.clone());
        Condition {
            problem: failed.or(kept.problem),
            ..kept
        }
    }

    /// The interface by which the kernel's route to an address leads, of several the first that is up.
    pub(super) fn interface_towards(&self, address: IpAddr) -> Option<String> {
        let ifindex = match KernelView::route(&self.mirror, address)? {
            KernelHop::Via { ifindex, .. } | KernelHop::OnLink { ifindex } => ifindex,
            KernelHop::Legs(legs) => {
                let up = legs.iter().find(|leg| self.mirror.is_up(leg.ifindex));
                up.or(legs.first())?.ifindex
            }
            KernelHop::Blackhole | KernelHop::Unreachable | KernelHop::Prohibit => return None,
        };
        Some(self.mirror.link(ifindex)?.name.clone())
    }

    fn host_policy_table(&mut self) -> Result<Rendered, RunError> {
        if self.config.host_endpoints != HostEndpoints::Enforced {
            return Ok(Rendered::default());
        }
        let made_of = MadeOf::of(self.compiler.desired(), &self.mirror);
        let model = Arc::clone(&made_of.model);
        let made_of = self.host_policy.made_of.insert(made_of);
        let view = View {
            model: &model,
            node: &self.name,
            interfaces: made_of.interfaces.clone(),
            wildcard: wildcard(&model, &self.name).map(str::to_owned),
            pod_prefixes: &made_of.pod_prefixes,
            pod_interfaces: made_of.pod_interfaces.clone(),
            pods: made_of.pods.clone(),
            peers: made_of.peers.clone(),
            vxlan: made_of.vxlan,
        };
        Ok(render(&view, &mut self.host_policy.sets)?)
    }
}

/// The host endpoints of interfaces that have one of their own, be they there or not.
fn interfaces(desired: &Desired, mirror: &Mirror) -> BTreeMap<String, String> {
    let (model, node) = (&desired.policy, &desired.node_name);
    let mut addresses = BTreeMap::new();
    for link in mirror.links() {
        addresses.insert(
            link.name.as_str(),
            KernelView::addresses(mirror, link.ifindex),
        );
    }
    let ours = model.host_endpoints.values();
    let ours = ours.filter(|endpoint| endpoint.node == *node && !endpoint.is_wildcard());
    for endpoint in ours.filter(|endpoint| !endpoint.interface.is_empty()) {
        addresses.entry(&endpoint.interface).or_default();
    }
    let pods = desired.endpoints.iter();
    let pods: BTreeSet<&str> = pods.map(|endpoint| endpoint.interface.as_str()).collect();
    let prefixes = &desired.felix.interface_prefixes;
    let is_other = |name: &str| {
        name == "lo"
            || name == HOST_END
            || name == DATAPLANE_END
            || pods.contains(name)
            || prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    let own = |(name, addresses): (&str, Vec<_>)| {
        let endpoint = host_endpoint(model, node, name, &addresses)?;
        let is_own = !model.host_endpoints.get(endpoint)?.is_wildcard();
        is_own.then(|| (name.to_owned(), endpoint.to_owned()))
    };
    let interfaces = addresses.into_iter().filter(|(name, _)| !is_other(name));
    interfaces.filter_map(own).collect()
}

/// Nodes, and others whose tunnels are let in.
fn peers(desired: &Desired) -> BTreeSet<IpNet> {
    let others = |name: &&String| **name != desired.node_name;
    let names = desired.nodes.keys().filter(others);
    let nodes = names.filter_map(|name| desired.nodes.get(name));
    let nodes = nodes.flat_map(|node| node.addresses().collect::<Vec<_>>());
    let vteps = desired.vteps.iter().filter(|(name, _)| others(name));
    let vteps = vteps.flat_map(|(_, vtep)| {
        let v4 = vtep.parent.map(std::net::IpAddr::V4);
        v4.into_iter()
            .chain(vtep.parent_v6.map(std::net::IpAddr::V6))
    });
    let all = nodes.chain(vteps).map(IpNet::from);
    all.chain(desired.felix.external_nodes.iter().copied())
        .collect()
}
