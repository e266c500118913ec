//! Packet I/O over capture files: the production pipeline, offline and deterministic.
//!
//! Each input is a receive queue. Packets come in the order of their times over all inputs (of equal times, the input
//! that was added first comes first), so a queue has packets only while it is its turn. The clock is the captures':
//! [`PcapIo::now`].

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use encap::outer::Macs;
use flowtable::Tick;

use super::mem::MemIo;
use super::{HEADROOM, PacketIo};
use crate::batch::Batch;
use crate::capture::{CaptureError, Reader, Writer};
use crate::counters::Counter;
use crate::frame::Frame;
use crate::port::PortId;

/// Packets of one port that follow each other so closely come in one batch, as they would to a busy poller.
const TOGETHER: Duration = Duration::from_micros(10);

/// Opens the output of a port when its first packet leaves.
pub type Open = Box<dyn FnMut(PortId) -> std::io::Result<Box<dyn Write + Send>> + Send>;

/// Ports over captures.
pub struct PcapIo {
    /// The arena; it has no ports of its own.
    frames: MemIo,
    longest: usize,
    inputs: Vec<Input>,
    outputs: Vec<Option<Writer<Box<dyn Write + Send>>>>,
    open: Open,
    sent: Arc<[Counter]>,
    now: Tick,
    received: u32,
    failure: Option<Failure>,
}

impl std::fmt::Debug for PcapIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PcapIo")
            .field("inputs", &self.inputs)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

/// Why a replay can not go on.
#[derive(Debug)]
pub enum Failure {
    /// An input can not be read on.
    Input(CaptureError),
    /// A packet of an input, counted from 0, is longer than a frame.
    TooLong {
        /// The input, counted from 0.
        input: usize,
        /// The packet's number in it, from 0.
        packet: u64,
        /// Its length in bytes.
        len: usize,
        /// The longest that a frame takes, in bytes.
        longest: usize,
    },
    /// The output of this port can not be written.
    Output(PortId, std::io::Error),
}

#[derive(Debug)]
struct Input {
    port: PortId,
    reader: Reader,
    /// Ethernet addresses for packets that were captured without.
    macs: Macs,
    /// The packet that comes next, as Ethernet; `time` is its time.
    next: Vec<u8>,
    time: Option<Tick>,
    taken: u64,
}

impl Input {
    /// Reads the next packet. Within one input no packet comes before its forerunner, whatever its time says.
    fn advance(&mut self) -> Result<(), CaptureError> {
        let before = self.time.take().unwrap_or_default();
        self.next.clear();
        if let Some(record) = self.reader.next_record()? {
            let (header, packet) = record.link.to_ethernet(record.data, &self.macs);
            self.next.extend(header.iter().flatten());
            self.next.extend_from_slice(packet);
            self.time = Some(Tick(record.time).max(before));
        }
        Ok(())
    }
}

impl PcapIo {
    /// An arena of `chunks` chunks of `chunk_len` bytes, `ports` ports that can send, and no inputs yet.
    pub fn new(chunks: u32, chunk_len: u16, ports: usize, open: Open) -> Self {
        Self {
            frames: MemIo::new(chunks, chunk_len, 0, 0),
            longest: usize::from(chunk_len.saturating_sub(HEADROOM)),
            inputs: Vec::new(),
            outputs: (0..ports).map(|_| None).collect(),
            open,
            sent: (0..ports).map(|_| Counter::default()).collect(),
            now: Tick(0),
            received: 0,
            failure: None,
        }
    }

    /// Adds a capture of what came in by `port`. Packets without an Ethernet header get one with these addresses.
    /// Their tags count from 0 in the order in which packets come in, over all inputs.
    ///
    /// # Errors
    /// When its first packet can not be read.
    pub fn add_input(
        &mut self,
        port: PortId,
        reader: Reader,
        macs: Macs,
    ) -> Result<(), CaptureError> {
        let mut input = Input {
            port,
            reader,
            macs,
            next: Vec::new(),
            time: None,
            taken: 0,
        };
        input.advance()?;
        self.inputs.push(input);
        Ok(())
    }

