//! Files to checked resources.

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::Metadata;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(test)]
use std::time::Duration;

use super::check;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::files;
use super::given::read_all_given;
use super::kept::Kept;
use super::kinds::{
    BgpConfiguration, BlockAffinity, EndpointSlice, FelixConfiguration, IpPool, Node, Service,
    WorkloadEndpoint,
};
use super::regular;
use super::resource::{Meta, Resource};
use super::source::{Source, Span};
use super::yaml;
use crate::policy::resource::{self, Decoded, HostEndpoint, PolicyResources};
use crate::policy::{Calculator, Model};
use crate::services;

/// All resources of a load, valid one by one and together. Each list is sorted by name.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Resources {
    /// `Node`.
    pub nodes: Vec<Arc<Node>>,
    /// `IPPool`.
    pub pools: Vec<Arc<IpPool>>,
    /// `WorkloadEndpoint`.
    pub endpoints: Vec<Arc<WorkloadEndpoint>>,
    /// `FelixConfiguration`.
    pub felix: Vec<Arc<FelixConfiguration>>,
    /// `BGPConfiguration`.
    pub bgp: Vec<Arc<BgpConfiguration>>,
    /// `BlockAffinity`.
    pub blocks: Vec<Arc<BlockAffinity>>,
    /// `Service` of Kubernetes.
    pub services: Vec<Arc<Service>>,
    /// `EndpointSlice` of Kubernetes.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Warnings and notes; never errors.
    pub remarks: Diagnostics,
}

impl Resources {
    /// Number of resources.
    pub fn len(&self) -> usize {
        self.nodes.len()
            + self.pools.len()
            + self.endpoints.len()
            + self.felix.len()
            + self.bgp.len()
            + self.blocks.len()
            + self.services.len()
            + self.slices.len()
    }

    /// True if there is no resource.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn add(&mut self, resource: Resource) {
        match resource {
            Resource::Node(node) => self.nodes.push(node),
            Resource::IpPool(pool) => self.pools.push(pool),
            Resource::WorkloadEndpoint(endpoint) => self.endpoints.push(endpoint),
            Resource::FelixConfiguration(felix) => self.felix.push(felix),
            Resource::BgpConfiguration(bgp) => self.bgp.push(bgp),
            Resource::BlockAffinity(block) => self.blocks.push(block),
            Resource::Service(service) => self.services.push(service),
            Resource::EndpointSlice(slice) => self.slices.push(slice),
        }
    }

    pub(crate) fn sort(&mut self) {
        fn order(one: &Meta, other: &Meta) -> Ordering {
            let by_namespace = one.namespace.cmp(&other.namespace);
            by_namespace.then_with(|| one.name.value.cmp(&other.name.value))
        }
        self.nodes.sort_by(|a, b| order(&a.meta, &b.meta));
        self.pools.sort_by(|a, b| order(&a.meta, &b.meta));
        self.endpoints.sort_by(|a, b| order(&a.meta, &b.meta));
        self.felix.sort_by(|a, b| order(&a.meta, &b.meta));
        self.bgp.sort_by(|a, b| order(&a.meta, &b.meta));
        self.blocks.sort_by(|a, b| order(&a.meta, &b.meta));
        self.services.sort_by(|a, b| order(&a.meta, &b.meta));
        self.slices.sort_by(|a, b| order(&a.meta, &b.meta));
    }
}

/// All resources of a load, and the policy that follows from them.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// What forwarding depends on. Its remarks are those about all resources.
    pub base: Resources,
    /// Who may speak to whom.
    pub policy: Arc<Model>,
    /// Kubernetes services.
    pub services: Arc<services::Objects>,
    /// Interfaces of nodes that policy is for.
    pub host_endpoints: Vec<Arc<HostEndpoint>>,
    /// Number of resources.
    pub len: usize,
}

impl Cluster {
    /// True if there is no resource.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Loads all `*.yaml`, `*.yml` and `*.json` of a directory, in the order of their names. Names that start with a dot and
/// editors' backups are left out; of whatever else is left out, subdirectories too, there is a warning.
///
/// # Errors
/// All that is wrong in all files, warnings included.
pub fn load_dir(dir: &Path) -> Result<Cluster, Diagnostics> {
    Loader::new(&[dir.to_path_buf()]).load()
}

/// Loads files and directories together, as a command line names them: `-` is standard input.
///
/// # Errors
/// As [`load_dir`].
pub fn load_paths(paths: &[PathBuf]) -> Result<Cluster, Diagnostics> {
    load_with_texts(paths).1
}

/// The same, and the texts that it is made of: all that could be read.
pub(crate) fn load_with_texts(
    paths: &[PathBuf],
) -> (Vec<Arc<Source>>, Result<Cluster, Diagnostics>) {
    let mut diagnostics = Diagnostics::default();
    let sources = read_all_given(paths, &mut diagnostics);
    let resources = resource::load(&sources, diagnostics, check::check);
    let cluster =
        resources.and_then(|it| cluster(it, &mut Calculator::default(), &mut Arc::default()));
    (sources, cluster)
}

/// Loads the same files and directories again and again. A load gives what [`load_paths`] would of them, and costs little where
/// few files have changed since the one before.
#[derive(Debug)]
pub struct Loader {
    paths: Vec<PathBuf>,
    kept: Kept<Decoded>,
    calculator: Calculator,
    services: Arc<services::Objects>,
    /// What the load before gave, its policy and what is remarkable about it left out. None if it was refused.
    before: Option<Cluster>,
}

impl Loader {
    /// Nothing is read yet.
    pub fn new(paths: &[PathBuf]) -> Self {
        Self {
            paths: paths.to_vec(),
            kept: Kept::default(),
            calculator: Calculator::default(),
            services: Arc::default(),
            before: None,
        }
    }

