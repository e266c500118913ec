//! The daemon's own file, the resources, and the places that it writes to.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::finding::Finding;
use crate::config::daemon::UpdateSource;
use crate::config::watch::Changed;
use crate::config::{DaemonConfig, Diagnostics, Loader, Severity};
use crate::desired::Desired;
use crate::node::Node;
use crate::words::counted;

/// The daemon's own file, read.
pub(super) struct Read {
    /// The defaults, where it is bad or absent.
    pub(super) config: DaemonConfig,
    /// It is there, and good.
    pub(super) is_known: bool,
    pub(super) finding: Finding,
}

/// Reads the daemon's own file. `by_name`: somebody asked for this one.
pub(super) fn config(path: &Path, by_name: bool) -> Read {
    let check = "config";
    let name = path.display();
    let unknown = |finding| Read {
        config: DaemonConfig::default(),
        is_known: false,
        finding,
    };
    if !by_name && !path.exists() {
        return unknown(Finding::warn(
            check,
            format!("no {name}: the defaults are looked at, and no resources"),
            "write it: the example is control/examples/caracal.yaml",
        ));
    }
    let todo = || format!("`caracal run --config {name}` names them all, and ends");
    let config = match DaemonConfig::load(path) {
        Ok(config) => config,
        Err(errors) => return unknown(refused(check, &errors, todo())),
    };
    if let Err(errors) = super::memory::connections_fit(path, &config) {
        return unknown(refused(check, &errors, todo()));
    }
    Read {
        config,
        is_known: true,
        finding: Finding::ok(check, format!("{name} is valid")),
    }
}

/// The first error, and how many there are.
fn refused(check: &'static str, errors: &Diagnostics, todo: String) -> Finding {
    let mut all = errors.0.iter();
    let first = all.find(|it| it.severity == Severity::Error);
    let first = first.map(|it| {
        let place = it.at.as_ref().map(|at| {
            let (line, column) = at.line_and_column();
            format!("{}:{line}:{column}: ", at.source.path.display())
        });
        format!("{}{}", place.unwrap_or_default(), it.message)
    });
    let count = counted(errors.count(Severity::Error) as u64, "error");
    let found = format!("{count}; the first: {}", first.unwrap_or_default());
    Finding::missing(check, found, todo)
}

/// Reads the resources as the daemon does. `None`: they are bad, or come from Felix.
pub(super) fn resources(config: &DaemonConfig, node: &str) -> (Option<Desired>, Finding) {
    let check = "resources";
    if config.source == UpdateSource::Felix {
        let found = "from Felix: what it will say is not known here";
        return (None, Finding::ok(check, found));
    }
    let directory = &config.resources;
    let validate = format!(
        "`caracal validate -f {} --node {node}`",
        directory.display()
    );
    let mut loader = Loader::new(std::slice::from_ref(directory));
    match Node::load(&mut loader, &Changed::Anything, config, node) {
        Ok(loaded) => {
            let remarks = loaded.remarks.0.len() as u64;
            let found = format!(
                "{} in {}, {} of node {node}",
                counted(loaded.resources as u64, "resource"),
                directory.display(),
                counted(loaded.desired.endpoints.len() as u64, "endpoint"),
            );
            let finding = if remarks == 0 {
                Finding::ok(check, found)
            } else {
                let found = format!("{found}, and {}", counted(remarks, "remark"));
                let todo = format!("{validate} shows them");
                Finding::warn(check, found, todo)
            };
            (Some(loaded.desired), finding)
        }
        Err(errors) => (
            None,
            refused(check, &errors, format!("{validate} names them all")),
        ),
    }
}

/// Files that root can not read by their mode: the unit leaves the daemon no right to read them all the same.
pub(super) fn modes(path: &Path, config: &DaemonConfig) -> Finding {
    let check = "file-modes";
    let entries = fs::read_dir(&config.resources).into_iter().flatten();
    let entries = entries.flatten().map(|entry| entry.path());
    let files = entries.filter(|path| path.is_file());
    let all = [path.to_owned(), config.resources.clone()];
    let hidden = all.into_iter().chain(files).find(|path| {
        let metadata = path.metadata();
        metadata.is_ok_and(|it| !root_may_read(it.uid(), it.gid(), it.mode(), it.is_dir()))
    });
    let Some(hidden) = hidden else {
        return Finding::ok(check, "root may read the files without CAP_DAC_OVERRIDE");
    };
    let hidden = hidden.display();
    Finding::warn(
        check,
        format!(
            "{hidden}: root may not read it by its mode, and has no CAP_DAC_OVERRIDE under deploy/caracal.service"
        ),
        format!("`chown root {hidden}`, or let all read it"),
    )
}

