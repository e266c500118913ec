//! One queue of one port in one poller's hands.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::arena::Slot;
use super::map::PacketDescriptor;
use super::socket::{ModeInForce, Statistics};
use super::stock::Stock;
use super::{ArenaPart, FrameSpan, Share, XskError, XskSocket, sys};

/// Kicks in a row after which the kernel has taken nothing: then what is left waits for the next flush.
const STALLED_KICKS: u32 = 4;
/// Less than an Ethernet header is no frame.
const MIN_FRAME: u16 = 14;

/// Why a frame was not staged; it stays held by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The TX ring, or what may be outstanding, is full: flush, reap, or drop the frame.
    #[error("the TX ring is full")]
    Full,
    /// Not a frame of this part that is held, shorter than an Ethernet header, or over its chunk's end.
    #[error("not a frame that can be sent")]
    Invalid,
    /// The socket only receives.
    #[error("the socket has no TX ring")]
    ReceiveOnly,
}

/// What is wrong with a port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The device is down or gone. A device that is only down works again once it is up.
    #[error("the device is down or gone")]
    Down,
    /// Something else; counted by the caller, and no reason to stop.
    #[error("sending: {0}")]
    Os(#[source] io::Error),
}

impl PortError {
    fn from_os(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV | libc::EBADF) => Self::Down,
            _ => Self::Os(error),
        }
    }
}

/// What a flush did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Staged frames handed to the kernel.
    pub published: u32,
    /// Frames in the TX ring that the kernel has not taken yet: flush again.
    pub left: u32,
}

/// Where a port's chunks are at this moment; see [`QueuePort::levels`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// In the fill ring.
    pub fill: u32,
    /// In the RX ring.
    pub rx: u32,
    /// In the TX ring.
    pub tx: u32,
    /// In the completion ring.
    pub completion: u32,
    /// All on the receive side: `fill + rx` and what the kernel holds.
    pub receiving: u32,
    /// All on the send side: `tx + completion` and what the kernel holds.
    pub sending: u32,
}

/// How often the kernel was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kicks {
    /// `sendto` calls.
    pub tx: u64,
    /// `sendto` calls after which the kernel had taken nothing.
    pub tx_stalled: u64,
    /// `recvfrom` calls, to wake the driver for the fill ring.
    pub rx: u64,
}

/// A socket and the part whose chunks it moves. All calls take that same part; with another one they do
/// nothing and count a [misuse](super::Anomalies::misuse). None of them allocates.
///
/// A poller's round: [`recv`](Self::recv), [`send`](Self::send) for each frame on the ports they go to,
/// [`flush`](Self::flush) those, [`reap`](Self::reap), [`refill`](Self::refill).
#[derive(Debug)]
pub struct QueuePort {
    socket: XskSocket,
    slot: Slot,
    /// Frames staged, with the kernel, or completed and not reaped.
    outstanding: u32,
    /// Chunks in the fill ring, with the kernel, or in the RX ring.
    receiving: u32,
    stock: Stock,
    kicks: Kicks,
}

impl QueuePort {
    /// Joins a socket to the part that it is to serve, and fills its fill ring.
    ///
    /// # Errors
    ///
    /// [`XskError::OtherArea`] when the two are over different packet memories,
    /// [`XskError::TooManySockets`].
    pub fn new(mut socket: XskSocket, part: &mut ArenaPart) -> Result<Self, XskError> {
        if !std::sync::Arc::ptr_eq(socket.area(), part.area()) {
            return Err(XskError::OtherArea);
        }
        // A socket taken back from another port: that port's chunks are still with it.
        if socket.attachment.is_some() {
            return Err(XskError::QueueTaken {
                interface: socket.interface().to_owned(),
                queue: socket.key().queue,
            });
        }
        let slot = part.open_slot().ok_or(XskError::TooManySockets)?;
        socket.attachment = Some((part.id(), slot));
        let stock = Stock::new(socket.at_rest(), socket.fill.slots());
        let mut port = Self {
            socket,
            slot,
            outstanding: 0,
            receiving: 0,
            stock,
            kicks: Kicks::default(),
        };
        port.refill(part);
        Ok(port)
    }

    /// The socket: its interface, mode, descriptor.
    pub fn socket(&self) -> &XskSocket {
        &self.socket
    }

    /// Whether frames can come by it.
    pub(super) const fn receives(&self) -> bool {
        self.socket.rx.is_some()
    }

