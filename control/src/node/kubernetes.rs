//! Services: those of the source, and those of a cluster's API server, into force.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};

use super::{Node, RunError};
use crate::api::report::{self, Part, Problem};
use crate::config::DaemonConfig;
use crate::desired::{Desired, Service};
use crate::kubernetes::{Condition, Link};

/// So many reasons are logged while the API server does not answer; `caracal status` has the latest.
const REASONS: usize = 4;

/// Where services are from.
pub(super) struct Services {
    /// Those of the files.
    source: Arc<Vec<Service>>,
    /// Those of the API server; none before it has answered.
    cluster: Arc<Vec<Service>>,
    /// All of them.
    merged: Arc<Vec<Service>>,
    /// Whether the API server has said which there are.
    is_synced: bool,
    link: Option<Link>,
    /// How it stood with the API server when that was looked at last.
    seen: Condition,
    /// The reasons that were logged since it did not answer.
    said: BTreeSet<String>,
}

impl Services {
    /// Begins to follow the API server, if one is configured. What the source has given so far is `first`.
    pub(super) fn start(
        config: &DaemonConfig,
        node: &str,
        first: &Desired,
    ) -> Result<Self, RunError> {
        let link = config.kubernetes.as_ref();
        let link = link.map(|settings| Link::start(settings, node)).transpose();
        Ok(Self {
            source: first.services.clone(),
            cluster: Arc::default(),
            merged: first.services.clone(),
            is_synced: false,
            link: link.map_err(|source| RunError::System {
                what: "start the thread that speaks to Kubernetes",
                source,
            })?,
            seen: Condition::default(),
            said: BTreeSet::default(),
        })
    }

    /// What to wait for.
    pub(super) fn poll_fd(&self) -> Option<PollFd<'_>> {
        let link = self.link.as_ref();
        link.map(|link| PollFd::new(link.fd(), PollFlags::POLLIN))
    }

    /// Gives what the source wants the services of the API server, too.
    pub(super) fn add_to(&mut self, desired: &mut Desired) {
        if desired.services != self.source {
            self.source = desired.services.clone();
            self.merge();
        }
        desired.services = self.merged.clone();
        desired.services_incomplete = self.is_incomplete();
    }

    /// Whether the API server has yet to say which services there are.
    pub(super) const fn is_incomplete(&self) -> bool {
        self.link.is_some() && !self.is_synced
    }

    fn merge(&mut self) {
        self.merged = merge(&self.source, &self.cluster);
    }

    /// Says what has come of the API server. Each reason is said once, of both kinds of objects, until it answers again.
    fn say(&mut self, condition: &Condition) {
        let before = std::mem::replace(&mut self.seen, condition.clone());
        if condition.synced.is_some() && before.synced.is_none() {
            tracing::info!(
                services = condition.services,
                endpoint_slices = condition.endpoint_slices,
                "services of Kubernetes are known"
            );
        }
        match (&before.error, &condition.error) {
            (_, Some(error)) => {
                let is_more = self.said.len() < REASONS;
                if is_more && self.said.insert(error.why.clone()) {
                    tracing::error!("Kubernetes: {error}; {}", what_holds(condition));
                }
            }
            (Some(_), None) => {
                self.said.clear();
                tracing::info!("Kubernetes answers again");
            }
            (None, None) => {}
        }
    }
}

/// What is in force in spite of an error.
const fn what_holds(condition: &Condition) -> &'static str {
    if condition.synced.is_some() {
        "the services before stay in force"
    } else {
        "none of its services is known yet"
    }
}

/// Both, sorted. Of one name the API server knows better, and so it does of an address. What is a cluster IP of one is no other address
/// of the other.
fn merge(source: &Arc<Vec<Service>>, cluster: &Arc<Vec<Service>>) -> Arc<Vec<Service>> {
    if source.is_empty() {
        return cluster.clone();
    }
    if cluster.is_empty() {
        return source.clone();
    }
    let name = |it: &Service| (it.namespace.clone(), it.name.clone());
    let known: BTreeSet<_> = cluster.iter().map(name).collect();
    let others = source.iter().filter(|it| !known.contains(&name(it)));
    let mut all: Vec<_> = others.cloned().collect();
    let (theirs, ours) = (own_addresses(cluster), own_addresses(&all));
    for service in &mut all {
        service.addresses.retain(|it| !theirs.contains(it));
        service.own_addresses.retain(|it| !theirs.contains(it));
    }
    let of_cluster = cluster.iter().cloned().map(|mut service| {
        let own = service.own_addresses.clone();
        let may_have = |it: &IpAddr| own.contains(it) || !ours.contains(it);
        service.addresses.retain(may_have);
        service
    });
    all.extend(of_cluster);
    all.retain(|service| !service.addresses.is_empty());
    // Two of one name are next to each other, in their order.
    all.sort_by_cached_key(name);
    Arc::new(all)
}

