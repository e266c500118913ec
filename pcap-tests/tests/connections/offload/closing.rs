//! How connections end of which the kernel saw the most.

use super::*;

also_together![
    fins_after_gigabytes_that_only_the_kernel_saw_close_it,
    a_reset_counts_if_the_endpoint_takes_it_wherever_the_connection_is,
    what_no_endpoint_takes_closes_nothing_though_the_kernel_saw_it,
    a_wrong_one_before_it_does_not_hide_the_right_one,
    the_end_of_what_pollers_see_counts_though_the_kernel_has_the_other_direction,
    what_another_poller_judged_at_that_moment_counts_too,
];

/// The client has sent five gigabytes and the server one, of which nobody here saw a segment.
fn transfer(node: &Offloaded) -> (u32, u32) {
    let (seq, back) = (101_u32.wrapping_add(705_032_704), 201 + 1_000_000_000);
    let seen = |ack, end| Seen {
        ack,
        end,
        window: 60_000,
    };
    let (there, answers) = (node.key_from(POD), node.key_from(OTHER));
    node.kernel
        .carry(&there, 4_000_000, 5_000_000_000, Some(seen(back, seq)));
    node.kernel
        .carry(&answers, 3_000_000, 1_000_000_000, Some(seen(seq, back)));
    (seq, back)
}

#[test]
fn fins_after_gigabytes_that_only_the_kernel_saw_close_it() {
    let mut node = established();
    let (seq, back) = transfer(&node);
    client(&mut node, FIN_ACK, seq, back);
    assert_eq!(only(&node).state, State::FinWait);
    assert!(
        node.kernel.flows().is_empty(),
        "it comes to pollers from now on"
    );
    assert_eq!(node.stats.removed(Removed::Closing), 2);
    server(&mut node, ACK, back, seq + 1);
    assert_eq!(only(&node).state, State::CloseWait);
    server(&mut node, FIN_ACK, back, seq + 1);
    client(&mut node, ACK, seq + 1, back + 1);
    let closed = only(&node);
    assert_eq!(closed.state, State::TimeWait);
    assert!(closed.original.bytes >= 5_000_000_000 && closed.reply.packets >= 3_000_000);
    assert!(closed.expires_in <= Timeouts::DEFAULT.tcp_time_wait);
    assert!(node.kernel.flows().is_empty());
    // And the same ports begin another one.
    client(&mut node, SYN, seq + 90_000, 0);
    assert_eq!(only(&node).state, State::SynSent);
}

#[test]
fn a_reset_counts_if_the_endpoint_takes_it_wherever_the_connection_is() {
    let mut node = established();
    let (_, back) = transfer(&node);
    node.offer_all();
    // Who does not see it knows where it was at most.
    server(&mut node, RST, 201, 0);
    assert_eq!(only(&node).state, State::Established);
    assert!(!node.kernel.flows().is_empty(), "it is the kernel's again");
    server(&mut node, RST, back, 0);
    assert_eq!(only(&node).state, State::Close);
    assert!(only(&node).expires_in <= Timeouts::DEFAULT.tcp_close);
}

#[test]
fn what_no_endpoint_takes_closes_nothing_though_the_kernel_saw_it() {
    for flags in [FIN_ACK, RST, RST | ACK, SYN] {
        let mut node = established();
        let (seq, back) = transfer(&node);
        // In sequence, with a checksum that is wrong.
        let packet = segment4(POD_ADDR, OTHER_ADDR, (40_000, 80), flags, seq, back);
        let mut frame = from_pod(&packet);
        frame[14 + 20 + 16] ^= 0x55;
        assert_eq!(node.by_kernel(POD, &frame), None);
        node.rig.run_now(POD, &[frame]);
        node.work();
        let marked = |node: &Offloaded| {
            let flows = node.kernel.flows();
            flows.iter().filter(|(.., it)| it.closing.is_some()).count()
        };
        assert_eq!(marked(&node), 1, "the kernel does not know");
        assert_eq!(only(&node).state, State::Established);
        // Within two passes it is the kernel's again, both ways, without anybody offering it.
        for _ in 0..2 {
            node.worker.read_soon();
            node.work();
        }
        assert_eq!((marked(&node), node.kernel.flows().len()), (0, 2));
        assert_eq!(node.stats.removed(Removed::Unconfirmed), 1);
        assert_eq!(node.stats.removed(Removed::Closing), 0);
        assert_eq!(only(&node).state, State::Established);
        let before = node.kernel.executed();
        client(&mut node, ACK, seq, back);
        server(&mut node, ACK, back, seq);
        assert_eq!(node.kernel.executed(), before + 2);
        // One that is right counts.
        client(&mut node, FIN_ACK, seq, back);
        assert_eq!(only(&node).state, State::FinWait);
        assert_eq!(node.stats.removed(Removed::Closing), 2);
    }
}

