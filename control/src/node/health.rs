//! Answers to a kubelet's probes, by a thread of their own: that it answers says nothing of the control thread.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::vitals::Vitals;
use super::{RunError, Wake, pollers};
use crate::http::{Limits, Request, Response, Server};

/// The thread. It ends when this is dropped.
pub(super) struct Health {
    stop: Wake,
    thread: Option<JoinHandle<()>>,
}

impl Health {
    /// Answers at an address from now on; the address may be refused.
    ///
    /// # Errors
    /// There is no thread or descriptor to be had.
    pub(super) fn start(
        address: SocketAddr,
        vitals: Arc<Vitals>,
    ) -> Result<std::io::Result<Self>, RunError> {
        let mut server = match Server::bind(address, Limits::default()) {
            Ok(server) => server,
            Err(error) => return Ok(Err(error)),
        };
        let stop = pollers::wake()?;
        let told = Arc::clone(&stop);
        let work = move || {
            while !wait(&server, &told) {
                let now = Instant::now();
                for (ticket, request) in server.requests(now) {
                    server.respond(ticket, &answer(&vitals, &request, now), now);
                }
            }
        };
        let thread = std::thread::Builder::new().name("health".to_owned());
        let thread = thread.spawn(work).map_err(|source| RunError::System {
            what: "start the thread that answers probes",
            source,
        })?;
        Ok(Ok(Self {
            stop,
            thread: Some(thread),
        }))
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        // A counter at its limit refuses, and then the thread wakes anyway.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that answers probes had panicked");
        }
    }
}

/// Waits for something to do. Says whether it is over.
fn wait(server: &Server, stop: &Wake) -> bool {
    let timeout = server
        .timeout(Instant::now())
        .map_or(PollTimeout::NONE, |timeout| {
            PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
    let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    fds.extend(server.poll_fds());
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => {
            tracing::error!(%error, "probes are not answered any more");
            return true;
        }
    }
    fds.first().and_then(PollFd::any).unwrap_or(true)
}

fn answer(vitals: &Vitals, request: &Request, now: Instant) -> Response {
    let why = match &*request.path {
        "/liveness" => vitals.not_live(now),
        "/readiness" => vitals.not_ready(now),
        _ => return Response::not_found("/liveness or /readiness"),
    };
    if why.is_empty() {
        Response::well("ok\n".to_owned())
    } else {
        Response::unavailable(why.join("\n") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use fastpath::counters::Counters;

    use super::*;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn status(address: SocketAddr, path: &str) -> String {
        let text = get(address, path);
        text.split(' ').nth(1).unwrap().to_owned()
    }

    /// An address of the loopback that nobody listens at.
    fn free() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.local_addr().unwrap()
    }

    #[test]
    fn a_node_that_starts_becomes_ready() {
        let (address, began) = (free(), Instant::now());
        let vitals = Arc::new(Vitals::new(began));
        let health = Health::start(address, Arc::clone(&vitals))
            .unwrap()
            .unwrap();
        assert_eq!(status(address, "/liveness"), "200");
        assert_eq!(status(address, "/readiness"), "503");
        let poller = Arc::new(Counters::new(1));
        poller.generation.set(1);
        // By a clock that is ahead, so that no test is too slow.
        vitals.started(began + Duration::from_hours(1), vec![poller]);
        assert_eq!(status(address, "/liveness"), "200");
        assert!(get(address, "/readiness?verbose").ends_with("\r\n\r\nok\n"));
        assert_eq!(status(address, "/"), "404");
        assert!(
            Health::start(address, vitals).unwrap().is_err(),
            "the address is taken"
        );
        drop(health);
        assert!(
            TcpStream::connect(address).is_err(),
            "nobody listens any more"
        );
    }
}
