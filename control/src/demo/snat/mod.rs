//! natOutgoing: pods that leave all pools have the node's address, and everything else goes on as before.
//!
//! The conversations come first, as in every mode; then what is special about translation, each in a module of its own.

mod errors;
mod flood;
mod ports;
mod routes;
mod together;

use super::checks::Bench;
use super::error::Result;
use super::pairs::{Pair, SNAT};
use super::plan::{CLIENT, End, WEB};
use super::resources::Options;
use super::scenario::Family;
use super::steps::Audience;

/// Entries of each table of connections: so few that one pod's flood reaches its share of them.
const ENTRIES: u32 = 32_768;
/// Most bytes of a transfer that has nothing to do with translation.
const BESIDE: u64 = 4 << 20;

/// What the daemons are configured with.
pub const OPTIONS: Options = Options {
    nat_outgoing: true,
    nat_ports: None,
    entries: Some(ENTRIES),
    forwarded_only: false,
};

/// The pod that most is tried with.
static OUT: Pair = Pair {
    name: "pod to outside",
    from: End::Pod(CLIENT),
    to: End::Outside,
};
/// The other pod of its node.
static OTHER: Pair = Pair {
    name: "other pod to outside",
    from: End::Pod(WEB),
    to: End::Outside,
};

/// All that must hold with natOutgoing. What only our daemons have, settings and counters, is left out where they do not
/// run.
///
/// # Errors
/// When the lab itself fails, or the user wants to stop.
pub fn play(
    bench: &mut Bench<'_>,
    families: &[Family],
    ours: bool,
    audience: &mut dyn Audience,
) -> Result<()> {
    let bytes = bench.bytes;
    for family in families {
        for pair in &SNAT {
            bench.bytes = if pair.is_masqueraded() {
                bytes
            } else {
                bytes.min(BESIDE)
            };
            audience.conversation(*family, pair);
            audience.results(bench.converse(pair, *family)?);
        }
        bench.bytes = bytes;
        audience.results(together::check(bench, *family)?);
        audience.results(errors::check(bench, *family)?);
    }
    for outcomes in routes::check(bench, families, ours)? {
        audience.results(outcomes);
    }
    if !ours {
        return Ok(());
    }
    for outcomes in ports::check(bench, families)? {
        audience.results(outcomes);
    }
    // The last: the pod that floods has no connection to spare for half a minute.
    for outcomes in flood::check(bench, families)? {
        audience.results(outcomes);
    }
    Ok(())
}
