//! Pods' interfaces.

use std::sync::Arc;

use ipnet::IpNet;
use prost::Message as _;

use super::parse::{self, Refusal};
use super::policy::tiers;
use super::proto;
use crate::desired::{Endpoint, EndpointId};
use crate::policy::model::{Workload, WorkloadId};

/// A pod's interface, for forwarding and for policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pod {
    pub(super) endpoint: Endpoint,
    pub(super) workload: Arc<Workload>,
    /// As Felix sent it.
    pub(super) sent: Arc<[u8]>,
}

/// What names it.
pub(super) fn workload_id(id: Option<&proto::WorkloadEndpointId>) -> Option<WorkloadId> {
    let id = id?;
    Some(WorkloadId {
        orchestrator: id.orchestrator_id.clone(),
        workload: id.workload_id.clone(),
        endpoint: id.endpoint_id.clone(),
    })
}

/// The same on the wire.
pub(super) fn wire_id(id: &WorkloadId) -> proto::WorkloadEndpointId {
    proto::WorkloadEndpointId {
        orchestrator_id: id.orchestrator.clone(),
        workload_id: id.workload.clone(),
        endpoint_id: id.endpoint.clone(),
    }
}

/// An endpoint of `node`.
pub(super) fn pod(id: &WorkloadId, sent: &[u8], node: &str) -> Result<Pod, Refusal> {
    let it = proto::WorkloadEndpoint::decode(sent).map_err(|error| error.to_string())?;
    let interface = parse::interface(&it.name)?;
    let mut ipv4_nets = parse::nets(&it.ipv4_nets, parse::net_v4)?;
    let mut ipv6_nets = parse::nets(&it.ipv6_nets, parse::net_v6)?;
    let mut spoofable = parse::nets(&it.allow_spoofed_source_prefixes, parse::net)?;
    let v4 = ipv4_nets.iter().copied().map(IpNet::from);
    let nets = v4.chain(ipv6_nets.iter().copied().map(IpNet::from));
    let workload = Workload {
        node: node.to_owned(),
        interface: interface.clone(),
        active: it.state == "active",
        nets: nets.collect(),
        spoofable: spoofable.clone(),
        profiles: it.profile_ids.clone(),
        tiers: tiers(&it.tiers)?,
    };
    spoofable.sort_unstable();
    spoofable.dedup();
    ipv4_nets.sort_unstable();
    ipv4_nets.dedup();
    ipv6_nets.sort_unstable();
    ipv6_nets.dedup();
    let (namespace, name) = id
        .workload
        .split_once('/')
        .unwrap_or(("default", &id.workload));
    Ok(Pod {
        endpoint: Endpoint {
            id: EndpointId {
                namespace: namespace.to_owned(),
                name: resource_name(node, id, name),
            },
            workload: name.to_owned(),
            interface,
            mac: parse::optional(&it.mac, parse::mac)?,
            ipv4_nets,
            ipv6_nets,
            allowed_spoofed_prefixes: spoofable,
            profiles: it.profile_ids,
        },
        workload: Arc::new(workload),
        sent: sent.into(),
    })
}

/// The name of its WorkloadEndpoint, as Calico makes it: node, orchestrator, pod and endpoint, with their dashes doubled.
fn resource_name(node: &str, id: &WorkloadId, pod: &str) -> String {
    let parts = [node, &id.orchestrator, pod, &id.endpoint];
    parts.map(|part| part.replace('-', "--")).join("-")
}