/// By the class of users that root belongs to, as the kernel has it.
fn root_may_read(owner: u32, group: u32, mode: u32, is_directory: bool) -> bool {
    let shift = match (owner, group) {
        (0, _) => 6,
        (_, 0) => 3,
        _ => 0,
    };
    // A directory is searched, too.
    let needed = if is_directory { 0o5 } else { 0o4 };
    mode >> shift & needed == needed
}

/// Places to write to.
pub(super) fn places(config: &DaemonConfig) -> Vec<Finding> {
    let mut all = vec![socket(
        "control-socket",
        "controlSocket",
        &config.control_socket,
    )];
    if config.source == UpdateSource::Felix {
        all.push(socket("felix-socket", "felixSocket", &config.felix_socket));
        all.push(socket("mtu-file", "mtuFile", &config.mtu_file));
    }
    all
}

/// Whether a file can be made there: its directory, or the first that there is above it, can be written to.
fn socket(check: &'static str, setting: &str, path: &Path) -> Finding {
    let above = path
        .ancestors()
        .skip(1)
        .find(|directory| directory.exists());
    let directory = above.unwrap_or(Path::new("/"));
    let name = path.display();
    if access(directory, AccessFlags::W_OK).is_err() {
        let found = format!("{name}: {} can not be written to", directory.display());
        let todo = format!("run as root, or set another `{setting}` in caracal.yaml");
        return Finding::missing(check, found, todo);
    }
    let open = directory
        .metadata()
        .is_ok_and(|it| it.mode() & 0o1002 == 0o002);
    if open {
        let found = format!("{name}: anybody may write to {}", directory.display());
        let todo = format!("`chmod o-w {}`", directory.display());
        return Finding::missing(check, found, todo);
    }
    Finding::ok(check, format!("{name} can be made"))
}

/// Whether the addresses for metrics and probes are free, by listening there for a moment.
pub(super) fn addresses(config: &DaemonConfig, daemon_runs: bool) -> Vec<Finding> {
    let mut all = Vec::new();
    for (check, address) in [
        ("metrics", config.listen.metrics),
        ("health", config.listen.health),
    ] {
        all.push(match address {
            None => Finding::ok(check, "off"),
            Some(address) if daemon_runs => Finding::ok(check, format!("{address}, the daemon's")),
            Some(address) => listens(check, address),
        });
    }
    all
}

fn listens(check: &'static str, address: SocketAddr) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok(check, format!("{address} is free")),
        Err(error) => Finding::warn(
            check,
            format!("{address}: {error}"),
            format!(
                "`ss -ltnp` shows who listens; or set another `{check}` in caracal.yaml, or `off`"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::State;
    use super::*;

    #[test]
    fn no_file_is_an_error_only_to_who_asked_for_it() {
        let path = Path::new("/nowhere/caracal.yaml");
        assert_eq!(config(path, false).finding.state, State::Warn);
        let finding = config(path, true).finding;
        assert_eq!(finding.state, State::Missing);
        assert!(
            finding.found.contains("1 error; the first: "),
            "{finding:?}"
        );
    }

    #[test]
    fn an_address_that_is_taken_is_a_warning() {
        let held = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = held.local_addr().unwrap();
        assert_eq!(listens("metrics", address).state, State::Warn);
        drop(held);
        assert_eq!(listens("metrics", address).state, State::Ok);
    }

    #[test]
    fn root_reads_as_others_do() {
        assert!(root_may_read(0, 1, 0o600, false));
        assert!(root_may_read(1000, 0, 0o640, false));
        assert!(root_may_read(1000, 1000, 0o644, false));
        assert!(!root_may_read(1000, 1000, 0o600, false));
        assert!(
            !root_may_read(0, 0, 0o044, false),
            "the owner is its own class"
        );
        assert!(root_may_read(0, 0, 0o700, true));
        assert!(
            !root_may_read(1000, 1000, 0o754, true),
            "not to be searched"
        );
    }

    #[test]
    fn a_socket_needs_a_directory_that_is_ours() {
        let state = |path: &str| socket("control-socket", "controlSocket", Path::new(path)).state;
        let open = std::env::temp_dir().join(format!("caracal-open-{}", std::process::id()));
        std::fs::create_dir_all(&open).unwrap();
        let mode = |mode| std::fs::set_permissions(&open, PermissionsExt::from_mode(mode));
        mode(0o777).unwrap();
        let inside = open.join("a/socket");
        assert_eq!(state(inside.to_str().unwrap()), State::Missing);
        mode(0o755).unwrap();
        assert_eq!(state(inside.to_str().unwrap()), State::Ok);
        std::fs::remove_dir(&open).unwrap();
        assert_eq!(
            state(concat!(env!("CARGO_MANIFEST_DIR"), "/a/b/socket")),
            State::Ok
        );
    }
}
