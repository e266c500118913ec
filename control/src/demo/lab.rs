//! The lab as a thing with a life: built, moved from scenario to scenario, removed whatever happens.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::{DemoError, Result};
use super::ip::Shell;
use super::plan::{End, LabId, Node, PODS};
use super::preflight::{self, Machine};
use super::progress::tell;
use super::resources::control_socket;
use super::scenario::Scenario;
use super::{daemon, netns, topology};

/// Where labs keep their configuration and logs.
pub const STATE_DIR: &str = "/run/caracal-demo";
/// Present in the directory of a lab that is to stay.
const KEPT: &str = "kept";

/// A lab in its namespaces. Removed when dropped, unless kept.
#[derive(Debug)]
pub struct Lab {
    id: LabId,
    dir: PathBuf,
    shell: Shell,
    keep: bool,
    /// Whether the daemons have established flows carried by the kernel.
    is_offloaded: bool,
    machine: Machine,
    /// Held for our lifetime: one demonstration at a time.
    _lock: Lock,
}

impl Lab {
    /// Removes what a killed demonstration of this name left, and builds the namespaces, links and addresses.
    /// No dataplane runs yet, and no node forwards.
    ///
    /// # Errors
    /// When another demonstration of this name runs or was kept, or a command fails; nothing is left then.
    pub fn build(id: LabId, shell: Shell, is_offloaded: bool) -> Result<Self> {
        let lock = Lock::acquire(&id)?;
        let dir = Path::new(STATE_DIR).join(id.to_string());
        if dir.join(KEPT).exists() {
            return Err(DemoError::Refused(format!(
                "the lab '{id}' of an earlier `caracal demo --keep` is still up: remove it with `{}`",
                down_command(&id)
            )));
        }
        remove(&id, shell)?;
        let machine = preflight::devices(shell, &id)?;
        fs::create_dir_all(&dir).map_err(DemoError::io(format!("creating {}", dir.display())))?;
        // From here on, Drop cleans up after a failure.
        let lab = Self {
            id,
            dir,
            shell,
            keep: false,
            is_offloaded,
            machine,
            _lock: lock,
        };
        lab.wire_up()?;
        Ok(lab)
    }

    /// Whether the daemons have established flows carried by the kernel.
    pub fn is_offloaded(&self) -> bool {
        self.is_offloaded
    }

    fn wire_up(&self) -> Result<()> {
        let (shell, id) = (self.shell, &self.id);
        let parts = topology::namespaces();
        let adds: Vec<String> = parts
            .iter()
            .map(|part| format!("netns add {}", id.netns(part)))
            .collect();
        shell.ip(None, &adds)?;
        for part in &parts {
            shell.sysctl(&id.netns(part), &topology::base_sysctls())?;
        }
        let router = id.netns("router");
        shell.sysctl(&router, &topology::forwarding(true))?;
        shell.ip(Some(&router), &topology::router(id))?;
        for rule in topology::router_rules() {
            let args: Vec<&str> = rule.split(' ').collect();
            shell.ip_output(&router, &args)?;
        }
        shell.ip(Some(&id.netns("outside")), &topology::outside())?;
        for node in Node::ALL {
            let netns = id.netns(node.name());
            shell.sysctl(&netns, &topology::forwarding(false))?;
            shell.ip(Some(&netns), &topology::node_pods(id, node))?;
            for pod in node.pods() {
                shell.sysctl(&netns, &topology::pod_veth_sysctls(pod))?;
            }
        }
        for pod in &PODS {
            shell.ip(Some(&id.netns(&pod.netns_part())), &topology::pod(pod))?;
        }
        for node in Node::ALL {
            let netns = id.netns(node.name());
            shell.ip(Some(&netns), &topology::node_pod_routes(node))?;
        }
        Ok(())
    }

    /// Moves node 2 to where the scenario wants it and sets routes and MTUs. No dataplane may run meanwhile.
    ///
    /// # Errors
    /// When a command fails.
    pub fn set_scenario(&self, scenario: Scenario) -> Result<()> {
        let (shell, id) = (self.shell, &self.id);
        // Nodes before the router: its routes need no neighbour, theirs neither.
        for node in Node::ALL {
            let commands = topology::node_scenario(node, scenario);
            shell.ip(Some(&id.netns(node.name())), &commands)?;
        }
        let router = id.netns("router");
        shell.ip(Some(&router), &topology::router_scenario(scenario))?;
        for pod in &PODS {
            let commands = topology::pod_scenario(scenario);
            shell.ip(Some(&id.netns(&pod.netns_part())), &commands)?;
        }
        Ok(())
    }