    /// Trusts files' times sooner, where the file system's clock is known.
    #[cfg(test)]
    pub(crate) fn settling_after(mut self, time: Duration) -> Self {
        self.kept.settles = time;
        self
    }

    /// Loads what the files hold now.
    ///
    /// # Errors
    /// As [`load_dir`].
    pub fn load(&mut self) -> Result<Cluster, Diagnostics> {
        self.before = None;
        let mut diagnostics = Diagnostics::default();
        let files = self
            .kept
            .read(&self.paths, &mut diagnostics, resource::decode);
        let files = files.iter().map(|file| &**file);
        let resources = resource::join(files, diagnostics, check::check)?;
        let mut before = Cluster {
            base: resources.base.clone(),
            policy: Arc::default(),
            services: Arc::default(),
            host_endpoints: resources.host_endpoints.clone(),
            len: resources.len(),
        };
        let cluster = cluster(resources, &mut self.calculator, &mut self.services)?;
        before.services = Arc::clone(&self.services);
        self.before = Some(before);
        Ok(cluster)
    }

    /// The same where nothing has changed but entries of the one directory that is loaded, which are called so. Where they
    /// are files of policies, the others are not even looked at.
    ///
    /// # Errors
    /// As [`load_dir`].
    pub fn load_changed(&mut self, names: &BTreeSet<OsString>) -> Result<Cluster, Diagnostics> {
        match self.change_policies(names) {
            Some(cluster) => Ok(cluster),
            None => self.load(),
        }
    }

    /// None where more than files of policies has changed, or something is wrong with them.
    fn change_policies(&mut self, names: &BTreeSet<OsString>) -> Option<Cluster> {
        let mut before = self.before.take()?;
        let [dir] = self.paths.as_slice() else {
            return None;
        };
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        for name in names {
            let path = dir.join(name);
            if !files::is_read(name) || path.is_dir() {
                return None;
            }
            let (was, is) = self.kept.read_again(&path, resource::decode).ok()?;
            match (&was, &is) {
                (Some(was), Some(is)) if Arc::ptr_eq(was, is) => continue,
                // It may have been a directory, of which something is said.
                (None, None) => return None,
                (None, Some(_)) if before.base.remarks.0.iter().any(|it| it.at.is_none()) => {
                    return None;
                }
                _ => {}
            }
            for (file, policies) in [(was, &mut gone), (is, &mut new)] {
                if let Some(file) = file {
                    policies.extend_from_slice(file.only_policies()?);
                }
            }
        }
        // Of a directory without files something is said, too.
        if self.kept.is_empty() {
            return None;
        }
        let (model, findings) = self.calculator.change_policies(&gone, &new)?;
        before.len = before.len + new.len() - gone.len();
        let mut cluster = before.clone();
        self.before = Some(before);
        cluster.policy = model;
        cluster.base.remarks.0.extend(findings.0);
        cluster.base.remarks.sort();
        Some(cluster)
    }
}

/// Hands on each file, and those of directories; reports what can not be listed, and what of a directory is not read.
pub(super) fn each_file(
    paths: &[PathBuf],
    diagnostics: &mut Diagnostics,
    mut take: impl FnMut(PathBuf, &mut Diagnostics),
) {
    for path in paths {
        match files::of(path) {
            Ok(files) => {
                let skipped = files.skipped.iter();
                diagnostics.0.extend(skipped.map(|it| files::warning(it)));
                if files.read.is_empty() {
                    diagnostics.push(files::nothing(path));
                }
                for file in files.read {
                    take(file, diagnostics);
                }
            }
            Err(error) => diagnostics.push(unreadable(path, &error)),
        }
    }
}

/// Reads files, and the files of directories; reports what can not be read, and what of a directory is not.
pub(crate) fn read_all(paths: &[PathBuf], diagnostics: &mut Diagnostics) -> Vec<Arc<Source>> {
    let mut sources = Vec::new();
    each_file(paths, diagnostics, |path, diagnostics| match read(&path) {
        Ok(source) => sources.push(source),
        Err(diagnostic) => diagnostics.push(*diagnostic),
    });
    sources
}

/// Loads texts that are in memory already.
///
/// # Errors
/// As [`load_dir`].
pub fn load_sources(sources: &[Arc<Source>]) -> Result<Cluster, Diagnostics> {
    let diagnostics = Diagnostics::default();
    let resources = resource::load(sources, diagnostics, check::check)?;
    cluster(resources, &mut Calculator::default(), &mut Arc::default())
}

/// Reads one regular file, within the limit of size.
pub(crate) fn read(path: &Path) -> Result<Arc<Source>, Box<Diagnostic>> {
    read_with_metadata(path).map(|(source, _)| source)
}

/// The same, with what the system said of the file before it was read.
pub(super) fn read_with_metadata(path: &Path) -> Result<(Arc<Source>, Metadata), Box<Diagnostic>> {
    let read = read_bytes(path).map_err(|error| Box::new(unreadable(path, &error)));
    let (bytes, metadata) = read?;
    Ok((to_source(path, bytes)?, metadata))
}

/// A file's bytes as text, within the limit of size.
pub(super) fn to_source(path: &Path, bytes: Vec<u8>) -> Result<Arc<Source>, Box<Diagnostic>> {
    if bytes.len() as u64 > yaml::MAX_FILE_BYTES {
        let message = format!(
            "{}: too long; a file may have {} bytes at most",
            path.display(),
            yaml::MAX_FILE_BYTES
        );
        return Err(Box::new(Diagnostic::error(message)));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let span = Span {
            source: Source::new(path, text),
            start: at,
            len: 1,
        };
        Box::new(Diagnostic::error("not UTF-8 text").at(&span, "this byte is no character"))
    })?;
    Ok(Source::new(path, text))
}

