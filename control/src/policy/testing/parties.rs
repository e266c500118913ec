//! Names in tests to endpoints and addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::suggest::nearest;
use crate::policy::calculate::workload_id;
use crate::policy::legs::{Party, host_endpoint, wildcard};
use crate::policy::model::{Model, WorkloadId};
use crate::policy::resource::PolicyResources;
use crate::policy::rule::Family;

/// One end of a test, with the addresses that it may have.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) who: Who,
    pub(super) addresses: Vec<IpAddr>,
}

/// Who is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Workload {
        id: WorkloadId,
        node: String,
    },
    /// A node, by name; `None`: that of the other end.
    Host(Option<String>),
    Outside,
}

impl Who {
    /// The node that it is on, if that is known.
    pub(super) fn node(&self) -> Option<&str> {
        match self {
            Self::Workload { node, .. } => Some(node),
            Self::Host(node) => node.as_deref(),
            Self::Outside => None,
        }
    }
}

/// What is wrong with a name, and what would be right.
pub(super) type Refusal = (String, String);

/// Everybody that a test can name.
pub(super) struct Directory<'m> {
    model: &'m Model,
    /// By `namespace/pod`, `namespace/name` and, where that is unique, without the namespace.
    names: BTreeMap<String, Vec<WorkloadId>>,
    nodes: BTreeMap<String, Vec<IpAddr>>,
}

impl<'m> Directory<'m> {
    pub(super) fn new(resources: &PolicyResources, model: &'m Model) -> Self {
        let mut names: BTreeMap<String, Vec<WorkloadId>> = BTreeMap::new();
        for endpoint in &resources.base.endpoints {
            let id = workload_id(endpoint);
            let namespace = endpoint.meta.namespace.as_deref().unwrap_or("default");
            let resource = endpoint.meta.name.value.as_str();
            let pod = endpoint.workload.as_deref().unwrap_or(resource);
            for name in [
                pod.to_owned(),
                resource.to_owned(),
                format!("{namespace}/{pod}"),
                format!("{namespace}/{resource}"),
            ] {
                let ids = names.entry(name).or_default();
                if !ids.contains(&id) {
                    ids.push(id.clone());
                }
            }
        }
        let mut nodes: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for node in &resources.base.nodes {
            let addresses = nodes.entry(node.meta.name.value.clone()).or_default();
            addresses.extend(node.v4.as_ref().map(|net| IpAddr::V4(net.addr())));
            addresses.extend(node.v6.as_ref().map(|net| IpAddr::V6(net.addr())));
        }
        for endpoint in &resources.host_endpoints {
            let addresses = nodes.entry(endpoint.node.value.clone()).or_default();
            addresses.extend(&endpoint.expected);
        }
        Self {
            model,
            names,
            nodes,
        }
    }

