//! The calculated model: what Felix sends to a dataplane, with selectors resolved to IP sets and policies put in
//! order for each endpoint.
//!
//! Plain data. Two equal values mean the same policy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

pub use super::settings::{Failsafe, Settings};

use super::rule::{IpSetId, Origin, Protocol, Rule};
pub use super::shared::SharedMap;

/// All that decides about packets. Its parts are shared: a model keeps of the one before what did not change.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Model {
    /// Settings of nodes that `node_settings` does not name.
    pub settings: Settings,
    /// Settings by node, where they differ.
    pub node_settings: BTreeMap<String, Settings>,
    /// Members of sets.
    pub ip_sets: SharedMap<IpSetId, Arc<IpSet>>,
    /// Policies, staged ones among them.
    pub policies: SharedMap<PolicyId, Arc<Policy>>,
    /// Profiles by name.
    pub profiles: SharedMap<String, Arc<Profile>>,
    /// Pods' interfaces.
    pub workloads: SharedMap<WorkloadId, Arc<Workload>>,
    /// Hosts' interfaces, by Calico's endpoint id.
    pub host_endpoints: SharedMap<String, Arc<HostEndpoint>>,
}

impl Model {
    /// The settings of a node.
    pub fn settings_of(&self, node: &str) -> &Settings {
        self.node_settings.get(node).unwrap_or(&self.settings)
    }

    /// Sets that rules name and the model does not hold. A source that leaves any is refused: what is not known must
    /// neither be taken for empty nor for everything.
    pub fn unknown_ip_sets(&self) -> BTreeSet<IpSetId> {
        let policies = self.policies.values();
        let profiles = self.profiles.values();
        let rules = policies
            .map(|policy| &policy.rules)
            .chain(profiles.map(|profile| &profile.rules))
            .flat_map(|rules| rules.inbound.iter().chain(&rules.outbound));
        rules
            .flat_map(|rule| rule.matches.ip_sets())
            .filter(|id| !self.ip_sets.contains_key(id))
            .cloned()
            .collect()
    }
}

/// A set that rules refer to. An empty one has no member, and nothing matches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpSet {
    /// Addresses and prefixes, both families together (`NET`).
    Nets(BTreeSet<IpNet>),
    /// Addresses with protocol and port (`IP_AND_PORT`).
    IpPorts(BTreeSet<IpPort>),
}

/// A member of a set of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPort {
    /// Address.
    pub address: IpAddr,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

/// Kind of a policy, as Felix names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// Calico's `GlobalNetworkPolicy`.
    Global,
    /// Calico's `NetworkPolicy`.
    Namespaced,
    /// `NetworkPolicy` of Kubernetes.
    Kubernetes,
    /// `ClusterNetworkPolicy` of Kubernetes, and `AdminNetworkPolicy` before it.
    KubernetesCluster,
    /// `BaselineAdminNetworkPolicy` of Kubernetes.
    KubernetesBaseline,
    /// `StagedGlobalNetworkPolicy`.
    StagedGlobal,
    /// `StagedNetworkPolicy`.
    StagedNamespaced,
    /// `StagedKubernetesNetworkPolicy`.
    StagedKubernetes,
}

impl PolicyKind {
    /// True if the policy is not enforced, only reported.
    pub fn is_staged(self) -> bool {
        match self {
            Self::StagedGlobal | Self::StagedNamespaced | Self::StagedKubernetes => true,
            Self::Global
            | Self::Namespaced
            | Self::Kubernetes
            | Self::KubernetesCluster
            | Self::KubernetesBaseline => false,
        }
    }

    /// As Felix and `kind:` have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Global => "GlobalNetworkPolicy",
            Self::Namespaced => "NetworkPolicy",
            Self::Kubernetes => "KubernetesNetworkPolicy",
            Self::KubernetesCluster => "KubernetesClusterNetworkPolicy",
            Self::KubernetesBaseline => "KubernetesBaselineAdminNetworkPolicy",
            Self::StagedGlobal => "StagedGlobalNetworkPolicy",
            Self::StagedNamespaced => "StagedNetworkPolicy",
            Self::StagedKubernetes => "StagedKubernetesNetworkPolicy",
        }
    }
}

