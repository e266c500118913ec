//! From what is done with a direction's packets to what the kernel's programs know of it.

use fastpath::connections::Origin;
use fastpath::offload::Established;
use fastpath::port::PortId;
use fastpath::tables;
use hashbrown::HashMap;

use super::flow::{Action, From, Key, Way};

/// The devices of the ports that the kernel's programs serve, pods and uplinks: interface indices. Control makes another one when they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices(pub HashMap<PortId, u32>);

impl Devices {
    pub(super) fn of(&self, port: PortId) -> Option<u32> {
        // What a key has room for.
        self.0.get(&port).copied().filter(|index| *index < 1 << 24)
    }
}

/// What the kernel is told; `None` if it does not serve a port of it.
pub(super) fn compile(established: &Established, devices: &Devices) -> Option<(Key, Action)> {
    let Established {
        protocol,
        src,
        dst,
        adjacency,
        ..
    } = *established;
    let from = match established.origin {
        Origin::Port(port) => From::Device(devices.of(port)?),
        Origin::Node(_) => From::Tunnel,
        Origin::Unknown => return None,
    };
    let way = match adjacency.way {
        tables::Way::Pod => Way::Pod,
        tables::Way::Uplink | tables::Way::Tunnel => Way::Uplink,
        tables::Way::Host => return None,
    };
    let key = Key {
        from,
        protocol,
        src,
        dst,
    };
    let action = Action {
        out: devices.of(adjacency.port)?,
        way,
        mtu: adjacency.mtu,
        from_mac: established.from_mac,
        peer: established.peer,
        rewrite: adjacency.rewrite,
        flow_hash: established.flow_hash,
        source: established.source,
        destination: established.destination,
    };
    Some((key, action))
}
