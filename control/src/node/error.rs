//! Why the daemon does not start, or ends.

use std::io;
use std::path::PathBuf;

use fastpath::io::xsk::XskError;

use crate::compile::{CompileError, FibError};
use crate::config::Diagnostics;
use crate::netlink;
use crate::nft::{NftError, Unspeakable};
use crate::xdp::{AttachError, LoadError, PinError, UpdateError};

/// Why the daemon does not start, or ends. Each says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Bad configuration.
    #[error("{0}")]
    Config(Diagnostics),
    /// An uplink of `caracal.yaml` is not there.
    #[error("{config}: uplink {interface}: no such interface; `ip link` lists those there are", config = config.display())]
    NoUplink {
        /// The configuration file.
        config: PathBuf,
        /// The interface.
        interface: String,
    },
    /// A bond without members.
    #[error(
        "{interface}: the bond has no members; `ip link set NIC master {interface}` makes one, and it is served then"
    )]
    NoMembers {
        /// The bond.
        interface: String,
    },
    /// A packet of the interface does not fit a frame.
    #[error("{interface}: MTU {mtu} does not fit frames of {frame} bytes; {help}", help = mtu_help(*mtu))]
    MtuTooBig {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// The frame size in force.
        frame: u32,
    },
    /// More queues than the interface has.
    #[error(
        "{interface}: {wanted} queues are needed, one a poller, and the interface has {available}; \
             lower the number of pollers in caracal.yaml, or create the interface with more queues"
    )]
    TooFewQueues {
        /// The interface.
        interface: String,
        /// Queues needed.
        wanted: u32,
        /// Queues there are.
        available: u32,
    },
    /// AF_XDP.
    #[error(transparent)]
    Xsk(#[from] XskError),
    /// An XDP program was not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An XDP program was not attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// An XDP program's maps.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// Pinned links.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The kernel's network state.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// Routes.
    #[error(transparent)]
    Fib(#[from] FibError),
    /// The wanted state does not fit the tables.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The control socket.
    #[error("control socket: {0}")]
    Api(#[from] crate::api::BindError),
    /// The socket for Felix.
    #[error("Felix's socket: {0}")]
    Felix(crate::api::BindError),
    /// Another daemon serves this network namespace.
    #[error("a Caracal daemon already runs in this network namespace; stop it first")]
    AlreadyRunning,
    /// A core that a poller was to run on.
    #[error(
        "core {core}: a poller can not run there ({source}); `pollers.cores` in caracal.yaml must name cores of this process's cpuset"
    )]
    Core {
        /// The core.
        core: u16,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Another call of the system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The host's own traffic can not be judged.
    #[error("host endpoints: {0}")]
    HostPolicy(#[from] NftError),
    /// An interface has a name that can not be said.
    #[error("host endpoints: {0}")]
    Unspeakable(#[from] Unspeakable),
    /// A poller ended by itself.
    #[error(
        "poller {0} ended by itself; the log above says why. Please report it with `caracal --version`"
    )]
    PollerDied(usize),
    /// The thread that keeps the kernel's flows ended.
    #[error("the thread that keeps the kernel's flows has ended; please report this")]
    OffloadDied,
}

/// The largest MTU that XDP takes in one piece, whatever the driver: a page of 4,096 bytes less what the kernel keeps of it.
pub(super) const WHOLE_MTU: u32 = 3498;

/// What to do about an MTU that does not fit frames.
fn mtu_help(mtu: u32) -> &'static str {
    if mtu <= WHOLE_MTU {
        "lower the MTU, or set `frames.size: 4096` in caracal.yaml"
    } else {
        "lower the MTU to 3498 or less, which is what XDP takes in one piece"
    }
}

impl RunError {
    /// Whether the interface was not there any more.
    pub(super) fn is_about_a_gone_interface(&self) -> bool {
        matches!(
            self,
            Self::Attach(AttachError::UnknownInterface { .. })
                | Self::Xsk(XskError::NoSuchInterface { .. })
        )
    }

    /// Wraps a system error.
    pub(super) fn system(what: &'static str) -> impl Fn(nix::errno::Errno) -> Self {
        move |errno| Self::System {
            what,
            source: errno.into(),
        }
    }
}
