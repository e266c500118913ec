//! The peer where there are connections: one look into a flat table of flows says where to, and what to translate.
//!
//! No state, no counters, no age, no generation; nothing is ever inserted. The checksums' differences are prepared.

use benches::scenario::Chain;
use flowtable::lpm::NextHopId;
use flowtable::prefetch;

use crate::flows::{Flow, Flows, TCP, Table, UDP, V4, V6};
use crate::minimal::{BATCH, Chunk, L3, START, Sent, Template, vxlan4};

/// What the loop works on.
struct Work<'a, F> {
    arena: &'a mut [Chunk],
    templates: &'a [Template],
    sent: &'a mut [Sent],
    batch: usize,
    table: &'a Table<F>,
}

/// Forwards all frames, `batch` at a time.
pub(crate) fn run(
    chain: Chain,
    arena: &mut [Chunk],
    flows: &Flows,
    templates: &[Template],
    sent: &mut [Sent],
    batch: usize,
) {
    match flows {
        Flows::None => {}
        Flows::V4(table) => {
            let work = Work {
                arena,
                templates,
                sent,
                batch,
                table,
            };
            let to_tunnel =
                |chunk: &mut Chunk, template: &Template, len| vxlan4(chunk, template, len);
            match chain {
                Chain::StateVxlan4 => work.run(|_, _| (), to_tunnel),
                Chain::SnatVxlan4 => work.run(V4::translate::<false, UDP>, to_tunnel),
                Chain::Snat4 => work.run(V4::translate::<false, UDP>, plain::<V4>),
                Chain::Snat4Tcp => work.run(V4::translate::<false, TCP>, plain::<V4>),
                Chain::Snat4Reply => work.run(V4::translate::<true, UDP>, plain::<V4>),
                _ => work.run(|_, _| (), plain::<V4>),
            }
        }
        Flows::V6(table) => {
            let work = Work {
                arena,
                templates,
                sent,
                batch,
                table,
            };
            if chain.is_translated() {
                work.run(V6::translate::<false, UDP>, plain::<V6>);
            } else {
                work.run(|_, _| (), plain::<V6>);
            }
        }
    }
}

#[inline(always)]
fn plain<F: Flow>(chunk: &mut Chunk, template: &Template, _: u16) -> usize {
    F::ethernet(chunk, template);
    START
}

impl<F: Flow> Work<'_, F> {
    #[inline(always)]
    fn run(
        self,
        translate: impl Fn(&F, &mut Chunk),
        rewrite: impl Fn(&mut Chunk, &Template, u16) -> usize,
    ) {
        let Self {
            arena,
            templates,
            sent,
            batch,
            table,
        } = self;
        let slots = &table.slots[..];
        let mask = slots.len() - 1;
        let mut first = 0;
        for (chunks, sent) in arena.chunks_mut(batch).zip(sent.chunks_mut(batch)) {
            let mut homes = [0; BATCH];
            for (home, chunk) in homes.iter_mut().zip(chunks.iter()) {
                *home = F::hash(F::key_of(chunk)) as usize & mask;
                prefetch(&slots[*home]);
            }
            for (((chunk, home), sent), index) in
                chunks.iter_mut().zip(homes).zip(sent).zip(first..)
            {
                let (key, mut at) = (F::key_of(chunk), home);
                while slots[at].key() != key && slots[at].hop() != 0 {
                    at = (at + 1) & mask;
                }
                let flow = &slots[at];
                translate(flow, chunk);
                let len = F::forward(chunk);
                let hop = flow.hop();
                let start = rewrite(chunk, &templates[usize::from(hop)], len);
                *sent = Sent {
                    chunk: index,
                    start: start as u16,
                    len: len + (L3 - start) as u16,
                    hop: NextHopId::new(hop).unwrap_or(NextHopId::NONE),
                };
            }
            first += chunks.len() as u32;
        }
    }
}
