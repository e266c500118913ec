//! Where connections come from, by names that outlive the process.

use fastpath::batch::PeerId;
use fastpath::connections::Origin;

use super::{Compiler, PortRole, PortSpec};
use crate::desired::Endpoint;
use crate::keep::format::Place;

impl Compiler {
    /// All that packets may come from.
    pub fn origins(&self) -> impl Iterator<Item = Origin> {
        let ports = self.ports.iter().map(|(id, _)| Origin::Port(id));
        let nodes = self.peers.values().map(|peer| Origin::Node(*peer));
        let others = [Origin::Unknown, Origin::Node(PeerId::EXTERNAL)];
        others.into_iter().chain(ports).chain(nodes)
    }

    /// The name of where packets come in; `None`: of a port that is gone, or that no endpoint is known for.
    pub fn place(&self, origin: Origin) -> Option<Place> {
        let port = match origin {
            Origin::Unknown => return Some(Place::Unknown),
            Origin::Node(PeerId::EXTERNAL) => return Some(Place::External),
            Origin::Node(peer) => {
                let name = self.node_of(peer).map(str::to_owned);
                return Some(name.map_or(Place::Unknown, Place::Node));
            }
            Origin::Port(port) => port,
        };
        let spec = self.ports.get(port)?;
        match spec.role {
            PortRole::Host(_) => Some(Place::Host),
            PortRole::Uplink => Some(Place::Uplink(spec.name.clone())),
            PortRole::Pod => Some(pod(spec, self.endpoint_of(spec)?)),
        }
    }

    /// What a place of another process is now; `None`: it is gone, or another one. A pod's is another one by what ends connections while
    /// a process lives, too: another interface, endpoint or address.
    pub fn origin(&self, place: &Place) -> Option<Origin> {
        let port = match place {
            Place::Unknown => return Some(Origin::Unknown),
            Place::External => return Some(Origin::Node(PeerId::EXTERNAL)),
            // Of a node that is gone nothing is taken anyway.
            Place::Node(name) => {
                let peer = self.peers.get(name).copied();
                return Some(peer.map_or(Origin::Unknown, Origin::Node));
            }
            Place::Host => self.ports.host()?.0,
            Place::Uplink(name) => self.ports.by_name(name)?,
            Place::Pod { interface, .. } => self.ports.by_name(interface)?,
        };
        let origin = Origin::Port(port);
        (self.place(origin).as_ref() == Some(place)).then_some(origin)
    }
}

fn pod(spec: &PortSpec, endpoint: &Endpoint) -> Place {
    let v4 = endpoint.ipv4_nets.iter().map(ToString::to_string);
    let v6 = endpoint.ipv6_nets.iter().map(ToString::to_string);
    Place::Pod {
        ifindex: spec.ifindex,
        interface: spec.name.clone(),
        namespace: endpoint.id.namespace.clone(),
        name: endpoint.id.name.clone(),
        nets: v4.chain(v6).collect(),
    }
}
