//! What a daemon leaves behind on purpose, and how to take it away; and the lock that keeps two daemons apart.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use super::RunError;
use crate::keep::file;
use crate::netlink::{HostPort, PuntPort, Writer, unix_sockets};
use crate::nft::Nft;
use crate::xdp::PinDir;

/// The name that a daemon holds. Abstract names belong to a network namespace and go with the process that holds them: no
/// file stays behind.
const NAME: &str = "caracal-daemon";

/// Held by the one daemon of a network namespace, as long as it lives. Nothing, where somebody else holds the name.
pub(super) type Lock = Option<UnixDatagram>;

/// Takes the lock of the calling thread's network namespace.
///
/// Anybody may hold an abstract name, but no daemon is anybody's but root's or ours: who is not does not keep one out.
pub(super) fn lock() -> Result<Lock, RunError> {
    let held = SocketAddr::from_abstract_name(NAME).and_then(|name| UnixDatagram::bind_addr(&name));
    let source = match held {
        Ok(held) => return Ok(Some(held)),
        Err(source) => source,
    };
    if source.kind() != io::ErrorKind::AddrInUse {
        return Err(RunError::System {
            what: "take the daemon's lock",
            source,
        });
    }
    match unix_sockets::holder_of(NAME) {
        Ok(Some(user)) if !may_be_a_daemons(user) => {
            tracing::warn!(
                "user {user}, who can not be a Caracal daemon, holds the socket name @{NAME}: nothing keeps a second daemon out of this network namespace \
                 (`ss -xlp` names the process)"
            );
            Ok(None)
        }
        _ => Err(RunError::AlreadyRunning),
    }
}

/// Whether a daemon holds the lock of the calling thread's network namespace. Where the kernel does not say, none does.
pub(super) fn is_held() -> bool {
    unix_sockets::holder_of(NAME).is_ok_and(|holder| holder.is_some_and(may_be_a_daemons))
}

fn may_be_a_daemons(user: u32) -> bool {
    user == 0 || user == nix::unistd::geteuid().as_raw()
}

/// What was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// So many interfaces were opened.
    pub opened: usize,
    /// There was a table of host endpoints' policy.
    pub host_policy: bool,
}

/// Takes away what a daemon that is gone left in this network namespace: the programs that keep pods closed, the host's
/// port, its routes and its rules, the rules of host endpoints, neighbours that the kernel was asked for, and the connections that were kept beside
/// `control_socket`. Pods' traffic is the kernel's afterwards.
///
/// # Errors
/// A daemon is running here, or the kernel refuses.
pub fn cleanup(control_socket: &Path) -> Result<Cleaned, RunError> {
    let _lock = lock()?;
    let pins = PinDir::open()?;
    let mut released = 0;
    for pin in pins.pins() {
        released += usize::from(pin.alive);
        pins.release(&pin)?;
    }
    pins.remove_if_empty();
    HostPort::remove_leftovers()?;
    PuntPort::remove_leftovers()?;
    // Where there is no nft there is no table of ours either.
    let host_policy = match Nft::find() {
        Ok(nft) => nft.remove()?,
        Err(_) => false,
    };
    super::neighbours::forget_all(&mut Writer::open()?)?;
    // Where they get to by the kernel the next daemon does not know.
    file::remove(control_socket).map_err(|source| RunError::System {
        what: "remove the connections that were kept",
        source,
    })?;
    Ok(Cleaned {
        opened: released,
        host_policy,
    })
}
