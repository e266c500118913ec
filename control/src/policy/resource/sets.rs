//! `NetworkSet` and `GlobalNetworkSet`: prefixes with labels.

use ipnet::IpNet;

use crate::config::decode::{self, Context, Fields};
use crate::config::diagnostic::Diagnostic;
use crate::config::resource::Meta;
use crate::config::yaml::Value;

/// The namespace of what is in one. Nobody gives it to himself.
pub(crate) const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

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
        if meta.labels.contains_key(NAMESPACE_LABEL) {
            cx.error(
                &meta.name.at,
                format!("a set with the label `{NAMESPACE_LABEL}`"),
                "leave the label out: it would count as one of that namespace",
            );
        }
        no_domains(spec, cx);
        let nets = nets.into_iter().flat_map(|list| list.value);
        Self {
            meta,
            nets: nets.map(|net| net.value).collect(),
        }
    }
}

/// Calico's commercial edition has sets of domains.
fn no_domains(spec: &mut Fields<'_>, cx: &mut Context<'_>) {
    let Some((key, node)) = spec.take_with_key("allowedEgressDomains") else {
        return;
    };
    if !matches!(&node.value, Value::List(items) if items.is_empty()) {
        cx.report(
            Diagnostic::error("domains in network sets are not supported")
                .at(&key.at, "nothing here follows DNS; name prefixes in `nets`")
                .help("a rule that denies the set would let the domains' addresses pass"),
        );
    }
}