    /// The one endpoint of a name, of which `forms` says what it may be.
    pub(super) fn workload(&self, name: &str, forms: &str) -> Result<&WorkloadId, Refusal> {
        match self.names.get(name).map(Vec::as_slice) {
            Some([id]) => Ok(id),
            Some(several) => {
                let all: Vec<String> = several.iter().map(ToString::to_string).collect();
                let label = format!("there are {}", all.join(", "));
                Err((format!("`{name}` names several endpoints"), label))
            }
            None => {
                let label = match nearest(name, self.names.keys().map(String::as_str)) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => forms.to_owned(),
                };
                Err((format!("unknown endpoint `{name}`"), label))
            }
        }
    }

    /// Who a test means.
    pub(super) fn end(&self, name: &str) -> Result<End, Refusal> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(self.by_address(address));
        }
        if name == "host" {
            return Ok(End {
                who: Who::Host(None),
                addresses: Vec::new(),
            });
        }
        if let Some(node) = name.strip_prefix("host:") {
            let Some(addresses) = self.nodes.get(node) else {
                let label = match nearest(node, self.nodes.keys().map(String::as_str)) {
                    Some(known) => format!("did you mean `host:{known}`?"),
                    None => {
                        "no Node and no HostEndpoint of these files is of such a node".to_owned()
                    }
                };
                return Err((format!("unknown node `{node}`"), label));
            };
            return Ok(End {
                who: Who::Host(Some(node.to_owned())),
                addresses: addresses.clone(),
            });
        }
        let forms = "must be namespace/pod, an IP address, `host` or `host:NODE`";
        let id = self.workload(name, forms)?;
        Ok(self.of_workload(id))
    }

    fn of_workload(&self, id: &WorkloadId) -> End {
        let workload = self.model.workloads.get(id);
        End {
            who: Who::Workload {
                id: id.clone(),
                node: workload
                    .map(|workload| workload.node.clone())
                    .unwrap_or_default(),
            },
            addresses: workload
                .map(|workload| workload.nets.iter().map(ipnet::IpNet::addr).collect())
                .unwrap_or_default(),
        }
    }

    /// An address is that of a pod, of a node, or of nobody.
    fn by_address(&self, address: IpAddr) -> End {
        let mut workloads = self.model.workloads.iter();
        let pod =
            workloads.find(|(_, workload)| workload.nets.iter().any(|net| net.contains(&address)));
        let mut nodes = self.nodes.iter();
        let node = nodes.find(|(_, addresses)| addresses.contains(&address));
        let who = match (pod, node) {
            (Some((id, _)), _) => self.of_workload(id).who,
            (None, Some((node, _))) => Who::Host(Some(node.clone())),
            (None, None) => Who::Outside,
        };
        End {
            who,
            addresses: vec![address],
        }
    }

    /// The addresses of a node.
    pub(super) fn addresses_of(&self, node: &str) -> &[IpAddr] {
        self.nodes.get(node).map_or(&[], Vec::as_slice)
    }

    /// The only node there is.
    pub(super) fn only_node(&self) -> Option<&str> {
        let mut nodes: Vec<&str> = self.nodes.keys().map(String::as_str).collect();
        nodes.extend(
            self.model
                .workloads
                .values()
                .map(|workload| workload.node.as_str()),
        );
        nodes.sort_unstable();
        nodes.dedup();
        match nodes.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The way between a node and what is outside of it, by an interface that the test names or by the only one that
    /// a host endpoint is for.
    pub(super) fn outside(&self, node: &str, interface: Option<&str>) -> Result<Party, Refusal> {
        let endpoint = match interface {
            Some(interface) => host_endpoint(self.model, node, interface, self.addresses_of(node)),
            None => self.only_host_endpoint(node)?,
        };
        Ok(Party::Outside {
            node: node.to_owned(),
            endpoint: endpoint.map(str::to_owned),
        })
    }

    /// The way between pods of two nodes: tunnels hide packets from host endpoints, but not from those for all
    /// interfaces.
    pub(super) fn between_pods(&self, node: &str, interface: Option<&str>) -> Party {
        let endpoint = match interface {
            Some(interface) => host_endpoint(self.model, node, interface, self.addresses_of(node)),
            None => wildcard(self.model, node),
        };
        Party::Outside {
            node: node.to_owned(),
            endpoint: endpoint.map(str::to_owned),
        }
    }

    fn only_host_endpoint(&self, node: &str) -> Result<Option<&str>, Refusal> {
        let endpoints = self.model.host_endpoints.iter();
        let here: Vec<&str> = endpoints
            .filter(|(_, endpoint)| endpoint.node == node)
            .map(|(name, _)| name.as_str())
            .collect();
        match here.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(only)),
            several => Err((
                format!(
                    "node {node} has several host endpoints: {}",
                    several.join(", ")
                ),
                "add `interface`: by which one?".to_owned(),
            )),
        }
    }
}

/// The addresses of two ends that fit together: of the wanted family, else IPv4 where both have it.
pub(super) fn fitting(
    from: &[IpAddr],
    to: &[IpAddr],
    wanted: Option<Family>,
) -> Option<(IpAddr, IpAddr)> {
    let families = match wanted {
        Some(family) => vec![family],
        None => vec![Family::V4, Family::V6],
    };
    families.into_iter().find_map(|family| {
        let of = |addresses: &[IpAddr]| {
            let mut addresses = addresses.iter().copied();
            addresses.find(|address| Family::of(*address) == family)
        };
        of(from).zip(of(to))
    })
}
