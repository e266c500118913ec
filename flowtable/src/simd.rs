//! How wide the vectors are that a packet is handled with.

use fearless_simd::Level;

/// The vectors for what every packet needs: 256 bits on x86, though there be wider ones; elsewhere the best there are.
///
/// Intel's processors lower their clock for a millisecond after an instruction of 512 bits, and all that the core does in this time, most of
/// it the kernel's own work on packets, is slower: on veth by 5 %. Hashing 64 keys gains less than that by them
/// (`benches/README.md`, "Forwarding on veth").
pub(crate) fn every_packet() -> Level {
    let widest = Level::new();
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    if let Some(avx2) = widest.as_avx2() {
        return Level::Avx2(avx2);
    }
    widest
}

/// The vectors for what only a connection's first packet needs: the widest there are.
pub(crate) fn first_packet() -> Level {
    Level::new()
}