/// At most one byte more than a file may have, however much it grows meanwhile.
fn read_bytes(path: &Path) -> std::io::Result<(Vec<u8>, Metadata)> {
    let mut bytes = Vec::new();
    let file = regular::open(path)?;
    let metadata = file.metadata()?;
    file.take(yaml::MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok((bytes, metadata))
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    let mut finding = Diagnostic::error(format!("cannot read {}: {error}", path.display()));
    finding.may_pass = may_pass(error);
    finding
}

/// Whether the system may answer otherwise the next time, without a change that could be noticed.
fn may_pass(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EIO | libc::ESTALE | libc::ETIMEDOUT
        )
    )
}

/// The policy that follows from resources, beside them. Services are those from before if they did not change.
fn cluster(
    resources: PolicyResources,
    calculator: &mut Calculator,
    services: &mut Arc<services::Objects>,
) -> Result<Cluster, Diagnostics> {
    let len = resources.len();
    let now = services::Objects::new(
        resources
            .base
            .services
            .iter()
            .filter_map(|it| it.object.clone()),
        resources
            .base
            .slices
            .iter()
            .filter_map(|it| it.object.clone()),
    );
    if !services.are_same(&now) {
        *services = Arc::new(now);
    }
    match calculator.calculate(&resources) {
        Ok((model, findings)) => {
            let mut base = resources.base;
            base.remarks.0.extend(findings.0);
            base.remarks.sort();
            Ok(Cluster {
                base,
                policy: model,
                services: Arc::clone(services),
                host_endpoints: resources.host_endpoints,
                len,
            })
        }
        Err(mut findings) => {
            findings.0.extend(resources.base.remarks.0);
            findings.sort();
            Err(findings)
        }
    }
}

/// Reports names that two resources of a kind have, and keeps the first.
pub(crate) fn retain_first<T>(
    list: &mut Vec<T>,
    meta: impl Fn(&T) -> &Meta,
    diagnostics: &mut Diagnostics,
) {
    let mut seen: HashMap<(&str, Option<&str>, &str), &Span> = HashMap::new();
    let mut is_first = Vec::with_capacity(list.len());
    for meta in list.iter().map(meta) {
        let name = &meta.name;
        match seen.entry((meta.kind, meta.namespace.as_deref(), &name.value)) {
            Entry::Vacant(entry) => {
                entry.insert(&name.at);
                is_first.push(true);
            }
            Entry::Occupied(first) => {
                let label = meta.label();
                diagnostics.push(
                    Diagnostic::error(format!("{label} is defined twice"))
                        .at(&name.at, "again here")
                        .about(label)
                        .see("first defined here", first.get()),
                );
                is_first.push(false);
            }
        }
    }
    let mut is_first = is_first.into_iter();
    list.retain(|_| is_first.next().unwrap_or(true));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_refuses_for_a_while_may_pass() {
        let error = |number| std::io::Error::from_raw_os_error(number);
        let finding = |number| unreadable(Path::new("a.yaml"), &error(number));
        assert!(finding(libc::EMFILE).may_pass && finding(libc::EIO).may_pass);
        // Its end is noticed.
        for lasting in [libc::ENOENT, libc::EACCES, libc::ELOOP] {
            assert!(!finding(lasting).may_pass);
        }
        assert!(Diagnostics(vec![finding(libc::ENOENT), finding(libc::EIO)]).may_pass());
    }
}
