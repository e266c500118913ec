//! One end of a TCP connection that hashes what it sends and receives.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::{Failure, check, is_timeout};
use crate::demo::cancel::{Cancel, SLICE};

/// Most bytes of a block; a block of none ends a stream.
const BLOCK: usize = 64 * 1024;
/// A connection on which nothing moves for so long has failed.
const STALL: Duration = Duration::from_secs(8);

/// SHA-256 of a stream.
pub type Hash = [u8; 32];

/// How much is sent each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// As much as goes in this time.
    For(Duration),
}

/// What was sent or received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Bytes of payload.
    pub bytes: u64,
    /// Their hash.
    pub hash: Hash,
}

/// A connection that gives up when nothing moves or the user wants to stop.
pub struct Pipe<'a> {
    stream: TcpStream,
    cancel: &'a Cancel,
    block: Vec<u8>,
}

impl<'a> Pipe<'a> {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// When the system refuses its options.
    pub fn new(stream: TcpStream, cancel: &'a Cancel) -> Result<Self, Failure> {
        stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_read_timeout(Some(SLICE)))
            .and_then(|()| stream.set_write_timeout(Some(SLICE)))
            .and_then(|()| stream.set_nodelay(true))
            .map_err(|error| format!("socket options: {error}"))?;
        Ok(Self {
            stream,
            cancel,
            block: vec![0; 4 + BLOCK],
        })
    }

    /// Sends pseudo-random bytes and an end.
    ///
    /// # Errors
    /// A stall, or what the system said.
    pub fn send_stream(&mut self, amount: Amount, seed: u64) -> Result<Stream, Failure> {
        let started = Instant::now();
        let mut hasher = Sha256::new();
        let mut noise = Noise(seed);
        let mut sent = 0;
        let mut block = std::mem::take(&mut self.block);
        loop {
            let len = match amount {
                Amount::Bytes(bytes) => usize::try_from(bytes - sent).unwrap_or(BLOCK).min(BLOCK),
                Amount::For(time) if started.elapsed() < time => BLOCK,
                Amount::For(_) => 0,
            };
            let (head, payload) = block.split_at_mut(4);
            head.copy_from_slice(&(len as u32).to_be_bytes());
            noise.fill(&mut payload[..len]);
            hasher.update(&payload[..len]);
            self.send_all(&block[..4 + len])
                .map_err(|why| format!("{why} (after {sent} bytes)"))?;
            if len == 0 {
                break;
            }
            sent += len as u64;
        }
        self.block = block;
        Ok(Stream {
            bytes: sent,
            hash: hasher.finalize().into(),
        })
    }

    /// Receives what the other end's [`Pipe::send_stream`] sends.
    ///
    /// # Errors
    /// A stall, or what the system said.
    pub fn receive_stream(&mut self) -> Result<Stream, Failure> {
        let mut hasher = Sha256::new();
        let mut received = 0;
        let mut block = std::mem::take(&mut self.block);
        let after = |why, received| format!("{why} (after {received} bytes)");
        loop {
            let mut head = [0; 4];
            self.receive_all(&mut head)
                .map_err(|why| after(why, received))?;
            let len = u32::from_be_bytes(head) as usize;
            let payload = block
                .get_mut(..len)
                .ok_or_else(|| after(format!("a block of {len} bytes"), received))?;
            if len == 0 {
                break;
            }
            self.receive_all(payload)
                .map_err(|why| after(why, received))?;
            hasher.update(payload);
            received += len as u64;
        }
        self.block = block;
        Ok(Stream {
            bytes: received,
            hash: hasher.finalize().into(),
        })
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// A stall, or what the system said.
    pub fn send_all(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        let mut moved = Instant::now();
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err("the connection was closed".to_owned()),
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    moved = Instant::now();
                }
                Err(error) if is_timeout(&error) => self.stalled(moved, "sent")?,
                Err(error) => return Err(format!("sending: {error}")),
            }
        }
        Ok(())
    }

    /// Fills `into`.
    ///
    /// # Errors
    /// A stall, or what the system said.
    pub fn receive_all(&mut self, mut into: &mut [u8]) -> Result<(), Failure> {
        let mut moved = Instant::now();
        while !into.is_empty() {
            match self.stream.read(into) {
                Ok(0) => return Err("the connection was closed".to_owned()),
                Ok(got) => {
                    into = &mut into[got..];
                    moved = Instant::now();
                }
                Err(error) if is_timeout(&error) => self.stalled(moved, "received")?,
                Err(error) => return Err(format!("receiving: {error}")),
            }
        }
        Ok(())
    }

    fn stalled(&self, since: Instant, what: &str) -> Result<(), Failure> {
        check(self.cancel)?;
        if since.elapsed() > STALL {
            return Err(format!("nothing {what} for {} s", STALL.as_secs()));
        }
        Ok(())
    }
}

/// Bytes that no two blocks share, quickly (xorshift64*).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            word.copy_from_slice(&value[..word.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_does_not_repeat_between_blocks() {
        let mut noise = Noise(1);
        let (mut first, mut second) = ([0; 19], [0; 19]);
        noise.fill(&mut first);
        noise.fill(&mut second);
        assert_ne!(first, second);
    }
}
