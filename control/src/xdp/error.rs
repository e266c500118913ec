//! What can go wrong: each says what, where, and what to do.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use thiserror::Error;

use super::device::Device;

/// The largest MTU that a veth accepts under an XDP program without fragments, in bytes: one page less headroom,
/// Ethernet header and `skb_shared_info`, measured on a 4 KiB page.
const MAX_VETH_MTU: u32 = 3506;

/// A program was not loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The kernel does not let this process load programs.
    #[error(
        "loading XDP programs is not permitted; run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_RAW"
    )]
    NoPrivileges,
    /// The kernel lacks what the programs rest on.
    #[error("this kernel is too old for Caracal's XDP programs; run Linux 5.11 or newer")]
    KernelTooOld,
    /// The kernel has no tcx, which flows in the kernel rest on.
    #[error(
        "this kernel is too old for flows in the kernel; run Linux 6.6 or newer, or set `offload: off`"
    )]
    NoTcx,
    /// The kernel refused for another reason: its message, with the verifier's.
    #[error("the kernel refused the XDP program {program}: {reason}")]
    Refused {
        /// The program's name.
        program: &'static str,
        /// The kernel's reason, causes included.
        reason: String,
    },
    /// The compiled object lacks what the loader expects of it.
    #[error("the compiled XDP object has no `{0}`; rebuild it with xdp/build.sh")]
    BadObject(&'static str),
}

impl LoadError {
    pub(super) fn of(program: &'static str, error: &EbpfError) -> Self {
        match errno(error) {
            // Without CAP_PERFMON the verifier allows less with pointers, and complains about our programs.
            Some(libc::EPERM | libc::EACCES) if !is_verifier_complaint(error) || !has_perfmon() => {
                Self::NoPrivileges
            }
            _ => Self::Refused {
                program,
                reason: chain(error),
            },
        }
    }
}

/// A program was not attached; everything that the call had done is undone.
#[derive(Debug, Error)]
pub enum AttachError {
    /// No such interface in this network namespace.
    #[error("{ifname}: no such interface in this network namespace; `ip link` lists them")]
    UnknownInterface {
        /// As it was asked for.
        ifname: String,
    },
    /// Another XDP program is on the interface.
    #[error(
        "{ifname}: held by another XDP program{holder}; detach it first (`ip link set dev {ifname} xdp off`, or stop its owner)"
    )]
    Held {
        /// The interface.
        ifname: String,
        /// ` "name" (id 7)`, or nothing when the kernel does not tell.
        holder: String,
    },
    /// This process has the endpoint already.
    #[error("{ifname}: already attached by this daemon")]
    AlreadyAttached {
        /// The interface.
        ifname: String,
    },
    /// The peer of the veth has more transmit queues than this side has receive queues.
    #[error(
        "{ifname}: the pod's side has more transmit queues than this side has receive queues; raise them here (`ethtool -L {ifname} rx N`) or set `num_queues` in the CNI configuration"
    )]
    TooManyPeerQueues {
        /// The interface.
        ifname: String,
    },
    /// Frames would not fit the one page that XDP gives a packet.
    #[error("{ifname}: an MTU of {mtu} is too large for XDP; lower it on both ends to {max} or less", max = MAX_VETH_MTU)]
    MtuTooLarge {
        /// The interface.
        ifname: String,
        /// Its own MTU, in bytes; on a veth the peer's counts too.
        mtu: u32,
    },
    /// The driver cannot run the program, and the generic mode was not asked for.
    #[error(
        "{ifname}: its driver does not run XDP natively in its present state; switch LRO and hardware GRO off (`ethtool -K {ifname} lro off rx-gro-hw off`), or allow the generic mode in the configuration"
    )]
    NoNativeXdp {
        /// The interface.
        ifname: String,
    },
    /// The kernel has no native XDP for VLAN devices, and the generic mode was not asked for.
    #[error(
        "{ifname}: a VLAN device has no native XDP; set `mode: generic` for it in the configuration"
    )]
    VlanDevice {
        /// The interface.
        ifname: String,
    },
    /// The kernel does not let this process attach.
    #[error(
        "{ifname}: attaching an XDP program is not permitted; run as root, or with CAP_BPF and CAP_NET_ADMIN"
    )]
    NoPrivileges {
        /// The interface.
        ifname: String,
    },
    /// The kernel does not let programs run on what comes in by tcx.
    #[error(
        "{ifname}: this kernel has no tcx; run Linux 6.6 or newer with CONFIG_NET_XGRESS, or set `offload: off`"
    )]
    NoTcx {
        /// The interface.
        ifname: String,
    },
    /// All slots for endpoints are taken.
    #[error("{ifname}: all endpoints ({max}) are in use; raise `maxPods`")]
    TooManyEndpoints {
        /// The interface.
        ifname: String,
        /// The configured number.
        max: u32,
    },
    /// The link could not be pinned.
    #[error("{ifname}: {source}")]
    Pin {
        /// The interface.
        ifname: String,
        /// Why.
        source: PinError,
    },
    /// A socket or slot could not be entered in a map.
    #[error("{ifname}: {source}")]
    Update {
        /// The interface.
        ifname: String,
        /// Why.
        source: UpdateError,
    },
    /// The kernel refused for another reason.
    #[error("{ifname}: cannot {action}: {source}; the kernel log may say more")]
    Kernel {
        /// The interface.
        ifname: String,
        /// What was tried.
        action: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

impl AttachError {
    pub(super) fn kernel(ifname: &str, action: &'static str, source: io::Error) -> Self {
        Self::Kernel {
            ifname: ifname.into(),
            action,
            source,
        }
    }

    /// What the kernel means when it refuses a link. Drivers use these numbers alike; net/core/dev.c and
    /// drivers/net/veth.c are the source.
    pub(super) fn of_link_create(error: &io::Error, device: &Device) -> Self {
        let ifname = device.name.clone();
        match error.raw_os_error() {
            Some(libc::ENODEV) => Self::UnknownInterface { ifname },
            Some(libc::EBUSY | libc::EEXIST) => Self::Held {
                holder: holder(&ifname),
                ifname,
            },
            Some(libc::ENOSPC) => Self::TooManyPeerQueues { ifname },
            Some(libc::ERANGE) => Self::MtuTooLarge {
                ifname,
                mtu: device.mtu,
            },
            Some(libc::EOPNOTSUPP) if device.is_vlan => Self::VlanDevice { ifname },
            Some(libc::EOPNOTSUPP) => Self::NoNativeXdp { ifname },
            Some(libc::EPERM | libc::EACCES) => Self::NoPrivileges { ifname },
            _ => Self::kernel(
                &device.name,
                "attach the XDP program",
                io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)),
            ),
        }
    }
}

