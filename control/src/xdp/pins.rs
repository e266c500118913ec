//! Where endpoints' links are pinned: `<bpffs>/caracal/<netns inode>/<ifname>-<ifindex>`.
//!
//! The inode keeps daemons of different network namespaces apart. It can come again once its namespace is gone, but
//! by then the kernel has taken all its links off their devices, which a link tells.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::device::Device;
use super::error::PinError;
use super::link::Link;
use super::sys::{self, LinkKind};

/// Where the system has its BPF file system.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";
/// The directory there of all of ours, by network namespace.
const ALL: &str = "caracal";
/// In front of the name of a device whose pin is about to be replaced.
const NEXT: &str = "next:";
/// The PID namespace of the machine's init (`PROC_PID_INIT_INO`, linux/proc_ns.h), in which all processes can be seen.
pub(crate) const INITS_PID_NAMESPACE: &str = "pid:[4026531836]";

/// The directory of this network namespace's pinned links.
#[derive(Debug, Clone)]
pub struct PinDir {
    namespace: PathBuf,
}

/// A link that is pinned, by the device it was pinned for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedDevice {
    /// The interface's name when the link was made.
    pub ifname: String,
    /// The interface's index.
    pub ifindex: u32,
    /// Whether the link is still on the device.
    pub alive: bool,
    path: PathBuf,
}

impl PinDir {
    /// The directory on the system's bpffs for the calling thread's network namespace; mounts the bpffs if there is
    /// none, and clears away pins of devices that are gone, in all namespaces.
    ///
    /// # Errors
    ///
    /// [`PinError`] when there is no bpffs and none can be mounted, or the directory cannot be made.
    pub fn open() -> Result<Self, PinError> {
        Self::open_on(Path::new(BPFFS))
    }

    /// As [`PinDir::open`], on a bpffs somewhere else.
    pub fn open_on(bpffs: &Path) -> Result<Self, PinError> {
        ensure_bpffs(bpffs)?;
        let all = bpffs.join(ALL);
        let dir = Self {
            namespace: all.join(own_name()?),
        };
        make_dir(&dir.namespace)?;
        sweep(&all, &dir.namespace);
        Ok(dir)
    }

    /// The links pinned here.
    pub fn pins(&self) -> Vec<PinnedDevice> {
        pins_in(&self.namespace)
    }

    /// Removes the directory itself, when nothing is pinned in it any more.
    pub fn remove_if_empty(&self) {
        let _ = fs::remove_dir(&self.namespace);
        if let Some(all) = self.namespace.parent() {
            let _ = fs::remove_dir(all);
        }
    }

    /// Takes a link off its device and removes its pin: the pod's traffic is the kernel's again.
    pub fn release(&self, pin: &PinnedDevice) -> Result<(), PinError> {
        if let Ok(link) = Link::open_pinned(&pin.path) {
            link.detach()
                .map_err(|e| io_error("detach", &pin.path, e))?;
        }
        remove(&pin.path)
    }

    /// The link that an earlier daemon left on `device`, its pin under the device's present name. Pins under the
    /// name or index that do not hold `device` any more are removed.
    pub(super) fn take_over(&self, device: &Device) -> Result<Option<Link>, PinError> {
        let path = self.path(device);
        let mut found = None;
        // Only pins that can be the device's are opened: a node has hundreds.
        for (ifname, ifindex, pin) in names_in(&self.namespace) {
            if ifindex != device.index && (ifname != device.name || is_alive(&pin, ifindex)) {
                continue;
            }
            match open_if_on(&pin, device) {
                Some(link) if found.is_none() => {
                    if pin != path {
                        fs::rename(&pin, &path).map_err(|e| io_error("rename", &pin, e))?;
                    }
                    found = Some(link);
                }
                _ => remove(&pin)?,
            }
        }
        Ok(found)
    }

    pub(super) fn pin(&self, link: &Link, device: &Device) -> Result<PathBuf, PinError> {
        // A sweep by the daemon of another namespace may have removed the empty directory.
        make_dir(&self.namespace)?;
        let path = self.path(device);
        link.pin(&path).map_err(|e| io_error("pin", &path, e))?;
        Ok(path)
    }

