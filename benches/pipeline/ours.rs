//! The production pipeline over memory.

use std::sync::Arc;

use benches::scenario::Scenario;
use crossbeam_queue::ArrayQueue;
use fastpath::batch::Batch;
use fastpath::counters::Counters;
use fastpath::event::Events;
use fastpath::frame::Frame;
use fastpath::io::PacketIo;
use fastpath::io::mem::MemIo;
use fastpath::pipeline::Pipeline;
use fastpath::port::PortId;
use flowtable::Tick;

use crate::minimal::CHUNK;

/// A pipeline and the frames that go through it again and again.
pub(crate) struct Ours {
    io: MemIo,
    pipeline: Pipeline,
    batch: Batch,
    frames: Vec<Frame>,
    in_use: usize,
    in_ports: Vec<PortId>,
    out_ports: Vec<PortId>,
}

impl Ours {
    pub(crate) fn new(scenario: &Scenario, frames: usize, in_ports: usize) -> Self {
        let ports = scenario.tables.ports.len();
        let counters = Arc::new(Counters::new(ports));
        let events = Events::new(Arc::new(ArrayQueue::new(64)));
        Self {
            io: MemIo::new(frames as u32, CHUNK as u16, ports, frames),
            pipeline: Pipeline::new(counters, events),
            batch: Batch::default(),
            frames: Vec::with_capacity(frames),
            in_use: frames,
            in_ports: scenario
                .in_ports()
                .into_iter()
                .cycle()
                .take(in_ports)
                .collect(),
            out_ports: scenario.out_ports(),
        }
    }

    /// Puts the next packets into all frames.
    pub(crate) fn put(&mut self, scenario: &Scenario, first: usize) {
        for packet in scenario.packets(first, self.in_use) {
            let Some(mut frame) = self.io.alloc() else {
                return;
            };
            frame.len = packet.len() as u16;
            frame.of(self.io.chunk(&frame)).copy_from_slice(packet);
            self.frames.push(frame);
        }
    }

    /// Takes all frames through the pipeline, `batch` at a time, by one port after the other.
    pub(crate) fn run(&mut self, scenario: &Scenario, batch: usize) {
        let mut ports = self.in_ports.iter().cycle();
        let mut frames = self.frames.drain(..);
        while frames.len() > 0
            && let Some(&port) = ports.next()
        {
            for frame in frames.by_ref().take(batch) {
                if let Err(frame) = self.batch.push(frame, port) {
                    self.io.free(frame);
                }
            }
            self.pipeline.run(
                &mut self.batch,
                &mut self.io,
                &scenario.tables,
                port,
                Tick(0),
                &mut (),
            );
        }
    }

    /// Takes back what was sent, and what was put but not run. Returns how many were sent.
    pub(crate) fn take_back(&mut self) -> usize {
        for frame in self.frames.drain(..) {
            self.io.free(frame);
        }
        self.out_ports
            .iter()
            .map(|&port| self.io.discard_sent(port))
            .sum()
    }

    /// What was sent, port by port.
    pub(crate) fn outputs(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for &port in &self.out_ports {
            all.extend(self.io.take_sent(port, <[u8]>::to_vec));
        }
        all
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.pipeline.counters()
    }
}