impl AttachError {
    /// What the kernel means when it refuses a tcx link (kernel/bpf/tcx.c, kernel/bpf/mprog.c).
    pub(super) fn of_tcx_link_create(error: &io::Error, device: &Device) -> Self {
        let ifname = device.name.clone();
        match error.raw_os_error() {
            Some(libc::ENODEV) => Self::UnknownInterface { ifname },
            Some(libc::EPERM | libc::EACCES) => Self::NoPrivileges { ifname },
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Self::NoTcx { ifname },
            errno => Self::kernel(
                &device.name,
                "attach the flows' program",
                io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO)),
            ),
        }
    }
}

/// The place for pinned links cannot be used.
#[derive(Debug, Error)]
pub enum PinError {
    /// No BPF file system, and none could be mounted.
    #[error(
        "no BPF file system at {path} and none can be mounted: {source}; mount one with `mount -t bpf bpf {path}`"
    )]
    NoBpffs {
        /// Where it should be.
        path: PathBuf,
        /// The mount's error.
        source: io::Error,
    },
    /// A file system operation failed.
    #[error("cannot {action} {path}: {source}{help}", help = permission_help(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// What to do where the system does not permit it.
fn permission_help(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root",
        _ => "",
    }
}

/// A map of a loaded program was not updated.
#[derive(Debug, Error)]
pub enum UpdateError {
    /// More entries than the map holds.
    #[error("the XDP program holds at most {max} {what}")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// The map's capacity.
        max: u32,
    },
    /// A queue number that has no place in the socket map.
    #[error("queue {queue} is beyond the queues of the XDP program ({queues})")]
    NoSuchQueue {
        /// As asked for.
        queue: u32,
        /// How many there are; the highest is one less.
        queues: u32,
    },
    /// Not an endpoint of this program.
    #[error("interface {ifindex} is not attached")]
    NotAttached {
        /// The interface's index.
        ifindex: u32,
    },
    /// A prefix length beyond the address family's.
    #[error("a prefix length of {len} is more than {max}")]
    BadPrefix {
        /// As given.
        len: u8,
        /// The most there can be.
        max: u8,
    },
    /// The kernel refused.
    #[error("cannot update {what}: {reason}")]
    Kernel {
        /// The map, in words.
        what: &'static str,
        /// The kernel's reason.
        reason: String,
    },
}