    /// The input whose turn it is, and the time of its next packet; `None` at the end.
    pub fn next_input(&self) -> Option<(usize, Tick)> {
        let times = self.inputs.iter().enumerate();
        times
            .filter_map(|(index, input)| Some((index, input.time?)))
            .min_by_key(|&(index, time)| (time, index))
    }

    /// The time: that of the last packet received, or what [`PcapIo::set_now`] said since. Packets that are sent now
    /// bear it.
    pub const fn now(&self) -> Tick {
        self.now
    }

    /// Moves the clock on between packets.
    pub fn set_now(&mut self, now: Tick) {
        self.now = self.now.max(now);
    }

    /// What went wrong, once. After a failure no more packets come.
    pub const fn failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// How many packets each port has sent, by the port's number. A packet's place in the output is what this was
    /// before it was sent.
    pub fn sent(&self) -> Arc<[Counter]> {
        Arc::clone(&self.sent)
    }

    /// How many chunks are free.
    pub const fn free_chunks(&self) -> usize {
        self.frames.free_chunks()
    }

    /// Copies an input's next packet into a frame.
    fn take(&mut self, queue: usize) -> Option<Frame> {
        let input = self.inputs.get_mut(queue)?;
        let time = input.time?;
        let mut frame = self.frames.alloc()?;
        let too_long = input.next.len() > self.longest;
        if too_long {
            self.failure = Some(Failure::TooLong {
                input: queue,
                packet: input.taken,
                len: input.next.len(),
                longest: self.longest,
            });
        } else {
            frame.len = input.next.len() as u16;
            frame
                .of(self.frames.chunk(&frame))
                .copy_from_slice(&input.next);
            input.taken += 1;
            if let Err(error) = input.advance() {
                self.failure = Some(Failure::Input(error));
            }
        }
        if self.failure.is_some() {
            self.inputs.clear();
        }
        if too_long {
            self.frames.free(frame);
            return None;
        }
        self.now = self.now.max(time);
        Some(frame)
    }

    fn write(&mut self, port: PortId, frame: &Frame) -> std::io::Result<()> {
        let Some(output) = self.outputs.get_mut(usize::from(port.0)) else {
            return Ok(());
        };
        let writer = match output {
            Some(writer) => writer,
            None => output.insert(Writer::new((self.open)(port)?)?),
        };
        writer.write(self.now.0, frame.of(self.frames.chunk(frame)))
    }
}

impl PacketIo for PcapIo {
    fn chunk(&mut self, frame: &Frame) -> &mut [u8] {
        self.frames.chunk(frame)
    }

    fn rx_queues(&self) -> usize {
        self.inputs.len()
    }

    fn recv(&mut self, queue: usize, batch: &mut Batch) -> Option<PortId> {
        let port = self.inputs.get(queue)?.port;
        let first = self.next_input().map(|(_, time)| time);
        while !batch.is_full()
            && let Some((turn, time)) = self.next_input()
            && turn == queue
            && Some(time) <= first.map(|first| first + TOGETHER)
            && let Some(frame) = self.take(queue)
        {
            match batch.push(frame, port) {
                Ok(packet) => packet.tag = self.received,
                Err(frame) => self.frames.free(frame),
            }
            self.received = self.received.wrapping_add(1);
        }
        Some(port)
    }

    fn send(&mut self, port: PortId, frame: Frame) -> Result<(), Frame> {
        if usize::from(port.0) >= self.outputs.len() {
            return Err(frame);
        }
        if let Err(error) = self.write(port, &frame) {
            self.failure.get_or_insert(Failure::Output(port, error));
            self.inputs.clear();
        } else if let Some(sent) = self.sent.get(usize::from(port.0)) {
            sent.add(1);
        }
        self.frames.free(frame);
        Ok(())
    }

    fn flush(&mut self) {
        for (index, output) in self.outputs.iter_mut().enumerate() {
            if let Some(Err(error)) = output.as_mut().map(Writer::flush) {
                let port = PortId(index as u16);
                self.failure.get_or_insert(Failure::Output(port, error));
            }
        }
    }

    fn alloc(&mut self) -> Option<Frame> {
        self.frames.alloc()
    }

    fn free(&mut self, frame: Frame) {
        self.frames.free(frame);
    }

    fn wait(&mut self, _timeout: Duration) {}
}
