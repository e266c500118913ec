//! Writing captures: classic pcap, Ethernet, nanoseconds, little endian, so that equal packets give equal files.

use std::io::{self, Write};

use super::reader::{MAGIC_NANOS, MAX_PACKET};

/// Writes one capture.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Writes the file's header.
    ///
    /// # Errors
    /// What the writer says.
    pub fn new(mut out: W) -> io::Result<Self> {
        const ETHERNET: u32 = 1;
        out.write_all(&MAGIC_NANOS.to_le_bytes())?;
        out.write_all(&[2, 0, 4, 0])?;
        out.write_all(&[0; 8])?;
        out.write_all(&MAX_PACKET.to_le_bytes())?;
        out.write_all(&ETHERNET.to_le_bytes())?;
        Ok(Self { out })
    }

    /// Writes one packet with its time in nanoseconds since 1970.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write(&mut self, time: u64, packet: &[u8]) -> io::Result<()> {
        const SECOND: u64 = 1_000_000_000;
        let len = packet.len() as u32;
        for word in [(time / SECOND) as u32, (time % SECOND) as u32, len, len] {
            self.out.write_all(&word.to_le_bytes())?;
        }
        self.out.write_all(packet)
    }

    /// Makes sure that everything is written.
    ///
    /// # Errors
    /// What the writer says.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// What it writes to.
    pub fn into_inner(self) -> W {
        self.out
    }
}
