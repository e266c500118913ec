//! What the kernel has, for how long, and who takes it away.

use super::*;

also_together![
    what_the_kernel_carries_does_not_expire_and_what_is_idle_is_given_back,
    an_endpoint_that_is_gone_is_forgotten_with_the_tables_that_say_so,
    tables_that_change_all_the_time_do_not_keep_the_worker_from_what_is_gone_or_new,
    what_is_by_a_device_that_is_not_served_is_forgotten_at_once_and_that_is_said,
    another_next_hop_is_another_action,
    who_removes_connections_or_captures_has_the_kernel_forget,
    what_the_kernel_refuses_to_forget_is_not_lost_sight_of,
    what_is_removed_while_the_kernel_is_told_of_it_is_taken_back,
    what_the_kernel_forgot_by_itself_is_told_again,
    there_is_an_end_to_how_many_and_a_reason_for_each_that_is_left_out,
    no_pod_has_more_than_a_quarter_of_what_the_kernel_has,
    a_thread_of_its_own_takes_offers_and_leaves_nothing_behind,
];

#[test]
fn what_the_kernel_carries_does_not_expire_and_what_is_idle_is_given_back() {
    let mut node = established();
    let datagram = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(40_000, 53, &[7; 30]));
    let answer = ip4(OTHER_ADDR, POD_ADDR).udp(53, 40_000, &[7; 30]);
    let answer = build::ethernet(GATEWAY_MAC, OTHER_MAC, &answer);
    for _ in 0..2 {
        node.packets(POD, std::slice::from_ref(&datagram));
        node.packets(OTHER, std::slice::from_ref(&answer));
    }
    assert_eq!(node.kernel.flows().len(), 4);
    // Fifteen minutes in which only the kernel sees datagrams: three times as long as they are remembered.
    for _ in 0..90 {
        assert!(node.by_kernel(POD, &datagram).is_some());
        node.rig
            .pass_roughly(Duration::from_secs(10), Duration::from_secs(2));
        node.work();
    }
    assert_eq!(node.connections().len(), 2);
    // Its answers, and TCP, are silent: the kernel does not have them any more.
    assert_eq!(node.kernel.flows().len(), 1);
    assert_eq!(node.stats.removed(Removed::Idle), 3);
    for _ in 0..40 {
        node.rig
            .pass_roughly(Duration::from_secs(10), Duration::from_secs(2));
        node.work();
    }
    assert!(node.kernel.flows().is_empty());
    let left = node.connections();
    assert!(left.iter().all(|it| it.protocol == 6), "{left:?}");
    assert_eq!(node.worker.step(node.rig.now()), Next::Called, "it sleeps");
    assert_eq!(node.stats.now(Family::V4), 0);
}

#[test]
fn an_endpoint_that_is_gone_is_forgotten_with_the_tables_that_say_so() {
    let mut node = established();
    let plan = Plan::default();
    // Tables that do the same: they stay.
    let same = Change {
        plan: plan.clone(),
        is_new: [false; 2],
    };
    same.apply(&plan, &mut node.rig);
    node.work();
    assert_eq!(node.kernel.flows().len(), 2);
    // Another pod with the same address.
    let another = Change {
        plan: plan.clone(),
        is_new: [false, true],
    };
    another.apply(&plan, &mut node.rig);
    node.work();
    assert!(node.kernel.flows().is_empty());
    assert_eq!(node.stats.removed(Removed::Gone), 2);
}

