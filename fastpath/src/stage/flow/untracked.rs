//! Untracked policy of host endpoints (Calico's `doNotTrack`), which each packet from without meets before connections are
//! looked up (`felix/rules/static.go`, the raw table).
//!
//! What it allows belongs to no connection, be there one or not: it is judged by all others' policy, and nothing remembers
//! it. What it denies is dropped, answers among it. The rest is looked up as ever. What is for the host itself is for the
//! kernel's rules, but answers to what natOutgoing translated, which come to the host's address: these may be denied here. What
//! the kernel forwards it has tracked already.

use flowtable::Tick;
use flowtable::flow::flag as action;

use super::Found;
use super::connect::{Context, Onward};
use super::insert::is_translated;
use super::lookup::l3_of;
use super::net::{Net, V4, V6};
use crate::batch::{Family, Packet, flag};
use crate::connections::Tracker;
use crate::counters::Counters;
use crate::io::PacketIo;
use crate::policy::{Judgement, Untracked};
use crate::port::PortKind;
use crate::reason::DropReason;
use crate::tables::{Tables, Way};

/// Judges a batch whose node has such policy. The tracker's `found` says afterwards what is tracked no further.
#[cold]
pub(super) fn run<I: PacketIo>(
    packets: &mut [Packet],
    io: &mut I,
    tables: &Tables,
    tracker: &mut Tracker,
    now: Tick,
    counters: &Counters,
) {
    for (at, packet) in packets.iter_mut().enumerate() {
        if !packet.is_undecided() {
            continue;
        }
        let allows = match packet.family {
            Family::V4 => one::<V4, I>(packet, io, tables, tracker, now, counters),
            Family::V6 => one::<V6, I>(packet, io, tables, tracker, now, counters),
            Family::Unknown => false,
        };
        if let Some(found) = tracker.found.get_mut(at).filter(|_| allows) {
            *found = Found::Untracked;
            // The careful way asks what was found.
            packet.flags &= !flag::ORDINARY;
        }
    }
}

/// Judges a packet. True if it is allowed, and tracked no further.
fn one<N: Net, I: PacketIo>(
    packet: &mut Packet,
    io: &mut I,
    tables: &Tables,
    tracker: &mut Tracker,
    now: Tick,
    counters: &Counters,
) -> bool {
    // Only an uplink's packets come from without, those of tunnels among them.
    let port = tables.port(packet.in_port);
    if !port.is_some_and(|port| matches!(port.kind, PortKind::Uplink)) {
        return false;
    }
    let l3 = l3_of(packet, io);
    if packet.has(flag::TRANSLATE) {
        N::restore(packet, l3);
    }
    let hop = tables.next_hop(N::route(tables, N::tuple(packet).dst));
    // What goes nowhere, and what is dropped anyhow.
    let Some(onward) = Onward::by(hop).filter(|_| !N::is_upper_unknown(packet)) else {
        return false;
    };
    let mut context = Context {
        tables,
        tracker,
        counters,
        now,
        onward,
    };
    context.is_untracked::<N>(packet, l3)
}

impl Context<'_> {
    fn is_untracked<N: Net>(&mut self, packet: &mut Packet, l3: &[u8]) -> bool {
        let is_hosts = self.onward.way == Way::Host;
        if is_hosts && !self.is_translated_answer::<N>(packet, l3) {
            return false;
        }
        let subject = self.subject::<N>(packet, l3);
        let policies = &self.tables.policies;
        let said = policies.untracked(&subject.tuple, subject.from, |logs| {
            self.log::<N>(packet, &subject, logs);
        });
        match said {
            Untracked::Undecided => false,
            Untracked::Allowed => !is_hosts,
            Untracked::Denied(by) => {
                policies.counters.add(by, 1, packet.ip_len() as u64);
                packet.deny(DropReason::PolicyDeny, by);
                false
            }
        }
    }

    /// Whether a packet to the host's address is for whom natOutgoing has given it.
    fn is_translated_answer<N: Net>(&self, packet: &Packet, l3: &[u8]) -> bool {
        let key = N::key_in(packet, || l3);
        let known = N::side(&self.tracker.connections).table.lookup(&key);
        known.is_some_and(|(_, known)| known.flags & action::NAT_DST != 0)
    }

    /// A packet that untracked policy has allowed, on its way to all others'.
    pub(super) fn pass_untracked<N: Net>(
        &mut self,
        packet: &mut Packet,
        l3: &[u8],
        waits: bool,
    ) -> Result<(), DropReason> {
        let subject = self.subject::<N>(packet, l3);
        let policies = &self.tables.policies;
        let (tuple, from, to) = (&subject.tuple, subject.from, subject.to);
        let would = |judgement| matches!(judgement, Judgement::Allow { .. });
        // It will be judged, and counted, when it goes on.
        if waits && would(policies.explain(tuple, from, to, |_, _, _, _| ())) {
            return Ok(());
        }
        let len = packet.ip_len() as u64;
        match self.judge::<N>(packet, &subject) {
            Judgement::Allow {
                source,
                destination,
            } => {
                let key = N::key_in(packet, || l3);
                if is_translated::<N>(self.tables, self.onward, packet, &key) {
                    // Without a connection it has no other source, and its own must not be seen outside.
                    return Err(DropReason::CtInvalid);
                }
                policies.counters.add(source, 1, len);
                policies.counters.add(destination, 1, len);
                Ok(())
            }
            Judgement::Deny { reason, by } => {
                policies.counters.add(by, 1, len);
                packet.denied_by = by;
                Err(reason)
            }
        }
    }
}
