//! Both families, so that the tests are written once.

use flowtable::Tick;
use flowtable::flow::{
    Action, Capacity, FlowKey, FlowRef, FlowTable, InsertError, Key4, Key6, Seed, flag,
};
use flowtable::lpm::NextHopId;

pub(crate) trait Family: FlowKey + std::hash::Hash + 'static {
    fn addr(number: u64) -> Self::Addr;
    fn make(number: u64) -> Self;
}

impl Family for Key4 {
    fn addr(number: u64) -> u32 {
        number as u32
    }
    fn make(number: u64) -> Self {
        Self {
            src: 0x0a00_0000 | number as u32,
            dst: 0xc0a8_0001,
            sport: (number >> 32) as u16,
            dport: 443,
            protocol: 6,
        }
    }
}

impl Family for Key6 {
    fn addr(number: u64) -> u128 {
        number as u128 | (number as u128) << 70
    }
    fn make(number: u64) -> Self {
        Self {
            src: 0xfd00 << 112 | number as u128,
            dst: 0xfd01 << 112 | (number as u128) << 64,
            sport: 1,
            dport: 443,
            protocol: 17,
        }
    }
}

pub(crate) fn table<K: Family>(entries: usize, seed: u64) -> FlowTable<K> {
    FlowTable::new(Capacity::new(entries).unwrap(), Seed([seed, !seed]))
}

/// An action of which every field tells the others.
pub(crate) fn action<K: Family>(version: u32) -> Action<K::Addr> {
    Action {
        generation: version,
        next_hop: NextHopId::new((version & 0x7fff) as u16).unwrap(),
        origin: version as u16,
        flags: flag::NAT_SRC,
        nat_addr: K::addr(u64::from(version) * 3),
        nat_port: !version as u16,
        rule: version & 0x00ff_ffff,
        reason: version as u8,
    }
}

/// `action` as the table gives it back for this direction.
pub(crate) fn directed<A: Copy>(action: Action<A>, is_reply: bool) -> Action<A> {
    let flags = if is_reply {
        action.flags | flag::IS_REPLY
    } else {
        action.flags & !flag::IS_REPLY
    };
    Action { flags, ..action }
}

/// Inserts connection `number`.
pub(crate) fn insert<K: Family>(
    table: &FlowTable<K>,
    number: u64,
    version: u32,
    now: Tick,
) -> Result<(FlowRef, FlowRef), InsertError> {
    let key = K::make(number);
    let action = action::<K>(version);
    table.insert_pair(
        (key, action),
        (key.reversed(), action),
        now,
        (number, !number),
    )
}
