//! What the programs counted, summed over the CPUs. The order is that of the C sources' `enum class`.

use aya::maps::{MapData, MapError, PerCpuArray};

/// Frames by what the NIC's program did with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NicCounters {
    /// Left to the kernel: not ours.
    pub passed: u64,
    /// Taken: the destination is a pod.
    pub to_pod: u64,
    /// Taken: VXLAN to one of the node's tunnel addresses.
    pub vxlan: u64,
    /// Taken: IPIP to one of the node's tunnel addresses.
    pub ipip: u64,
    /// Taken: from a pod to one of the node's tunnel addresses.
    pub from_pod: u64,
    /// Taken: it may be an answer to what a pod sent to the outside.
    pub nat_reply: u64,
    /// Taken: an ICMP error about a packet of one of our tunnels.
    pub tunnel_error: u64,
    /// Ours, but no socket was bound to the queue; left to the kernel.
    pub no_socket: u64,
    /// Dropped: an answer to a connection that is kept for the next daemon.
    pub away: u64,
}

/// Frames by what the endpoints' program did with them, all endpoints together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointCounters {
    /// Given to a socket.
    pub taken: u64,
    /// No socket bound to the queue: dropped, or passed when configured open.
    pub no_socket: u64,
    /// On a device that no endpoint belongs to: dropped, or passed when configured open.
    pub unknown_device: u64,
}

/// Packets by what the flows' programs did with them, all devices together. A super-frame is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcxCounters {
    /// Treated in the kernel: of a flow that is known.
    pub hits: u64,
    /// Sent to the pollers.
    pub punted: u64,
    /// Left to the host: not ours.
    pub passed: u64,
    /// For the pollers, but there was no punt device: of pods dropped, or passed when configured open; of uplinks left to the host.
    pub no_punt: u64,
    /// Dropped: its pod had too many sent to the pollers.
    pub limited: u64,
    /// Dropped midway: the kernel had no memory, or the flow became another one meanwhile.
    pub spoilt: u64,
    /// Dropped: an answer to a connection that is kept for the next daemon.
    pub away: u64,
    /// At a gate that nobody is behind: dropped, or passed when configured open.
    pub gate_closed: u64,
}

pub(super) type CounterMap = PerCpuArray<MapData, u64>;

impl NicCounters {
    pub(super) fn read(map: &CounterMap) -> Result<Self, MapError> {
        Ok(Self {
            passed: sum(map, 0)?,
            to_pod: sum(map, 1)?,
            vxlan: sum(map, 2)?,
            ipip: sum(map, 3)?,
            from_pod: sum(map, 4)?,
            nat_reply: sum(map, 5)?,
            tunnel_error: sum(map, 6)?,
            no_socket: sum(map, 7)?,
            away: sum(map, 8)?,
        })
    }
}

impl EndpointCounters {
    pub(super) fn read(map: &CounterMap) -> Result<Self, MapError> {
        Ok(Self {
            taken: sum(map, 0)?,
            no_socket: sum(map, 1)?,
            unknown_device: sum(map, 2)?,
        })
    }
}

impl TcxCounters {
    pub(super) fn read(map: &CounterMap) -> Result<Self, MapError> {
        Ok(Self {
            hits: sum(map, 0)?,
            punted: sum(map, 1)?,
            passed: sum(map, 2)?,
            no_punt: sum(map, 3)?,
            limited: sum(map, 4)?,
            spoilt: sum(map, 5)?,
            away: sum(map, 6)?,
            gate_closed: sum(map, 7)?,
        })
    }
}

fn sum(map: &CounterMap, index: u32) -> Result<u64, MapError> {
    Ok(map.get(&index, 0)?.iter().sum())
}