impl UpdateError {
    pub(super) fn of(what: &'static str, max: u32, error: &aya::maps::MapError) -> Self {
        match errno(error) {
            Some(libc::ENOSPC | libc::E2BIG) => Self::Full { what, max },
            _ => Self::Kernel {
                what,
                reason: chain(error),
            },
        }
    }
}

/// ` "name" (id 7)` of the programs on an interface; empty when the kernel does not tell.
fn holder(ifname: &str) -> String {
    let mut text = String::new();
    for (name, id) in programs_on(ifname).unwrap_or_default() {
        // Writing to a String cannot fail.
        let _ = write!(text, " {name:?} (id {id})");
    }
    text
}

/// The XDP programs on an interface of the calling thread's network namespace, by name and id. Who may not look at programs
/// gets empty names.
///
/// # Errors
/// The kernel's. An interface that is not there has none.
pub(crate) fn programs_on(ifname: &str) -> io::Result<Vec<(String, u32)>> {
    let device = Device::find(ifname)?;
    let ids = device.map(|device| device.xdp_programs).unwrap_or_default();
    let named = |id| {
        let name = aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .find(|program| program.id() == id)
            .and_then(|program| program.name_as_str().map(str::to_owned));
        (name.unwrap_or_default(), id)
    };
    Ok(ids.into_iter().map(named).collect())
}

/// An error and what it comes from, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&e| e.source())
}

/// The first OS error among an error's causes.
pub(super) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    causes(error)
        .find_map(|e| e.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
}

/// The verifier answers EACCES or EPERM too, but never without a word.
fn is_verifier_complaint(error: &EbpfError) -> bool {
    let EbpfError::ProgramError(aya::programs::ProgramError::LoadError { verifier_log, .. }) =
        error
    else {
        return false;
    };
    !verifier_log.to_string().trim().is_empty()
}

/// Whether this thread has CAP_PERFMON.
fn has_perfmon() -> bool {
    const CAP_PERFMON: u32 = 38;
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    effective_capabilities(&status) & 1 << CAP_PERFMON != 0
}

/// The effective capabilities that a `/proc/PID/status` tells, by their bits; none where it does not.
pub(crate) fn effective_capabilities(status: &str) -> u64 {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or_default()
}

/// An error with its causes in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for e in causes(error) {
        let text = e.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: i32) -> String {
        refused_on(errno, false)
    }

    fn refused_on(errno: i32, is_vlan: bool) -> String {
        let device = Device {
            name: "cali1".into(),
            index: 7,
            mtu: 9000,
            is_vlan,
            xdp_programs: Vec::new(),
        };
        AttachError::of_link_create(&io::Error::from_raw_os_error(errno), &device).to_string()
    }

    #[test]
    fn who_may_not_write_to_the_pins_is_told_who_may() {
        let said = |kind: io::ErrorKind| {
            let (action, path, source) = ("create", PathBuf::from("/p"), kind.into());
            PinError::Io {
                action,
                path,
                source,
            }
            .to_string()
        };
        let denied = said(io::ErrorKind::PermissionDenied);
        assert_eq!(denied, "cannot create /p: permission denied; run as root");
        assert_eq!(
            said(io::ErrorKind::StorageFull),
            "cannot create /p: no storage space"
        );
    }

    #[test]
    fn every_refusal_names_the_interface_and_a_way_out() {
        assert!(refused(libc::ERANGE).contains("9000"));
        assert!(refused(libc::ERANGE).contains("3506"));
        assert!(refused(libc::ENOSPC).contains("ethtool -L cali1"));
        assert!(refused(libc::EOPNOTSUPP).contains("generic mode"));
        let vlan = refused_on(libc::EOPNOTSUPP, true);
        assert!(vlan.contains("`mode: generic`") && !vlan.contains("ethtool"));
        assert!(refused(libc::EPERM).contains("CAP_NET_ADMIN"));
        assert!(refused(libc::ENODEV).contains("ip link"));
        assert!(refused(libc::EIO).contains("Input/output error"));
        for errno in [libc::EBUSY, libc::EEXIST, libc::ENOSPC, libc::EIO] {
            assert!(refused(errno).starts_with("cali1: "), "{}", refused(errno));
        }
    }

    #[test]
    fn the_cause_of_a_map_error_is_found() {
        let full = aya::maps::MapError::SyscallError(aya::sys::SyscallError {
            call: "bpf_map_update_elem",
            io_error: io::Error::from_raw_os_error(libc::ENOSPC),
        });
        let text = UpdateError::of("pod prefixes", 9, &full).to_string();
        assert_eq!(text, "the XDP program holds at most 9 pod prefixes");
    }
}
