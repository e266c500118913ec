//! How many ICMP errors go out: RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f).

use std::time::Duration;

use fastpath::limiter::{BURST, GLOBAL_RATE, SOURCE_RATE};
use fastpath::port::PortId;
use pcap_tests::build::{self, Mac, ip4, ip6};
use pcap_tests::rig::Rig;

use crate::node::*;

/// Of 64 packets of a pod whose time is over, how many errors come back to it at this instant.
fn errors(rig: &mut Rig, port: PortId, mac: Mac, packet: &[u8]) -> u64 {
    let frames = vec![build::ethernet(GATEWAY_MAC, mac, packet); 64];
    let outcome = rig.run_now(port, &frames);
    let sent: Vec<_> = outcome.all().map(|(to, _)| to).collect();
    assert!(sent.iter().all(|&to| to == port), "{sent:?}");
    sent.len() as u64
}

#[test]
fn errors_are_limited_for_each_receiver_and_for_all_together() {
    let dying = ip4(POD_ADDR, SERVER).ttl(1).udp(4000, 53, b"data");
    let dying6 = ip6(OTHER6, SERVER6).hop_limit(1).udp(4000, 53, b"data");
    let mut rig = rig();
    let limited = |rig: &Rig| rig.counters().icmp_limited.get();

    assert_eq!(errors(&mut rig, POD, POD_MAC, &dying), BURST);
    assert_eq!(limited(&rig), 64 - BURST);

    // A tenth of a second later the one has the share of that time; the other one has had none, and gets what is left of all.
    rig.pass(Duration::from_millis(100));
    const { assert!(SOURCE_RATE / 10 < BURST && BURST < GLOBAL_RATE / 10) };
    assert_eq!(errors(&mut rig, POD, POD_MAC, &dying), SOURCE_RATE / 10);
    let left = BURST - SOURCE_RATE / 10;
    assert_eq!(errors(&mut rig, OTHER, OTHER_MAC, &dying6), left);
    assert_eq!(limited(&rig), 3 * 64 - 2 * BURST);
    assert_eq!(errors(&mut rig, OTHER, OTHER_MAC, &dying6), 0);
}
