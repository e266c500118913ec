//! Source ports for translated connections.

use encap::nat::Tuple;
use flowtable::Tick;
use flowtable::conn::Dir;
use flowtable::flow::{Action, FlowRef, FlowTable, InsertError};
use flowtable::snat::PortRng;

use super::connect::Refused;
use super::net::Net;
use crate::reason::DropReason;
use crate::tables::Nat;

/// After so many places without room it is not the ports' fault.
const FULL: u32 = 4;

/// Draws ports until one is free for this destination: until the answers' key, which holds it, can be inserted. A port is
/// unique to an address and port of the other side, as in the kernel's conntrack.
pub(super) fn claim<N: Net>(
    table: &FlowTable<N::Key>,
    nat: &Nat,
    rng: &mut PortRng,
    protocol: u8,
    (key, mut forward): (N::Key, Action<N::Addr>),
    reply: Action<N::Addr>,
    (now, dir): (Tick, u64),
) -> Result<(FlowRef, Action<N::Addr>), Refused> {
    let set = nat.ports_of(protocol, N::ICMP);
    let set = set.ok_or(Refused::Drop(DropReason::NatProtocol))?;
    let mut full = 0;
    for port in set.probes(rng) {
        forward.nat_port = port;
        let back = answers::<N>(&key, protocol, (forward.nat_addr, port));
        let back = (back, reply);
        match table.insert_pair((key, forward), back, now, (dir, Dir::EMPTY.to_bits())) {
            Ok((flow, _)) => return Ok((flow, forward)),
            // In use, or in a part of the table where somebody is at work: another port is elsewhere.
            Err(InsertError::ReplyTaken | InsertError::Busy) => {}
            // So it is if there is no room for the answers; if there is none for the connection, nothing helps.
            Err(error @ InsertError::Full) => {
                full += 1;
                if full == FULL {
                    return Err(Refused::Insert(error));
                }
            }
            Err(error @ InsertError::ForwardTaken) => return Err(Refused::Insert(error)),
        }
    }
    Err(Refused::Drop(DropReason::NatPortsExhausted))
}

/// The key of a connection's answers if its source is the first one that [`claim`] tries.
pub(super) fn first_answers<N: Net>(
    nat: &Nat,
    rng: &mut PortRng,
    protocol: u8,
    key: &N::Key,
    address: N::Addr,
) -> Option<N::Key> {
    let port = nat.ports_of(protocol, N::ICMP)?.probes(rng).next()?;
    Some(answers::<N>(key, protocol, (address, port)))
}

fn answers<N: Net>(key: &N::Key, protocol: u8, (addr, port): (N::Addr, u16)) -> N::Key {
    let to = N::tuple_of(key);
    let answer = Tuple {
        src: to.dst,
        dst: addr,
        ports: (to.ports.1, port),
    };
    N::make_key(answer, protocol)
}
