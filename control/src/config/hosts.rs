//! What is done with host endpoints of this node, of whose traffic only a part passes the dataplane.

use super::diagnostic::{Diagnostic, Severity};
use super::load::Cluster;
use crate::policy::resource::HostEndpoint;

/// `hostEndpoints` in `caracal.yaml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum HostEndpoints {
    /// They are enforced: by the pollers on what is forwarded, by nftables on what the host itself sends and gets.
    #[default]
    Enforced,
    /// They are enforced on what is forwarded. What the host itself sends and gets is not judged.
    ForwardedOnly,
    /// Files with one are refused: a policy that is not enforced is a hole that nobody sees.
    Refuse,
}

impl HostEndpoints {
    /// As they are written.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("enforced", Self::Enforced),
        ("forwarded-only", Self::ForwardedOnly),
        ("refuse", Self::Refuse),
    ];

    /// As it is written.
    pub fn word(self) -> &'static str {
        let mut words = Self::WORDS.iter();
        let found = words.find(|(_, how)| *how == self);
        found.map_or("", |(word, _)| word)
    }

    pub(super) fn errors(self, cluster: &Cluster, node: &str) -> Vec<Diagnostic> {
        let refused = |endpoint: &HostEndpoint| {
            Diagnostic::error("a host endpoint of this node, and `hostEndpoints: refuse`: its policy would not be enforced")
                .at(&endpoint.node.at, "refused: traffic that it forbids would pass")
                .about(endpoint.meta.label())
                .help(
                    "remove it; or set `hostEndpoints: enforced` in caracal.yaml, which needs the program nft, or `forwarded-only`, \
                     to have it enforced on traffic between pods and the outside only",
                )
        };
        match self {
            Self::Refuse => ours(cluster, node).map(refused).collect(),
            Self::Enforced | Self::ForwardedOnly => Vec::new(),
        }
    }

    /// Errors for want of what enforces them, in words: one for each host endpoint of `node`.
    pub(crate) fn errors_without(missing: &str, cluster: &Cluster, node: &str) -> Vec<Diagnostic> {
        let refused = |endpoint: &HostEndpoint| {
            Diagnostic::error(format!("a host endpoint of this node: {missing}"))
                .at(
                    &endpoint.node.at,
                    "refused: traffic that it forbids would pass",
                )
                .about(endpoint.meta.label())
        };
        ours(cluster, node).map(refused).collect()
    }

    /// What is not enforced of each host endpoint of `node`. `uplinks` are their interfaces, where they are known.
    pub fn warnings(
        self,
        cluster: &Cluster,
        node: &str,
        uplinks: Option<&[&str]>,
    ) -> Vec<Diagnostic> {
        let warn = |endpoint: &HostEndpoint| {
            let message = "a host endpoint is enforced on forwarded traffic only";
            let interface = endpoint.interface.as_ref();
            let elsewhere = interface.filter(|interface| {
                interface.value != "*"
                    && uplinks.is_some_and(|all| !all.contains(&interface.value.as_str()))
            });
            let warning = Diagnostic::new(Severity::Warning, message).about(endpoint.meta.label());
            let warning = match elsewhere {
                Some(interface) => warning.at(
                    &interface.at,
                    "no uplink of caracal.yaml: nothing of it is enforced",
                ),
                None => warning.at(
                    &endpoint.node.at,
                    "traffic of the host itself is not judged on this node",
                ),
            };
            let policy = cluster.policy.host_endpoints.get(&endpoint.meta.name.value);
            if policy.is_some_and(|endpoint| !endpoint.untracked.is_empty()) {
                warning.help(
                    "of its doNotTrack policies ingress is judged; egress is about the host itself",
                )
            } else {
                warning
            }
        };
        match self {
            Self::Enforced | Self::Refuse => Vec::new(),
            Self::ForwardedOnly => ours(cluster, node).map(warn).collect(),
        }
    }
}

fn ours<'c>(cluster: &'c Cluster, node: &'c str) -> impl Iterator<Item = &'c HostEndpoint> {
    let all = cluster.host_endpoints.iter().map(|endpoint| &**endpoint);
    all.filter(move |endpoint| endpoint.node.value == node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, load_sources};

    fn warnings(how: HostEndpoints, node: &str, uplinks: Option<&[&str]>) -> String {
        let text = include_str!("../../tests/policy-tests/hosts.yaml");
        let cluster = load_sources(&[Source::new("hosts.yaml", text)]).unwrap();
        let all = how.warnings(&cluster, node, uplinks);
        crate::config::Diagnostics(all).render(false)
    }

    #[test]
    fn without_what_enforces_them_those_of_the_node_are_refused() {
        let text = include_str!("../../tests/policy-tests/hosts.yaml");
        let cluster = load_sources(&[Source::new("hosts.yaml", text)]).unwrap();
        let errors = HostEndpoints::errors_without("no program `nft`", &cluster, "node1");
        let said = crate::config::Diagnostics(errors).render(false);
        assert_eq!(said.matches("error:").count(), 2, "{said}");
        assert!(
            said.contains("a host endpoint of this node: no program `nft`"),
            "{said}"
        );
        assert!(said.contains("hosts.yaml:14:"), "{said}");
        assert!(HostEndpoints::errors_without("", &cluster, "node2").is_empty());
    }

    #[test]
    fn each_of_the_node_is_warned_about_once() {
        let forwarded = HostEndpoints::ForwardedOnly;
        let said = warnings(forwarded, "node1", Some(&["eth0"]));
        assert_eq!(said.matches("warning:").count(), 2, "{said}");
        assert!(!said.contains("no uplink of caracal.yaml"), "{said}");
        let said = warnings(forwarded, "node1", Some(&["eth1"]));
        assert_eq!(said.matches("warning:").count(), 2, "{said}");
        // That for all interfaces is of whatever uplinks there are.
        assert_eq!(
            said.matches("no uplink of caracal.yaml").count(),
            1,
            "{said}"
        );
        assert!(said.contains("hosts.yaml:14:36"), "{said}");
        assert_eq!(warnings(forwarded, "node2", None), "");
        assert_eq!(warnings(HostEndpoints::Refuse, "node1", None), "");
    }
}
