//! Pods' connections to services: the backend that a new one gets, before it is decided where it goes.
//!
//! A packet's destination, as known, becomes the backend, as kube-proxy's DNAT in PREROUTING has it: routes, policy and natOutgoing are
//! about that. What the packet came with is what its connection is looked up by, and is in its bytes.

use encap::l4;
use flowtable::flow::{FlowTable, View, flag as action};
use flowtable::service::Service;

use super::Found;
use super::evict::state_of;
use super::lookup::set_destination;
use super::net::{Net, V4, V6};
use super::plan::destination_of;
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
    let (tuple, protocol) = (N::tuple(packet), N::protocol(packet));
    let services = N::services(tables);
    let backend = match services.at(tuple.dst, protocol, tuple.ports.1) {
        Service::None => return Ok(()),
        Service::NoPort => Err(DropReason::ServiceNoPort),
        Service::Stray => Err(DropReason::ServiceLoop),
        Service::Port(frontend) => {
            let backend = frontend.choose(tuple.src, packet.flow_hash);
            match backend.ok_or(DropReason::ServiceNoBackend) {
                // Whoever may make services must not make a way for what pods may not send.
                Ok((_, port)) if tables.tunnels.refuse_of_pod(protocol, port) => {
                    Err(DropReason::TunnelFromPod)
                }
                backend => backend,
            }
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

/// Whether a connection of a pod's would get another destination now: its service's backend is gone, or what it goes to has become a
/// service's.
pub(super) fn goes_elsewhere<N: Net>(
    tables: &Tables,
    view: &View<N::Key>,
    packet: &Packet,
) -> bool {
    if view.is_reply() || !is_from_pod(packet, tables) {
        return false;
    }
    let is_to_backend = view.action.flags & action::NAT_DST != 0;
    if is_to_backend && tables.services.incomplete {
        return false;
    }
    let goes_to = destination_of::<N>(&view.key, &view.action);
    let tuple = N::tuple_of(&view.key);
    match N::services(tables).at(tuple.dst, N::protocol_of(&view.key), tuple.ports.1) {
        Service::Port(frontend) => !frontend.backends().contains(&goes_to),
        Service::None => is_to_backend,
        Service::NoPort | Service::Stray => true,
    }
}

/// Whether such a connection is to begin anew, since nothing is lost with it. What TCP has begun goes on as long as the backend answers, as
/// with kube-proxy.
pub(super) fn begins_anew<N: Net>(
    tables: &Tables,
    table: &FlowTable<N::Key>,
    view: &View<N::Key>,
    packet: &Packet,
) -> bool {
    let reply = || table.view(table.partner(view.flow)?);
    goes_elsewhere::<N>(tables, view, packet)
        && (N::protocol_of(&view.key) == l4::UDP
            || reply().is_some_and(|reply| state_of::<N>(view, &reply).1.is_embryonic()))
}
