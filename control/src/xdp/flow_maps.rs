//! The flows that the kernel's programs know, as one thread reads and writes them.

use std::io::ErrorKind;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};

use super::error::LoadError;
use super::flow_bytes::{self, FlowBytes, KEY4_LEN, KEY6_LEN, KeyBytes};
use super::object::take_map;
use crate::offload::flow::{Action, Counts, Full, Kept, KernelFlows, Key};

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

/// What packets add between the look at a flow's counts and its removal is not counted: of one flow a few packets at the most.
impl KernelFlows for FlowMaps {
    fn insert(&mut self, key: &Key, action: &Action) -> Result<(), Full> {
        let flow = flow_bytes::flow(key, action).ok_or(Full)?;
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
            let end = |last: u8| -> IpAddr {
                if is_v6 {
                    [0xfd; 16].into()
                } else {
                    [10, 0, 0, last].into()
                }
            };
            let key = Key {
                from: From::Device(LO),
                protocol: 17,
                src: (end(1), 7),
                dst: (end(2), 9),
            };
            let macs = Macs {
                dst: MacAddr([4; 6]),
                src: MacAddr([6; 6]),
            };
            let action = Action {
                out: 4000,
                way: Way::Uplink,
                mtu: 1500,
                from_mac: None,
                peer: None,
                rewrite: Rewrite::ethernet(macs),
                flow_hash: 1,
                source: None,
                destination: None,
            };
            flows.insert(&key, &action).expect("insert");
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
