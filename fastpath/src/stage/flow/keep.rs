//! Connections that outlive the process: what an orderly stop tells of each, and how the next process takes it over.
//!
//! Told are those that were answered and that have time left. Who began one that was not begins again; and a flood consists of them.
//! Packets and bytes begin at zero again, and no rule is said to have decided: rules' numbers are the process's own.

use core::time::Duration;
use std::net::IpAddr;

use encap::nat::Tuple;
use flowtable::Tick;
use flowtable::conn::{Dir, Protocol, Timeouts, idle_time, missed, quota::Denied, state};
use flowtable::flow::{Action, FlowKey as _, InsertError, View, idle, seen_before};

use super::connect::{NOBODY, OWNED_BY_REPLY};
use super::evict::{age_of, state_of};
use super::inspect::{Origin, TRIES};
use super::net::{Net, V4, V6};
use super::plan::{self, Plan};
use super::{BY_TUNNEL, policy, short, snat, sweep};
use crate::connections::{Connections, Side};
use crate::port::{PortId, PortKind};
use crate::tables::{Mapping, Tables};

/// A connection as it is handed from one process to the next. The numbers of ports and nodes in it are those of the process that has
/// it in its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The IP protocol's number.
    pub protocol: u8,
    /// The source of the packet that began it, before it was translated.
    pub src: IpAddr,
    /// The destination of that packet, of the same family.
    pub dst: IpAddr,
    /// Its source port and its destination port as the flow table's key has them: of an ICMP query the identifier, and its type below
    /// something else.
    pub ports: (u16, u16),
    /// What the source is translated to, if it is: an address of the same family, and the port or identifier.
    pub snat: Option<(IpAddr, u16)>,
    /// What the destination is translated to, if it is: a service's backend.
    pub dnat: Option<(IpAddr, u16)>,
    /// Whether it counts for the endpoint that the answers come from.
    pub owned_by_reply: bool,
    /// The direction of the packet that began it.
    pub original: KeptDirection,
    /// The other direction.
    pub reply: KeptDirection,
}

impl Kept {
    /// The kernel forwards until the next process has it: packets that nobody here sees.
    pub fn miss(&mut self) {
        let protocol = Protocol::from_number(self.protocol);
        for direction in [&mut self.original, &mut self.reply] {
            direction.word = missed(protocol, Dir::from_bits(direction.word)).to_bits();
        }
    }
}

/// One direction of a [`Kept`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptDirection {
    /// Where its packets come in.
    pub origin: Origin,
    /// The tracker's word ([`Dir`]).
    pub word: u64,
    /// Since its last packet, in whole units of [`flowtable::flow::SEEN_UNIT`].
    pub idle: Duration,
}

/// Why a connection was not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LeftOut {
    /// An endpoint of it is gone, or is another one now.
    Endpoint,
    /// The node does not translate to its address any more.
    Address,
    /// natOutgoing may not use its port, or its protocol, any more.
    Port,
    /// Its time was over.
    Expired,
    /// Its endpoint has its share of the table, or of the destination's ports.
    Quota,
    /// There was no room for it in the table.
    Full,
    /// The table has another one by one of its keys.
    Taken,
}

impl LeftOut {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Endpoint,
        Self::Address,
        Self::Port,
        Self::Expired,
        Self::Quota,
        Self::Full,
        Self::Taken,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint gone or another",
            Self::Address => "address not translated to any more",
            Self::Port => "port not natOutgoing's any more",
            Self::Expired => "expired",
            Self::Quota => "endpoint has its share",
            Self::Full => "table full",
            Self::Taken => "begun anew",
        }
    }
}

impl Connections {
    /// Tells those connections of some lines ([`lines`](Self::lines)) that the next process is to have: by `tables`, none of an endpoint
    /// that is gone, nor with a port that is not natOutgoing's any more. `now` is by the pollers' clock. Exact when no poller runs.
    pub fn keep(
        &self,
        lines: core::ops::Range<usize>,
        tables: &Tables,
        now: Tick,
        mut tell: impl FnMut(&Kept),
    ) {
        let (first, second) = self.split(lines);
        keep_of::<V4>(&self.v4, first, tables, now, &mut tell);
        keep_of::<V6>(&self.v6, second, tables, now, &mut tell);
    }