    /// Pins a link in place of the one that is pinned for `device`, which is on it by other means; that one is taken off then. At no moment
    /// is there none that is pinned.
    pub(super) fn replace(&self, old: &Link, new: &Link, device: &Device) -> Result<(), PinError> {
        let path = self.path(device);
        // Should this process end here, who takes the device over finds both, and keeps one.
        let next = self
            .namespace
            .join(pin_name(&format!("{NEXT}{}", device.name), device.index));
        remove(&next)?;
        new.pin(&next).map_err(|e| io_error("pin", &next, e))?;
        if let Err(e) = fs::rename(&next, &path) {
            let _ = remove(&next);
            return Err(io_error("rename", &next, e));
        }
        old.detach().map_err(|e| io_error("detach", &path, e))
    }

    /// Pins a link again whose pin is gone. Whether it was.
    pub(super) fn ensure(&self, link: &Link, path: &Path) -> Result<bool, PinError> {
        match fs::symlink_metadata(path) {
            Ok(_) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io_error("look at", path, e)),
        }
        if let Some(bpffs) = self.namespace.ancestors().nth(2) {
            ensure_bpffs(bpffs)?;
        }
        make_dir(&self.namespace)?;
        link.pin(path).map_err(|e| io_error("pin", path, e))?;
        Ok(true)
    }

    pub(super) fn path(&self, device: &Device) -> PathBuf {
        self.namespace.join(pin_name(&device.name, device.index))
    }
}

pub(super) fn remove(path: &Path) -> Result<(), PinError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path, e)),
        _ => Ok(()),
    }
}

/// The name of the directory of the calling thread's network namespace.
fn own_name() -> Result<String, PinError> {
    let netns = "/proc/thread-self/ns/net";
    let meta =
        fs::metadata(netns).map_err(|e| io_error("read the network namespace of", netns, e))?;
    Ok(meta.ino().to_string())
}

/// Whether what runs on an interface is a former daemon's, which the next one takes over: pinned in the directory of the calling thread's
/// network namespace. Makes nothing, not even the directory.
pub(crate) fn is_left_on(ifname: &str) -> bool {
    let (Ok(Some(device)), Ok(own)) = (Device::find(ifname), own_name()) else {
        return false;
    };
    let pins = names_in(&Path::new(BPFFS).join(ALL).join(own));
    let mut pins = pins
        .iter()
        .filter(|(_, ifindex, _)| *ifindex == device.index);
    pins.any(|(_, _, pin)| open_if_on(pin, &device).is_some())
}

/// The kernel keeps dots in bpffs names for itself, and no interface's name has a colon.
fn pin_name(ifname: &str, ifindex: u32) -> String {
    format!("{}-{ifindex}", ifname.replace('.', ":"))
}

fn parse_pin_name(name: &str) -> Option<(String, u32)> {
    let (ifname, ifindex) = name.rsplit_once('-')?;
    Some((ifname.replace(':', "."), ifindex.parse().ok()?))
}

fn pins_in(dir: &Path) -> Vec<PinnedDevice> {
    names_in(dir)
        .into_iter()
        .map(|(ifname, ifindex, path)| PinnedDevice {
            alive: is_alive(&path, ifindex),
            ifname,
            ifindex,
            path,
        })
        .collect()
}

/// The pins in a directory by what their names say; other files are none of ours.
fn names_in(dir: &Path) -> Vec<(String, u32, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let (ifname, ifindex) = parse_pin_name(entry.file_name().to_str()?)?;
            Some((ifname, ifindex, entry.path()))
        })
        .collect()
}

fn is_alive(pin: &Path, ifindex: u32) -> bool {
    Link::open_pinned(pin).is_ok_and(|link| link.is_on(ifindex))
}

