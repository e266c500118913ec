//! [`PacketIo`] over AF_XDP: one poller's sockets, and how ports come and go while it runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use encap::eth::MacAddr;
use flowtable::Tick;

use super::allowance::Allowance;
use super::tag::Tags;
use super::wait::{WaitSet, Waker};
use super::{
    ArenaPart, ClosedSocket, FrameSpan, PortError, QueueKey, QueuePort, Statistics, XskSocket,
};
use crate::batch::{BATCH, Batch};
use crate::frame::Frame;
use crate::io::{HEADROOM, PacketIo};
use crate::port::PortId;

/// How often sockets are looked after beside packets: statistics, quarantined chunks.
const CARE: Duration = Duration::from_secs(1);
/// The longest sleep while frames wait in a TX ring that the kernel did not drain.
const SLEEP_WHILE_SENDING: Duration = Duration::from_millis(1);

/// What control tells a poller's I/O.
#[derive(Debug)]
pub enum Command {
    /// Serve this socket as a queue of this port.
    Attach {
        /// The port.
        port: PortId,
        /// The socket, bound.
        socket: Box<XskSocket>,
    },
    /// Serve this socket, which receives for many ports: its frames come with tags, written by the kernel's program in place of their
    /// destination ([`Command::Tag`]). What comes without a tag, or with one that nobody knows, is given under `port`.
    AttachPunt {
        /// What the socket is called here: a number that no port has, so that what is given under it is dropped, and counted.
        port: PortId,
        /// The socket, bound.
        socket: Box<XskSocket>,
    },
    /// Frames whose tag names this device are this port's from now on. What is sent by the port goes by a socket of its own
    /// ([`Command::Attach`]), which only sends then.
    Tag {
        /// The device, by its interface index.
        ifindex: u32,
        /// The port.
        port: PortId,
        /// The destination that its frames had if it was the device's own.
        mac: [u8; 6],
    },
    /// Give back every socket of this port; no tag names it any more.
    Detach {
        /// The port.
        port: PortId,
    },
    /// A socket that was given back is closed: its chunks may be used again.
    Closed(ClosedSocket),
}

/// What a poller's I/O tells control.
#[derive(Debug)]
pub enum Reply {
    /// A socket that was given back, to be closed where there is time for it.
    Detached {
        /// Whose it was.
        port: PortId,
        /// The socket.
        socket: Box<XskSocket>,
    },
    /// All sockets of the port were given back.
    Gone {
        /// The port.
        port: PortId,
    },
    /// The kernel's counters of one socket, each second.
    Statistics {
        /// The port.
        port: PortId,
        /// The queue.
        queue: QueueKey,
        /// The counters.
        statistics: Statistics,
    },
}

/// Control's end of a poller's I/O.
#[derive(Clone, Debug)]
pub struct XskControl {
    commands: Arc<ArrayQueue<Command>>,
    replies: Arc<ArrayQueue<Reply>>,
    waker: Waker,
}

impl XskControl {
    /// Sends a command and wakes the poller.
    ///
    /// # Errors
    /// Gives the command back when the poller has too many to do.
    pub fn send(&self, command: Command) -> Result<(), Command> {
        self.commands.push(command)?;
        self.waker.wake();
        Ok(())
    }

    /// Wakes the poller.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// The next reply.
    pub fn reply(&self) -> Option<Reply> {
        self.replies.pop()
    }
}

/// One poller's sockets.
#[derive(Debug)]
pub struct XskIo {
    part: ArenaPart,
    queues: Vec<Option<Queue>>,
    /// By port: the queue that frames for it are sent by.
    senders: Vec<Option<u16>>,
    /// Queues with frames on the send side.
    sending: Vec<u16>,
    spans: Box<[FrameSpan; BATCH]>,
    tags: Tags,
    commands: Arc<ArrayQueue<Command>>,
    replies: Arc<ArrayQueue<Reply>>,
    wait: WaitSet,
    /// Sockets that the wait set could not let go of: closed, the kernel would hold them open. Kept until the process ends.
    unreleased: Vec<XskSocket>,
    cared: Tick,
    /// The number of the batch that was received last, over and over.
    turn: u32,
}

