//! `BGPConfiguration`: of it the dataplane reads only which prefixes services have.

use ipnet::IpNet;

use crate::config::decode::{self, Context, Fields};
use crate::config::resource::Meta;
use crate::config::yaml::Node;

/// Settings of BGP, as far as the dataplane needs them.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpConfiguration {
    /// Its name: `default`, or `node.<name>`.
    pub meta: Meta,
    /// `serviceClusterIPs`.
    pub service_cluster: Vec<IpNet>,
    /// `serviceExternalIPs`.
    pub service_external: Vec<IpNet>,
    /// `serviceLoadBalancerIPs`.
    pub service_load_balancer: Vec<IpNet>,
}

impl BgpConfiguration {
    pub(crate) fn decode(meta: Meta, spec: &mut Fields<'_>, cx: &mut Context<'_>) -> Self {
        let this = Self {
            meta,
            service_cluster: blocks(spec, "serviceClusterIPs", cx),
            service_external: blocks(spec, "serviceExternalIPs", cx),
            service_load_balancer: blocks(spec, "serviceLoadBalancerIPs", cx),
        };
        let _ = spec.get("nodeToNodeMeshEnabled", cx, decode::boolean);
        let _ = spec.get("listenPort", cx, decode::port);
        let _ = spec.get("nodeMeshMaxRestartTime", cx, decode::duration);
        let _ = spec.get("logSeverityScreen", cx, decode::text);
        spec.accept(&[
            "asNumber",
            "communities",
            "prefixAdvertisements",
            "nodeMeshPassword",
            "bindMode",
            "ignoredInterfaces",
            "localWorkloadPeeringIPV4",
            "localWorkloadPeeringIPV6",
            "serviceLoadBalancerAggregation",
            "programClusterRoutes",
            "ipv4NormalRoutePriority",
            "ipv4ElevatedRoutePriority",
            "ipv6NormalRoutePriority",
            "ipv6ElevatedRoutePriority",
        ]);
        this
    }
}

fn blocks(spec: &mut Fields<'_>, name: &'static str, cx: &mut Context<'_>) -> Vec<IpNet> {
    let blocks = spec.get(name, cx, decode::list(block));
    blocks
        .map(|list| list.value.into_iter().map(|item| item.value).collect())
        .unwrap_or_default()
}

fn block(node: &Node, cx: &mut Context<'_>) -> Option<IpNet> {
    let mut fields = Fields::open(node, "a service block", cx)?;
    let cidr = fields.require("cidr", cx, decode::cidr);
    fields.finish(cx);
    cidr.map(|cidr| cidr.value)
}
