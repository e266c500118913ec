//! The flows' programs on veths in namespaces: what stays when their process is gone, and what takes the place of what.

mod xdp_support;

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use control::offload::flow::{Action, From, KernelFlows as _, Key, Way};
use control::xdp::{
    AttachError, EndpointConfig, EndpointProgram, FailMode, NicConfig, NicMode, NicProgram, PinDir,
    Tcx, TcxConfig, tcx_programs_on,
};
use encap::eth::MacAddr;
use encap::l4;
use encap::outer::{Macs, Rewrite};
use fastpath::io::xsk::test_support::skipped_without_root;
use xdp_support::child::{self, Role};
use xdp_support::pod::Pod;
use xdp_support::{ifindex, in_netns, ip, isolated, veth, xdp_program};

fn tcx(fail_mode: FailMode) -> Tcx {
    let config = TcxConfig {
        fail_mode,
        max_endpoints: 2,
        ..TcxConfig::default()
    };
    Tcx::load(&config).expect("load")
}

fn pods() -> EndpointProgram {
    EndpointProgram::load(&EndpointConfig {
        fail_mode: FailMode::Closed,
        max_endpoints: 2,
        queues: 1,
    })
    .expect("load")
}

/// The names of the pins of this namespace.
fn pin_names(pins: &PinDir) -> Vec<String> {
    let pinned = pins.pins();
    let mut names: Vec<String> = pinned.into_iter().map(|pin| pin.ifname).collect();
    names.sort();
    names
}

/// How many classifiers are attached by tcx to what comes in by an interface.
fn gates(ifname: &str) -> usize {
    tcx_programs_on(ifname).expect("asked").len()
}

/// Another pod, and the flow of datagrams to it from [`Pod`]'s.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const PORTS: (u16, u16) = (5000, 6000);

fn flow() -> Key {
    Key {
        from: From::Device(ifindex("cali0")),
        protocol: l4::UDP,
        src: (Ipv4Addr::new(10, 0, 0, 2).into(), PORTS.0),
        dst: (OTHER.into(), PORTS.1),
    }
}

/// Programs that know the flow, on both pods.
fn with_flow() -> Tcx {
    let mut tcx = tcx(FailMode::Closed);
    let pins = PinDir::open().expect("pins");
    for ifname in ["cali0", "cali1"] {
        tcx.attach_pod(ifname, &pins)
            .expect("attach")
            .leave_pinned();
    }
    let macs = Macs {
        dst: MacAddr([2, 0, 0, 0, 0, 9]),
        src: MacAddr([0xee; 6]),
    };
    let to_other = Action {
        out: ifindex("cali1"),
        way: Way::Pod,
        mtu: 1500,
        from_mac: Some(MacAddr([2, 0, 0, 0, 0, 2])),
        peer: None,
        rewrite: Rewrite::ethernet(macs),
        flow_hash: 1,
        source: None,
        destination: None,
    };
    let mut flows = tcx.flows().expect("flows");
    flows.insert(&flow(), &to_other, 0).expect("insert");
    tcx
}

/// Not a test by itself: the process that the others start and kill.
#[test]
fn child() {
    match child::role().as_deref() {
        Some("flow") => {
            let _tcx = with_flow();
            child::say("attached");
            child::wait_to_be_killed();
        }
        Some("pod") => {
            let mut tcx = tcx(FailMode::Closed);
            let pins = PinDir::open().expect("pins");
            let _attachment = tcx.attach_pod("cali0", &pins).expect("attach");
            child::say("attached");
            child::wait_to_be_killed();
        }
        _ => {}
    }
}

/// The other pod's end of the flow, and this one's.
fn ends() -> (UdpSocket, UdpSocket) {
    ip("netns add other");
    ip("link add cali1 type veth peer name eth0 address 02:00:00:00:00:09 netns other");
    ip("link set cali1 up");
    ip("-n other addr add 10.0.0.9/24 dev eth0");
    ip("-n other link set eth0 up");
    ip("-n pod neigh replace 10.0.0.9 lladdr 02:00:00:00:00:01 nud permanent dev eth0");
    let receiver = in_netns("other", || UdpSocket::bind((OTHER, PORTS.1)).expect("bind"));
    let sender = in_netns("pod", || {
        UdpSocket::bind(("10.0.0.2", PORTS.0)).expect("bind")
    });
    sender.connect((OTHER, PORTS.1)).expect("connect");
    (sender, receiver)
}

/// Whether what the one sends the other gets, now. `patience`: how often that is tried.
fn arrives(sender: &UdpSocket, receiver: &UdpSocket, patience: u32) -> bool {
    let timeout = Some(Duration::from_millis(50));
    receiver.set_read_timeout(timeout).expect("timeout");
    (0..patience).any(|_| {
        sender.send(b"?").expect("send");
        receiver.recv(&mut [0; 16]).is_ok()
    })
}

