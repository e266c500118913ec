//! How wide the vectors are that a packet is handled with.

use fearless_simd::Level;

/// The instructions for vectors whose width the code says itself, or that only a connection's first packet needs: the best there are.
pub(crate) fn best() -> Level {
    Level::new()
}

/// The instructions for loops that every packet needs and that the compiler makes vectors of, as wide as they get: on x86 those with 256 bits, though
/// there be wider ones.
///
/// Beside instructions of 512 bits all that a core does was slower, most of it the kernel's own work on packets: on veth by 5 %, probably since
/// Intel's processors lower their clock for them (`docs/adr/0017-called-once-a-sleep.md`).
pub(crate) fn not_too_wide() -> Level {
    let best = best();
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    if let Some(avx2) = best.as_avx2() {
        return Level::Avx2(avx2);
    }
    best
}
