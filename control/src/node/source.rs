//! Where updates come from: files, or Felix.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::PollFd;

use super::felix::Felix;
use super::files::{Files, Read};
use super::{Loaded, Node, RunError, Store, log_remarks};
use crate::api::Bound;
use crate::config::daemon::UpdateSource;
use crate::config::watch::{Changed, Watch};
use crate::config::{DaemonConfig, Diagnostics, Loader};
use crate::desired::{self, Desired};
use crate::felix::link;

/// Where updates come from.
pub(super) enum Source {
    /// A directory.
    Files(Box<Files>),
    /// Felix's driver.
    Felix(Box<Felix>),
}

/// A source at its start.
pub(super) struct Opened {
    pub(super) source: Source,
    pub(super) desired: Desired,
    pub(super) store: Store,
}

/// Opens the source that the configuration names. From Felix nothing is known yet, and nothing is wanted.
pub(super) fn open(path: &Path, config: &DaemonConfig, node: &str) -> Result<Opened, RunError> {
    match config.source {
        UpdateSource::Files => open_files(config, node),
        UpdateSource::Felix => {
            tell_of_files(path, config);
            let bound = Bound::bind_for(&config.felix_socket, link::PURPOSE);
            let felix = Felix::new(bound.map_err(RunError::Felix)?, node);
            let ours = desired::Node {
                name: node.to_owned(),
                ..desired::Node::default()
            };
            Ok(Opened {
                source: Source::Felix(Box::new(felix)),
                desired: Desired {
                    node_name: node.to_owned(),
                    nodes: [(node.to_owned(), ours)].into(),
                    ..Desired::default()
                },
                store: Store::new(0, &Diagnostics::default()),
            })
        }
    }
}

fn open_files(config: &DaemonConfig, node: &str) -> Result<Opened, RunError> {
    // Before the files are read: what changes from then on is noticed.
    let watch = Watch::new(&config.resources);
    let mut loader = Loader::new(std::slice::from_ref(&config.resources));
    let Loaded {
        desired,
        resources,
        remarks,
    } = Node::load(&mut loader, &Changed::Anything, config, node).map_err(RunError::Config)?;
    let watch = watch.map_err(|source| RunError::System {
        what: "watch the resources",
        source,
    })?;
    log_remarks(&remarks);
    Ok(Opened {
        source: Source::Files(Box::new(Files::start(watch, loader, config, node)?)),
        desired,
        store: Store::new(resources, &remarks),
    })
}

/// Resources in files mean nothing under Felix: whoever wrote some should know.
fn tell_of_files(path: &Path, config: &DaemonConfig) {
    let Ok(entries) = std::fs::read_dir(&config.resources) else {
        return;
    };
    let is_resource = |name: &Path| {
        let extension = name.extension().and_then(|it| it.to_str());
        extension.is_some_and(|it| ["yaml", "yml", "json"].contains(&it))
    };
    let mut names = entries.flatten().map(|entry| entry.path());
    if let Some(first) = names.find(|name| is_resource(name)) {
        let (path, first) = (path.display(), first.display());
        tracing::warn!("{first} and what lies beside it is not read: {path} says `source: felix`");
    }
}

impl Source {
    /// Whether it is Felix.
    pub(super) const fn is_felix(&self) -> bool {
        matches!(self, Self::Felix(_))
    }

    /// Whether it is Felix, which has not said what to do yet.
    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self, Self::Felix(felix) if !felix.in_force)
    }

    /// What its content is, for people.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Files(_) => "files",
            Self::Felix(_) => "state of Felix",
        }
    }

    /// Where it is.
    pub(super) fn path(&self, config: &DaemonConfig) -> PathBuf {
        match self {
            Self::Files(_) => config.resources.clone(),
            Self::Felix(_) => config.felix_socket.clone(),
        }
    }

    /// What to wait for.
    pub(super) fn poll_fds(&self) -> Vec<PollFd<'_>> {
        match self {
            Self::Files(files) => files.poll_fds(),
            Self::Felix(felix) => felix.link.poll_fds().collect(),
        }
    }

    /// How long it may be until it is looked at again.
    pub(super) fn timeout(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Files(files) => Some(files.timeout(now)),
            Self::Felix(felix) => felix.timeout(now),
        }
    }

    /// What was read of files that have changed.
    pub(super) fn read_files(&mut self, now: Instant) -> Option<Read> {
        match self {
            Self::Files(files) => files.turn(now),
            Self::Felix(_) => None,
        }
    }
}