    /// Takes received frames, as many as there are and fit in `out`; returns how many. They are held by
    /// the caller from now on, who sends or [releases](ArenaPart::release) each.
    #[inline]
    pub fn recv(&mut self, part: &mut ArenaPart, out: &mut [FrameSpan]) -> usize {
        if !self.serves(part) {
            return 0;
        }
        let Some(rx) = &mut self.socket.rx else {
            return 0;
        };
        let mut received = 0;
        let there = rx.available(out.len() as u32);
        let mut waiting = there;
        for to in out {
            // A descriptor that could not be true gives no frame and leaves its place to the next one.
            let frame = loop {
                if waiting == 0 {
                    break None;
                }
                waiting -= 1;
                let Some(packet) = rx.pop() else { break None };
                let frame =
                    part.take_received(self.slot, packet.address, packet.len, packet.options);
                if frame.is_some() {
                    break frame;
                }
            };
            let Some(frame) = frame else { break };
            *to = frame;
            received += 1;
        }
        rx.release();
        self.receiving = self.receiving.saturating_sub(there - waiting);
        received
    }

    /// Stages a held frame for sending; no system call. The kernel sees it at the next
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// [`SendError`]; the frame stays with the caller.
    #[inline]
    pub fn send(&mut self, part: &mut ArenaPart, frame: FrameSpan) -> Result<(), SendError> {
        if !self.serves(part) {
            return Err(SendError::Invalid);
        }
        let Some(tx) = &mut self.socket.tx else {
            return Err(SendError::ReceiveOnly);
        };
        if tx.room(1) == 0 || self.outstanding >= self.socket.completion.slots() {
            return Err(SendError::Full);
        }
        if frame.len < MIN_FRAME {
            part.misuse();
            return Err(SendError::Invalid);
        }
        let address = part
            .lend_to_tx(self.slot, frame)
            .ok_or(SendError::Invalid)?;
        tx.push(PacketDescriptor {
            address,
            len: u32::from(frame.len),
            options: 0,
        });
        self.outstanding += 1;
        Ok(())
    }

    /// Frames that can be staged before [`send`](Self::send) says [`SendError::Full`]. Exact only below `wanted`: above, the kernel may have
    /// drained more.
    #[inline]
    pub fn room(&mut self, wanted: u32) -> u32 {
        let room = self.socket.tx.as_mut().map_or(0, |tx| tx.room(wanted));
        room.min(
            self.socket
                .completion
                .slots()
                .saturating_sub(self.outstanding),
        )
    }

