//! Files to checked resources.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::files;
use super::kinds::{
    BgpConfiguration, BlockAffinity, FelixConfiguration, IpPool, Node, WorkloadEndpoint,
};
use super::regular;
use super::resource::{Meta, Resource};
use super::source::{Source, Span};
use super::yaml;
use crate::policy::resource::{self, HostEndpoint};
use crate::policy::{Model, calculate};

/// All resources of a load, valid one by one and together. Each list is sorted by name.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Resources {
    /// `Node`.
    pub nodes: Vec<Node>,
    /// `IPPool`.
    pub pools: Vec<IpPool>,
    /// `WorkloadEndpoint`.
    pub endpoints: Vec<WorkloadEndpoint>,
    /// `FelixConfiguration`.
    pub felix: Vec<FelixConfiguration>,
    /// `BGPConfiguration`.
    pub bgp: Vec<BgpConfiguration>,
    /// `BlockAffinity`.
    pub blocks: Vec<BlockAffinity>,
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
        }
    }

    pub(crate) fn sort(&mut self) {
        fn key(meta: &Meta) -> (Option<String>, String) {
            (meta.namespace.clone(), meta.name.value.clone())
        }
        self.nodes.sort_by_key(|node| key(&node.meta));
        self.pools.sort_by_key(|pool| key(&pool.meta));
        self.endpoints.sort_by_key(|endpoint| key(&endpoint.meta));
        self.felix.sort_by_key(|felix| key(&felix.meta));
        self.bgp.sort_by_key(|bgp| key(&bgp.meta));
        self.blocks.sort_by_key(|block| key(&block.meta));
    }
}

/// All resources of a load, and the policy that follows from them.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// What forwarding depends on. Its remarks are those about all resources.
    pub base: Resources,
    /// Who may speak to whom.
    pub policy: Arc<Model>,
    /// Interfaces of nodes that policy is for.
    pub host_endpoints: Vec<HostEndpoint>,
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
    load_paths(&[dir.to_path_buf()])
}

/// Loads files and directories together.
///
/// # Errors
/// As [`load_dir`].
pub fn load_paths(paths: &[PathBuf]) -> Result<Cluster, Diagnostics> {
    let mut diagnostics = Diagnostics::default();
    let sources = read_all(paths, &mut diagnostics);
    load(&sources, diagnostics)
}

/// Reads files, and the files of directories; reports what can not be read, and what of a directory is not.
pub(crate) fn read_all(paths: &[PathBuf], diagnostics: &mut Diagnostics) -> Vec<Arc<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        match files::of(path) {
            Ok(files) => {
                let skipped = files.skipped.iter();
                diagnostics.0.extend(skipped.map(|it| files::warning(it)));
                for file in files.read {
                    match read(&file) {
                        Ok(source) => sources.push(source),
                        Err(diagnostic) => diagnostics.push(*diagnostic),
                    }
                }
            }
            Err(error) => diagnostics.push(unreadable(path, &error)),
        }
    }
    sources
}

/// Loads texts that are in memory already.
///
/// # Errors
/// As [`load_dir`].
pub fn load_sources(sources: &[Arc<Source>]) -> Result<Cluster, Diagnostics> {
    load(sources, Diagnostics::default())
}

/// Reads one regular file, within the limit of size.
pub(crate) fn read(path: &Path) -> Result<Arc<Source>, Box<Diagnostic>> {
    let bytes = read_bytes(path).map_err(|error| Box::new(unreadable(path, &error)))?;
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
fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = regular::open(path)?;
    file.take(yaml::MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error(format!("cannot read {}: {error}", path.display()))
}

fn load(sources: &[Arc<Source>], diagnostics: Diagnostics) -> Result<Cluster, Diagnostics> {
    let resources = resource::load(sources, diagnostics, check::check)?;
    let len = resources.len();
    match calculate(&resources) {
        Ok((model, findings)) => {
            let mut base = resources.base;
            base.remarks.0.extend(findings.0);
            base.remarks.sort();
            Ok(Cluster {
                base,
                policy: Arc::new(model),
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
    let mut seen: HashMap<String, Span> = HashMap::new();
    list.retain(|resource| {
        let meta = meta(resource);
        let label = meta.label();
        if let Some(first) = seen.get(&label) {
            diagnostics.push(
                Diagnostic::error(format!("{label} is defined twice"))
                    .at(&meta.name.at, "again here")
                    .about(label)
                    .see("first defined here", first),
            );
            return false;
        }
        seen.insert(label, meta.name.at.clone());
        true
    });
}
