//! `NetworkSet` and `GlobalNetworkSet`: prefixes with labels.

use ipnet::IpNet;

use crate::config::decode::{self, Context, Fields};
use crate::config::resource::Meta;

/// A set of prefixes that selectors can select.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkSet {
    /// Its name; global ones have no namespace.
    pub meta: Meta,
    /// `nets`.
    pub nets: Vec<IpNet>,
}

impl NetworkSet {
    pub(super) fn decode(meta: Meta, spec: &mut Fields<'_>, cx: &mut Context<'_>) -> Self {
        let nets = spec.get("nets", cx, decode::list(decode::set_member));
        spec.accept(&["allowedEgressDomains"]);
        let nets = nets.into_iter().flat_map(|list| list.value);
        Self {
            meta,
            nets: nets.map(|net| net.value).collect(),
        }
    }
}
