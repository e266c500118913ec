#![expect(
    unsafe_code,
    reason = "AF_XDP rings live in memory shared with the kernel; the workspace's unsafe code is kept in this module"
)]
//! AF_XDP sockets over `libc`: packet memory, rings, sockets, and the little of ethtool they need.
//!
//! From the bottom up:
//!
//! | module | holds |
//! |---|---|
//! | [`arena`] | the packet memory ([`UmemArea`]), each poller's exclusive share of it ([`ArenaPart`]) and the invariants that the unsafe code rests on |
//! | [`ring`] | producer and consumer sides of a ring, over any memory, so that loom can check them |
//! | [`socket`] | creating and binding a socket, its mode, its statistics |
//! | [`port`] | [`QueuePort`]: one socket in one poller's hands: receive, send, flush, reap, refill |
//! | [`wait`] | sleeping until a socket has something |
//! | [`ethtool`], [`probe`] | what the device and the kernel can do |
//!
//! A frame is a [`FrameSpan`]: chunk, start, length. Who may touch a chunk is written down in its
//! part, so that a descriptor from a ring is checked instead of trusted and the chunks of a closed
//! socket come back.
//!
//! Everything works in the network namespace of the calling thread.

mod allowance;
pub mod arena;
mod error;
pub mod ethtool;
mod map;
pub mod packet_io;
pub mod port;
pub mod probe;
pub mod ring;
pub mod socket;
mod stock;
mod sys;
mod tag;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;
pub mod wait;

pub use arena::{Accounting, Anomalies, ArenaPart, FrameSpan, Share, UmemArea};
pub use error::XskError;
pub use packet_io::{Command, Reply, XskControl, XskIo};
pub use port::{Flushed, PortError, QueuePort, SendError};
pub use socket::{
    ClosedSocket, Mode, ModeInForce, QueueKey, RingLen, SocketOptions, Statistics, XskSocket,
};
