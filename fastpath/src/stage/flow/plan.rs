//! What a new connection's two entries are to be: which destination it goes on to, and which source it gets.

use flowtable::flow::{Action, FlowRef, View, flag as action};

use super::net::Net;
use crate::tables::Tables;

/// Where a key's packets go to.
pub(super) fn destination_in<N: Net>(key: &N::Key) -> (N::Addr, u16) {
    let tuple = N::tuple_of(key);
    (tuple.dst, tuple.ports.1)
}

/// The same, after what its entry has them translated to.
pub(super) fn destination_of<N: Net>(key: &N::Key, action: &Action<N::Addr>) -> (N::Addr, u16) {
    if action.flags & action::NAT_DST == 0 {
        destination_in::<N>(key)
    } else {
        (action.nat_addr, action.nat_port)
    }
}

/// What a connection's destination is translated to, if it is.
pub(super) fn new_destination<N: Net>(forward: &View<N::Key>) -> Option<(N::Addr, u16)> {
    let is_translated = forward.action.flags & action::NAT_DST != 0;
    is_translated.then(|| destination_of::<N>(&forward.key, &forward.action))
}

/// What its source is translated to, if it is: that is where answers go to.
pub(super) fn new_source<N: Net>(
    forward: &View<N::Key>,
    reply: &View<N::Key>,
) -> Option<(N::Addr, u16)> {
    let is_translated = forward.action.flags & action::NAT_SRC != 0;
    is_translated.then(|| destination_in::<N>(&reply.key))
}

/// Whether a connection may go on with this source: one that the node translates to still; of one to a service also the pod's own and,
/// where it does not leave the node, the node's.
pub(super) fn may_have_source<N: Net>(
    tables: &Tables,
    key: &N::Key,
    address: N::Addr,
    by_uplink: bool,
) -> bool {
    N::is_nat_address(tables, address)
        || N::tuple_of(key).src == address
        || !by_uplink && N::node_address(tables) == Some(address)
}

/// The source of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NewSource<A> {
    /// Its own.
    Own,
    /// This address, and a port of those that are the dataplane's.
    Address(A),
    /// An address that there is none of.
    None,
}

impl<A> NewSource<A> {
    pub(super) fn of(address: Option<A>) -> Self {
        address.map_or(Self::None, Self::Address)
    }
}

/// A connection that was made: its forward direction, and what the source is translated to.
pub(super) type Inserted<N> = (FlowRef, Option<(<N as Net>::Addr, u16)>);

/// The two entries of a connection that is to be made, but for the key of its answers.
pub(super) struct Plan<N: Net> {
    /// What it is looked up by, and what happens then.
    pub(super) forward: (N::Key, Action<N::Addr>),
    /// What it goes on as, before its source is translated.
    pub(super) there: N::Key,
    /// What happens to answers.
    pub(super) reply: Action<N::Addr>,
}

impl<N: Net> Plan<N> {
    /// With the destinations that follow from the keys.
    pub(super) fn new(
        (key, mut forward): (N::Key, Action<N::Addr>),
        (there, mut reply): (N::Key, Action<N::Addr>),
    ) -> Self {
        if there != key {
            forward.flags |= action::NAT_DST;
            (forward.nat_addr, forward.nat_port) = destination_in::<N>(&there);
            reply.flags |= action::NAT_SRC;
            (reply.nat_addr, reply.nat_port) = destination_in::<N>(&key);
        }
        Self {
            forward: (key, forward),
            there,
            reply,
        }
    }

    pub(super) const fn is_to_service(&self) -> bool {
        self.reply.flags & action::NAT_SRC != 0
    }

    /// The same with another source, whose port is not known yet. Where the destination is another one too, that is what entries have.
    pub(super) fn with_source(&self, address: N::Addr) -> Self {
        let (key, mut forward) = self.forward;
        let mut reply = self.reply;
        if !self.is_to_service() {
            forward.nat_addr = address;
        }
        forward.flags |= action::NAT_SRC;
        reply.flags |= action::NAT_DST;
        let own = N::tuple_of(&key);
        (reply.nat_addr, reply.nat_port) = (own.src, own.ports.0);
        Self {
            forward: (key, forward),
            there: self.there,
            reply,
        }
    }

    /// The forward entry, now that the source's port is known.
    pub(super) const fn forward_by(&self, port: u16) -> (N::Key, Action<N::Addr>) {
        let (key, mut forward) = self.forward;
        if forward.flags & action::NAT_DST == 0 {
            forward.nat_port = port;
        }
        (key, forward)
    }
}