#[test]
fn no_flow_outlives_the_process_that_decided_it() {
    if skipped_without_root("no_flow_outlives_the_process_that_decided_it") {
        return;
    }
    isolated(|| {
        let pod = Pod::new("cali0");
        let (sender, receiver) = ends();
        let mut daemon = Role::start("flow");
        daemon.hear();
        assert!(arrives(&sender, &receiver, 40), "while it runs");
        assert!(!pod.reaches_the_kernel());
        daemon.kill();
        // The kernel empties the gate a moment later; then nothing comes any more, whatever is tried.
        while arrives(&sender, &receiver, 1) {}
        assert!(!arrives(&sender, &receiver, 10));
        assert_eq!(pod.reached_the_kernel(), 0);
        assert_eq!(gates("cali0"), 1, "the gate is closed, and there");

        // The same without an end of the process.
        let tcx = with_flow();
        assert!(arrives(&sender, &receiver, 40), "the next one");
        drop(tcx);
        while arrives(&sender, &receiver, 1) {}
        assert!(!arrives(&sender, &receiver, 10));
        assert!(!pod.reaches_the_kernel());
    });
}

#[test]
fn a_pod_stays_closed_through_a_kill_and_a_restart() {
    if skipped_without_root("a_pod_stays_closed_through_a_kill_and_a_restart") {
        return;
    }
    isolated(|| {
        let pod = Pod::new("cali0");
        assert!(pod.reaches_the_kernel(), "before anything is attached");
        let mut daemon = Role::start("pod");
        daemon.hear();
        // From here to the detaching the pod sends without a pause, and the kernel must not see one datagram.
        let sender = pod.send_without_pause();
        sender.wait_for(100);
        daemon.kill();
        sender.wait_for(100);
        let pins = PinDir::open().expect("pins");
        assert_eq!(pin_names(&pins), ["cali0"]);

        let mut successor = tcx(FailMode::Closed);
        let attachment = successor.attach_pod("cali0", &pins).expect("attach");
        assert!(attachment.was_taken_over());
        assert!(attachment.is_alive());
        let again = successor.attach_pod("cali0", &pins).expect_err("twice");
        assert!(
            matches!(again, AttachError::AlreadyAttached { .. }),
            "{again}"
        );
        sender.wait_for(100);
        assert!(successor.counters().expect("counters").no_punt > 0);
        assert_eq!(
            (gates("cali0"), pin_names(&pins)),
            (1, vec!["cali0".to_owned()])
        );

        // To a daemon without flows in the kernel, and back.
        let mut endpoints = pods();
        let of_xdp = endpoints.attach("cali0", &pins).expect("attach");
        assert!(of_xdp.was_taken_over() && of_xdp.is_alive());
        assert!(!attachment.is_alive(), "that one is off");
        assert_eq!(
            (gates("cali0"), pin_names(&pins)),
            (0, vec!["cali0".to_owned()])
        );
        assert!(xdp_program("cali0").is_some());
        sender.wait_for(100);
        assert!(endpoints.counters().expect("counters").no_socket > 0);
        drop((successor, attachment));

        let mut last = tcx(FailMode::Closed);
        let attachment = last.attach_pod("cali0", &pins).expect("attach");
        assert!(attachment.was_taken_over() && attachment.is_alive());
        assert!(!of_xdp.is_alive(), "that one is off");
        assert_eq!(xdp_program("cali0"), None);
        assert_eq!(
            (gates("cali0"), pin_names(&pins)),
            (1, vec!["cali0".to_owned()])
        );
        drop((endpoints, of_xdp));
        sender.wait_for(100);
        assert!(attachment.is_alive());
        drop(sender);
        assert_eq!(pod.reached_the_kernel(), 0);

        last.detach(attachment).expect("detach");
        assert_eq!((gates("cali0"), pin_names(&pins)), (0, vec![]));
        assert!(pod.reaches_the_kernel(), "after all is detached");
    });
}

#[test]
fn who_is_ended_amid_an_exchange_of_pins_leaves_a_closed_pod() {
    if skipped_without_root("who_is_ended_amid_an_exchange_of_pins_leaves_a_closed_pod") {
        return;
    }
    isolated(|| {
        let pod = Pod::new("cali0");
        let pins = PinDir::open().expect("pins");
        let mut endpoints = pods();
        let of_xdp = endpoints.attach("cali0", &pins).expect("attach");
        // As it is between pinning the new link and giving it the old one's name: both are there.
        let old = pins.pins().remove(0);
        let (dir, name) = (pins_dir(), format!("cali0-{}", old.ifindex));
        let mut gate = tcx(FailMode::Closed);
        std::fs::rename(dir.join(&name), dir.join("kept")).expect("rename");
        gate.attach_pod("cali0", &pins)
            .expect("attach")
            .leave_pinned();
        std::fs::rename(dir.join(&name), dir.join(format!("next:{name}"))).expect("rename");
        std::fs::rename(dir.join("kept"), dir.join(&name)).expect("rename");
        of_xdp.leave_pinned();
        drop((gate, endpoints));
        assert!(!pod.reaches_the_kernel());

        let mut next = tcx(FailMode::Closed);
        let attachment = next.attach_pod("cali0", &pins).expect("attach");
        assert!(attachment.is_alive());
        assert_eq!(pin_names(&pins), ["cali0"]);
        assert_eq!((gates("cali0"), xdp_program("cali0")), (1, None));
        assert!(!pod.reaches_the_kernel());
        next.detach(attachment).expect("detach");
        assert!(pod.reaches_the_kernel());
    });
}