#[derive(Debug)]
struct Queue {
    port: PortId,
    socket: QueuePort,
    is_sending: bool,
    is_down: bool,
    /// What the present batch has taken of its TX ring.
    allowance: Allowance,
    /// Of a socket whose frames are tagged: what was received and not given yet, in order. Never more than a batch.
    waiting: Option<Vec<Waiting>>,
}

/// A frame that waits for its port's turn. We hold its chunk.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    port: PortId,
    span: FrameSpan,
}

impl Queue {
    /// Frames of a port that goes must not wait: its number may be another's when they have their turn.
    fn let_go(&mut self, port: PortId, part: &mut ArenaPart) {
        let is_ours = self.port == port;
        for it in self.waiting.iter_mut().flatten() {
            if is_ours {
                part.release(it.span.chunk);
            } else if it.port == port {
                it.port = self.port;
            }
        }
        if is_ours && let Some(waiting) = &mut self.waiting {
            waiting.clear();
        }
    }

    /// The next port's frames, of those that were received together. From the ring only when none of them wait.
    fn recv_tagged(
        &mut self,
        part: &mut ArenaPart,
        spans: &mut [FrameSpan; BATCH],
        tags: &Tags,
        batch: &mut Batch,
    ) -> PortId {
        let Some(waiting) = &mut self.waiting else {
            return self.port;
        };
        if waiting.is_empty() {
            let count = self.socket.recv(part, spans);
            let received = spans.get(..count).unwrap_or_default();
            for span in received {
                part.prefetch(span.chunk, span.start);
            }
            // Within capacity: there was none, and no more than a batch was received.
            waiting.extend(received.iter().map(|&span| Waiting {
                port: tags.untag(part.frame(span)).unwrap_or(self.port),
                span,
            }));
            if count > 0 {
                self.socket.refill_busy(part);
            }
        }
        let Some(&Waiting { port, .. }) = waiting.first() else {
            return self.port;
        };
        let mut frames = waiting
            .extract_if(.., |it| it.port == port)
            .map(|it| as_frame(it.span));
        batch.take_from(&mut frames, port);
        port
    }

    /// Lends a frame to the TX ring, if a packet of this turn may have a slot. The frame is the ring's then.
    #[inline]
    fn send(&mut self, part: &mut ArenaPart, frame: &Frame, turn: u32) -> bool {
        let span = FrameSpan {
            chunk: frame.chunk,
            start: frame.start,
            len: frame.len,
        };
        !self.is_down && self.may_send(part, turn) && self.socket.send(part, span).is_ok()
    }

    /// Whether a packet of this turn may have one of the TX ring's slots. Has the kernel drain the ring when that is what it takes.
    #[inline]
    fn may_send(&mut self, part: &mut ArenaPart, turn: u32) -> bool {
        let Self {
            socket, allowance, ..
        } = self;
        allowance.take(turn, |wanted| socket.room(wanted)) || self.drain(part, turn)
    }

    #[cold]
    fn drain(&mut self, part: &mut ArenaPart, turn: u32) -> bool {
        if !self.allowance.may_drain() {
            return false;
        }
        self.is_down |= matches!(self.socket.flush(), Err(PortError::Down));
        self.socket.reap(part);
        self.allowance.drained(self.socket.outstanding() == 0);
        let Self {
            socket, allowance, ..
        } = self;
        !self.is_down && allowance.take(turn, |wanted| socket.room(wanted))
    }
}

