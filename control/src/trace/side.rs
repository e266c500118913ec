//! Who the ends of a packet are, by the names that people give them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::compile::Compiler;
use crate::config::suggest::nearest;
use crate::desired::Endpoint;
use crate::policy::model::{Workload, WorkloadId};

/// The name of the node itself.
const HOST: &str = "host";

/// One end of the packet.
pub(super) struct Side<'c> {
    pub(super) endpoint: Option<&'c Endpoint>,
    pub(super) address: IpAddr,
}

/// The end that a name or an address means, with an address of the family that is wanted.
///
/// # Errors
/// There is none.
pub(super) fn side<'c>(
    compiler: &'c Compiler,
    name: &str,
    v4: Option<bool>,
) -> Result<Side<'c>, String> {
    let endpoints = &compiler.desired().endpoints;
    let has = |endpoint: &&Endpoint, address: IpAddr| endpoint.addresses().any(|it| it == address);
    if let Ok(address) = name.parse::<IpAddr>() {
        if v4.is_some_and(|v4| v4 != address.is_ipv4()) {
            return Err(format!("{name} and the other end are of two families"));
        }
        let endpoint = endpoints.iter().find(|it| has(it, address));
        return Ok(Side { endpoint, address });
    }
    let of_family = |it: &IpAddr| v4.is_none_or(|v4| v4 == it.is_ipv4());
    let none = || format!("{name} has no address of that family");
    if let Some(mut addresses) = elsewhere(compiler, name) {
        addresses.retain(of_family);
        let address = *addresses.first().ok_or_else(none)?;
        return Ok(Side {
            endpoint: None,
            address,
        });
    }
    let endpoint = find(compiler, name)?;
    let address = endpoint.addresses().find(of_family).ok_or_else(none)?;
    Ok(Side {
        endpoint: Some(endpoint),
        address,
    })
}

/// The addresses of the node itself (`host`), or of another node's pod, by the names that `caracal observe` shows.
fn elsewhere(compiler: &Compiler, name: &str) -> Option<Vec<IpAddr>> {
    let desired = compiler.desired();
    if name == HOST {
        return desired.local_node().map(|node| node.addresses().collect());
    }
    let workloads = &compiler.policy().model().workloads;
    let is_meant =
        |id: &WorkloadId, of: &Workload| id.workload == name && of.node != desired.node_name;
    let (_, workload) = workloads.iter().find(|(id, of)| is_meant(id, of))?;
    let mut nets = workload.nets.clone();
    nets.sort_by_key(|net| net.addr().is_ipv6());
    Some(nets.iter().map(IpNet::addr).collect())
}

/// The endpoint of this node that a name means: `namespace/pod`, the resource's name, the interface, or the pod where that
/// is enough.
///
/// # Errors
/// There is none, or more than one.
pub fn find<'c>(compiler: &'c Compiler, name: &str) -> Result<&'c Endpoint, String> {
    let means = |endpoint: &&Endpoint| {
        let namespaced = |pod: &str| name == format!("{}/{pod}", endpoint.id.namespace);
        [&endpoint.workload, &endpoint.id.name, &endpoint.interface].contains(&&name.to_owned())
            || namespaced(&endpoint.workload)
            || namespaced(&endpoint.id.name)
    };
    let found: Vec<_> = compiler.desired().endpoints.iter().filter(means).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            let all = compiler.desired().endpoints.iter();
            let names: Vec<_> = all
                .map(|it| format!("{}/{}", it.id.namespace, it.workload))
                .collect();
            let near = nearest(name, names.iter().map(String::as_str));
            let help = near.map_or_else(
                || "say `namespace/pod`".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            Err(format!(
                "no endpoint of this node is called `{name}`; {help}"
            ))
        }
        _ => Err(format!(
            "`{name}` is several endpoints: say namespace/{name}"
        )),
    }
}
