//! An AF_XDP socket for the socket maps. It is never read.

use std::os::fd::{AsRawFd, RawFd};

use fastpath::io::xsk::{ArenaPart, RingLen, SocketOptions, UmemArea, XskSocket};

/// A bound socket, with the memory it needs.
pub struct XdpSocket {
    socket: XskSocket,
    _memory: (UmemArea, Vec<ArenaPart>),
}

impl XdpSocket {
    pub fn bind(ifname: &str, queue: u32) -> Self {
        let memory = UmemArea::new(&[64], 2048, false).expect("memory");
        let options = SocketOptions::both_ways(RingLen::new(64).expect("a power of two"));
        Self {
            socket: XskSocket::open(&memory.0, ifname, queue, &options).expect("bind"),
            _memory: memory,
        }
    }
}

impl AsRawFd for XdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