    /// Shows the staged frames to the kernel and has it send them.
    ///
    /// In copy mode the kernel sends in `sendto`, a limited number a call, so this calls until the ring is
    /// drained or the kernel has stopped taking frames; the rest waits for the next flush. Cheap when
    /// nothing is staged or left.
    ///
    /// # Errors
    ///
    /// [`PortError`]. The frames stay in the TX ring and count as sending, until they are sent or the port
    /// is closed.
    #[inline]
    pub fn flush(&mut self) -> Result<Flushed, PortError> {
        if self.outstanding == 0 {
            return Ok(Flushed::default());
        }
        let wakes_only = self.socket.mode() == ModeInForce::ZeroCopy;
        let Some(tx) = &mut self.socket.tx else {
            return Ok(Flushed::default());
        };
        let published = tx.publish();
        let mut left = tx.unconsumed();
        if left == 0 || !tx.needs_wakeup() {
            return Ok(Flushed { published, left });
        }
        let mut stalled = 0;
        while stalled < STALLED_KICKS {
            self.kicks.tx += 1;
            if let Err(error) = sys::kick_tx(self.socket.fd.as_fd()) {
                match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => {}
                    _ => return Err(PortError::from_os(error)),
                }
            }
            let before = left;
            left = tx.unconsumed();
            // In zero-copy mode the call only wakes the driver, which sends on its own.
            if left == 0 || wakes_only {
                break;
            }
            if left == before {
                stalled += 1;
                self.kicks.tx_stalled += 1;
            } else {
                stalled = 0;
            }
        }
        Ok(Flushed { published, left })
    }

    /// Takes back the chunks of frames that are sent; returns how many.
    #[inline]
    pub fn reap(&mut self, part: &mut ArenaPart) -> u32 {
        if self.outstanding == 0 || !self.serves(part) {
            return 0;
        }
        let completion = &mut self.socket.completion;
        let mut reaped = 0;
        for _ in 0..completion.available(self.outstanding) {
            let Some(address) = completion.pop() else {
                break;
            };
            if part.take_completed(self.slot, address) {
                reaped += 1;
            }
        }
        completion.release();
        self.outstanding -= reaped;
        reaped
    }

    /// Fills the fill ring from the free list, as far as both reach and the queue needs, and wakes the driver if it asks for
    /// it; returns how many chunks went in.
    #[inline]
    pub fn refill(&mut self, part: &mut ArenaPart) -> u32 {
        if self.socket.rx.is_none() || !self.serves(part) {
            return 0;
        }
        let left = self.left();
        self.refill_above(left, part)
    }

    /// Chunks in the fill ring.
    #[inline]
    fn left(&mut self) -> u32 {
        let fill = &mut self.socket.fill;
        fill.slots() - fill.room(fill.slots())
    }

    #[inline]
    fn refill_above(&mut self, left: u32, part: &mut ArenaPart) -> u32 {
        let fill = &mut self.socket.fill;
        for _ in 0..self.stock.wanted(left, self.receiving) {
            let Some(address) = part.lend_to_fill(self.slot) else {
                break;
            };
            fill.push(address);
        }
        let filled = fill.publish();
        self.receiving += filled;
        if filled != 0 && fill.needs_wakeup() {
            self.kicks.rx += 1;
            // Nothing to be done about an error: a port that is down says so in `health`.
            let _ = sys::kick_rx(self.socket.fd.as_fd());
        }
        filled
    }

    /// [`refill`](Self::refill) after packets came: a queue that ran low has more chunks from now on, as long as the part has
    /// some to spare.
    #[inline]
    pub fn refill_busy(&mut self, part: &mut ArenaPart) -> u32 {
        if self.socket.rx.is_none() || !self.serves(part) {
            return 0;
        }
        let left = self.left();
        self.stock.note(left, part.extra());
        self.refill_above(left, part)
    }

    /// Some time has passed: a queue that has not run low since needs fewer chunks. For a slow timer.
    pub fn relax(&mut self, part: &mut ArenaPart) {
        if self.serves(part) {
            self.stock.relax(self.receiving, part.extra());
        }
    }

    /// Lets others have what this queue had beyond its chunks at rest. Before it is given up.
    pub fn give_back(&mut self, part: &mut ArenaPart) {
        if self.serves(part) {
            self.stock.give_back(part.extra());
        }
    }

    /// Frames on the send side: staged, with the kernel, or completed and not reaped. While it is not 0
    /// somebody must [`flush`](Self::flush) and [`reap`](Self::reap) from time to time.
    #[inline]
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Asks whether the device is still there and up. For a slow timer: a port that only receives learns it
    /// in no other way, since the kernel reports nothing to those who wait for it.
    ///
    /// # Errors
    ///
    /// [`PortError::Down`] when the device is down or gone.
    pub fn health(&self) -> Result<(), PortError> {
        match sys::kick_rx(self.socket.fd.as_fd()).map_err(PortError::from_os) {
            Err(PortError::Down) => Err(PortError::Down),
            Ok(()) | Err(PortError::Os(_)) => Ok(()),
        }
    }

    /// The kernel's counters of the socket.
    ///
    /// # Errors
    ///
    /// What `getsockopt` says.
    pub fn statistics(&self) -> io::Result<Statistics> {
        self.socket.statistics()
    }

    /// How often the kernel was called.
    pub fn kicks(&self) -> Kicks {
        self.kicks
    }

    /// Where the port's chunks are. The rings move while they are read: exact only when they rest.
    pub fn levels(&mut self, part: &ArenaPart) -> Levels {
        let Share { receiving, sending } = part.share_of(self.slot);
        Levels {
            fill: self.socket.fill.unconsumed(),
            rx: self
                .socket
                .rx
                .as_mut()
                .map_or(0, |rx| rx.available(u32::MAX)),
            tx: self
                .socket
                .tx
                .as_mut()
                .map_or(0, |tx| tx.staged() + tx.unconsumed()),
            completion: self.socket.completion.available(u32::MAX),
            receiving,
            sending,
        }
    }

    /// Gives the socket up, to be [closed](XskSocket::close) by a thread that has time; hand the
    /// [`ClosedSocket`](super::ClosedSocket) to [`ArenaPart::quarantine`] to get the chunks back.
    pub fn into_socket(self) -> XskSocket {
        self.socket
    }

    /// Closes the socket here and now (milliseconds) and puts its chunks into quarantine.
    pub fn close(mut self, part: &mut ArenaPart, now: Instant) {
        self.give_back(part);
        let closed = self.socket.close();
        part.quarantine(closed, now);
    }

    /// For [`WaitSet`](super::wait::WaitSet) only: a duplicate of it would break invariant A5.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd.as_fd()
    }

    #[inline]
    fn serves(&self, part: &mut ArenaPart) -> bool {
        let ours = self.socket.attachment == Some((part.id(), self.slot));
        if !ours {
            part.misuse();
        }
        ours
    }
}
