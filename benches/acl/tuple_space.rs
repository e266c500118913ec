//! Tuple space search: a hash table for each pair of prefix lengths and kind of protocol, asked in the
//! order of their best rules. What the classifier was chosen over; here to be measured beside it.

use benches::rules::{FiveTuple, Packet, mask};
use hashbrown::HashMap;

/// Source, destination, protocol under the masks of a tuple.
type Key = (u32, u32, u8);

/// Rules with the same prefix lengths that ask for a protocol or do not.
struct TupleTable {
    masks: (u32, u32, u8),
    /// The number of its best rule.
    best: u32,
    /// By key, rules in order.
    rules: HashMap<Key, Vec<(u32, FiveTuple)>>,
}

/// All rules by tuple; the tuple with the best rule first.
pub(crate) struct TupleSpace {
    tables: Vec<TupleTable>,
}

impl TupleSpace {
    /// Rule `n` of `rules` is number `n + 1`.
    pub(crate) fn new(rules: &[FiveTuple]) -> Self {
        let mut tables: HashMap<_, TupleTable> = HashMap::new();
        for (number, rule) in (1..).zip(rules) {
            let masks = (
                mask(rule.source.1),
                mask(rule.destination.1),
                if rule.protocol.is_some() { 0xff } else { 0 },
            );
            let table = tables.entry(masks).or_insert_with(|| TupleTable {
                masks,
                best: number,
                rules: HashMap::new(),
            });
            let key = (
                rule.source.0,
                rule.destination.0,
                rule.protocol.unwrap_or(0),
            );
            table.rules.entry(key).or_default().push((number, *rule));
        }
        let mut tables: Vec<_> = tables.into_values().collect();
        tables.sort_unstable_by_key(|table| table.best);
        Self { tables }
    }

    /// The number of the first rule that matches, 0 for none.
    pub(crate) fn classify(&self, packet: &Packet) -> u32 {
        let mut best = u32::MAX;
        for table in &self.tables {
            if table.best >= best {
                break;
            }
            let key = (
                packet.source & table.masks.0,
                packet.destination & table.masks.1,
                packet.protocol & table.masks.2,
            );
            let found = table.rules.get(&key).and_then(|rules| {
                rules
                    .iter()
                    .take_while(|(number, _)| *number < best)
                    .find(|(_, rule)| rule.matches(packet))
            });
            if let Some((number, _)) = found {
                best = *number;
            }
        }
        if best == u32::MAX { 0 } else { best }
    }
}