fn own_addresses(services: &[Service]) -> BTreeSet<IpAddr> {
    let own = services.iter().flat_map(|it| &it.own_addresses);
    own.copied().collect()
}

impl Node {
    /// Takes in what came of the API server. Nothing but services changes.
    pub(super) fn follow_kubernetes(&mut self) {
        let Some(link) = &mut self.services.link else {
            return;
        };
        let services = link.take();
        let condition = link.condition().clone();
        if condition != self.services.seen {
            self.services.say(&condition);
        }
        let Some(services) = services else {
            return;
        };
        let was_incomplete = self.services.is_incomplete();
        self.services.cluster = services;
        self.services.is_synced = true;
        self.services.merge();
        if was_incomplete || self.services.merged != self.compiler.desired().services {
            self.compiler.set_services(self.services.merged.clone());
            self.stale = true;
        }
    }

    /// How it stands with the API server, for those who ask.
    pub(super) fn kubernetes_report(&self, now: Instant) -> Option<report::Kubernetes> {
        let condition = self.services.link.as_ref()?.condition();
        let synced = condition.synced;
        Some(report::Kubernetes {
            server: condition.server.clone(),
            synced_seconds: synced.map(|since| now.duration_since(since).as_secs()),
            services: condition.services,
            endpoint_slices: condition.endpoint_slices,
            error: condition.error.as_ref().map(ToString::to_string),
        })
    }

    /// What is wrong between the API server and us.
    pub(super) fn kubernetes_problem(&self) -> Option<Problem> {
        let condition = self.services.link.as_ref()?.condition();
        let message = match (&condition.error, condition.synced) {
            (Some(error), _) => format!("Kubernetes: {error}; {}", what_holds(condition)),
            (None, None) => "Kubernetes has not said which services there are yet".to_owned(),
            (None, Some(_)) => return None,
        };
        Some(Problem {
            part: Part::Kubernetes,
            interface: None,
            message,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, affinity: bool) -> Service {
        Service {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            affinity,
            addresses: vec![addr("10.96.9.9")],
            ..Service::default()
        }
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn at(name: &str, own: &str, external: &str) -> Service {
        Service {
            addresses: vec![addr(own), addr(external)],
            own_addresses: vec![addr(own)],
            ..service(name, false)
        }
    }

    #[test]
    fn a_cluster_ip_is_of_who_has_it_whoever_says_so() {
        let files = [
            at("a", "10.96.0.1", "10.96.0.9"),
            at("b", "10.96.0.2", "192.0.2.1"),
        ];
        let cluster = [
            at("c", "10.96.0.9", "10.96.0.2"),
            at("d", "10.96.0.1", "192.0.2.2"),
        ];
        let merged = services(&files, &cluster).merged;
        let said: Vec<_> = merged
            .iter()
            .map(|it| (it.name.as_str(), it.addresses.clone()))
            .collect();
        assert_eq!(
            said,
            [
                ("b", vec![addr("10.96.0.2"), addr("192.0.2.1")]),
                ("c", vec![addr("10.96.0.9")]),
                ("d", vec![addr("10.96.0.1"), addr("192.0.2.2")]),
            ]
        );
    }

    fn names(all: &[Service]) -> Vec<(&str, bool)> {
        all.iter()
            .map(|it| (it.name.as_str(), it.affinity))
            .collect()
    }

    fn services(source: &[Service], cluster: &[Service]) -> Services {
        let mut services = Services::start(
            &DaemonConfig::default(),
            "a",
            &Desired {
                services: Arc::new(source.to_vec()),
                ..Desired::default()
            },
        )
        .expect("no thread");
        services.cluster = Arc::new(cluster.to_vec());
        services.merge();
        services
    }

    #[test]
    fn services_of_both_and_of_one_name_the_clusters() {
        let files = [service("a", false), service("c", false)];
        let cluster = [
            service("b", true),
            service("c", true),
            service("c", true),
            service("d", true),
        ];
        assert_eq!(names(&services(&files, &[]).merged), names(&files));
        assert_eq!(names(&services(&[], &cluster).merged), names(&cluster));
        assert_eq!(
            names(&services(&files, &cluster).merged),
            [
                ("a", false),
                ("b", true),
                ("c", true),
                ("c", true),
                ("d", true)
            ]
        );
    }

    #[test]
    fn what_the_source_gives_next_gets_the_clusters_services_too() {
        let mut services = services(&[service("a", false)], &[service("b", true)]);
        let mut next = Desired {
            services: Arc::new(vec![service("z", false)]),
            ..Desired::default()
        };
        services.add_to(&mut next);
        assert_eq!(names(&next.services), [("b", true), ("z", false)]);
        let mut felix = Desired::default();
        services.add_to(&mut felix);
        assert_eq!(names(&felix.services), [("b", true)]);
    }
}