/// The pinned link, if what runs on `device` is its program. The index alone would not do: it tells nothing of the
/// namespace.
fn open_if_on(path: &Path, device: &Device) -> Option<Link> {
    let link = Link::open_pinned(path).ok()?;
    let info = link.info().ok()?;
    let runs_there = match info.kind {
        LinkKind::Xdp => device.xdp_programs.contains(&info.prog_id),
        LinkKind::Tcx => {
            sys::tcx_programs(device.index).is_ok_and(|programs| programs.contains(&info.prog_id))
        }
    };
    (info.ifindex == device.index && runs_there).then_some(link)
}

/// Removes pins whose devices are gone, and namespaces' directories that hold none. Another daemon may be at it too,
/// so failures are nobody's concern.
fn sweep(all: &Path, own: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let dir = entry.path();
        for pin in pins_in(&dir).iter().filter(|pin| !pin.alive) {
            let _ = remove(&pin.path);
        }
        if dir != own {
            // Fails unless empty.
            let _ = fs::remove_dir(&dir);
        }
    }
}

fn ensure_bpffs(path: &Path) -> Result<(), PinError> {
    if is_bpffs(path) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700")).map_err(|e| {
        PinError::NoBpffs {
            path: path.into(),
            source: e.into(),
        }
    })?;
    if !mounts_outlive_us() {
        tracing::warn!(
            "bpffs was not mounted at {path}, and is now in a mount namespace that may end with this process: the pins end \
             with it, and pods are OPEN, without policy, after a stop or a crash; mount bpffs on the host \
             (`mount -t bpf bpf {path}`) and start again where that mount is seen",
            path = path.display()
        );
    }
    Ok(())
}

/// The system's BPF file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bpffs {
    /// It is there.
    Mounted,
    /// It is not, and what [`PinDir::open`] mounts stays.
    Absent,
    /// It is not, and what [`PinDir::open`] mounts may end with this process.
    AbsentHere,
}

/// Whether there is a bpffs for [`PinDir::open`]. Mounts nothing.
pub(crate) fn bpffs() -> Bpffs {
    if is_bpffs(Path::new(BPFFS)) {
        Bpffs::Mounted
    } else if mounts_outlive_us() {
        Bpffs::Absent
    } else {
        Bpffs::AbsentHere
    }
}

/// Whether what this process mounts is there without it.
fn mounts_outlive_us() -> bool {
    let namespace_of = |process| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    outlives_us(
        fs::read_link("/proc/self/ns/pid").ok().as_deref(),
        namespace_of("self").as_deref(),
        namespace_of("1").as_deref(),
    )
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Whether what is mounted in our mount namespace is there without us: in that of init it is. Who may not look can not know, and
/// in another PID namespace `of_init` is of the container's own first process.
fn outlives_us(pids: Option<&Path>, own: Option<&Path>, of_init: Option<&Path>) -> bool {
    pids == Some(Path::new(INITS_PID_NAMESPACE)) && own.is_some() && own == of_init
}

fn make_dir(path: &Path) -> Result<(), PinError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| io_error("create", path, e))
}

fn io_error(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> PinError {
    PinError::Io {
        action,
        path: path.as_ref().into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mount_in_the_namespace_of_init_is_known_to_stay() {
        let [one, two] = ["mnt:[1]", "mnt:[2]"].map(|namespace| Some(Path::new(namespace)));
        let pids = Some(Path::new("pid:[4026531836]"));
        assert!(outlives_us(pids, one, one));
        assert!(!outlives_us(pids, two, one));
        assert!(!outlives_us(pids, one, None));
        assert!(!outlives_us(pids, None, None));
        let of_a_container = Some(Path::new("pid:[4026532178]"));
        assert!(!outlives_us(of_a_container, one, one));
        assert!(!outlives_us(None, one, one));
    }

    #[test]
    fn a_pin_name_tells_name_and_index() {
        for name in ["eth0", "cali0123456789a", "eth0.100", "a-b-7", "br-lan.2-x"] {
            let pinned = pin_name(name, 42);
            assert!(!pinned.contains('.'));
            assert_eq!(parse_pin_name(&pinned), Some((name.to_owned(), 42)));
        }
        assert_eq!(parse_pin_name("stray"), None);
        assert_eq!(parse_pin_name("stray-x"), None);
    }
}