/// The only directory of pins.
fn pins_dir() -> std::path::PathBuf {
    let mut dirs = std::fs::read_dir("/sys/fs/bpf/caracal").expect("pins");
    dirs.next().expect("one").expect("readable").path()
}

#[test]
fn a_pod_that_fails_open_reaches_the_kernel_while_nobody_serves() {
    if skipped_without_root("a_pod_that_fails_open_reaches_the_kernel_while_nobody_serves") {
        return;
    }
    isolated(|| {
        let pod = Pod::new("cali0");
        let pins = PinDir::open().expect("pins");
        let mut program = tcx(FailMode::Open);
        let attachment = program.attach_pod("cali0", &pins).expect("attach");
        assert!(pod.reaches_the_kernel());
        veth("punt0", "punt1");
        program.set_punt(ifindex("punt0")).expect("punt");
        assert!(!pod.reaches_the_kernel());
        assert!(program.counters().expect("counters").punted > 0);
        attachment.leave_pinned();
        drop(program);
        assert!(pod.reaches_the_kernel());
    });
}

#[test]
fn who_comes_in_front_of_a_program_is_noticed() {
    if skipped_without_root("who_comes_in_front_of_a_program_is_noticed") {
        return;
    }
    isolated(|| {
        veth("cali0", "eth0");
        veth("up0", "router");
        let pins = PinDir::open().expect("pins");
        // The kernel takes a program once a device.
        let [mut ours, mut others, mut later] = [(); 3].map(|()| tcx(FailMode::Closed));
        // What is there already stays behind.
        let _earlier = ["cali0", "up0"].map(|it| others.attach_uplink(it).expect("attach"));
        let on_pod = ours.attach_pod("cali0", &pins).expect("attach");
        let on_uplink = ours.attach_uplink("up0").expect("attach");
        assert!(on_pod.is_first() && on_uplink.is_first());

        let in_front = later.attach_uplink("cali0").expect("attach");
        assert_eq!(gates("cali0"), 3);
        assert!(on_pod.is_alive() && !on_pod.is_first());
        assert!(in_front.is_first());
        assert!(on_uplink.is_first(), "that is another device");
        drop(in_front);
        assert!(on_pod.is_first());

        let in_front = later.attach_uplink("up0").expect("attach");
        assert!(on_uplink.is_alive() && !on_uplink.is_first());
        drop(in_front);
        assert!(on_uplink.is_first());

        // Of what is not there nothing is the first.
        ip("link del cali0");
        ip("link del up0");
        assert!(!on_pod.is_first() && !on_uplink.is_first());

        // XDP runs before all of tcx, and there is no other.
        veth("cali1", "eth1");
        let on_xdp = pods().attach("cali1", &pins).expect("attach");
        let _classifier = others.attach_uplink("cali1").expect("attach");
        assert!(on_xdp.is_first());
        ip("link del cali1");
        assert!(!on_xdp.is_first());
    });
}

#[test]
fn an_uplinks_program_goes_with_its_attachment() {
    if skipped_without_root("an_uplinks_program_goes_with_its_attachment") {
        return;
    }
    isolated(|| {
        veth("up0", "router");
        let mut tcx = tcx(FailMode::Closed);
        let attachment = tcx.attach_uplink("up0").expect("attach");
        assert!(attachment.is_alive());
        assert_eq!((attachment.ifindex(), gates("up0")), (ifindex("up0"), 1));
        drop(attachment);
        assert_eq!(gates("up0"), 0);

        // In place of what a daemon left that had no flows in the kernel.
        let pins = PinDir::open().expect("pins");
        let nic = NicProgram::load(&NicConfig::default()).expect("load");
        let left = nic.attach("up0", NicMode::Native).expect("attach");
        left.leave("up0", &pins).expect("leave");
        assert!(xdp_program("up0").is_some());
        let attachment = tcx.attach_uplink_next("up0", &pins).expect("attach");
        assert_eq!((gates("up0"), xdp_program("up0")), (1, None));
        assert_eq!(pin_names(&pins), [""; 0]);
        ip("link del up0");
        assert!(!attachment.is_alive());
        let error = tcx.attach_uplink("up0").expect_err("gone");
        assert!(
            matches!(error, AttachError::UnknownInterface { .. }),
            "{error}"
        );
    });
}
