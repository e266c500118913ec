//! Interfaces of the host.

use super::parse::{self, Refusal};
use super::policy::tiers;
use super::proto;
use crate::policy::model::HostEndpoint;

/// A host endpoint of `node`.
pub(super) fn host_endpoint(it: &proto::HostEndpoint, node: &str) -> Result<HostEndpoint, Refusal> {
    let all = it.expected_ipv4_addrs.iter().chain(&it.expected_ipv6_addrs);
    let expected = all.map(|text| parse::address(text));
    Ok(HostEndpoint {
        node: node.to_owned(),
        interface: it.name.clone(),
        expected: expected.collect::<Result<_, _>>()?,
        profiles: it.profile_ids.clone(),
        normal: tiers(&it.tiers)?,
        forward: tiers(&it.forward_tiers)?,
        pre_dnat: tiers(&it.pre_dnat_tiers)?,
        untracked: tiers(&it.untracked_tiers)?,
    })
}
