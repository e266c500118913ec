//! Sources for translated connections: a port of ours, or the address alone.

use encap::nat::Tuple;
use flowtable::Tick;
use flowtable::conn::Dir;
use flowtable::flow::{Action, FlowTable, InsertError};
use flowtable::snat::{PortRng, shares};

use super::insert::Refused;
use super::net::Net;
use super::plan::{Inserted, Plan, destination_of};
use crate::connections::Side;
use crate::reason::DropReason;
use crate::tables::{Mapping, Nat};

/// After so many places without room it is not the ports' fault.
const FULL: u32 = 4;

/// How many ports a connection may try however many the others of its batch have tried: as good as always enough where half are free.
const EACH: u32 = 8;

/// What a protocol without ports has for one.
pub(super) const NO_PORT: u16 = 0;

/// Draws ports until one is free for this destination: until the answers' key, which holds it, can be inserted. A port is
/// unique to an address and port of the other side, as in the kernel's conntrack. Without ports there is nothing to draw: the
/// answers' key is free, or somebody else's. Of `spare` come the tries beyond [`EACH`].
pub(super) fn claim<N: Net>(
    table: &FlowTable<N::Key>,
    nat: &Nat,
    (rng, spare): (&mut PortRng, &mut u32),
    plan: &Plan<N>,
    address: N::Addr,
    (now, dir): (Tick, u64),
) -> Result<Inserted<N>, Refused> {
    let protocol = N::protocol_of(&plan.there);
    let mapping = nat.mapping_of(protocol, N::ICMP);
    let insert = |port| {
        let back = answers::<N>(&plan.there, protocol, (address, port));
        let dirs = (dir, Dir::EMPTY.to_bits());
        let forward = plan.forward_by(port);
        let made = table.insert_pair(forward, (back, plan.reply), now, dirs);
        made.map(|(flow, _)| (flow, Some((address, port))))
    };
    let set = match mapping.ok_or(Refused::Drop(DropReason::NatProtocol))? {
        Mapping::Port(set) => set,
        Mapping::Address => {
            return insert(NO_PORT).map_err(|error| match error {
                InsertError::ReplyTaken => Refused::Drop(DropReason::NatAddressTaken),
                error => Refused::Insert(error),
            });
        }
    };
    let mut full = 0;
    for (tries, port) in (1..).zip(set.probes(rng)) {
        if tries > EACH {
            let Some(left) = spare.checked_sub(1) else {
                break;
            };
            *spare = left;
        }
        match insert(port) {
            Ok(made) => return Ok(made),
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

/// On a forward entry: its port is counted as its source's to the destination.
pub(super) const COUNTED: u8 = 1 << 6;

/// Counts another port to the destination that `there` goes on to as its source's, if that may have one. Nothing is counted of an endpoint that has so few
/// connections that it does not matter; says whether it was.
pub(super) fn count<N: Net>(
    side: &Side<N::Key>,
    nat: &Nat,
    owner: u16,
    there: &N::Key,
) -> Result<bool, Refused> {
    let Some(Mapping::Port(ports)) = nat.mapping_of(N::protocol_of(there), N::ICMP) else {
        return Ok(false);
    };
    if side.quota.count(owner) < shares::uncounted(ports) {
        return Ok(false);
    }
    let hash = share::<N>(side, there);
    if !side.shares.claim(hash, shares::limit(ports)) {
        return Err(Refused::Drop(DropReason::NatPortsQuota));
    }
    Ok(true)
}

/// Takes back what [`count`] counted of a connection that is gone, or was not made.
pub(super) fn uncount<N: Net>(side: &Side<N::Key>, action: &Action<N::Addr>, key: &N::Key) {
    if action.flags & COUNTED != 0 {
        let (dst, port) = destination_of::<N>(key, action);
        let mut to = N::tuple_of(key);
        (to.dst, to.ports.1) = (dst, port);
        let there = N::make_key(to, N::protocol_of(key));
        side.shares.release(share::<N>(side, &there));
    }
}

/// What stands for an endpoint, by its address, and a destination. It can be told from the key of a connection that is gone.
fn share<N: Net>(side: &Side<N::Key>, key: &N::Key) -> u64 {
    let mut tuple = N::tuple_of(key);
    tuple.ports = (0, N::service(key));
    side.table.hash(&N::make_key(tuple, N::protocol_of(key)))
}

/// The key of a connection's answers if its source is the first one that [`claim`] tries.
pub(super) fn first_answers<N: Net>(
    nat: &Nat,
    rng: &mut PortRng,
    protocol: u8,
    key: &N::Key,
    address: N::Addr,
) -> Option<N::Key> {
    let port = match nat.mapping_of(protocol, N::ICMP)? {
        Mapping::Port(set) => set.probes(rng).next()?,
        Mapping::Address => NO_PORT,
    };
    Some(answers::<N>(key, protocol, (address, port)))
}

/// The key of a connection's answers when its source is this.
pub(super) fn answers<N: Net>(key: &N::Key, protocol: u8, (addr, port): (N::Addr, u16)) -> N::Key {
    let there = Tuple {
        src: addr,
        dst: N::destination_of(key),
        ports: N::ports_to(protocol, port, N::service(key)),
    };
    N::make_key(there.reversed(), protocol)
}
