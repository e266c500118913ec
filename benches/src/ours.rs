//! The production pipeline over memory.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use fastpath::batch::Batch;
use fastpath::connections::{Connections, Tracker};
use fastpath::counters::Counters;
use fastpath::event::Events;
use fastpath::io::PacketIo;
use fastpath::io::mem::MemIo;
use fastpath::pipeline::Pipeline;
use fastpath::port::PortId;
use flowtable::Tick;

use crate::scenario::Scenario;

/// Bytes of a frame.
pub const CHUNK: usize = 2048;

/// A pipeline and the frames that go through it again and again.
#[derive(Debug)]
pub struct Ours {
    io: MemIo,
    pipeline: Pipeline,
    batch: Batch,
    in_use: usize,
    in_ports: Vec<PortId>,
    out_ports: Vec<PortId>,
}

impl Ours {
    /// Receives `batch` packets together, by `in_ports` ports in turn.
    #[must_use]
    pub fn new(scenario: &Scenario, frames: usize, batch: (usize, usize)) -> Self {
        Self::with_connections(scenario, scenario.connections.clone(), frames, batch)
    }

    /// The same with other connections than the scenario's.
    #[must_use]
    pub fn with_connections(
        scenario: &Scenario,
        connections: Option<Arc<Connections>>,
        frames: usize,
        (batch, in_ports): (usize, usize),
    ) -> Self {
        let ports = scenario.tables.ports.len();
        let counters = Arc::new(Counters::new(ports));
        let events = Events::new(Arc::new(ArrayQueue::new(64)));
        let mut io = MemIo::new(frames as u32, CHUNK as u16, ports, frames);
        io.receive_together(batch);
        let mut pipeline = Pipeline::new(counters, events);
        if let Some(connections) = connections {
            let tracker = Tracker::new(connections, (0, 1), [7, 8]);
            pipeline = pipeline.with_connections(tracker);
        }
        Self {
            io,
            pipeline,
            batch: Batch::default(),
            in_use: frames,
            in_ports: scenario.in_ports().into_iter().take(in_ports).collect(),
            out_ports: scenario.out_ports(),
        }
    }

    /// Puts the next packets into all frames.
    pub fn put(&mut self, scenario: &Scenario, first: usize) {
        let (first_port, ports) = (self.in_ports[0], self.in_ports.len());
        for (index, packet) in scenario.packets(first, self.in_use).enumerate() {
            let port = if ports == 1 {
                first_port
            } else {
                self.in_ports[index % ports]
            };
            self.io.inject(port, packet);
        }
    }

    /// Takes all frames through the pipeline, a batch of one port after the other.
    pub fn run(&mut self, scenario: &Scenario) {
        let mut received = 1;
        while received > 0 {
            received = 0;
            for &port in &self.in_ports {
                self.io.recv(port.0.into(), &mut self.batch);
                received += self.batch.len();
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
    }

    /// Takes back what was sent, and what was put but not run. Returns how many were sent.
    pub fn take_back(&mut self) -> usize {
        for &port in &self.in_ports {
            self.io.discard_arrived(port);
        }
        self.out_ports
            .iter()
            .map(|&port| self.io.discard_sent(port))
            .sum()
    }

    /// What was sent, port by port.
    pub fn outputs(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for &port in &self.out_ports {
            all.extend(self.io.take_sent(port, <[u8]>::to_vec));
        }
        all
    }

    /// What the pipeline counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        self.pipeline.counters()
    }
}
