//! The flows that the kernel's programs know, as one thread reads and writes them.

use std::io::ErrorKind;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use fastpath::batch::Family;

use super::error::LoadError;
use super::flow_bytes::{self, FLOW_LEN, FlowBytes, KEY4_LEN, KEY6_LEN, KeyBytes};
use super::object::take_map;
use super::walk::Walk;
use crate::offload::flow::{Action, Counts, Full, Kept, KernelFlows, Key, Unread};

/// How many flows are read by one system call: a fifth of a millisecond's worth. More of them are not cheaper.
const AT_ONCE: usize = 512;

/// The maps of flows. Written by whoever has this, counted in by the programs. Belongs to one [`Tcx`](super::Tcx), and may go to another
/// thread; without its `Tcx` it has no effect.
pub struct FlowMaps {
    flows4: HashMap<MapData, [u8; KEY4_LEN], FlowBytes>,
    flows6: HashMap<MapData, [u8; KEY6_LEN], FlowBytes>,
    walk4: Walk<KEY4_LEN, FLOW_LEN>,
    walk6: Walk<KEY6_LEN, FLOW_LEN>,
}

impl FlowMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            walk4: Walk::over(ebpf, "flows4", AT_ONCE)?,
            walk6: Walk::over(ebpf, "flows6", AT_ONCE)?,
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

/// What packets add between the look at a flow's counts and its removal is not counted: of one flow a few packets at the most.
impl KernelFlows for FlowMaps {
    fn insert(&mut self, key: &Key, action: &Action, mark: u32) -> Result<(), Full> {
        let flow = flow_bytes::flow(key, action, mark).ok_or(Full)?;
        let key = flow_bytes::key(key).ok_or(Full)?;
        let inserted = match key {
            KeyBytes::V4(key) => self.flows4.insert(key, flow, 0),
            KeyBytes::V6(key) => self.flows6.insert(key, flow, 0),
        };
        inserted.map_err(|_| Full)
    }

    fn remove(&mut self, key: &Key) -> Result<Option<Counts>, Kept> {
        let Some(key) = flow_bytes::key(key) else {
            // It was never inserted.
            return Ok(None);
        };
        let counted = self.get(&key);
        let removed = match key {
            KeyBytes::V4(key) => self.flows4.remove(&key),
            KeyBytes::V6(key) => self.flows6.remove(&key),
        };
        match removed {
            Ok(()) => Ok(counted.map(|counted| flow_bytes::counts(&counted))),
            Err(error) if is_unknown(&error) => Ok(None),
            Err(_) => Err(Kept),
        }
    }

    fn read(&mut self, key: &Key) -> Option<Counts> {
        let key = flow_bytes::key(key)?;
        self.get(&key).map(|flow| flow_bytes::counts(&flow))
    }

    fn read_next(
        &mut self,
        family: Family,
        place: Option<u32>,
        each: &mut dyn FnMut(u32, Counts),
    ) -> Result<Option<u32>, Unread> {
        let read = match family {
            Family::V4 => self.walk4.next(place),
            Family::V6 => self.walk6.next(place),
            Family::Unknown => return Ok(None),
        };
        let (flows, place) = read.map_err(|_| Unread)?;
        for flow in flows {
            each(flow_bytes::mark(flow), flow_bytes::counts(flow));
        }
        Ok(place)
    }
}

