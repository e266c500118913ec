//! ICMP errors as an application hears of them: by its socket's error queue (`IP_RECVERR`).

use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv4Ttl, Ipv6RecvErr, Ipv6Ttl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};

use super::{Failure, check};
use crate::demo::cancel::Cancel;
use crate::demo::netns;

/// How long an error may take.
const LIMIT: Duration = Duration::from_secs(4);
/// Routers limit their errors: asked again after so long.
const AGAIN: Duration = Duration::from_millis(400);

/// An error that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// Who sent it.
    pub from: IpAddr,
    /// What the application's next call would fail with.
    pub errno: Errno,
}

/// Sends a datagram from `netns`, with a TTL if one is given, until its socket hears of an ICMP error about it.
///
/// # Errors
/// When none comes, or the socket can not be made.
pub fn provoke(
    netns: &str,
    to: SocketAddr,
    ttl: Option<u8>,
    cancel: &Cancel,
) -> Result<IcmpError, Failure> {
    let socket = netns::within(netns, || prepare(to, ttl))
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("a UDP socket in {netns} to {to}: {error}"))?;
    let started = Instant::now();
    let mut due = started;
    while started.elapsed() < LIMIT {
        check(cancel)?;
        if Instant::now() >= due {
            due += AGAIN;
            // Fails with an error that came meanwhile: the queue has it.
            let _ = socket.send(b"reach for nobody");
        }
        if let Some(error) = next_error(&socket)? {
            return Ok(error);
        }
        thread::sleep(Duration::from_millis(2));
    }
    Err(format!("no ICMP error within {} s", LIMIT.as_secs()))
}

fn prepare(to: SocketAddr, ttl: Option<u8>) -> std::io::Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    let ttl = ttl.map(i32::from);
    if to.is_ipv4() {
        setsockopt(&socket, Ipv4RecvErr, &true)?;
        ttl.map_or(Ok(()), |ttl| setsockopt(&socket, Ipv4Ttl, &ttl))?;
    } else {
        setsockopt(&socket, Ipv6RecvErr, &true)?;
        ttl.map_or(Ok(()), |ttl| setsockopt(&socket, Ipv6Ttl, &ttl))?;
    }
    socket.connect(to)?;
    Ok(socket)
}

/// The next error in the socket's queue that came by ICMP.
fn next_error(socket: &UdpSocket) -> Result<Option<IcmpError>, Failure> {
    let mut quoted = [0; 256];
    let mut slices = [IoSliceMut::new(&mut quoted)];
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        flags,
    ) {
        Ok(message) => message,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
        Err(errno) => return Err(format!("the error queue: {}", errno.desc())),
    };
    let control = message
        .cmsgs()
        .map_err(|errno| format!("the error queue: {}", errno.desc()))?;
    for item in control {
        let (error, from) = match item {
            ControlMessageOwned::Ipv4RecvErr(error, Some(from)) => {
                (error, IpAddr::from(from.sin_addr.s_addr.to_ne_bytes()))
            }
            ControlMessageOwned::Ipv6RecvErr(error, Some(from)) => {
                (error, IpAddr::from(from.sin6_addr.s6_addr))
            }
            _ => continue,
        };
        if matches!(
            error.ee_origin,
            libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6
        ) {
            return Ok(Some(IcmpError {
                kind: error.ee_type,
                code: error.ee_code,
                from,
                errno: Errno::from_raw(error.ee_errno.cast_signed()),
            }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_a_closed_port_is_heard() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        drop(server);
        let socket = prepare(to, None).unwrap();
        assert_eq!(next_error(&socket), Ok(None));
        socket.send(b"anybody?").unwrap();
        let error = next_error(&socket).unwrap().unwrap();
        assert_eq!((error.kind, error.code), (3, 3));
        assert_eq!((error.from, error.errno), (to.ip(), Errno::ECONNREFUSED));
    }
}