    /// Takes over a connection of an earlier process, as one that `tables` decided: the tables that are published next have to be newer,
    /// so that its first packet has its way looked up again. What it was allowed and what it is translated to stay. `now` is
    /// by the pollers' clock. Pollers may be at work meanwhile.
    ///
    /// # Errors
    /// What does not hold of it; then nothing is inserted, and nothing counted.
    pub fn take_over(&self, kept: &Kept, tables: &Tables, now: Tick) -> Result<(), LeftOut> {
        match kept.src {
            IpAddr::V4(_) => Taking::<V4>::new(kept)?.insert(&self.v4, kept, tables, now),
            IpAddr::V6(_) => Taking::<V6>::new(kept)?.insert(&self.v6, kept, tables, now),
        }
    }
}

fn keep_of<N: Net>(
    side: &Side<N::Key>,
    lines: core::ops::Range<usize>,
    tables: &Tables,
    now: Tick,
    tell: &mut impl FnMut(&Kept),
) {
    if side.is_empty() {
        return;
    }
    side.table.visit(lines, |forward, reply| {
        let is_answered = || !state_of::<N>(forward, reply).1.is_embryonic();
        if policy::is_denial(&forward.action)
            || !is_answered()
            || sweep::is_over(forward, reply, tables)
        {
            return;
        }
        // The host's, by now: it is not to miss what comes there.
        let protocol = N::protocol_of(&forward.key);
        let source = plan::new_source::<N>(forward, reply);
        if source.is_some_and(|(_, port)| !is_given::<N>(tables, protocol, port)) {
            return;
        }
        let (age, timeout) = age_of::<N>(forward, reply, &tables.tracking.timeouts, now);
        if age < timeout {
            tell(&describe::<N>(forward, reply, now));
        }
    });
}

fn describe<N: Net>(forward: &View<N::Key>, reply: &View<N::Key>, now: Tick) -> Kept {
    let tuple = N::tuple_of(&forward.key);
    let to_ip = |(addr, port)| (N::ip(addr), port);
    let direction = |view: &View<N::Key>| KeptDirection {
        origin: Origin::of(view.action.origin),
        word: view.dir,
        idle: idle(now, view.last_seen),
    };
    Kept {
        protocol: N::protocol_of(&forward.key),
        src: N::ip(tuple.src),
        dst: N::ip(tuple.dst),
        ports: tuple.ports,
        snat: plan::new_source::<N>(forward, reply).map(to_ip),
        dnat: plan::new_destination::<N>(forward).map(to_ip),
        owned_by_reply: forward.action.flags & OWNED_BY_REPLY != 0,
        original: direction(forward),
        reply: direction(reply),
    }
}

/// A connection that is taken over, in its family's terms.
struct Taking<N: Net> {
    key: N::Key,
    /// What it goes on as, before its source is translated.
    there: N::Key,
    snat: Option<(N::Addr, u16)>,
}

impl<N: Net> Taking<N> {
    fn new(kept: &Kept) -> Result<Self, LeftOut> {
        // No address of one family is translated to one of the other.
        let addr = |ip| N::addr(ip).ok_or(LeftOut::Address);
        let translated = |to: Option<(IpAddr, u16)>| match to {
            Some((ip, port)) => Ok(Some((addr(ip)?, port))),
            None => Ok(None),
        };
        let tuple = Tuple {
            src: addr(kept.src)?,
            dst: addr(kept.dst)?,
            ports: kept.ports,
        };
        let (dst, port) = translated(kept.dnat)?.unwrap_or((tuple.dst, tuple.ports.1));
        let there = Tuple {
            dst,
            ports: (tuple.ports.0, port),
            ..tuple
        };
        Ok(Self {
            key: N::make_key(tuple, kept.protocol),
            there: N::make_key(there, kept.protocol),
            snat: translated(kept.snat)?,
        })
    }

