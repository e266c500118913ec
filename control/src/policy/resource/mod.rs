//! Resources that policy is made of, decoded strictly: Calico's (`projectcalico.org/v3`) and those of Kubernetes
//! that bear on policy.

mod endpoint;
mod kubernetes;
mod load;
mod policy;
mod profile;
mod rule;
mod sets;

pub use endpoint::HostEndpoint;
pub(crate) use kubernetes::ORCHESTRATOR_LABEL;
pub(crate) use load::{Decoded, Reader, decode, join, kind_of, load};
pub use load::{PolicyResources, load_paths, load_sources};
pub use policy::PolicyResource;
pub(crate) use profile::BUILT_IN_TIERS;
pub(crate) use profile::{NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX};
pub use profile::{Profile, Tier};
pub use rule::{Entity, PortSpec, RuleSpec, ServiceAccounts};
pub(crate) use sets::NAMESPACE_LABEL;
pub use sets::NetworkSet;
