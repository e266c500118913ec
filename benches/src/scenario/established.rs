//! Connections as the pipeline itself makes them: begun by the pod, answered from outside.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use fastpath::batch::{BATCH, Batch};
use fastpath::connections::{Connections, Sizes, Tracker};
use fastpath::counters::Counters;
use fastpath::event::Events;
use fastpath::io::PacketIo;
use fastpath::io::mem::MemIo;
use fastpath::pipeline::Pipeline;
use fastpath::port::PortId;
use fastpath::tables::Tables;
use flowtable::Tick;
use flowtable::flow::Capacity;

use super::packets::answer;
use super::tables::tables;
use super::{Chain, Scenario, UPLINK};

/// Connections, and one packet of each that answers its first.
pub(super) struct Established {
    pub(super) connections: Arc<Connections>,
    pub(super) answers: Vec<u8>,
}

/// Room for the connections of `flows` flows: half of the entries will be in use.
///
/// # Panics
/// If there are more flows than the largest table has room for.
#[must_use]
pub fn empty(chain: Chain, flows: usize) -> Arc<Connections> {
    let entries = (flows * 4).next_power_of_two().max(Capacity::MIN.get());
    let capacity = Capacity::new(entries).expect("fewer than a thousand million");
    let sizes = Sizes {
        v4: if chain.is_v6() {
            Capacity::MIN
        } else {
            capacity
        },
        v6: if chain.is_v6() {
            capacity
        } else {
            Capacity::MIN
        },
        ports: 64,
        // One pod has them all.
        share_percent: 100,
    };
    Arc::new(Connections::new(&sizes, [1, 2, 3, 4]))
}

/// Establishes a connection for each flow: its packet of `firsts`, the answer to what came out at the uplink, and for TCP
/// its packet of `scenario`.
pub(super) fn establish(scenario: &Scenario, firsts: &Scenario) -> Established {
    let (chain, flows) = (scenario.chain, scenario.flows());
    let connections = empty(chain, flows);
    let tables = Tables {
        fib4: scenario.tables.fib4.clone(),
        fib6: scenario.tables.fib6.clone(),
        policies: scenario.tables.policies.clone(),
        ..tables(chain.plain())
    };
    let mut node = Node::new(&tables, Arc::clone(&connections));
    let mut answers = Vec::new();
    for first in (0..flows).step_by(BATCH) {
        let count = BATCH.min(flows - first);
        let out = node.forward(POD, firsts.packets(first, count), UPLINK);
        let back: Vec<_> = out.iter().map(|frame| answer(frame)).collect();
        node.forward(UPLINK, back.iter().map(Vec::as_slice), POD);
        if chain.is_tcp() {
            node.forward(POD, scenario.packets(first, count), UPLINK);
        }
        answers.extend(back.into_iter().flatten());
    }
    Established {
        connections,
        answers,
    }
}

const POD: PortId = PortId(1);

struct Node<'a> {
    tables: &'a Tables,
    io: MemIo,
    pipeline: Pipeline,
    batch: Batch,
}

impl<'a> Node<'a> {
    fn new(tables: &'a Tables, connections: Arc<Connections>) -> Self {
        let ports = tables.ports.len();
        let events = Events::new(Arc::new(ArrayQueue::new(64)));
        Self {
            tables,
            io: MemIo::new(BATCH as u32, 2048, ports, BATCH),
            pipeline: Pipeline::new(Arc::new(Counters::new(ports)), events)
                .with_connections(Tracker::new(connections, (0, 1), [5, 6])),
            batch: Batch::default(),
        }
    }

    /// Lets packets come in by one port; what went out by the other.
    fn forward<'b>(
        &mut self,
        from: PortId,
        packets: impl Iterator<Item = &'b [u8]>,
        to: PortId,
    ) -> Vec<Vec<u8>> {
        let mut count = 0;
        for packet in packets {
            assert!(self.io.inject(from, packet), "there is room for a batch");
            count += 1;
        }
        self.io.recv(from.0.into(), &mut self.batch);
        let (batch, io) = (&mut self.batch, &mut self.io);
        self.pipeline
            .run(batch, io, self.tables, from, Tick(0), &mut ());
        let sent = self.io.take_sent(to, <[u8]>::to_vec);
        assert_eq!(sent.len(), count, "every packet goes on");
        sent
    }
}
