//! What the two ends do, with ordinary sockets.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use benches::rounds::Result;
use fastpath::io::xsk::test_support::Netns;

/// Who sends, who receives, and at which address.
pub(crate) struct Ends<'a> {
    pub(crate) sender: &'a Netns,
    pub(crate) receiver: &'a Netns,
    pub(crate) at: Ipv4Addr,
}

const PORT: u16 = 5001;
/// Bytes written at once.
const CHUNK: usize = 128 << 10;
/// What does not count of a turn.
const WARM_UP: Duration = Duration::from_millis(500);
/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_millis(500);

/// The bytes that arrive in this time by so many connections at once.
pub(crate) fn transfer(ends: &Ends<'_>, streams: usize, time: Duration) -> Result<u64> {
    let &Ends {
        sender,
        receiver,
        at,
    } = ends;
    let listener = receiver.within(|| TcpListener::bind((at, PORT)))?;
    let received = Arc::new(AtomicU64::new(0));
    let mut open = Vec::new();
    let mut threads = Vec::new();
    for _ in 0..streams {
        let mut stream = sender.within(|| {
            TcpStream::connect_timeout(&SocketAddr::from((at, PORT)), Duration::from_secs(10))
        })?;
        let (mut server, _) = listener.accept()?;
        open.push(stream.try_clone()?);
        let count = Arc::clone(&received);
        threads.push(thread::spawn(move || {
            let mut buffer = vec![0; CHUNK];
            while let Ok(len @ 1..) = server.read(&mut buffer) {
                count.fetch_add(len as u64, Ordering::Relaxed);
            }
        }));
        threads.push(thread::spawn(move || {
            let chunk = vec![0x42; CHUNK];
            while stream.write_all(&chunk).is_ok() {}
        }));
    }
    thread::sleep(WARM_UP);
    let (before, began) = (received.load(Ordering::Relaxed), Instant::now());
    thread::sleep(time);
    let bytes = received.load(Ordering::Relaxed) - before;
    let took = began.elapsed();
    for stream in open {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
    // To the very time, and never nothing: rates are divided by it.
    let bytes = u128::from(bytes) * time.as_nanos() / took.as_nanos().max(1);
    Ok(u64::try_from(bytes)?.max(1))
}

/// The middle of so many round trips of a datagram, the first of which do not count.
pub(crate) fn round_trip(ends: &Ends<'_>, trips: usize) -> Result<Duration> {
    let &Ends {
        sender,
        receiver,
        at,
    } = ends;
    let server = receiver.within(|| UdpSocket::bind((at, PORT)))?;
    let client = sender.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    client.connect((at, PORT))?;
    client.set_read_timeout(Some(PATIENCE))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let echo = thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((len, from)) = server.recv_from(&mut buffer) {
            let answer = buffer.get(..len).unwrap_or_default();
            if server.send_to(answer, from).is_err() || answer == b"end" {
                break;
            }
        }
    });
    let mut times = Vec::new();
    let mut buffer = [0; 64];
    let mut exchange = |text: &[u8]| -> Result<Duration> {
        let began = Instant::now();
        client.send(text)?;
        client.recv(&mut buffer)?;
        Ok(began.elapsed())
    };
    let outcome = (0..trips).try_for_each(|_| {
        times.push(exchange(b"a datagram")?);
        Ok(())
    });
    let _ = exchange(b"end");
    let _ = echo.join();
    outcome.map(|()| {
        let counted = times.split_off(times.len() / 8);
        times = counted;
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    })
}
