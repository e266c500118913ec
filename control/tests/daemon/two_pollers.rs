//! Two pollers, two queues everywhere.

use crate::lab::{Lab, OUTSIDE4, OUTSIDE6, Options, addr, run};
use crate::process::Daemon;
use crate::traffic::{Echo, Stream, tcp};

use fastpath::io::xsk::test_support::skip;
use std::net::UdpSocket;
use std::time::Duration;

#[test]
fn both_queues_are_served() {
    let options = Options {
        uplink_queues: 2,
        pod_queues: 2,
        settings: "pollers:\n  cores: [0, 1]\n".to_owned(),
        ..Options::default()
    };
    let Some(mut lab) = Lab::with("two_pollers::both_queues_are_served", options) else {
        return;
    };
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
        return skip("two_pollers::both_queues_are_served", "needs two cores");
    }
    let (a, b) = (lab.pod(0), lab.pod(1));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali1\"");
    for (at, other, outside) in [(a.v4(), b.v4(), OUTSIDE4), (a.v6(), b.v6(), OUTSIDE6)] {
        for _ in 0..3 {
            tcp((&a.netns, at), (&b.netns, other), 1 << 18);
            tcp((&b.netns, other), (&lab.wire, addr(outside)), 1 << 18);
        }
    }
    // Many flows, so that both queues get some, both ways.
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let streams: Vec<_> = (0..16)
        .map(|_| {
            let socket = run(&a.netns, || UdpSocket::bind((a.v4(), 0))).expect("bind");
            Stream::over(socket, outside.addr(), Duration::from_millis(20))
        })
        .collect();
    for stream in &streams {
        stream.wait_for_reply();
    }
    for stream in streams {
        let (sent, lost) = stream.finish();
        assert_eq!(lost, 0, "of {sent}");
    }
    daemon.finish();
}