#[test]
fn a_wrong_one_before_it_does_not_hide_the_right_one() {
    let mut node = established();
    let (seq, back) = transfer(&node);
    let wrong = segment4(OTHER_ADDR, POD_ADDR, (80, 40_000), RST, 7, 0);
    let mut wrong = build::ethernet(GATEWAY_MAC, OTHER_MAC, &wrong);
    wrong[14 + 20 + 16] ^= 0x55;
    let right = segment4(OTHER_ADDR, POD_ADDR, (80, 40_000), FIN_ACK, back, seq);
    let right = build::ethernet(GATEWAY_MAC, OTHER_MAC, &right);
    // The kernel knows of the first alone.
    node.packets(OTHER, &[wrong, right]);
    assert_eq!(only(&node).state, State::FinWait);
    assert!(node.kernel.flows().is_empty());
}

#[test]
fn the_end_of_what_pollers_see_counts_though_the_kernel_has_the_other_direction() {
    let mut node = Offloaded::new(rig(), Fake::default(), 1);
    client(&mut node, SYN, 100, 0);
    server(&mut node, SYN_ACK, 200, 101);
    client(&mut node, ACK, 101, 201);
    let there = node.key_from(POD);
    // What the server sends comes to pollers, and nobody but the kernel sees it acknowledged.
    let back = 201 + 500_000_000;
    let seen = Seen {
        ack: back,
        end: 101,
        window: 60_000,
    };
    server(&mut node, ACK, back, 101);
    node.kernel.carry(&there, 500_000, 26_000_000, Some(seen));
    server(&mut node, FIN_ACK, back, 101);
    assert_eq!(only(&node).state, State::FinWait);
    assert!(node.kernel.flows().is_empty());
    assert_eq!(node.stats.removed(Removed::Closing), 1);
}

#[test]
fn what_another_poller_judged_at_that_moment_counts_too() {
    let mut node = established();
    let (seq, back) = transfer(&node);
    let connections = Arc::clone(node.rig.connections());
    let mut answers = None;
    let lines = 0..connections.lines();
    connections.visit(lines, &Timeouts::DEFAULT, node.rig.now(), |_, flow| {
        answers = connections.v4.table.partner(flow);
    });
    let answers = answers.expect("it has two directions");
    client(&mut node, FIN_ACK, seq, back);
    assert_eq!(only(&node).state, State::FinWait);
    // By a word that was not yet brought up to what the kernel saw, the server's end was nothing.
    let segment = Segment {
        flags: Flags(FIN_ACK),
        seq: back,
        ack: seq + 1,
        window: 60_000,
        ..Segment::default()
    };
    let late = Candidate {
        family: Family::V4,
        flow: answers,
        why: Why::Judged(segment),
    };
    let _ = node.ring.push(late);
    node.work();
    assert_eq!(only(&node).state, State::LastAck);
    // A connection that the kernel never had is the pollers' alone.
    let mut node = Offloaded::new(rig(), Fake::default(), 64);
    node.orders.pause(true);
    client(&mut node, SYN, 100, 0);
    server(&mut node, SYN_ACK, 200, 101);
    client(&mut node, ACK, 101, 201);
    let connections = Arc::clone(node.rig.connections());
    let lines = 0..connections.lines();
    connections.visit(lines, &Timeouts::DEFAULT, node.rig.now(), |_, flow| {
        let _ = node.ring.push(Candidate { flow, ..late });
    });
    node.work();
    assert_eq!(only(&node).state, State::Established);
}