/// Whether there is no such flow.
fn is_unknown(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == ErrorKind::NotFound,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use aya::sys::SyscallError;

    use encap::eth::MacAddr;
    use encap::outer::{Macs, Rewrite};
    use fastpath::io::xsk::test_support::skipped_without_root;

    use super::*;
    use crate::offload::flow::{From, Way};
    use crate::xdp::{Tcx, TcxConfig, TcxVerdict};

    const LO: u32 = 1;

    /// A UDP datagram from a pod, in a frame for its node.
    fn frame(is_v6: bool) -> Vec<u8> {
        let mut frame = vec![0xee; 6];
        frame.extend([2; 6]);
        if is_v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
            frame.extend([0xfd; 32]);
        } else {
            frame.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0]);
            frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = encap::checksum::of(&frame[14..]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        frame.extend([0, 7, 0, 9, 0, 8, 0, 0]);
        frame
    }

    /// The flow of such a frame, by another source port.
    fn key(is_v6: bool, port: u16) -> Key {
        let end = |last: u8| -> IpAddr {
            if is_v6 {
                [0xfd; 16].into()
            } else {
                [10, 0, 0, last].into()
            }
        };
        Key {
            from: From::Device(LO),
            protocol: 17,
            src: (end(1), port),
            dst: (end(2), 9),
        }
    }

    fn action() -> Action {
        let macs = Macs {
            dst: MacAddr([4; 6]),
            src: MacAddr([6; 6]),
        };
        Action {
            out: 4000,
            way: Way::Uplink,
            mtu: 1500,
            from_mac: None,
            peer: None,
            rewrite: Rewrite::ethernet(macs),
            flow_hash: 1,
            source: None,
            destination: None,
        }
    }

    const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

    /// Has a flow, marked by its port, in which so many packets were counted.
    fn put(flows: &mut FlowMaps, family: Family, port: u16, packets: u64) {
        let key = key(family == Family::V6, port);
        let mut flow = flow_bytes::flow(&key, &action(), port.into()).expect("a flow");
        flow[40..48].copy_from_slice(&packets.to_ne_bytes());
        flow[48..56].copy_from_slice(&(100 * packets).to_ne_bytes());
        match flow_bytes::key(&key).expect("a key") {
            KeyBytes::V4(key) => flows.flows4.insert(key, flow, 0).expect("insert"),
            KeyBytes::V6(key) => flows.flows6.insert(key, flow, 0).expect("insert"),
        }
    }

    /// All of a family's flows, read together, by mark: how often each was told of, and what was counted. Something happens after each call.
    fn walk(
        flows: &mut FlowMaps,
        family: Family,
        mut happens: impl FnMut(&mut FlowMaps),
    ) -> BTreeMap<u32, (usize, Counts)> {
        let mut all = BTreeMap::new();
        let mut place = None;
        loop {
            let next = flows.read_next(family, place, &mut |mark, counts| {
                let told: &mut (usize, Counts) = all.entry(mark).or_default();
                *told = (told.0 + 1, counts);
            });
            happens(flows);
            place = next.expect("it can be read");
            if place.is_none() {
                return all;
            }
        }
    }

    #[test]
    fn read_together_is_what_is_read_one_by_one() {
        if skipped_without_root("read_together_is_what_is_read_one_by_one") {
            return;
        }
        let config = TcxConfig {
            max_flows4: 4096,
            max_flows6: 1024,
            ..TcxConfig::default()
        };
        let mut tcx = Tcx::load(&config).expect("load");
        let mut flows = tcx.flows().expect("the first time");
        for family in FAMILIES {
            assert!(walk(&mut flows, family, |_| {}).is_empty());
        }
        // More than are read at once; full, with several in a bucket.
        for (family, count) in [(Family::V4, 4096), (Family::V6, 1024)] {
            for port in 0..count {
                put(&mut flows, family, port, 1 + u64::from(port));
            }
            let mut calls = 0;
            let all = walk(&mut flows, family, |_| calls += 1);
            assert!(calls > 1);
            assert_eq!(all.len(), usize::from(count));
            for (mark, (times, counts)) in all {
                assert_eq!((times, counts.packets), (1, 1 + u64::from(mark)));
                let key = key(family == Family::V6, mark as u16);
                assert_eq!(flows.read(&key), Some(counts));
            }
        }
        // What a program counts, of a flow that was inserted as any is.
        for family in FAMILIES {
            let is_v6 = family == Family::V6;
            flows.remove(&key(is_v6, 7)).expect("known");
            flows
                .insert(&key(is_v6, 7), &action(), 90_000)
                .expect("room");
            let frame = frame(is_v6);
            for _ in 0..3 {
                tcx.pod_verdict(LO, &frame).expect("run");
            }
            let all = walk(&mut flows, family, |_| {});
            let (times, counts) = all[&90_000];
            assert_eq!((times, counts.packets), (1, 3));
            assert_eq!(counts.bytes, 3 * (frame.len() as u64 - 14));
            assert_eq!(flows.read(&key(is_v6, 7)), Some(counts));
        }
    }

    #[test]
    fn what_comes_and_goes_meanwhile_keeps_nobody_else_from_being_read() {
        if skipped_without_root("what_comes_and_goes_meanwhile_keeps_nobody_else_from_being_read") {
            return;
        }
        let mut tcx = Tcx::load(&TcxConfig::default()).expect("load");
        let mut flows = tcx.flows().expect("the first time");
        for family in FAMILIES {
            // Those below 3000 stay, those up to 6000 go, those after them come.
            for port in 0..6000 {
                put(&mut flows, family, port, 5);
            }
            let mut step = 0;
            let all = walk(&mut flows, family, |flows| {
                for port in (3000 + 200 * step)..(3200 + 200 * step).min(6000) {
                    flows
                        .remove(&key(family == Family::V6, port))
                        .expect("goes");
                    put(flows, family, port + 3000, 6);
                }
                step += 1;
            });
            assert!(step > 3);
            for port in 0..3000 {
                let (times, counts) = all[&port];
                assert_eq!((times, counts.packets), (1, 5), "{port}");
            }
            for (port, (times, counts)) in all.range(3000..) {
                let packets = if *port < 6000 { 5 } else { 6 };
                assert_eq!((*times, counts.packets), (1, packets), "{port}");
            }
        }
    }

    #[test]
    fn a_bucket_that_does_not_fit_gets_more_room() {
        if skipped_without_root("a_bucket_that_does_not_fit_gets_more_room") {
            return;
        }
        let config = TcxConfig {
            max_flows4: 2048,
            max_flows6: 2048,
            ..TcxConfig::default()
        };
        let mut tcx = Tcx::load(&config).expect("load");
        let mut flows = tcx.flows().expect("the first time");
        flows.walk4.set_room(1);
        flows.walk6.set_room(1);
        for family in FAMILIES {
            // As many as there are buckets: some have three.
            for port in 0..2048 {
                put(&mut flows, family, port, 5);
            }
            let all = walk(&mut flows, family, |_| {});
            assert_eq!(all.len(), 2048);
            assert!(all.values().all(|(times, _)| *times == 1));
        }
        for room in [flows.walk4.room(), flows.walk6.room()] {
            assert!((2..64).contains(&room), "{room}");
        }
    }

    #[test]
    fn a_flow_is_gone_only_if_the_kernel_says_so() {
        let refused = |errno| {
            MapError::SyscallError(SyscallError {
                call: "bpf_map_delete_elem",
                io_error: std::io::Error::from_raw_os_error(errno),
            })
        };
        assert!(is_unknown(&refused(libc::ENOENT)) && is_unknown(&MapError::KeyNotFound));
        assert!(!is_unknown(&refused(libc::EPERM)) && !is_unknown(&refused(libc::EBUSY)));
    }

    /// As it is when a flow's memory becomes another's between finding it and reading it.
    #[test]
    fn what_was_read_of_another_flow_goes_nowhere() {
        if skipped_without_root("what_was_read_of_another_flow_goes_nowhere") {
            return;
        }
        let mut tcx = Tcx::load(&TcxConfig::default()).expect("load");
        let mut flows = tcx.flows().expect("the first time");
        let mut spoilt = 0;
        for is_v6 in [false, true] {
            let key = key(is_v6, 7);
            flows.insert(&key, &action(), 0).expect("insert");
            let bytes = flow_bytes::key(&key).expect("a key");
            let right = flows.get(&bytes).expect("known");
            let mut put = |flow| match bytes {
                KeyBytes::V4(key) => flows.flows4.insert(key, flow, 0).expect("insert"),
                KeyBytes::V6(key) => flows.flows6.insert(key, flow, 0).expect("insert"),
            };
            // The word at the beginning, and that at the end.
            for byte in (0..8).chain(right.len() - 8..right.len()) {
                let mut others = right;
                others[byte] ^= 1;
                put(others);
                let result = tcx.pod_verdict(LO, &frame(is_v6)).expect("run");
                assert_eq!(result.verdict, TcxVerdict::Drop);
                spoilt += 1;
            }
            put(right);
            let result = tcx.pod_verdict(LO, &frame(is_v6)).expect("run");
            assert_eq!(result.verdict, TcxVerdict::Redirect);
        }
        assert_eq!(tcx.counters().expect("counters").spoilt, spoilt);
    }
}