#[test]
fn tables_that_change_all_the_time_do_not_keep_the_worker_from_what_is_gone_or_new() {
    // More flows than are looked at in three steps, and behind them one of a pod that goes.
    const MANY: u16 = 1700;
    let room = Capacity::new(16_384).expect("a power of two");
    let mut node = Offloaded::with_room_for(room, rig(), Fake::default(), 16_384);
    let outside = |port: u16| from_pod(&ip4(POD_ADDR, SERVER).udp(20_000 + port, 53, &[7; 30]));
    for first in (0..MANY).step_by(50) {
        let frames: Vec<_> = (first..first + 50).map(outside).collect();
        node.rig.run_now(POD, &frames);
    }
    node.offer_all();
    let goes = ip4(OTHER_ADDR, SERVER).udp(40_000, 53, &[7; 30]);
    let goes = build::ethernet(GATEWAY_MAC, OTHER_MAC, &goes);
    node.packets(OTHER, std::slice::from_ref(&goes));
    assert_eq!(node.kernel.flows().len(), usize::from(MANY) + 1);
    let is_gone = |node: &Offloaded| {
        let from = control::offload::From::Device(device_of(OTHER));
        node.kernel.flows().iter().all(|(key, ..)| key.from != from)
    };
    let plan = Plan::default();
    let (mut steps, mut is_new) = (0, true);
    while !is_gone(&node) {
        steps += 1;
        assert!(steps <= 4, "it is never reached");
        let change = Change {
            plan: plan.clone(),
            is_new: [false, std::mem::take(&mut is_new)],
        };
        change.apply(&plan, &mut node.rig);
        node.publisher.publish(node.rig.tables().clone());
        // Meanwhile another one is offered, as these tables decide it.
        let inserted = node.stats.inserted();
        node.rig.run_now(POD, &[outside(MANY + steps)]);
        let connections = Arc::clone(node.rig.connections());
        let lines = 0..connections.lines();
        connections.visit(lines, &Timeouts::DEFAULT, node.rig.now(), |it, flow| {
            if it.sport == 20_000 + MANY + steps {
                let (family, why) = (Family::V4, Why::UnderWay);
                let _ = node.ring.push(Candidate { family, flow, why });
            }
        });
        node.worker.step(node.rig.now());
        assert_eq!(node.stats.inserted(), inserted + 1, "step {steps}");
    }
    assert!(steps > 1, "it was not the last");
    // And when they are left alone, all were looked at by the newest ones.
    node.published = node.rig.tables().generation;
    node.work();
    let left = node.kernel.flows().len();
    assert!(
        left <= usize::from(steps),
        "nobody answered the others: {left}"
    );
}

#[test]
fn what_is_by_a_device_that_is_not_served_is_forgotten_at_once_and_that_is_said() {
    let mut node = established();
    let outside = from_pod(&ip4(POD_ADDR, SERVER).udp(40_000, 53, &[7; 30]));
    node.packets(POD, &[outside]);
    assert_eq!(node.kernel.flows().len(), 3);
    let serve = |node: &Offloaded, ports: &[(PortId, u32)]| {
        node.orders
            .set_devices(Devices(ports.iter().copied().collect()))
    };
    let [uplink, pod, other] = [UPLINK, POD, OTHER].map(|port| (port, device_of(port)));
    // A port more is nothing to them.
    let version = serve(&node, &[uplink, pod, other, (PortId(9), 9)]);
    assert!(node.orders.devices_done() < version);
    node.work();
    assert_eq!(node.orders.devices_done(), version);
    assert_eq!(node.kernel.flows().len(), 3);
    // What comes in by the other pod's device, and what goes out by it. The tables have the pod still.
    let version = serve(&node, &[uplink, pod]);
    node.worker.step(node.rig.now());
    assert_eq!(node.orders.devices_done(), version);
    assert_eq!(node.stats.removed(Removed::Device), 2);
    let left = node.kernel.flows();
    assert!(matches!(&left[..], [(_, action, _)] if action.out == device_of(UPLINK)));
    // Nor is it taken again.
    node.offer_all();
    assert_eq!(node.kernel.flows().len(), 1);
    assert!(node.stats.refused(Refused::Device) > 0);
    // The same number is another device.
    serve(&node, &[(UPLINK, 77), pod]);
    node.worker.step(node.rig.now());
    assert!(node.kernel.flows().is_empty());
}

#[test]
fn another_next_hop_is_another_action() {
    let mut node = Offloaded::new(rig(), Fake::default(), 64);
    let datagram = from_pod(&ip4(POD_ADDR, SERVER).udp(40_000, 53, &[7; 30]));
    node.packets(POD, std::slice::from_ref(&datagram));
    assert_eq!(node.kernel.flows().len(), 1);
    let plan = Plan::default();
    let change = Change {
        plan: Plan {
            outside: crate::schedule::Outside::Router(10),
            ..plan.clone()
        },
        is_new: [false; 2],
    };
    change.apply(&plan, &mut node.rig);
    node.work();
    assert!(node.kernel.flows().is_empty());
    assert_eq!(node.stats.removed(Removed::Changed), 1);
    // Decided anew by its next packet.
    node.packets(POD, std::slice::from_ref(&datagram));
    assert_eq!(node.kernel.flows().len(), 1);
}

