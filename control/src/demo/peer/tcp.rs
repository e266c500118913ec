//! A TCP transfer whose every byte is hashed by the sender and by the receiver.
//!
//! The client sends its bytes and their SHA-256; the server answers with the SHA-256 of what it received and then
//! sends as many bytes back, with their hash. So each end judges the other's bytes.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::{Failure, Route, check, is_timeout};
use crate::demo::cancel::{Cancel, SLICE};
use crate::demo::netns;

const CHUNK: usize = 64 * 1024;
/// A connection on which nothing moves for so long has failed.
const STALL: Duration = Duration::from_secs(8);
const CONNECT: Duration = Duration::from_secs(3);

/// What a transfer showed.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    /// Bytes sent by the client, and as many again by the server.
    pub bytes: u64,
    /// Time from client to server, connection set-up left out.
    pub up: Duration,
    /// Time from server to client.
    pub down: Duration,
    /// SHA-256 of the client's bytes, equal at both ends.
    pub sha256: String,
}

/// Payload bits per second, in millions.
pub fn mbit_per_s(bytes: u64, time: Duration) -> f64 {
    bytes as f64 * 8.0 / 1e6 / time.as_secs_f64().max(1e-9)
}

/// Transfers `bytes` each way.
///
/// # Errors
/// What failed: the connection, a stall, or a hash that differs.
pub fn run(route: &Route, bytes: u64, cancel: &Cancel) -> Result<Transfer, Failure> {
    let (listener, to) = listen(route)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| serve(&listener, bytes, &done, cancel));
        let client = connect(route, to, CONNECT).and_then(|stream| {
            let mut pipe = Pipe::new(stream, cancel)?;
            talk(&mut pipe, bytes)
        });
        done.store(true, Ordering::Relaxed);
        let served = server
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (client, served) {
            (Ok(transfer), Ok(())) => Ok(transfer),
            (Err(client), Ok(())) => Err(client),
            (Ok(_), Err(server)) => Err(format!("server: {server}")),
            (Err(client), Err(server)) => Err(format!("{client}; server: {server}")),
        }
    })
}

/// Tries to connect, nothing more: for traffic that must not flow.
///
/// # Errors
/// Why no connection came about within `limit`.
pub fn connects(route: &Route, limit: Duration) -> Result<(), Failure> {
    let (_listener, to) = listen(route)?;
    connect(route, to, limit).map(drop)
}

fn listen(route: &Route) -> Result<(TcpListener, SocketAddr), Failure> {
    let at = SocketAddr::new(route.address, 0);
    let listener = netns::within(&route.to, || TcpListener::bind(at))
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("listening on {at} in {}: {error}", route.to))?;
    let to = listener.local_addr().map_err(|error| error.to_string())?;
    Ok((listener, to))
}

fn connect(route: &Route, to: SocketAddr, limit: Duration) -> Result<TcpStream, Failure> {
    netns::within(&route.from, || TcpStream::connect_timeout(&to, limit))
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("connecting to {to}: {error}"))
}

/// The client's part.
fn talk(pipe: &mut Pipe, bytes: u64) -> Result<Transfer, Failure> {
    let started = Instant::now();
    let sent = pipe.send_stream(bytes, 0x00c0_ffee)?;
    let received_there = pipe.receive_hash()?;
    let up = started.elapsed();
    if received_there != sent {
        return Err(format!(
            "client to server: sent sha256 {}, the server received {}",
            hex(&sent),
            hex(&received_there)
        ));
    }
    let started = Instant::now();
    let received = pipe.receive_stream(bytes)?;
    let sent_there = pipe.receive_hash()?;
    if received != sent_there {
        return Err(format!(
            "server to client: sent sha256 {}, received {}",
            hex(&sent_there),
            hex(&received)
        ));
    }
    Ok(Transfer {
        bytes,
        up,
        down: started.elapsed(),
        sha256: hex(&sent),
    })
}

/// The server's part.
fn serve(
    listener: &TcpListener,
    bytes: u64,
    done: &AtomicBool,
    cancel: &Cancel,
) -> Result<(), Failure> {
    listener
        .set_nonblocking(true)
        .map_err(|error| format!("O_NONBLOCK: {error}"))?;
    let stream = loop {
        check(cancel)?;
        match listener.accept() {
            Ok((stream, _)) => break stream,
            // The client gave up, and says why.
            Err(_) if done.load(Ordering::Relaxed) => return Ok(()),
            Err(error) if is_timeout(&error) => thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(format!("accept: {error}")),
        }
    };
    stream
        .set_nonblocking(false)
        .map_err(|error| format!("O_NONBLOCK: {error}"))?;
    let mut pipe = Pipe::new(stream, cancel)?;
    let received = pipe.receive_stream(bytes)?;
    pipe.send_all(&received)?;
    let sent = pipe.send_stream(bytes, 0xbeef)?;
    pipe.send_all(&sent)
}

