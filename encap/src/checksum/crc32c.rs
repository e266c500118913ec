//! CRC-32C, the checksum of SCTP (RFC 9260 appendix A).

/// The reflected Castagnoli polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[k][b]`: what byte `b` does to the remainder once `k` more bytes have followed it.
static TABLES: [[u32; 256]; 8] = tables();

#[cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        reason = "runs at compile time, where a bad index is a build error"
    )
)]
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = (remainder >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(remainder & 1));
            bit += 1;
        }
        tables[0][byte] = remainder;
        byte += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        let mut level = 1;
        while level < 8 {
            let before = tables[level - 1][byte];
            tables[level][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            level += 1;
        }
        byte += 1;
    }
    tables
}

/// What `byte` contributes at distance `LEVEL` from the end of its block.
#[inline]
#[cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        reason = "a byte is always within 256 entries, LEVEL is checked when compiled"
    )
)]
fn step<const LEVEL: usize>(byte: u8) -> u32 {
    const { assert!(LEVEL < 8) };
    TABLES[LEVEL][usize::from(byte)]
}

/// The CRC-32C of several pieces taken as one, as SCTP wants it: the number is sent little-endian.
#[must_use]
pub fn crc32c(pieces: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for piece in pieces {
        let (blocks, rest) = piece.as_chunks::<8>();
        for &[b0, b1, b2, b3, b4, b5, b6, b7] in blocks {
            let [crc0, crc1, crc2, crc3] = crc.to_le_bytes();
            crc = step::<7>(b0 ^ crc0)
                ^ step::<6>(b1 ^ crc1)
                ^ step::<5>(b2 ^ crc2)
                ^ step::<4>(b3 ^ crc3)
                ^ step::<3>(b4)
                ^ step::<2>(b5)
                ^ step::<1>(b6)
                ^ step::<0>(b7);
        }
        for byte in rest {
            crc = (crc >> 8) ^ step::<0>(crc as u8 ^ byte);
        }
    }
    !crc
}
