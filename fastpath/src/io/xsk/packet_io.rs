//! [`PacketIo`] over AF_XDP: one poller's sockets, and how ports come and go while it runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use flowtable::Tick;

use super::allowance::Allowance;
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
    /// Give back every socket of this port.
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
}

impl Queue {
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
            Command::Attach { port, socket } => self.attach(port, *socket),
            Command::Detach { port } => self.detach(port),
            Command::Closed(closed) => self.part.quarantine(closed, now()),
        }
    }

    fn attach(&mut self, port: PortId, socket: XskSocket) {
        let Ok(socket) = QueuePort::new(socket, &mut self.part) else {
            return;
        };
        let index = self
            .queues
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.queues.len());
        if self.wait.add_port(&socket, index as u64).is_err() {
            return socket.close(&mut self.part, now());
        }
        let queue = Queue {
            port,
            socket,
            is_sending: false,
            is_down: false,
            allowance: Allowance::default(),
        };
        if let Some(slot) = self.queues.get_mut(index) {
            *slot = Some(queue);
        } else {
            self.queues.push(Some(queue));
        }
        // The first socket of a port sends; others, where a port has more queues than pollers, only receive.
        if let Some(sender) = self.senders.get_mut(usize::from(port.0))
            && sender.is_none()
        {
            *sender = Some(index as u16);
        }
    }

    fn detach(&mut self, port: PortId) {
        if let Some(sender) = self.senders.get_mut(usize::from(port.0)) {
            *sender = None;
        }
        for (index, slot) in self.queues.iter_mut().enumerate() {
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
        let count = queue.socket.recv(&mut self.part, &mut self.spans[..]);
        self.turn = self.turn.wrapping_add(1);
        if count > 0 {
            let received = self.spans.get(..count).unwrap_or_default();
            for span in received {
                self.part.prefetch(span.chunk, span.start);
            }
            let mut frames = received.iter().map(|span| Frame {
                chunk: span.chunk,
                start: span.start,
                len: span.len,
            });
            batch.take_from(&mut frames, queue.port);
            for frame in frames {
                self.part.release(frame.chunk);
            }
            queue.socket.refill_busy(&mut self.part);
        }
        Some(queue.port)
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
