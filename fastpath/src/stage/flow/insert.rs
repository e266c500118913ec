//! New connections into the table: with another source where they get one.

use flowtable::conn::Dir;
use flowtable::flow::{FlowKey, InsertError, flag as action};

use super::connect::{Context, Onward};
use super::net::Net;
use super::plan::{Inserted, NewSource, Plan};
use super::snat;
use crate::batch::{Packet, flag};
use crate::connections::Tracker;
use crate::reason::DropReason;
use crate::tables::{Tables, Way};

impl Context<'_> {
    /// Inserts both directions. Returns the forward one, and what the source is translated to, if it is.
    pub(super) fn insert<N: Net>(
        &mut self,
        owner: u16,
        plan: &Plan<N>,
        source: NewSource<N::Addr>,
        dir: Dir,
    ) -> Result<Inserted<N>, Refused> {
        match source {
            NewSource::Address(address) => self.insert_translated::<N>(owner, plan, address, dir),
            NewSource::None => Err(Refused::Drop(DropReason::NatNoAddress)),
            NewSource::Own => {
                let dirs = (dir.to_bits(), Dir::EMPTY.to_bits());
                let made = N::side(&self.tracker.connections).insert(owner, |table| {
                    table.insert_pair(
                        plan.forward,
                        (plan.there.reversed(), plan.reply),
                        self.now,
                        dirs,
                    )
                });
                match made {
                    Ok((flow, _)) => Ok((flow, None)),
                    // The pod speaks to the backend by this port already, without the service, or by it.
                    Err(InsertError::ReplyTaken)
                        if plan.is_to_service()
                            || self.is_services::<N>(&plan.there.reversed()) =>
                    {
                        let own = N::tuple_of(&plan.there).src;
                        self.insert_translated::<N>(owner, plan, own, dir)
                    }
                    Err(error) => Err(Refused::Insert(error)),
                }
            }
        }
    }

    /// Claims a source port by inserting the answers' key, and the connection with it.
    fn insert_translated<N: Net>(
        &mut self,
        owner: u16,
        plan: &Plan<N>,
        address: N::Addr,
        dir: Dir,
    ) -> Result<Inserted<N>, Refused> {
        let mut plan = plan.with_source(address);
        let Tracker {
            connections,
            rng,
            spare_tries,
            ..
        } = &mut *self.tracker;
        let side = N::side(connections);
        let nat = &self.tables.nat;
        if snat::count::<N>(side, nat, owner, &plan.there)? {
            let (_, forward) = &mut plan.forward;
            forward.flags |= snat::COUNTED;
        }
        let made = side.insert(owner, |table| {
            let seen = (self.now, dir.to_bits());
            snat::claim::<N>(table, nat, (rng, spare_tries), &plan, address, seen)
        });
        if made.is_err() {
            let (key, forward) = &plan.forward;
            snat::uncount::<N>(side, forward, key);
        }
        made
    }

    /// The source of a new connection that goes on as `there`.
    pub(super) fn new_source<N: Net>(&self, packet: &Packet, there: &N::Key) -> NewSource<N::Addr> {
        if is_translated::<N>(self.tables, self.onward, packet, there) {
            let port = self.tables.port(self.onward.port);
            return NewSource::of(port.and_then(N::nat_address));
        }
        // A pod that is behind the service that it speaks to would answer itself without us; it sees the node instead, as with kube-proxy.
        if self.returns(packet) {
            return NewSource::of(N::node_address(self.tables));
        }
        NewSource::Own
    }

    /// Whether what a key answers was sent to a service.
    fn is_services<N: Net>(&self, key: &N::Key) -> bool {
        const ANSWERS: u8 = action::IS_REPLY | action::NAT_SRC;
        let known = N::side(&self.tracker.connections).table.lookup(key);
        known.is_some_and(|(_, action)| action.flags & ANSWERS == ANSWERS)
    }

    /// Whether a packet goes back to the pod that sent it.
    fn returns(&self, packet: &Packet) -> bool {
        self.onward.way == Way::Pod
            && self.onward.port == packet.in_port
            && self.is_from_pod(packet)
    }
}

/// Whether natOutgoing gives a new connection another source.
pub(super) fn is_translated<N: Net>(
    tables: &Tables,
    onward: Onward,
    packet: &Packet,
    key: &N::Key,
) -> bool {
    onward.way == Way::Uplink
        && !packet.has(flag::KEEP_TTL)
        && N::is_masqueraded(tables, key)
        && !tables.nat.untouched.contains(&onward.port)
}

/// Why there is no connection.
pub(super) enum Refused {
    /// The table says so.
    Insert(InsertError),
    /// The packet is dropped.
    Drop(DropReason),
}