impl XskIo {
    /// I/O over one poller's part of the arena, with room for `max_ports` ports.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(part: ArenaPart, max_ports: usize) -> std::io::Result<(Self, XskControl)> {
        let wait = WaitSet::new()?;
        // Room for an attach, a detach and a close of each port, so that control seldom has to wait.
        let commands = Arc::new(ArrayQueue::new(4 * max_ports));
        let replies = Arc::new(ArrayQueue::new(4 * max_ports));
        let control = XskControl {
            commands: Arc::clone(&commands),
            replies: Arc::clone(&replies),
            waker: wait.waker(),
        };
        let io = Self {
            part,
            queues: Vec::with_capacity(max_ports),
            senders: vec![None; max_ports],
            sending: Vec::with_capacity(max_ports),
            spans: Box::new([FrameSpan::default(); BATCH]),
            tags: Tags::with_capacity(max_ports),
            commands,
            replies,
            wait,
            unreleased: Vec::new(),
            cared: Tick(0),
            turn: 0,
        };
        Ok((io, control))
    }

    /// Whether packets call this poller once a sleep, and not each time ([`WaitSet::is_called_once`]).
    pub const fn is_called_once(&self) -> bool {
        self.wait.is_called_once()
    }

    /// The poller's part of the arena, for its accounting.
    pub const fn part(&self) -> &ArenaPart {
        &self.part
    }

    #[cold]
    fn obey(&mut self, command: Command) {
        match command {
            Command::Attach { port, socket } => self.attach(port, *socket, None),
            Command::AttachPunt { port, socket } => {
                self.attach(port, *socket, Some(Vec::with_capacity(BATCH)));
            }
            Command::Tag { ifindex, port, mac } => self.tags.insert(ifindex, port, MacAddr(mac)),
            Command::Detach { port } => self.detach(port),
            Command::Closed(closed) => self.part.quarantine(closed, now()),
        }
    }

    fn attach(&mut self, port: PortId, socket: XskSocket, waiting: Option<Vec<Waiting>>) {
        let Ok(socket) = QueuePort::new(socket, &mut self.part) else {
            return;
        };
        let index = self
            .queues
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.queues.len());
        // One that only sends never has anything, and to be called whenever a frame of its was sent would be in vain.
        if socket.receives() && self.wait.add_port(&socket, index as u64).is_err() {
            return socket.close(&mut self.part, now());
        }
        let is_tagged = waiting.is_some();
        let queue = Queue {
            port,
            socket,
            is_sending: false,
            is_down: false,
            allowance: Allowance::default(),
            waiting,
        };
        if let Some(slot) = self.queues.get_mut(index) {
            *slot = Some(queue);
        } else {
            self.queues.push(Some(queue));
        }
        // The first socket of a port sends; others, where a port has more queues than pollers, only receive.
        if !is_tagged
            && let Some(sender) = self.senders.get_mut(usize::from(port.0))
            && sender.is_none()
        {
            *sender = Some(index as u16);
        }
    }

    fn detach(&mut self, port: PortId) {
        if let Some(sender) = self.senders.get_mut(usize::from(port.0)) {
            *sender = None;
        }
        self.tags.remove_port(port);
        for (index, slot) in self.queues.iter_mut().enumerate() {
            if let Some(queue) = slot {
                queue.let_go(port, &mut self.part);
            }
            if slot.as_ref().is_some_and(|queue| queue.port == port)
                && let Some(mut queue) = slot.take()
            {
                queue.socket.give_back(&mut self.part);
                self.sending.retain(|&at| usize::from(at) != index);
                let is_released = self.wait.remove_port(&queue.socket).is_ok();
                let socket = queue.socket.into_socket();
                if !is_released {
                    // To close it would not end it, so its chunks stay with it (invariant A5).
                    self.unreleased.push(socket);
                    continue;
                }
                let socket = Box::new(socket);
                if let Err(Reply::Detached { socket, .. }) =
                    self.replies.push(Reply::Detached { port, socket })
                {
                    self.part.quarantine(socket.close(), now());
                }
            }
        }
        let _ = self.replies.push(Reply::Gone { port });
    }

    #[cold]
    fn care(&mut self) {
        self.part.reclaim(now());
        for (index, slot) in self.queues.iter_mut().enumerate() {
            let Some(queue) = slot else { continue };
            queue.socket.relax(&mut self.part);
            queue.socket.refill(&mut self.part);
            if queue.is_down && queue.socket.health().is_ok() {
                queue.is_down = false;
                queue.is_sending = queue.socket.outstanding() > 0;
                if queue.is_sending {
                    self.sending.push(index as u16);
                }
            }
            // Figures are worth less than news of ports: they take no more than half of the ring.
            if self.replies.len() < self.replies.capacity() / 2
                && let Ok(statistics) = queue.socket.statistics()
            {
                let key = queue.socket.socket().key();
                let _ = self.replies.push(Reply::Statistics {
                    port: queue.port,
                    queue: key,
                    statistics,
                });
            }
        }
    }
}

