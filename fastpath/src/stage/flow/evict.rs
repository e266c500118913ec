//! Taking connections out of the table.

use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;

use encap::l4;
use flowtable::Tick;
use flowtable::conn::quota::Candidate;
use flowtable::conn::{Dir, Protocol, State, Timeouts, idle_time, state};
use flowtable::flow::{FlowRef, REMEMBERED, View, flag as action, idle};

use super::connect::{NOBODY, OWNED_BY_REPLY};
use super::net::Net;
use super::{policy, snat};
use crate::connections::Side;
use crate::policy::{Decider, RuleCounters};

/// A connection's protocol and state.
pub(super) fn state_of<N: Net>(forward: &View<N::Key>, reply: &View<N::Key>) -> (Protocol, State) {
    let protocol = Protocol::from_number(N::protocol_of(&forward.key));
    let dirs = (Dir::from_bits(forward.dir), Dir::from_bits(reply.dir));
    (protocol, state(protocol, dirs.0, dirs.1))
}

/// What keeps a connection longest, answers alone, is remembered: else they would keep it for ever.
const _: () = assert!(Timeouts::LONGEST.as_secs() * 4 < REMEMBERED.as_secs());

/// How long a connection has been idle in the sense of its timeout, and the timeout.
pub(super) fn age_of<N: Net>(
    forward: &View<N::Key>,
    reply: &View<N::Key>,
    timeouts: &Timeouts,
    now: Tick,
) -> (Duration, Duration) {
    if policy::is_denial(&forward.action) {
        return policy::denial_age(forward, reply, now);
    }
    let (protocol, state) = state_of::<N>(forward, reply);
    let timeout = timeouts.of(protocol, state);
    let since_reply = if Dir::from_bits(reply.dir).is_empty() {
        Duration::MAX
    } else {
        idle(now, reply.last_seen)
    };
    let since_original = idle(now, forward.last_seen);
    (idle_time(timeout, since_original, since_reply), timeout)
}

/// The endpoint that a connection counts for. A denial counts for nobody: whoever is spoken to without being allowed must
/// not pay for it with connections.
pub(super) fn owner_of<N: Net>(forward: &View<N::Key>, reply: &View<N::Key>) -> u16 {
    if policy::is_denial(&forward.action) {
        return NOBODY;
    }
    let origin = if forward.action.flags & OWNED_BY_REPLY == 0 {
        forward.action.origin
    } else {
        reply.action.origin
    };
    if origin & super::BY_TUNNEL == 0 {
        origin
    } else {
        NOBODY
    }
}

/// Counts a connection that is gone out of what its endpoint has, and adds what it carried to the counts of the rules that decided
/// about it.
pub(super) fn settle<N: Net>(
    side: &Side<N::Key>,
    forward: &View<N::Key>,
    reply: &View<N::Key>,
    counters: &RuleCounters,
) {
    side.removed(owner_of::<N>(forward, reply));
    snat::uncount::<N>(side, &forward.action, &forward.key);
    let deciders = [forward, reply].map(|view| Decider::from_bits(view.action.rule));
    let (packets, bytes) = (forward.packets + reply.packets, forward.bytes + reply.bytes);
    counters.add(deciders[0], packets, bytes);
    if deciders[1] != deciders[0] {
        counters.add(deciders[1], packets, bytes);
    }
}

/// Removes a connection, given either of its directions.
pub(super) fn remove<N: Net>(side: &Side<N::Key>, flow: FlowRef, counters: &RuleCounters) -> bool {
    let Some(partner) = side.table.partner(flow) else {
        return false;
    };
    let (Some(one), Some(other)) = (side.table.view(flow), side.table.view(partner)) else {
        return false;
    };
    let (forward, reply) = if one.action.flags & action::IS_REPLY == 0 {
        (&one, &other)
    } else {
        (&other, &one)
    };
    let removed = side.table.remove_pair(flow);
    if removed {
        settle::<N>(side, forward, reply, counters);
    }
    removed
}

