//! Whether the host uses IPsec.

use std::io;

use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::attr::{Attributes, Messages, u32_at};

/// `XFRM_MSG_GETSADINFO` (linux/xfrm.h): how many associations there are.
const ASSOCIATIONS: u16 = 0x23;
/// `XFRM_MSG_GETSPDINFO`: how many policies there are.
const POLICIES: u16 = 0x25;

/// Whether there is an association or a policy in this thread's network namespace.
///
/// # Errors
///
/// The kernel's, when it does not say.
pub(crate) fn is_used() -> io::Result<bool> {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink")?;
    if !has_kernels_end(&sockets) {
        return Ok(false);
    }
    let mut socket = Socket::new(NETLINK_XFRM)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10))?;
    // `XFRMA_SAD_CNT` is one number; `XFRMA_SPD_INFO` is three, by direction, and three more of sockets' own.
    Ok(is_any(&socket, ASSOCIATIONS, 1)? || is_any(&socket, POLICIES, 3)?)
}

/// Whether the kernel's part of IPsec by netlink is loaded. To open a socket would load it.
fn has_kernels_end(sockets: &str) -> bool {
    sockets.lines().skip(1).any(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (family, port) = (columns.next(), columns.next());
        family == Some("6") && port == Some("0")
    })
}

/// Whether one of the first `count` numbers of the answer's first attribute is not zero.
fn is_any(socket: &Socket, question: u16, count: usize) -> io::Result<bool> {
    const LEN: u32 = 20;
    let mut request = LEN.to_ne_bytes().to_vec();
    request.extend(question.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence, sender, and flags that mean nothing.
    request.extend([0; 12]);
    socket.send(&request, 0)?;
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0)?;
    let message = Messages(&answer).next();
    let message = message.ok_or(io::ErrorKind::UnexpectedEof)?;
    if i32::from(message.kind) == libc::NLMSG_ERROR {
        let code = u32_at(message.payload, 0).map_or(0, u32::cast_signed);
        return Err(io::Error::from_raw_os_error(-code));
    }
    let numbers = Attributes::after(message.payload, 4)
        .find(|(kind, _)| *kind == 1)
        .map(|(_, value)| value)
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok((0..count).any(|at| u32_at(numbers, 4 * at).is_some_and(|number| number != 0)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use fastpath::io::xsk::test_support::{skip, skipped_without_root};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn a_policy_is_seen() {
        let test = "a_policy_is_seen";
        if skipped_without_root(test) {
            return;
        }
        let alone = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of its own");
            assert!(!is_used().expect("the kernel says"));
            let policy = "xfrm policy add src 10.9.0.0/24 dst 10.8.0.0/24 dir out";
            let added = Command::new("ip").args(policy.split(' ')).output();
            if !added.is_ok_and(|output| output.status.success()) {
                return skip(test, "the kernel has no IPsec");
            }
            assert!(is_used().expect("the kernel says"));
        };
        std::thread::spawn(alone).join().expect("the test");
    }

    #[test]
    fn the_kernels_end_is_seen() {
        let table = "sk               Eth Pid        Groups   Rmem\n\
                     0000000000000000 0   0          00000000 0\n\
                     0000000000000000 6   4711       00000000 0\n";
        assert!(!has_kernels_end(table), "somebody else's end only");
        assert!(has_kernels_end(&format!(
            "{table}0000000000000000 6   0          00000000 0\n"
        )));
    }
}