    /// Its name.
    pub fn id(&self) -> &LabId {
        &self.id
    }

    /// The directory of its configuration and logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the machine can do.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// The way it runs commands.
    pub fn shell(&self) -> Shell {
        self.shell
    }

    /// Full name of the namespace of `end`.
    pub fn netns(&self, end: End) -> String {
        self.id.netns(&end.netns_part())
    }

    /// Leaves the lab standing when we end.
    ///
    /// # Errors
    /// When the mark that says so cannot be written.
    pub fn keep(mut self) -> Result<()> {
        let mark = self.dir.join(KEPT);
        fs::write(&mark, "").map_err(DemoError::io(format!("writing {}", mark.display())))?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = remove(&self.id, self.shell) {
            tell(&format!("caracal demo: removing the lab: {error}"));
            tell(&format!("  try again with: {}", down_command(&self.id)));
        }
    }
}

/// The command that removes a lab.
pub fn down_command(id: &LabId) -> String {
    let name = id.to_string();
    if name == super::args::DEFAULT_LAB {
        return "sudo caracal demo down".to_owned();
    }
    format!("sudo caracal demo down --lab {name}")
}

/// Removes the lab `id`, also one that was kept; says whether there was one.
///
/// # Errors
/// When a demonstration of this name is running, or something cannot be removed.
pub fn down(id: &LabId, shell: Shell) -> Result<bool> {
    let _lock = Lock::acquire(id)?;
    remove(id, shell)
}

/// The lock that a running demonstration holds. Its file goes with it.
#[derive(Debug)]
struct Lock {
    _file: Flock<File>,
    path: PathBuf,
}

impl Lock {
    fn acquire(id: &LabId) -> Result<Self> {
        let path = Path::new(STATE_DIR).join(format!("{id}.lock"));
        loop {
            fs::create_dir_all(STATE_DIR)
                .map_err(DemoError::io(format!("creating {STATE_DIR}")))?;
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path);
            let file = match opened {
                // Another lab's end removed the directory in between.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => opened.map_err(DemoError::io(format!("opening {}", path.display())))?,
            };
            let mut file = take(file, &path, id)?;
            // The holder before us may have removed the file between our opening and locking it.
            let (ours, there) = (file.metadata(), fs::metadata(&path));
            if !matches!((ours, there), (Ok(ours), Ok(there)) if ours.ino() == there.ino()) {
                continue;
            }
            let written = file
                .set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| writeln!(file, "{}", process::id()));
            written.map_err(DemoError::io(format!("writing {}", path.display())))?;
            return Ok(Self { _file: file, path });
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked here. Whoever opened it meanwhile notices.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(STATE_DIR); // unless other labs are there
    }
}

/// Waits a little when the holder is dead: a process that it was just starting may share the lock for a moment.
fn take(mut file: File, path: &Path, id: &LabId) -> Result<Flock<File>> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let holder = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((mut locked, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = locked.rewind();
                let _ = locked.read_to_string(&mut pid); // for the message only
                file = locked;
                pid.trim().to_owned()
            }
            Err((_, errno)) => {
                return Err(DemoError::io(format!("locking {}", path.display()))(errno));
            }
        };
        if Path::new("/proc").join(&holder).exists() || Instant::now() > deadline {
            return Err(DemoError::Refused(format!(
                "a demonstration '{id}' is running already (process {holder}): wait for it, end it with Ctrl-C \
                 there, or run a second one beside it with `--lab NAME`"
            )));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Ends the lab's daemons, deletes its namespaces and with them its links, and its files. Goes on after a failure
/// and reports the first.
fn remove(id: &LabId, shell: Shell) -> Result<bool> {
    let dir = Path::new(STATE_DIR).join(id.to_string());
    let namespaces = netns::list(&id.prefix());
    let found = dir.exists() || !namespaces.is_empty();
    let mut first_failure = daemon::end_recorded(&dir).err();
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            first_failure.get_or_insert(error);
        }
    };
    for node in Node::ALL {
        let netns = id.netns(&End::Host(node).netns_part());
        if namespaces.contains(&netns) {
            note(daemon::cleanup(&netns, &control_socket(&dir, node)));
        }
    }
    for name in &namespaces {
        note(shell.ip(None, &[format!("netns delete {name}")]));
    }
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            note(Err(DemoError::io(format!("removing {}", dir.display()))(
                error,
            )));
        }
        _ => {}
    }
    first_failure.map_or(Ok(found), Err)
}