/// What names a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId {
    /// Kind.
    pub kind: PolicyKind,
    /// Namespace of kinds that have one.
    pub namespace: Option<Arc<str>>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind.as_str(), self.name),
            None => write!(f, "{} {}", self.kind.as_str(), self.name),
        }
    }
}

/// Rules of both directions.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rules {
    /// For packets to the endpoint.
    pub inbound: Vec<Rule>,
    /// For packets from the endpoint.
    pub outbound: Vec<Rule>,
}

impl Rules {
    /// The rules of a direction.
    pub fn of(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.inbound,
            Direction::Egress => &self.outbound,
        }
    }
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Tier that it belongs to.
    pub tier: Arc<str>,
    /// Its rules.
    pub rules: Rules,
    /// Where it was written.
    pub origin: Origin,
}

/// A profile: what holds for an endpoint after all tiers.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Profile {
    /// Its rules.
    pub rules: Rules,
}

/// Which way a packet goes, seen from an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl Direction {
    /// `ingress` or `egress`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// What becomes of a packet that no rule of a tier decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum DefaultAction {
    /// It is dropped, if a policy of the tier applies.
    #[default]
    Deny,
    /// It goes to the next tier.
    Pass,
}

/// The policies of one tier that apply to one endpoint, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierPolicies {
    /// Name of the tier.
    pub name: Arc<str>,
    /// At the end of the tier.
    pub default_action: DefaultAction,
    /// For packets to the endpoint.
    pub ingress: Vec<PolicyId>,
    /// For packets from the endpoint.
    pub egress: Vec<PolicyId>,
}

impl TierPolicies {
    /// The policies of a direction.
    pub fn of(&self, direction: Direction) -> &[PolicyId] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// Which of a host endpoint's policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Before connections are tracked.
    Untracked,
    /// Before destinations are translated.
    PreDnat,
    /// On what the host itself sends and gets.
    Own,
    /// On what the host forwards.
    Forward,
}

impl Stage {
    /// The tiers of an endpoint.
    pub fn tiers(self, host: &HostEndpoint) -> &[TierPolicies] {
        match self {
            Self::Untracked => &host.untracked,
            Self::PreDnat => &host.pre_dnat,
            Self::Own => &host.normal,
            Self::Forward => &host.forward,
        }
    }
}

/// What names a pod's interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadId {
    /// Orchestrator, `k8s` for Kubernetes.
    pub orchestrator: String,
    /// Workload: `namespace/pod`.
    pub workload: String,
    /// Endpoint: `eth0`.
    pub endpoint: String,
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.workload)?;
        if self.endpoint != "eth0" {
            write!(f, " ({})", self.endpoint)?;
        }
        Ok(())
    }
}

/// A pod's interface.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Workload {
    /// Node that it is on; empty where there is one node only.
    pub node: String,
    /// Name of the host's end.
    pub interface: String,
    /// False: nothing passes.
    pub active: bool,
    /// Its addresses.
    pub nets: Vec<IpNet>,
    /// Other sources that it may use.
    pub spoofable: Vec<IpNet>,
    /// Profiles, in order.
    pub profiles: Vec<String>,
    /// Tiers with policies that apply, in order.
    pub tiers: Vec<TierPolicies>,
}

/// An interface of a host, or all of them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HostEndpoint {
    /// Node that it is on; empty where there is one node only.
    pub node: String,
    /// Interface: its name, `*` for all that have no endpoint of their own, or nothing: by address.
    pub interface: String,
    /// Addresses by which the interface is known.
    pub expected: Vec<IpAddr>,
    /// Profiles, in order.
    pub profiles: Vec<String>,
    /// For packets to and from the host itself.
    pub normal: Vec<TierPolicies>,
    /// For packets that the host forwards.
    pub forward: Vec<TierPolicies>,
    /// Before destinations are translated.
    pub pre_dnat: Vec<TierPolicies>,
    /// Before connections are tracked.
    pub untracked: Vec<TierPolicies>,
}

impl HostEndpoint {
    /// True if it stands for all interfaces.
    pub fn is_wildcard(&self) -> bool {
        self.interface == "*"
    }
}
