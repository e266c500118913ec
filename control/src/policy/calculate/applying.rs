//! Which policies apply to endpoints, and in which order.

use super::items::ItemId;
use super::order::{by_tier, compare};
use super::{Calculator, Known, Purpose};
use crate::config::kinds::WorkloadEndpoint;
use crate::policy::model::{HostEndpoint, Workload};
use crate::policy::resource::{self, PolicyResource};

impl Calculator {
    pub(super) fn workload(&self, endpoint: &WorkloadEndpoint, item: &ItemId) -> Workload {
        let applies = self.to(item);
        let normal = |policy: &PolicyResource| !policy.do_not_track && !policy.pre_dnat;
        let interface = endpoint.interface.as_ref();
        Workload {
            node: endpoint.node.value.clone(),
            interface: interface.map(|name| name.value.clone()).unwrap_or_default(),
            active: true,
            nets: endpoint
                .addresses
                .iter()
                .map(|address| address.value.into())
                .collect(),
            spoofable: endpoint.spoofable.iter().map(|net| net.value).collect(),
            profiles: endpoint.profiles.clone(),
            tiers: by_tier(&self.tiers, &applies, normal),
        }
    }

    pub(super) fn host(&self, endpoint: &resource::HostEndpoint, item: &ItemId) -> HostEndpoint {
        let applies = self.to(item);
        let of = |wanted: &dyn Fn(&PolicyResource) -> bool| by_tier(&self.tiers, &applies, wanted);
        let is_normal = |policy: &PolicyResource| !policy.do_not_track && !policy.pre_dnat;
        let interface = endpoint.interface.as_ref();
        HostEndpoint {
            node: endpoint.node.value.clone(),
            interface: interface.map(|name| name.value.clone()).unwrap_or_default(),
            expected: endpoint.expected.clone(),
            profiles: endpoint
                .profiles
                .iter()
                .map(|name| name.value.clone())
                .collect(),
            normal: of(&is_normal),
            forward: of(&|policy| is_normal(policy) && policy.apply_on_forward),
            pre_dnat: of(&|policy| policy.pre_dnat),
            untracked: of(&|policy| policy.do_not_track),
        }
    }

    /// The policies that apply to an endpoint, in order.
    fn to(&self, item: &ItemId) -> Vec<&PolicyResource> {
        let mut found: Vec<&Known> = self
            .index
            .selectors_of(item)
            .filter_map(|purpose| match purpose {
                Purpose::Policy(id) => self.policies.get(id),
                Purpose::Set(_) => None,
            })
            .collect();
        found.sort_by(|one, other| compare(&one.resource, &other.resource));
        found.into_iter().map(|known| &*known.resource).collect()
    }
}