type Hash = [u8; 32];

fn hex(hash: &Hash) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A connection that gives up when nothing moves or the user wants to stop.
struct Pipe<'a> {
    stream: TcpStream,
    cancel: &'a Cancel,
    chunk: Vec<u8>,
}

impl<'a> Pipe<'a> {
    fn new(stream: TcpStream, cancel: &'a Cancel) -> Result<Self, Failure> {
        stream
            .set_read_timeout(Some(SLICE))
            .and_then(|()| stream.set_write_timeout(Some(SLICE)))
            .and_then(|()| stream.set_nodelay(true))
            .map_err(|error| format!("socket options: {error}"))?;
        Ok(Self {
            stream,
            cancel,
            chunk: vec![0; CHUNK],
        })
    }

    /// Sends `bytes` pseudo-random bytes; returns their hash.
    fn send_stream(&mut self, bytes: u64, seed: u64) -> Result<Hash, Failure> {
        let mut hasher = Sha256::new();
        let mut noise = Noise(seed);
        let mut left = bytes;
        let mut chunk = std::mem::take(&mut self.chunk);
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            noise.fill(&mut chunk[..len]);
            hasher.update(&chunk[..len]);
            self.send_all(&chunk[..len])
                .map_err(|why| format!("{why} (after {} of {bytes} bytes)", bytes - left))?;
            left -= len as u64;
        }
        self.chunk = chunk;
        Ok(hasher.finalize().into())
    }

    /// Receives `bytes` bytes; returns their hash.
    fn receive_stream(&mut self, bytes: u64) -> Result<Hash, Failure> {
        let mut hasher = Sha256::new();
        let mut left = bytes;
        let mut chunk = std::mem::take(&mut self.chunk);
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let got = self
                .receive_some(&mut chunk[..len])
                .map_err(|why| format!("{why} (after {} of {bytes} bytes)", bytes - left))?;
            hasher.update(&chunk[..got]);
            left -= got as u64;
        }
        self.chunk = chunk;
        Ok(hasher.finalize().into())
    }

    fn receive_hash(&mut self) -> Result<Hash, Failure> {
        let mut hash = Hash::default();
        let mut filled = 0;
        while filled < hash.len() {
            filled += self.receive_some(&mut hash[filled..])?;
        }
        Ok(hash)
    }

    fn send_all(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
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

    fn receive_some(&mut self, into: &mut [u8]) -> Result<usize, Failure> {
        let moved = Instant::now();
        loop {
            match self.stream.read(into) {
                Ok(0) => return Err("the connection was closed".to_owned()),
                Ok(got) => return Ok(got),
                Err(error) if is_timeout(&error) => self.stalled(moved, "received")?,
                Err(error) => return Err(format!("receiving: {error}")),
            }
        }
    }

    fn stalled(&self, since: Instant, what: &str) -> Result<(), Failure> {
        check(self.cancel)?;
        if since.elapsed() > STALL {
            return Err(format!("nothing {what} for {} s", STALL.as_secs()));
        }
        Ok(())
    }
}

/// Bytes that no two chunks share, quickly (xorshift64*).
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
    fn noise_does_not_repeat_between_chunks() {
        let mut noise = Noise(1);
        let (mut first, mut second) = ([0; 19], [0; 19]);
        noise.fill(&mut first);
        noise.fill(&mut second);
        assert_ne!(first, second);
    }

    #[test]
    fn a_byte_changed_on_the_way_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let cancel = Cancel::default();
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                // A server that received one bit otherwise: its hash differs.
                let (stream, _) = listener.accept().unwrap();
                let mut pipe = Pipe::new(stream, &cancel).unwrap();
                let mut hash = pipe.receive_stream(1000).unwrap();
                hash[0] ^= 1;
                pipe.send_all(&hash).unwrap();
            });
            let mut pipe = Pipe::new(TcpStream::connect(to).unwrap(), &cancel).unwrap();
            talk(&mut pipe, 1000)
        });
        assert!(
            outcome
                .unwrap_err()
                .starts_with("client to server: sent sha256")
        );
    }

    #[test]
    fn rate_counts_payload_bits() {
        let rate = mbit_per_s(1_000_000, Duration::from_secs(2));
        assert!((rate - 4.0).abs() < 1e-9);
    }
}
