//! ICMP errors.
use crate::batch::Batch;
use crate::counters::Counters;
use crate::io::PacketIo;
use crate::limiter::IcmpLimiter;
use crate::tables::Tables;
use flowtable::Tick;
pub fn run<I: PacketIo>(
    _batch: &mut Batch,
    _io: &mut I,
    _tables: &Tables,
    _limiter: &mut IcmpLimiter,
    _now: Tick,
    _own: &mut Batch,
    _counters: &Counters,
) {
}
