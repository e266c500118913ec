//! Pods' connections to services: the backend that a new one gets, before it is decided where it goes.
//!
//! A packet's destination, as known, becomes the backend, as kube-proxy's DNAT in PREROUTING has it: routes, policy and natOutgoing are
//! about that. What the packet came with is what its connection is looked up by, and is in its bytes.

use flowtable::service::Service;

use super::Found;
use super::lookup::set_destination;
use super::net::{Net, V4, V6};
use crate::batch::{Family, Packet, PeerId};
use crate::port::PortKind;
use crate::reason::DropReason;
use crate::tables::Tables;

/// Gives those packets of pods that belong to no connection and go to a service a backend. Returns whether a sender has to be told that
/// its packet is dropped.
#[inline(never)]
pub(super) fn run<N: Net>(packets: &mut [Packet], found: &[Found], tables: &Tables) -> bool {
    let mut told = false;
    for (packet, found) in packets.iter_mut().zip(found) {
        if packet.family == N::FAMILY
            && packet.is_undecided()
            && matches!(found, Found::Nothing)
            && let Err(reason) = give_backend::<N>(packet, tables)
        {
            packet.drop(reason);
            told = true;
        }
    }
    told
}

/// The same for a lone packet, without a frame.
pub(in crate::stage) fn one(packet: &mut Packet, tables: &Tables) -> Result<(), DropReason> {
    match packet.family {
        Family::V4 => give_backend::<V4>(packet, tables),
        Family::V6 => give_backend::<V6>(packet, tables),
        Family::Unknown => Ok(()),
    }
}

fn is_from_pod(packet: &Packet, tables: &Tables) -> bool {
    let port = tables.port(packet.in_port);
    packet.peer == PeerId::NONE && port.is_some_and(|it| matches!(it.kind, PortKind::Pod(_)))
}

/// Makes the backend the packet's destination, if that is a service and a pod has sent it. A later fragment goes to its first's, whose
/// connection may be made only after this batch was looked up.
fn give_backend<N: Net>(packet: &mut Packet, tables: &Tables) -> Result<(), DropReason> {
    if !is_from_pod(packet, tables) {
        return Ok(());
    }
    let tuple = N::tuple(packet);
    let services = N::services(tables);
    let backend = match services.at(tuple.dst, N::protocol(packet), tuple.ports.1) {
        Service::None => return Ok(()),
        Service::NoPort => Err(DropReason::ServiceNoPort),
        Service::Stray => Err(DropReason::ServiceLoop),
        Service::Port(frontend) => {
            let backend = frontend.choose(tuple.src, packet.flow_hash);
            backend.ok_or(DropReason::ServiceNoBackend)
        }
    };
    match backend {
        Ok((addr, port)) => set_destination::<N>(packet, addr, port),
        // The sender was told by its first.
        Err(_) if N::is_later_fragment(packet) => {}
        Err(reason) => return Err(reason),
    }
    Ok(())
}

/// Whether connections of a key go to this destination, which `is_backend` says is one of a service's.
pub(super) fn leads_to<N: Net>(
    tables: &Tables,
    key: &N::Key,
    goes_to: (N::Addr, u16),
    is_backend: bool,
) -> bool {
    let tuple = N::tuple_of(key);
    match N::services(tables).at(tuple.dst, N::protocol_of(key), tuple.ports.1) {
        Service::Port(frontend) => is_backend && frontend.backends().contains(&goes_to),
        Service::None | Service::NoPort | Service::Stray => !is_backend,
    }
}
