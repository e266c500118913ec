//! The bare AF_XDP forwarder: what comes in at one port leaves at the other, untouched. No dataplane over
//! AF_XDP can take less of a processor, so this is what Caracal is measured against.

use std::time::Duration;

use fastpath::io::xsk::test_support::{XdpLink, XdpProgram};
use fastpath::io::xsk::wait::WaitSet;
use fastpath::io::xsk::{
    ArenaPart, FrameSpan, QueuePort, RingLen, SocketOptions, UmemArea, XskSocket,
};

use crate::rounds::Result;

/// Slots of each ring. Longer ones cost: the chunks go around all of a fill ring, and with 2048 of them (4 MB)
/// they fall out of the L2 cache, which makes a packet of 64 B 10 % dearer and one of 1400 B 30 %.
const RING: u32 = 512;
/// Chunks for both ports.
const CHUNKS: u32 = 4 * RING;

/// Forwards between queue 0 of two interfaces of this namespace, both ways, until the process is killed, and goes to sleep after
/// `spins` rounds without a packet.
///
/// # Errors
/// What the sockets say.
pub fn forward(interfaces: [&str; 2], spins: u64) -> Result<()> {
    let (area, mut parts) = UmemArea::new(&[CHUNKS], 2048, false)?;
    let mut part = parts.pop().ok_or("an arena without a part")?;
    let options = SocketOptions::both_ways(RingLen::new(RING)?);
    let mut waits = WaitSet::new()?;
    let mut open = |interface: &str| -> Result<(QueuePort, XdpLink)> {
        let socket = XskSocket::open(&area, interface, 0, &options)?;
        let program = XdpProgram::redirect(1);
        program.set_socket(0, &socket);
        let port = QueuePort::new(socket, &mut part)?;
        waits.add_port(&port, 0)?;
        Ok((port, program.attach(interface)))
    };
    let (first, _first_link) = open(interfaces[0])?;
    let (second, _second_link) = open(interfaces[1])?;
    let mut ports = [first, second];
    let mut idle = 0;
    loop {
        let received = round(&mut ports, &mut part);
        idle = if received == 0 { idle + 1 } else { 0 };
        if idle > spins {
            let _ = waits.wait(Some(Duration::from_millis(100)));
        }
    }
}

/// Serves each port once. Returns how many packets came in.
fn round(ports: &mut [QueuePort; 2], part: &mut ArenaPart) -> usize {
    let mut batch = [FrameSpan::default(); 64];
    let mut received = 0;
    for from in 0..2 {
        let [first, second] = &mut *ports;
        let (from, to) = if from == 0 {
            (first, second)
        } else {
            (second, first)
        };
        let count = from.recv(part, &mut batch);
        if count == 0 {
            continue;
        }
        for &frame in batch.iter().take(count) {
            if to.send(part, frame).is_err() {
                part.release(frame.chunk);
            }
        }
        // A port that is down is the end of the bench, which sees that nothing arrives.
        let _ = to.flush();
        to.reap(part);
        from.refill(part);
        received += count;
    }
    received
}
