//! Whose an abstract name of a Unix socket is.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::attr::{Attributes, Messages, u32_at};
use super::socket::DATAGRAM_LEN;

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// Bytes of `struct unix_diag_msg` (linux/unix_diag.h).
const HEADER_LEN: usize = 16;
/// `UNIX_DIAG_NAME`, `UNIX_DIAG_UID`.
const NAME: u16 = 0;
const UID: u16 = 7;

/// The user who holds an abstract name in this thread's network namespace, as this process's user namespace calls them; `None` if
/// nobody does, or the kernel (before 5.3) does not say who.
///
/// `/proc/net/unix` would not do: it has no users, and names may have lines of their own in them.
///
/// # Errors
///
/// The kernel's: it may be built without `CONFIG_UNIX_DIAG`.
pub(crate) fn holder_of(name: &str) -> io::Result<Option<u32>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10))?;
    socket.send(&question(), 0)?;
    let mut holder = None;
    let mut answer = Vec::with_capacity(DATAGRAM_LEN);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        for message in Messages(&answer) {
            match i32::from(message.kind) {
                libc::NLMSG_DONE => return Ok(holder),
                libc::NLMSG_ERROR => {
                    let code = u32_at(message.payload, 0).map_or(0, u32::cast_signed);
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => {}
            }
            let (mut is_it, mut user) = (false, None);
            for (kind, value) in Attributes::after(message.payload, HEADER_LEN) {
                match kind {
                    // Abstract names begin with a zero byte.
                    NAME => is_it = value.strip_prefix(&[0]) == Some(name.as_bytes()),
                    UID => user = u32_at(value, 0),
                    _ => {}
                }
            }
            if is_it {
                holder = user;
            }
        }
    }
}

/// All sockets of the family, with names and users: `struct unix_diag_req`.
fn question() -> Vec<u8> {
    const LEN: u32 = 16 + 24;
    const SHOW_NAME: u32 = 1;
    const SHOW_UID: u32 = 0x40;
    let mut request = LEN.to_ne_bytes().to_vec();
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // Sequence and sender.
    request.extend([0; 8]);
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    // In any state, whatever its number.
    request.extend(u32::MAX.to_ne_bytes());
    request.extend([0; 4]);
    request.extend((SHOW_NAME | SHOW_UID).to_ne_bytes());
    request.extend([0; 8]);
    request
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use fastpath::io::xsk::test_support::skip;

    use super::*;

    #[test]
    fn a_name_has_its_holder() {
        let name = format!("caracal-holder-{}", std::process::id());
        match holder_of(&name) {
            Ok(holder) => assert_eq!(holder, None),
            Err(error) => return skip("a_name_has_its_holder", &error.to_string()),
        }
        // Names that only look like it in a table of lines.
        let hold = |name: &str| {
            let name = SocketAddr::from_abstract_name(name).unwrap();
            UnixDatagram::bind_addr(&name).unwrap()
        };
        let _others = [
            hold(&format!("{name}x")),
            hold(&format!("x @{name}")),
            hold(&format!("x\n0: 2 0 0 2 1 7 @{name}")),
        ];
        assert_eq!(holder_of(&name).unwrap(), None);
        let held = hold(&name);
        let user = nix::unistd::geteuid().as_raw();
        assert_eq!(holder_of(&name).unwrap(), Some(user));
        drop(held);
        assert_eq!(holder_of(&name).unwrap(), None);
    }
}