#[inline]
const fn as_frame(span: FrameSpan) -> Frame {
    Frame {
        chunk: span.chunk,
        start: span.start,
        len: span.len,
    }
}

/// The clock, for what happens once a second at most.
#[expect(
    clippy::disallowed_methods,
    reason = "quarantine is in wall time, and off the packet path"
)]
fn now() -> Instant {
    Instant::now()
}

impl PacketIo for XskIo {
    #[inline]
    fn chunk(&mut self, frame: &Frame) -> &mut [u8] {
        self.part.chunk(frame.chunk)
    }

    fn rx_queues(&self) -> usize {
        self.queues.len()
    }

    #[inline]
    fn recv(&mut self, queue: usize, batch: &mut Batch) -> Option<PortId> {
        let queue = self.queues.get_mut(queue)?.as_mut()?;
        self.turn = self.turn.wrapping_add(1);
        if queue.waiting.is_some() {
            let port = queue.recv_tagged(&mut self.part, &mut self.spans, &self.tags, batch);
            return Some(port);
        }
        let count = queue.socket.recv(&mut self.part, &mut self.spans[..]);
        if count > 0 {
            let received = self.spans.get(..count).unwrap_or_default();
            for span in received {
                self.part.prefetch(span.chunk, span.start);
            }
            let mut frames = received.iter().map(|&span| as_frame(span));
            batch.take_from(&mut frames, queue.port);
            for frame in frames {
                self.part.release(frame.chunk);
            }
            queue.socket.refill_busy(&mut self.part);
        }
        Some(queue.port)
    }

    #[inline]
    fn has_more(&self, queue: usize) -> bool {
        match self.queues.get(queue) {
            Some(Some(queue)) => queue.waiting.as_ref().is_some_and(|it| !it.is_empty()),
            _ => false,
        }
    }

    #[inline]
    fn send(&mut self, port: PortId, mut frame: Frame) -> Result<(), Frame> {
        match self.send_all(port, std::iter::once(&mut frame)) {
            0 => Err(frame),
            _ => Ok(()),
        }
    }

    #[inline]
    fn send_all<'a>(&mut self, port: PortId, frames: impl Iterator<Item = &'a mut Frame>) -> usize {
        let Some(&Some(index)) = self.senders.get(usize::from(port.0)) else {
            return 0;
        };
        let Some(Some(queue)) = self.queues.get_mut(usize::from(index)) else {
            return 0;
        };
        let mut count = 0;
        for frame in frames {
            if queue.send(&mut self.part, frame, self.turn) {
                *frame = Frame::NONE;
                count += 1;
            }
        }
        if count > 0 && !queue.is_sending {
            queue.is_sending = true;
            self.sending.push(index);
        }
        count
    }

    #[inline]
    fn flush(&mut self) {
        let Self {
            part,
            queues,
            sending,
            ..
        } = self;
        sending.retain(|&index| {
            let Some(Some(queue)) = queues.get_mut(usize::from(index)) else {
                return false;
            };
            // A port that is down keeps its frames until it is up again, or control takes it away.
            queue.is_down |= matches!(queue.socket.flush(), Err(PortError::Down));
            queue.socket.reap(part);
            queue.is_sending = queue.socket.outstanding() > 0 && !queue.is_down;
            queue.is_sending
        });
    }

    #[inline]
    fn alloc(&mut self) -> Option<Frame> {
        self.part.alloc().map(|chunk| Frame {
            chunk,
            start: HEADROOM,
            len: 0,
        })
    }

    #[inline]
    fn free(&mut self, frame: Frame) {
        if !frame.is_none() {
            self.part.release(frame.chunk);
        }
    }

    #[inline]
    fn maintain(&mut self, tick: Tick) {
        while let Some(command) = self.commands.pop() {
            self.obey(command);
        }
        if tick.since(self.cared) >= CARE {
            self.cared = tick;
            self.care();
        }
    }

    fn wait(&mut self, timeout: Duration) {
        let timeout = if self.sending.is_empty() {
            timeout
        } else {
            timeout.min(SLEEP_WHILE_SENDING)
        };
        // An error can only be one of arguments; then this polls, which is slow but right.
        let _ = self.wait.wait(Some(timeout));
    }
}
