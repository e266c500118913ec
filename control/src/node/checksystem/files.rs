//! The daemon's own file, the resources, and the places that it writes to.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::finding::Finding;
use crate::api::{Purpose, check_place};
use crate::config::daemon::UpdateSource;
use crate::config::watch::Changed;
use crate::config::{DaemonConfig, Diagnostics, Loader, Severity};
use crate::desired::Desired;
use crate::felix::link;
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
pub(super) fn places(config: &DaemonConfig, daemon_runs: bool) -> Vec<Finding> {
    let socket = |check, purpose, path: &Path| {
        let is_socket = path.metadata().is_ok_and(|it| it.file_type().is_socket());
        if daemon_runs && is_socket {
            return Finding::ok(check, format!("{}, the daemon's", path.display()));
        }
        socket_at(check, purpose, path)
    };
    let mut all = vec![socket(
        "control-socket",
        Purpose::CONTROL,
        &config.control_socket,
    )];
    if config.source == UpdateSource::Felix {
        all.push(socket("felix-socket", link::PURPOSE, &config.felix_socket));
        all.push(mtu_file(&config.mtu_file));
    }
    all
}

/// Whether the daemon would listen there.
fn socket_at(check: &'static str, purpose: Purpose, path: &Path) -> Finding {
    if let Err(error) = check_place(path, purpose) {
        return Finding::refused(check, &error);
    }
    let setting = purpose.setting;
    match writable(path) {
        Ok(()) => Finding::ok(check, format!("{} can be made", path.display())),
        Err(found) => Finding::missing(
            check,
            found,
            format!("run as root, or set another `{setting}` in caracal.yaml"),
        ),
    }
}

/// The daemon goes on without.
fn mtu_file(path: &Path) -> Finding {
    let check = "mtu-file";
    let name = path.display();
    let outcome = if path.is_dir() {
        Err(format!("{name} is a directory"))
    } else {
        writable(path)
    };
    match outcome {
        Ok(()) => Finding::ok(check, format!("{name} can be made")),
        Err(found) => Finding::warn(
            check,
            format!("{found}: Calico's CNI plugin is told no MTU of pods"),
            "run as root, or set another `mtuFile` in caracal.yaml",
        ),
    }
}

/// Whether a file can be made there: its directory, or the first that there is above it, can be written to.
fn writable(path: &Path) -> Result<(), String> {
    let above = path
        .ancestors()
        .skip(1)
        .find(|directory| directory.exists());
    let directory = above.unwrap_or(Path::new("/"));
    let (name, above) = (path.display(), directory.display());
    if !directory.is_dir() {
        return Err(format!("{name}: {above} is no directory"));
    }
    let may = AccessFlags::W_OK | AccessFlags::X_OK;
    access(directory, may).map_err(|_| format!("{name}: {above} can not be written to"))
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
    fn a_place_for_a_socket_is_judged_as_by_the_daemon() {
        let dir = std::env::temp_dir().join(format!("caracal-places-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("file"), "").unwrap();
        let at = |name: &str| socket_at("control-socket", Purpose::CONTROL, &dir.join(name));
        let mode = |mode| fs::set_permissions(&dir, PermissionsExt::from_mode(mode)).unwrap();
        mode(0o777);
        assert!(at("socket").found.contains("anybody may write"));
        assert_eq!(at("a/socket").state, State::Ok, "it makes the directory");
        mode(0o755);
        assert_eq!(at("socket").state, State::Ok);
        for (name, words) in [
            ("file", "something that is not a socket is there"),
            ("file/socket", "look for an old socket"),
            ("file/a/socket", "file is no directory"),
            (&"s".repeat(108), "a socket's path may have 107"),
        ] {
            let finding = at(name);
            assert_eq!(finding.state, State::Missing, "{finding:?}");
            assert!(finding.found.contains(words), "{finding:?}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn without_the_mtu_file_the_daemon_runs() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(mtu_file(&root.join("a/mtu")).state, State::Ok);
        for bad in ["src", "Cargo.toml/a/mtu"] {
            assert_eq!(mtu_file(&root.join(bad)).state, State::Warn, "{bad}");
        }
    }
}
