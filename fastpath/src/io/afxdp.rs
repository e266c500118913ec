//! [`PacketIo`] over the `afxdp` crate: a second implementation, to compare with. Feature `afxdp`, off by default.
//!
//! Its limits are in `docs/adr/0003-own-af-xdp-module.md`. The two that matter here: a buffer's address is private, so a packet can
//! not grow in place and every frame is copied in and out; and libbpf 0.3 attaches a program of its own that takes
//! everything and stays behind. So: for tests and benches in namespaces, never for a node.

use std::sync::Arc;
use std::time::Duration;

use afxdp::PENDING_LEN;
use afxdp::buf::Buf as _;
use afxdp::buf_mmap::BufMmap;
use afxdp::mmap_area::{MmapArea, MmapAreaOptions};
use afxdp::socket::{Socket, SocketOptions, SocketRx, SocketTx};
use afxdp::umem::{Umem, UmemCompletionQueue, UmemFillQueue};
use arraydeque::{ArrayDeque, Wrapping};
use hashbrown::HashMap;

use super::PacketIo;
use super::mem::MemIo;
use crate::batch::{BATCH, Batch};
use crate::frame::Frame;
use crate::port::PortId;

/// Slots of every ring.
const RING: u32 = 512;
/// Frames that one call of the kernel sends in copy mode.
const KICK: usize = 32;
/// Bytes of a chunk.
const CHUNK: u16 = 2048;

type Buffer = BufMmap<'static, ()>;
type Pending = Box<ArrayDeque<[Buffer; PENDING_LEN], Wrapping>>;

/// Why the sockets could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AfxdpError {
    /// No memory for packets.
    #[error("no memory for packets")]
    Memory,
    /// A UMEM.
    #[error("{interface}: {reason}")]
    Umem {
        /// The interface.
        interface: String,
        /// The library's reason.
        reason: String,
    },
}

/// Ports over queue 0 of interfaces.
pub struct AfxdpIo {
    /// The frames that the pipeline sees; the library's own are copied from and to.
    frames: MemIo,
    buffers: Vec<Buffer>,
    ports: Vec<Port>,
    names: HashMap<String, PortId>,
}

struct Port {
    rx: SocketRx<'static, ()>,
    tx: SocketTx<'static, ()>,
    fill: UmemFillQueue<'static, ()>,
    completion: UmemCompletionQueue<'static, ()>,
    received: Pending,
    sending: Pending,
    /// Buffers that the fill ring lacks.
    deficit: usize,
    _socket: Arc<Socket<'static, ()>>,
}

impl std::fmt::Debug for AfxdpIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AfxdpIo")
            .field("ports", &self.names)
            .finish_non_exhaustive()
    }
}

impl AfxdpIo {
    /// Opens queue 0 of each interface, in the calling thread's network namespace; they become ports 0, 1, and so on.
    ///
    /// # Errors
    /// [`AfxdpError`].
    pub fn open(interfaces: &[&str]) -> Result<Self, AfxdpError> {
        let per_port = 4 * RING as usize;
        let count = per_port * interfaces.len();
        let options = MmapAreaOptions { huge_tlb: false };
        let (area, buffers): (Arc<MmapArea<'static, ()>>, _) =
            MmapArea::new(count, usize::from(CHUNK), options).map_err(|_| AfxdpError::Memory)?;
        let mut io = Self {
            frames: MemIo::new(count as u32, CHUNK, 0, 0),
            buffers,
            ports: Vec::new(),
            names: HashMap::new(),
        };
        for (index, interface) in interfaces.iter().enumerate() {
            let port = io.open_port(&area, interface)?;
            io.ports.push(port);
            io.names
                .insert((*interface).to_owned(), PortId(index as u16));
        }
        Ok(io)
    }

    fn open_port(
        &mut self,
        area: &Arc<MmapArea<'static, ()>>,
        interface: &str,
    ) -> Result<Port, AfxdpError> {
        let failed = |reason: String| AfxdpError::Umem {
            interface: interface.to_owned(),
            reason,
        };
        let (umem, completion, mut fill) =
            Umem::new(Arc::clone(area), RING, RING).map_err(|error| failed(error.to_string()))?;
        let options = SocketOptions {
            copy_mode: true,
            ..SocketOptions::default()
        };
        let (socket, rx, tx) = Socket::new(umem, interface, 0, RING, RING, options)
            .map_err(|error| failed(error.to_string()))?;
        let filled = fill.fill(&mut self.buffers, RING as usize).unwrap_or(0);
        Ok(Port {
            rx,
            tx,
            fill,
            completion,
            received: Box::default(),
            sending: Box::default(),
            deficit: RING as usize - filled,
            _socket: socket,
        })
    }
}

impl PacketIo for AfxdpIo {
    fn chunk(&mut self, frame: &Frame) -> &mut [u8] {
        self.frames.chunk(frame)
    }

