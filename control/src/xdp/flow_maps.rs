//! The flows that the kernel's programs know, as one thread reads and writes them.

use aya::Ebpf;
use aya::maps::{HashMap, MapData};

use super::error::LoadError;
use super::flow_bytes::{self, FlowBytes, KEY4_LEN, KEY6_LEN, KeyBytes};
use super::object::take_map;
use crate::offload::flow::{Action, Counts, Full, KernelFlows, Key};

/// The maps of flows. Written by whoever has this, counted in by the programs. Belongs to one [`Tcx`](super::Tcx), and may go to another
/// thread; without its `Tcx` it has no effect.
pub struct FlowMaps {
    flows4: HashMap<MapData, [u8; KEY4_LEN], FlowBytes>,
    flows6: HashMap<MapData, [u8; KEY6_LEN], FlowBytes>,
}

impl FlowMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            flows4: take_map(ebpf, "flows4")?,
            flows6: take_map(ebpf, "flows6")?,
        })
    }

    fn get(&self, key: &KeyBytes) -> Option<FlowBytes> {
        match key {
            KeyBytes::V4(key) => self.flows4.get(key, 0).ok(),
            KeyBytes::V6(key) => self.flows6.get(key, 0).ok(),
        }
    }
}

/// What packets add between the look at a flow's counts and its exchange or removal is not counted: of one flow a few packets at the most.
impl KernelFlows for FlowMaps {
    fn insert(&mut self, key: &Key, action: &Action) -> Result<(), Full> {
        let flow = flow_bytes::flow(key, action).ok_or(Full)?;
        let key = flow_bytes::key(key).ok_or(Full)?;
        let mut flow = flow;
        if let Some(known) = self.get(&key) {
            flow_bytes::keep_counts(&mut flow, &known);
        }
        let inserted = match key {
            KeyBytes::V4(key) => self.flows4.insert(key, flow, 0),
            KeyBytes::V6(key) => self.flows6.insert(key, flow, 0),
        };
        inserted.map_err(|_| Full)
    }

    fn remove(&mut self, key: &Key) -> Option<Counts> {
        let key = flow_bytes::key(key)?;
        let counted = self.get(&key)?;
        let removed = match key {
            KeyBytes::V4(key) => self.flows4.remove(&key),
            KeyBytes::V6(key) => self.flows6.remove(&key),
        };
        removed.ok().map(|()| flow_bytes::counts(&counted))
    }

    fn read(&mut self, key: &Key) -> Option<Counts> {
        let key = flow_bytes::key(key)?;
        self.get(&key).map(|flow| flow_bytes::counts(&flow))
    }
}