    fn insert(
        &self,
        side: &Side<N::Key>,
        kept: &Kept,
        tables: &Tables,
        now: Tick,
    ) -> Result<(), LeftOut> {
        let [there, back] = [kept.original, kept.reply].map(|it| it.origin.code());
        let is_there =
            |origin: u16| origin & BY_TUNNEL != 0 || tables.port(PortId(origin)).is_some();
        if !is_there(there) || !is_there(back) {
            return Err(LeftOut::Endpoint);
        }
        if is_over(kept, &tables.tracking.timeouts) {
            return Err(LeftOut::Expired);
        }
        let owner = if kept.owned_by_reply { back } else { there };
        let owner = if owner & BY_TUNNEL == 0 {
            owner
        } else {
            NOBODY
        };
        let by_uplink = tables
            .port(PortId(back))
            .is_some_and(|port| matches!(port.kind, PortKind::Uplink));
        let answers = self.answers(tables, by_uplink)?;
        side.quota
            .may_create(owner, side.len())
            .map_err(|denied| match denied {
                Denied::Quota => LeftOut::Quota,
                Denied::Full => LeftOut::Full,
            })?;
        let Plan {
            forward: (_, mut forward),
            reply,
            ..
        } = self.plan(kept, tables);
        if self.snat.is_some()
            && snat::count::<N>(side, &tables.nat, owner, &self.there)
                .map_err(|_| LeftOut::Quota)?
        {
            forward.flags |= snat::COUNTED;
        }
        let dirs = (kept.original.word, kept.reply.word);
        let insert = || {
            side.insert(owner, |table| {
                table.insert_pair((self.key, forward), (answers, reply), now, dirs)
            })
        };
        let mut made = insert();
        for _ in 0..TRIES {
            if !matches!(made, Err(InsertError::Busy)) {
                break;
            }
            std::thread::yield_now();
            made = insert();
        }
        match made {
            Ok((there, back)) => {
                for (flow, direction) in [(there, kept.original), (back, kept.reply)] {
                    side.table
                        .set_last_seen(flow, seen_before(now, direction.idle));
                }
                Ok(())
            }
            Err(error) => {
                snat::uncount::<N>(side, &forward, &self.key);
                Err(match error {
                    InsertError::Full => LeftOut::Full,
                    InsertError::ReplyTaken | InsertError::ForwardTaken | InsertError::Busy => {
                        LeftOut::Taken
                    }
                })
            }
        }
    }

    /// The key of the answers, if what the connection is translated to is still ours to use.
    fn answers(&self, tables: &Tables, by_uplink: bool) -> Result<N::Key, LeftOut> {
        let Some((address, port)) = self.snat else {
            return Ok(self.there.reversed());
        };
        let protocol = N::protocol_of(&self.key);
        if !plan::may_have_source::<N>(tables, &self.key, address, by_uplink) {
            return Err(LeftOut::Address);
        }
        if !is_given::<N>(tables, protocol, port) {
            return Err(LeftOut::Port);
        }
        Ok(snat::answers::<N>(&self.there, protocol, (address, port)))
    }

    /// What `connect` would have made of it, by these tables.
    fn plan(&self, kept: &Kept, tables: &Tables) -> Plan<N> {
        let forward = Action {
            generation: short(tables.generation),
            next_hop: N::route(tables, N::destination_of(&self.there)),
            origin: kept.original.origin.code(),
            flags: if kept.owned_by_reply {
                OWNED_BY_REPLY
            } else {
                0
            },
            ..Action::default()
        };
        let reply = Action {
            generation: short(tables.generation),
            next_hop: N::route(tables, N::tuple_of(&self.key).src),
            origin: kept.reply.origin.code(),
            ..Action::default()
        };
        let plan = Plan::new((self.key, forward), (self.there, reply));
        match self.snat {
            Some((address, port)) => {
                let plan = plan.with_source(address);
                Plan {
                    forward: plan.forward_by(port),
                    ..plan
                }
            }
            None => plan,
        }
    }
}

/// Whether natOutgoing gives this port to connections of this protocol.
fn is_given<N: Net>(tables: &Tables, protocol: u8, port: u16) -> bool {
    match tables.nat.mapping_of(protocol, N::ICMP) {
        Some(Mapping::Port(ports)) => ports.contains(port),
        Some(Mapping::Address) => port == snat::NO_PORT,
        None => false,
    }
}

/// Whether a connection's time is over, by what it remembers.
fn is_over(kept: &Kept, timeouts: &Timeouts) -> bool {
    let protocol = Protocol::from_number(kept.protocol);
    let words = [kept.original, kept.reply].map(|it| Dir::from_bits(it.word));
    let timeout = timeouts.of(protocol, state(protocol, words[0], words[1]));
    let since_reply = if words[1].is_empty() {
        Duration::MAX
    } else {
        kept.reply.idle
    };
    idle_time(timeout, kept.original.idle, since_reply) >= timeout
}
