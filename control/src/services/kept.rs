//! The services of a load, and what follows from them, which is worked out once.

use std::sync::{Arc, OnceLock};

use super::calculate;
use super::objects::{EndpointSlice, Service};
use crate::desired;

/// Services and their endpoints. Shared: a load keeps those from before if none has changed.
#[derive(Debug, Default)]
pub struct Objects {
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
    /// For the node that was asked about first: a daemon asks about its own.
    calculated: OnceLock<(String, Arc<Vec<desired::Service>>)>,
}

impl Objects {
    /// These.
    pub fn new(
        services: impl IntoIterator<Item = Arc<Service>>,
        slices: impl IntoIterator<Item = Arc<EndpointSlice>>,
    ) -> Self {
        Self {
            services: services.into_iter().collect(),
            slices: slices.into_iter().collect(),
            calculated: OnceLock::new(),
        }
    }

    /// Whether they are the same ones, not only equal ones.
    pub fn are_same(&self, other: &Self) -> bool {
        fn same<T>(one: &[Arc<T>], other: &[Arc<T>]) -> bool {
            let mut pairs = one.iter().zip(other);
            one.len() == other.len() && pairs.all(|(one, other)| Arc::ptr_eq(one, other))
        }
        same(&self.services, &other.services) && same(&self.slices, &other.slices)
    }

    /// The services as pods of the node `node` reach them.
    pub fn on(&self, node: &str) -> Arc<Vec<desired::Service>> {
        let calculate = || {
            let services = self.services.iter().map(|it| &**it);
            let slices = self.slices.iter().map(|it| &**it);
            Arc::new(calculate(services, slices, node))
        };
        let first = self
            .calculated
            .get_or_init(|| (node.to_owned(), calculate()));
        match first {
            (name, services) if name == node => Arc::clone(services),
            _ => calculate(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_worked_out_once_and_for_the_node_that_is_asked_about() {
        let service = Service {
            name: "web".to_owned(),
            cluster_ips: vec!["10.96.0.1".parse().expect("an address")],
            ..Service::default()
        };
        let objects = Objects::new([Arc::new(service.clone())], []);
        let first = objects.on("a");
        assert_eq!(first.len(), 1);
        assert!(Arc::ptr_eq(&first, &objects.on("a")));
        assert_eq!(objects.on("b"), first);
        assert!(!Arc::ptr_eq(&first, &objects.on("b")));

        let same = Objects::new(objects.services.clone(), []);
        assert!(same.are_same(&objects));
        assert!(!Objects::new([Arc::new(service)], []).are_same(&objects));
        assert!(!Objects::default().are_same(&objects));
    }
}
