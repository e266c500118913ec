//! Raw frames in and out of a link.

use std::os::fd::{AsRawFd, OwnedFd};

use control::netlink::NetNs;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto,
    setsockopt, socket,
};

const OUTGOING: u8 = 4; // PACKET_OUTGOING

/// A packet socket on one link.
pub(crate) struct Tap {
    socket: OwnedFd,
    link: LinkAddr,
}

impl Tap {
    /// Opens one on the link called `name`.
    pub(crate) fn open(netns: &NetNs, name: &str) -> Self {
        let opened = netns.run(|| {
            let mut links = getifaddrs().expect("the links");
            let link = links
                .find_map(|link| {
                    let address = link.address?;
                    let address = address.as_link_addr().copied()?;
                    (link.interface_name == name).then_some(address)
                })
                .unwrap_or_else(|| panic!("no link {name}"));
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )
            .expect("a packet socket");
            setsockopt(&socket, RcvBufForce, &(1 << 22)).expect("SO_RCVBUFFORCE");
            bind(socket.as_raw_fd(), &link).expect("bind to a link");
            Self { socket, link }
        });
        opened.expect("enter a namespace")
    }

    /// Sends a frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        let sent = sendto(
            self.socket.as_raw_fd(),
            frame,
            &self.link,
            MsgFlags::empty(),
        );
        sent.unwrap_or_else(|e| panic!("send a frame of {} bytes: {e}", frame.len()));
    }

    /// The next frame that came in by the link, if there is one.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 65536];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut bytes) {
                Ok((len, from)) => {
                    if from.is_some_and(|from| from.pkttype() == OUTGOING) {
                        continue;
                    }
                    bytes.truncate(len);
                    return Some(bytes);
                }
                Err(Errno::EAGAIN) => return None,
                Err(Errno::EINTR) => {}
                Err(error) => panic!("receive a frame: {error}"),
            }
        }
    }
}