#[test]
fn who_removes_connections_or_captures_has_the_kernel_forget() {
    let mut node = established();
    node.orders.pause(true);
    node.offer_all();
    assert!(node.kernel.flows().is_empty());
    node.orders.pause(false);
    node.offer_all();
    assert_eq!(node.kernel.flows().len(), 2);
    let connections = Arc::clone(node.rig.connections());
    let (now, rules) = (node.rig.now(), node.rig.tables().policies.counters.clone());
    connections.visit(
        0..connections.lines(),
        &Timeouts::DEFAULT,
        now,
        |it, flow| {
            connections.remove(it, flow, &rules);
        },
    );
    node.orders.flush();
    node.work();
    assert!(node.kernel.flows().is_empty());
    assert_eq!(node.stats.removed(Removed::Gone), 2);
}

#[test]
fn what_the_kernel_refuses_to_forget_is_not_lost_sight_of() {
    let mut node = established();
    let there = node.key_from(POD);
    node.kernel.keep(true);
    let version = node.orders.set_devices(Devices::default());
    node.offer_all();
    // It may be sending by devices that are others' soon.
    assert_eq!(node.kernel.flows().len(), 2);
    assert_eq!(node.stats.now(Family::V4), 2);
    assert!(node.orders.devices_done() < version);
    assert_eq!(node.stats.removed(Removed::Device), 0);
    node.kernel.carry(&there, 7, 700, None);
    node.kernel.keep(false);
    node.worker.read_soon();
    node.work();
    assert!(node.kernel.flows().is_empty());
    assert_eq!(node.stats.now(Family::V4), 0);
    assert_eq!(node.orders.devices_done(), version);
    assert_eq!(node.stats.removed(Removed::Device), 2);
    // Nor is what it carried: both sent two packets before.
    assert_eq!(only(&node).original.packets, 2 + 7);
    assert_eq!(node.worker.step(node.rig.now()), Next::Called);
}

#[test]
fn what_is_removed_while_the_kernel_is_told_of_it_is_taken_back() {
    let mut node = established();
    let datagram = from_pod(&ip4(POD_ADDR, SERVER).udp(40_000, 53, &[7; 30]));
    node.rig.run_now(POD, &[datagram]);
    let connections = Arc::clone(node.rig.connections());
    let (now, rules) = (node.rig.now(), node.rig.tables().policies.counters.clone());
    let lines = 0..connections.lines();
    connections.visit(lines.clone(), &Timeouts::DEFAULT, now, |it, flow| {
        if it.protocol == 17 {
            let (family, why) = (Family::V4, Why::UnderWay);
            let _ = node.ring.push(Candidate { family, flow, why });
        }
    });
    node.kernel.meanwhile(move || {
        connections.visit(lines, &Timeouts::DEFAULT, now, |it, flow| {
            if it.protocol == 17 {
                connections.remove(it, flow, &rules);
            }
        });
    });
    // The next pass is a while off.
    node.worker.step(now);
    assert_eq!((only(&node).protocol, node.stats.inserted()), (6, 3));
    assert_eq!(node.kernel.flows().len(), 2);
    assert_eq!(node.stats.removed(Removed::Gone), 1);
}

#[test]
fn what_the_kernel_forgot_by_itself_is_told_again() {
    let mut node = established();
    node.kernel.lose_all();
    node.offer_all();
    assert_eq!(node.stats.removed(Removed::Lost), 2);
    node.offer_all();
    assert_eq!(node.kernel.flows().len(), 2);
    assert_eq!(node.stats.now(Family::V4), 2);
}

#[test]
fn there_is_an_end_to_how_many_and_a_reason_for_each_that_is_left_out() {
    for (kernel, most) in [(Fake::default(), 1), (Fake::with_room_for(1), 64)] {
        let mut node = Offloaded::new(rig(), kernel, most);
        for port in 0..3 {
            let datagram = ip4(POD_ADDR, OTHER_ADDR).udp(40_000 + port, 53, &[7; 30]);
            node.packets(POD, &[from_pod(&datagram)]);
        }
        assert_eq!(node.kernel.flows().len(), 1);
        assert!(node.stats.refused(Refused::Full) > 0);
    }
    let mut node = Offloaded::new(rig(), Fake::default(), 64);
    let not = |node: &Offloaded, why| node.stats.refused(Refused::Not(why));
    // Nobody has answered that it was seen; it goes to the host; a ping is none.
    client(&mut node, SYN, 100, 0);
    assert!(not(&node, NotOffered::State) > 0);
    node.packets(
        POD,
        &[from_pod(&ip4(POD_ADDR, NODE).udp(40_000, 53, &[7; 30]))],
    );
    assert!(not(&node, NotOffered::Way) > 0);
    node.packets(
        POD,
        &[from_pod(&ip4(POD_ADDR, OTHER_ADDR).icmp(8, 0, 1, &[]))],
    );
    assert!(not(&node, NotOffered::Protocol) > 0);
    assert!(node.kernel.flows().is_empty());
    assert!(node.stats.offered() >= 3 && node.stats.inserted() == 0);
}