    fn rx_queues(&self) -> usize {
        self.ports.len()
    }

    fn recv(&mut self, queue: usize, batch: &mut Batch) -> Option<PortId> {
        let id = PortId(queue as u16);
        let port = self.ports.get_mut(queue)?;
        if port.received.is_empty() {
            // The library's only error is one that it never returns.
            let _ = port
                .rx
                .try_recv(&mut port.received, BATCH - batch.len(), ());
        }
        while let Some(buffer) = (!batch.is_full())
            .then(|| port.received.pop_front())
            .flatten()
        {
            let packet = buffer
                .get_data()
                .get(..usize::from(buffer.get_len()))
                .unwrap_or_default();
            if let Some(mut frame) = self.frames.alloc() {
                frame.len = packet.len() as u16;
                let room = frame.of(self.frames.chunk(&frame));
                if room.len() == packet.len() {
                    room.copy_from_slice(packet);
                }
                if let Err(frame) = batch.push(frame, id) {
                    self.frames.free(frame);
                }
            }
            self.buffers.push(buffer);
            port.deficit += 1;
        }
        port.deficit -= port.fill.fill(&mut self.buffers, port.deficit).unwrap_or(0);
        Some(id)
    }

    fn send(&mut self, port: PortId, frame: Frame) -> Result<(), Frame> {
        let Some(port) = self.ports.get_mut(usize::from(port.0)) else {
            return Err(frame);
        };
        if port.sending.len() >= RING as usize {
            return Err(frame);
        }
        let packet = frame.of(self.frames.chunk(&frame));
        let Some(mut buffer) = self.buffers.pop() else {
            return Err(frame);
        };
        let Some(room) = buffer.get_data_mut().get_mut(..packet.len()) else {
            self.buffers.push(buffer);
            return Err(frame);
        };
        room.copy_from_slice(packet);
        buffer.set_len(packet.len() as u16);
        port.sending.push_back(buffer);
        self.frames.free(frame);
        Ok(())
    }

    fn flush(&mut self) {
        for port in &mut self.ports {
            while !port.sending.is_empty() {
                // No more than the kernel takes in one call: the library calls it only when there are frames to add.
                let sent = port.tx.try_send(&mut port.sending, KICK).unwrap_or(0);
                let _ = port.completion.service(&mut self.buffers, RING as usize);
                if sent == 0 {
                    break;
                }
            }
            let _ = port.completion.service(&mut self.buffers, RING as usize);
        }
    }

    fn alloc(&mut self) -> Option<Frame> {
        self.frames.alloc()
    }

    fn free(&mut self, frame: Frame) {
        self.frames.free(frame);
    }

    #[expect(clippy::disallowed_methods, reason = "this is where a poller waits")]
    fn wait(&mut self, timeout: Duration) {
        // The library waits for one socket at a time, and prints on errors: look again instead.
        std::thread::sleep(timeout.min(Duration::from_millis(1)));
    }
}