/// Evicts a denial, or a connection that nobody answered, or that is being closed, where this key would be inserted.
#[cold]
pub(super) fn for_key<N: Net>(
    side: &Side<N::Key>,
    key: &N::Key,
    now: Tick,
    counters: &RuleCounters,
) -> bool {
    let rank = |forward: &View<N::Key>, reply: &View<N::Key>| {
        if policy::is_denial(&forward.action) {
            return Some((true, Duration::MAX));
        }
        candidate::<N>(forward, reply, now).rank()
    };
    let line = side.table.line_of(key);
    let victim = side.table.victim(line, 1, |_| true, rank);
    victim.is_some_and(|flow| remove::<N>(side, flow, counters))
}

/// How many lines of the table are searched for a connection that an endpoint gives up for a new one. Where it may have a quarter of
/// a full table there are seven of its connections in each. The search goes on where the last one found any, until there is none
/// left: so no part of the table is without any for long, and nobody waits for what is far away.
const LINES: usize = 2;

/// How long after a question and its answer nothing more is expected: twice as long as a resolver waits (resolv.conf(5)).
const EXCHANGED: Duration = Duration::from_secs(10);

/// The most packets of an exchange: a resolver asks for two kinds of addresses from one port, and again.
const EXCHANGE: u64 = 8;

/// How long the kernel's conntrack remembers datagrams that go on (`nf_conntrack_udp_timeout_stream`).
const STREAM: Duration = Duration::from_mins(2);

/// Evicts, for a new connection of an endpoint that has its share, another one of its own that nobody answered or that has served its
/// purpose: one that others began; where there is none nearby, and it begins the new one itself (`is_own`), one that it began. What
/// others begin ends nothing that it began.
///
/// Without the second a pod would serve, or ask, no more in a connection's last timeout than its share.
#[cold]
pub(super) fn of_owner<N: Net>(
    side: &Side<N::Key>,
    (owner, is_own): (u16, bool),
    now: Tick,
    counters: &RuleCounters,
) -> bool {
    // Each of its connections has one entry of packets that come from it: the reply's where others began.
    let among = |is_others: bool| {
        let may = |view: &View<N::Key>| view.is_reply() == is_others && view.action.origin == owner;
        let hand = side.hand(is_others);
        let first = hand.load(Relaxed);
        let victim = side.table.victim(first, LINES, may, |forward, reply| {
            let candidate = candidate::<N>(forward, reply, now);
            let Candidate { state, idle } = candidate;
            if owner_of::<N>(forward, reply) != owner {
                return None;
            }
            let is_done = || state.is_over() || is_exchanged::<N>(forward, reply, state, idle);
            // Of what others began, what is only being closed may serve still.
            let rank = candidate.rank();
            let rank = rank.filter(|_| state.is_embryonic() || !is_others);
            rank.or_else(|| is_done().then_some((false, idle)))
        });
        let next = victim.map_or(first.wrapping_add(LINES), FlowRef::line);
        hand.store(next, Relaxed);
        victim
    };
    let victim = among(true).or_else(|| if is_own { among(false) } else { None });
    victim.is_some_and(|flow| remove::<N>(side, flow, counters))
}

/// Whether a connection is a question and its answer by datagrams, some time ago, which the kernel's conntrack does not call assured
/// either; or datagrams that it would have forgotten. One with another source keeps it for its time (RFC 4787 REQ-5).
fn is_exchanged<N: Net>(
    forward: &View<N::Key>,
    reply: &View<N::Key>,
    state: State,
    idle: Duration,
) -> bool {
    N::protocol_of(&forward.key) == l4::UDP
        && state == State::Assured
        && forward.action.flags & action::NAT_SRC == 0
        && (idle >= STREAM || idle >= EXCHANGED && forward.packets + reply.packets <= EXCHANGE)
}

fn candidate<N: Net>(forward: &View<N::Key>, reply: &View<N::Key>, now: Tick) -> Candidate {
    let (_, state) = state_of::<N>(forward, reply);
    let (idle, _) = age_of::<N>(forward, reply, &Timeouts::DEFAULT, now);
    Candidate { state, idle }
}
