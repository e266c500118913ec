//! Configuration from files: a directory of `projectcalico.org/v3` resources, and the daemon's own small file.
//!
//! The way of a file: text ([`source`]) → tree with places ([`yaml`]) → typed resource ([`kinds`] by [`decode`])
//! → checks across resources ([`check`]) → the model ([`mod@compute`]). Nothing stops at the first error.

pub mod check;
pub mod compute;
pub mod daemon;
pub mod decode;
pub mod diagnostic;
pub mod effective;
mod files;
mod given;
mod glance;
mod hosts;
mod kept;
pub mod kinds;
mod kubernetes;
mod listen;
mod load;
mod names;
pub(crate) mod printable;
pub(crate) mod regular;
pub mod resource;
mod routes;
pub mod source;
pub mod suggest;
pub mod watch;
pub mod yaml;

pub(crate) use compute::felix;
pub use compute::{compute, compute_with};
pub use daemon::DaemonConfig;
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub(crate) use given::{name, read_all_given, read_given};
pub use hosts::HostEndpoints;
pub use kubernetes::{Access, Kubernetes};
pub use listen::Listen;
pub use load::{Cluster, Loader, Resources, load_dir, load_paths, load_sources};
pub(crate) use load::{load_with_texts, read, read_all, retain_first};
pub use source::{Located, Source, Span};
