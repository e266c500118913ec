//! Many UDP flows from one pod: a datagram each, to as many ports of the server.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use super::{Failure, Route, check};
use crate::demo::cancel::Cancel;
use crate::demo::netns;

/// Datagrams between two pauses; a pod's ring holds more.
const BURST: u16 = 32;
const PAUSE: Duration = Duration::from_millis(1);

/// Begins `flows` flows, one after the other; nobody need be there. Says how many.
///
/// # Errors
/// When the socket can not be made, or the user wants to stop.
pub fn run(route: &Route, flows: u16, cancel: &Cancel) -> Result<u32, Failure> {
    let any = match route.address {
        IpAddr::V4(_) => "0.0.0.0:0",
        IpAddr::V6(_) => "[::]:0",
    };
    let socket = netns::within(&route.from, || UdpSocket::bind(any))
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("binding {any} in {}: {error}", route.from))?;
    let mut begun = 0;
    for port in 1..=flows {
        // What does not go now is a flow less, and so is one whose port the server's kernel refused before.
        let sent = socket.send_to(b"is anybody there?", SocketAddr::new(route.address, port));
        begun += u32::from(sent.is_ok());
        if port.is_multiple_of(BURST) {
            check(cancel)?;
            thread::sleep(PAUSE);
        }
    }
    Ok(begun)
}