#[test]
fn no_pod_has_more_than_a_quarter_of_what_the_kernel_has() {
    let mut node = Offloaded::new(rig(), Fake::default(), 16);
    let refused = |node: &Offloaded| node.stats.refused(Refused::Share);
    let to = |addr, port: u16| from_pod(&ip4(POD_ADDR, addr).udp(40_000 + port, 53, &[7; 30]));
    // Of what it sends, to whomever.
    for port in 0..2 {
        node.packets(POD, &[to(SERVER, port), to(OTHER_ADDR, port)]);
    }
    assert_eq!((node.kernel.flows().len(), refused(&node)), (4, 0));
    node.packets(POD, &[to(SERVER, 9)]);
    assert_eq!(node.kernel.flows().len(), 4);
    assert!(refused(&node) > 0);
    // Of what it receives too: the other pod has room for two more.
    let inner = |port: u16| ip4(REMOTE, OTHER_ADDR).udp(53, port, &[9; 40]);
    let by_tunnel = |port: u16| {
        let inner = build::ethernet([0x66, 0, 0, 0, 0, 2], [0x66, 0, 0, 0, 0, 3], &inner(port));
        let vxlan = build::vxlan(4096, &inner);
        from_outside(&ip4("172.18.0.3", NODE).udp_unchecked(50_000, 4789, &vxlan))
    };
    for port in 1..=5 {
        node.packets(UPLINK, &[by_tunnel(port)]);
    }
    assert_eq!(node.kernel.flows().len(), 6);
    // What goes makes room.
    let [sent, received] = [POD, OTHER].map(|port| {
        let out = node.kernel.flows().into_iter();
        out.filter(|(key, action, _)| {
            key.from == control::offload::From::Device(device_of(port))
                || action.out == device_of(port)
        })
        .count()
    });
    assert_eq!((sent, received), (4, 4));
    for _ in 0..4 {
        node.rig
            .pass_roughly(Duration::from_secs(10), Duration::from_secs(2));
        node.work();
    }
    assert!(node.kernel.flows().is_empty());
    node.packets(POD, &[to(SERVER, 10)]);
    assert!(node.kernel.flows().len() <= 4);
    let by_pod = control::offload::From::Device(device_of(POD));
    assert!(
        node.kernel
            .flows()
            .iter()
            .any(|(key, ..)| key.from == by_pod)
    );
}

#[test]
fn a_thread_of_its_own_takes_offers_and_leaves_nothing_behind() {
    let node = established();
    let (orders, kernel, stats) = (node.orders.clone(), node.kernel.clone(), node.stats);
    let Offloaded {
        rig, ring, worker, ..
    } = node;
    let start = std::time::Instant::now();
    let thread = std::thread::spawn(move || worker.run(start));
    let wait_until = |what: &dyn Fn() -> bool| {
        let mut left = 2000;
        while !what() {
            left -= 1;
            assert!(left > 0, "it does not come");
            orders.call();
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    orders.pause(true);
    wait_until(&|| kernel.flows().is_empty());
    orders.pause(false);
    let connections = rig.connections();
    let (now, timeouts) = (rig.now(), Timeouts::DEFAULT);
    wait_until(&|| {
        connections.visit(0..connections.lines(), &timeouts, now, |_, flow| {
            let (family, why) = (Family::V4, Why::UnderWay);
            let _ = ring.push(Candidate { family, flow, why });
        });
        !kernel.flows().is_empty()
    });
    orders.stop();
    thread.join().expect("it ends");
    assert!(kernel.flows().is_empty());
    assert_eq!(stats.now(Family::V4), 0);
}
