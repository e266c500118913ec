//! What a batch's new connections need, fetched before the first of them is made: their misses are under way at once.

use flowtable::flow::{FlowKey, Keys};

use super::connect::Onward;
use super::insert::is_translated;
use super::lookup::l3_of;
use super::net::{Net, V4, V6};
use super::{Found, snat};
use crate::batch::{Fate, Packet, flag};
use crate::connections::Tracker;
use crate::io::PacketIo;
use crate::tables::Tables;

/// Has the processor fetch where the connections of packets that belong to none will be. Changes nothing.
pub(super) fn run<I: PacketIo>(packets: &[Packet], io: &mut I, tables: &Tables, tracker: &Tracker) {
    family::<V4, I>(packets, io, tables, tracker);
    family::<V6, I>(packets, io, tables, tracker);
}

fn family<N: Net, I: PacketIo>(packets: &[Packet], io: &mut I, tables: &Tables, tracker: &Tracker) {
    let (mut keys, mut answers) = (Keys::<N::Key>::default(), Keys::<N::Key>::default());
    let mut count = 0;
    // A copy draws what the other will draw.
    let mut rng = None;
    for (packet, found) in packets.iter().zip(&*tracker.found) {
        let is_new = packet.family == N::FAMILY
            && matches!(found, Found::Nothing)
            && matches!(packet.fate, Fate::Transmit(_));
        let Some(onward) = Onward::by(tables.next_hop(packet.next_hop)) else {
            continue;
        };
        if !is_new {
            continue;
        }
        let is_known_by_backend = packet.has(flag::TRANSLATE);
        let key = if is_known_by_backend {
            N::key_as_it_came(packet, l3_of(packet, io))
        } else {
            N::key_in(packet, || l3_of(packet, io))
        };
        let there = if is_known_by_backend {
            N::key(packet)
        } else {
            key
        };
        let mut back = there.reversed();
        if is_translated::<N>(tables, onward, packet, &there) {
            let rng = rng.get_or_insert_with(|| tracker.rng.clone());
            let address = tables.port(onward.port).and_then(N::nat_address);
            let protocol = N::protocol(packet);
            let first = address.and_then(|address| {
                snat::first_answers::<N>(&tables.nat, rng, protocol, &there, address)
            });
            back = first.unwrap_or(back);
        }
        keys.put(count, key);
        answers.put(count, back);
        count += 1;
    }
    if count > 1 {
        keys.set_first_taken(count);
        answers.set_first_taken(count);
        let table = &N::side(&tracker.connections).table;
        table.prefetch_inserts(&mut answers);
        table.prefetch_inserts(&mut keys);
    }
}
