//! Where packets come from and go to: one trait, and its implementations.

#[cfg(feature = "afxdp")]
pub mod afxdp;
pub mod mem;
pub mod pcap;
pub mod xsk;

use std::time::Duration;

use flowtable::Tick;

use crate::batch::Batch;
use crate::frame::Frame;
use crate::port::PortId;

/// One poller's packet I/O. The pipeline is generic over it, so each implementation gets code of its own.
///
/// Ownership: a [`Frame`] comes from `recv` or `alloc` and must go to `send` or `free` of the same value.
pub trait PacketIo {
    /// The whole chunk that a frame lives in. Empty for a frame that is not of this arena.
    fn chunk(&mut self, frame: &Frame) -> &mut [u8];

    /// How many receive queues there are now. They are numbered from 0.
    fn rx_queues(&self) -> usize;

    /// Receives what is there, up to a batch, from one queue; the port that the frames came in by, or `None` when
    /// there is no such queue now. The batch must be empty.
    fn recv(&mut self, queue: usize, batch: &mut Batch) -> Option<PortId>;

    /// Whether frames that this queue received together with the last batch are still to be had, of other ports: then
    /// [`recv`](PacketIo::recv) gives some of them, and nothing else. Asked after each batch, and whoever asks takes them before he sleeps.
    #[inline]
    fn has_more(&self, _queue: usize) -> bool {
        false
    }

    /// Queues a frame for sending.
    ///
    /// # Errors
    /// Gives the frame back when the port does not exist or has no room.
    fn send(&mut self, port: PortId, frame: Frame) -> Result<(), Frame>;

    /// Queues frames for sending by one port, in their order, and takes those that it queues. Returns how many that were; the
    /// others, for which there was no room or no port, stay where they are.
    #[inline]
    fn send_all<'a>(&mut self, port: PortId, frames: impl Iterator<Item = &'a mut Frame>) -> usize {
        let mut count = 0;
        for frame in frames {
            match self.send(port, frame.take()) {
                Ok(()) => count += 1,
                Err(left) => *frame = left,
            }
        }
        count
    }

    /// Makes sure that what was queued goes out, and takes back what was sent.
    fn flush(&mut self);

    /// A fresh frame of length 0 that starts behind [`HEADROOM`] bytes.
    fn alloc(&mut self) -> Option<Frame>;

    /// Gives a frame back.
    fn free(&mut self, frame: Frame);

    /// Whatever must be done now and then beside packets: ports that come and go. Called once a round.
    fn maintain(&mut self, _now: Tick) {}

    /// Sleeps until a frame comes in, somebody wakes the poller, or the time is over.
    fn wait(&mut self, timeout: Duration);
}

/// Bytes left free in front of a frame that `alloc` gives: room for the longest encapsulation.
pub const HEADROOM: u16 = 128;
