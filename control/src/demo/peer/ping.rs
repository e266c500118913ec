//! ICMP and ICMPv6 echo through the kernel's ping sockets.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto,
    setsockopt, socket,
};
use nix::sys::time::TimeVal;

use super::{Failure, Route, check};
use crate::demo::cancel::Cancel;
use crate::demo::netns;

/// Bytes of payload.
const PAYLOAD: usize = 56;

/// What a series of echoes showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pings {
    /// Time from the first request until the first answer: holds the address resolution.
    pub first_answer: Duration,
    /// Requests sent after the first answer, all answered.
    pub count: u32,
    /// Median of their round trips.
    pub rtt: Duration,
}

/// How patient to be.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Limit for the first answer; requests are repeated until then.
    pub first: Duration,
    /// Limit for each further answer.
    pub each: Duration,
    /// Further requests.
    pub count: u32,
    /// Times that each further request is sent at most: 1 where nothing else loads the way.
    pub tries: u32,
}

impl Patience {
    /// For traffic that must flow.
    pub const NORMAL: Self = Self {
        first: Duration::from_secs(3),
        each: Duration::from_secs(1),
        count: 5,
        tries: 1,
    };
}

/// Pings until the first answer and then `patience.count` times, each of which must be answered.
///
/// # Errors
/// Which request stayed without an answer, or why it could not be sent.
pub fn run(route: &Route, patience: Patience, cancel: &Cancel) -> Result<Pings, Failure> {
    let pinger = netns::within(&route.from, || Pinger::new(route.address))
        .map_err(|error| error.to_string())??;
    let started = Instant::now();
    let mut sequence: u16 = 0;
    let mut last: Failure;
    loop {
        check(cancel)?;
        sequence += 1;
        match pinger.echo(sequence, Duration::from_millis(100)) {
            Ok(_) => break,
            Err(why) => last = why,
        }
        if started.elapsed() > patience.first {
            let limit = patience.first.as_millis();
            return Err(format!("no answer within {limit} ms: {last}"));
        }
    }
    let first_answer = started.elapsed();
    let mut trips = Vec::new();
    for number in 1..=patience.count {
        check(cancel)?;
        let mut tries = 0;
        trips.push(loop {
            (sequence, tries) = (sequence + 1, tries + 1);
            match pinger.echo(sequence, patience.each) {
                Ok(trip) => break trip,
                Err(why) if tries >= patience.tries => {
                    return Err(format!("request {number} of {}: {why}", patience.count));
                }
                Err(_) => {}
            }
        });
    }
    trips.sort();
    Ok(Pings {
        first_answer,
        count: patience.count,
        rtt: trips.get(trips.len() / 2).copied().unwrap_or(first_answer),
    })
}

struct Pinger {
    socket: OwnedFd,
    to: SockaddrStorage,
    request_type: u8,
    reply_type: u8,
}

impl Pinger {
    fn new(address: IpAddr) -> Result<Self, Failure> {
        let (family, protocol, request_type, reply_type) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
        };
        let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)
            .map_err(|errno| format!("ping socket: {errno}"))?;
        let to = SockaddrStorage::from(std::net::SocketAddr::new(address, 0));
        Ok(Self {
            socket,
            to,
            request_type,
            reply_type,
        })
    }

    /// One request; the kernel fills in identifier and checksum.
    fn echo(&self, sequence: u16, limit: Duration) -> Result<Duration, Failure> {
        let mut request = vec![0; 8 + PAYLOAD];
        request[0] = self.request_type;
        request[6..8].copy_from_slice(&sequence.to_be_bytes());
        for (at, byte) in request[8..].iter_mut().enumerate() {
            *byte = at as u8 ^ sequence as u8;
        }
        let sent = Instant::now();
        sendto(
            self.socket.as_raw_fd(),
            &request,
            &self.to,
            MsgFlags::empty(),
        )
        .map_err(|errno| format!("sending: {}", errno.desc()))?;
        let mut reply = [0; 2048];
        loop {
            let left = limit
                .checked_sub(sent.elapsed())
                .filter(|left| !left.is_zero())
                .ok_or("no answer")?;
            let timeout = TimeVal::new(
                i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                i64::from(left.subsec_micros().max(1)),
            );
            setsockopt(&self.socket, ReceiveTimeout, &timeout)
                .map_err(|errno| format!("SO_RCVTIMEO: {errno}"))?;
            match recv(self.socket.as_raw_fd(), &mut reply, MsgFlags::empty()) {
                Ok(len) => {
                    let reply = &reply[..len];
                    // An answer to an earlier request may come late.
                    if reply.first() == Some(&self.reply_type) && reply.get(6..) == request.get(6..)
                    {
                        return Ok(sent.elapsed());
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno.desc().to_owned()),
            }
        }
    }
}
