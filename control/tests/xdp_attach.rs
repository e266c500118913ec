//! Attaching and detaching on veths in namespaces: what stays, what goes, and what is refused with which words.

mod xdp_support;

use control::xdp::{
    AttachError, EndpointConfig, EndpointProgram, FailMode, LoadError, NicConfig, NicMode,
    NicProgram, PinDir,
};
use fastpath::io::xsk::test_support::{skipped_without, skipped_without_root};
use xdp_support::child::{self, Role};
use xdp_support::pod::Pod;
use xdp_support::socket::XdpSocket;
use xdp_support::{command, ifindex, ip, isolated, make_read_only, veth, xdp_program};

const BPFFS: &str = "/sys/fs/bpf";

fn nic() -> NicProgram {
    NicProgram::load(&NicConfig::default()).expect("load")
}

fn pods(fail_mode: FailMode) -> EndpointProgram {
    EndpointProgram::load(&EndpointConfig {
        fail_mode,
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

/// Not a test by itself: the process that the others start and kill.
#[test]
fn child() {
    match child::role().as_deref() {
        Some("nic") => {
            let nic = nic();
            let _attachment = nic.attach("cali0", NicMode::Native).expect("attach");
            child::say("attached");
            child::wait_to_be_killed();
        }
        Some("pod") => {
            let mut pods = pods(FailMode::Closed);
            let pins = PinDir::open().expect("pins");
            let attachment = pods.attach("cali0", &pins).expect("attach");
            let socket = XdpSocket::bind("cali0", 0);
            pods.set_socket(attachment.ifindex(), 0, &socket)
                .expect("set socket");
            child::say("attached");
            child::wait_to_be_killed();
        }
        Some("nobody") => {
            nix::unistd::setuid(nix::unistd::Uid::from_raw(65_534)).expect("setuid");
            let error = NicProgram::load(&NicConfig::default())
                .err()
                .expect("refused");
            assert!(matches!(error, LoadError::NoPrivileges), "{error}");
            child::say(&error.to_string());
        }
        _ => {}
    }
}

#[test]
fn the_nics_program_goes_with_its_attachment() {
    if skipped_without_root("the_nics_program_goes_with_its_attachment") {
        return;
    }
    isolated(|| {
        veth("cali0", "eth0");
        let nic = nic();
        let attachment = nic.attach("cali0", NicMode::Native).expect("attach");
        assert!(xdp_program("cali0").is_some());
        assert!(attachment.is_alive());
        assert!(!attachment.is_generic());
        assert_eq!(attachment.ifindex(), ifindex("cali0"));
        drop(attachment);
        assert_eq!(xdp_program("cali0"), None);
    });
}

#[test]
fn the_nics_program_stays_where_it_is_left_until_the_next_takes_its_place() {
    let test = "the_nics_program_stays_where_it_is_left_until_the_next_takes_its_place";
    if skipped_without_root(test) {
        return;
    }
    isolated(|| {
        veth("cali0", "eth0");
        let pins = PinDir::open().expect("pins");
        let first = nic();
        let attachment = first
            .attach_next("cali0", NicMode::Native, &pins)
            .expect("attach");
        let program = xdp_program("cali0");
        assert!(program.is_some());
        attachment.leave("cali0", &pins).expect("pin");
        drop(first);
        assert_eq!(xdp_program("cali0"), program);
        assert_eq!(pin_names(&pins), ["cali0"]);

        let next = nic();
        let attachment = next
            .attach_next("cali0", NicMode::Native, &pins)
            .expect("attach");
        let second = xdp_program("cali0");
        assert!(second.is_some() && second != program);
        assert!(attachment.is_alive() && !attachment.is_generic());
        assert_eq!(pin_names(&pins), [""; 0], "it goes with us again");
        drop(attachment);
        assert_eq!(xdp_program("cali0"), None);
        pins.remove_if_empty();
    });
}

#[test]
fn the_nics_program_goes_with_a_killed_process() {
    if skipped_without_root("the_nics_program_goes_with_a_killed_process") {
        return;
    }
    isolated(|| {
        veth("cali0", "eth0");
        let mut daemon = Role::start("nic");
        daemon.hear();
        assert!(xdp_program("cali0").is_some());
        daemon.kill();
        assert_eq!(xdp_program("cali0"), None);
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
        let first = xdp_program("cali0");
        assert!(first.is_some());
        daemon.kill();
        sender.wait_for(100);
        assert_eq!(xdp_program("cali0"), first);

        let mut successor = pods(FailMode::Closed);
        let pins = PinDir::open().expect("pins");
        assert_eq!(pin_names(&pins), ["cali0"]);
        let attachment = successor.attach("cali0", &pins).expect("attach");
        assert!(attachment.was_taken_over());
        assert!(attachment.is_alive());
        let second = xdp_program("cali0");
        assert!(second.is_some());
        assert_ne!(second, first, "the fresh program is on the device");
        assert_eq!(pin_names(&pins), ["cali0"]);
        sender.wait_for(100);
        assert!(successor.counters().expect("counters").no_socket > 0);

        let socket = XdpSocket::bind("cali0", 0);
        successor
            .set_socket(attachment.ifindex(), 0, &socket)
            .expect("set socket");
        sender.wait_for(100);
        assert!(successor.counters().expect("counters").taken > 0);
        drop(socket);
        attachment.leave_pinned();
        drop(successor);
        sender.wait_for(100);
        drop(sender);
        assert_eq!(pod.reached_the_kernel(), 0);

        let mut last = pods(FailMode::Closed);
        let attachment = last.attach("cali0", &pins).expect("attach");
        assert!(attachment.was_taken_over());
        last.detach(attachment).expect("detach");
        assert_eq!(xdp_program("cali0"), None);
        assert_eq!(pin_names(&pins), [""; 0]);
        assert!(pod.reaches_the_kernel(), "after all is detached");
    });
}

#[test]
fn a_pod_that_fails_open_reaches_the_kernel_while_nobody_serves() {
    if skipped_without_root("a_pod_that_fails_open_reaches_the_kernel_while_nobody_serves") {
        return;
    }
    isolated(|| {
        let pod = Pod::new("cali0");
        let pins = PinDir::open().expect("pins");
        let mut program = pods(FailMode::Open);
        let attachment = program.attach("cali0", &pins).expect("attach");
        assert!(pod.reaches_the_kernel());
        let socket = XdpSocket::bind("cali0", 0);
        program
            .set_socket(attachment.ifindex(), 0, &socket)
            .expect("set socket");
        assert!(!pod.reaches_the_kernel());
        drop(socket);
        assert!(pod.reaches_the_kernel());
    });
}

#[test]
fn a_renamed_device_is_taken_over_and_a_recreated_one_is_not() {
    if skipped_without_root("a_renamed_device_is_taken_over_and_a_recreated_one_is_not") {
        return;
    }
    isolated(|| {
        veth("cali0", "eth0");
        let pins = PinDir::open().expect("pins");
        pods(FailMode::Closed)
            .attach("cali0", &pins)
            .expect("attach")
            .leave_pinned();

        ip("link set cali0 down");
        ip("link set cali0 name cali.new");
        let mut program = pods(FailMode::Closed);
        let attachment = program.attach("cali.new", &pins).expect("attach");
        assert!(attachment.was_taken_over());
        assert_eq!(pin_names(&pins), ["cali.new"]);

        // The device goes; its attachment knows, and another of the same name has nothing to do with it.
        ip("link del cali.new");
        assert!(!attachment.is_alive());
        veth("cali.new", "eth0");
        let recreated = program.attach("cali.new", &pins).expect("attach");
        assert!(!recreated.was_taken_over());
        assert_eq!(
            pin_names(&pins),
            ["cali.new"],
            "the dead device's pin is gone"
        );
        program.detach(attachment).expect("detach the dead");
        assert!(recreated.is_alive());
        assert_eq!(pin_names(&pins), ["cali.new"]);
        program.detach(recreated).expect("detach");
        assert_eq!(pin_names(&pins), [""; 0]);
    });
}

#[test]
fn pins_of_dead_devices_are_swept() {
    if skipped_without_root("pins_of_dead_devices_are_swept") {
        return;
    }
    isolated(|| {
        veth("cali0", "eth0");
        let pins = PinDir::open().expect("pins");
        pods(FailMode::Closed)
            .attach("cali0", &pins)
            .expect("attach")
            .leave_pinned();
        assert_eq!(pin_names(&PinDir::open().expect("pins")), ["cali0"]);
        ip("link del cali0");
        assert!(!pins.pins()[0].alive);
        assert_eq!(pin_names(&PinDir::open().expect("pins")), [""; 0]);
    });
}

#[test]
fn a_released_pin_frees_the_device_under_a_living_attachment() {
    if skipped_without_root("a_released_pin_frees_the_device_under_a_living_attachment") {
        return;
    }
    isolated(|| {
        veth("cali0", "eth0");
        let pins = PinDir::open().expect("pins");
        let mut program = pods(FailMode::Closed);
        let attachment = program.attach("cali0", &pins).expect("attach");
        let pinned = pins.pins();
        pins.release(&pinned[0]).expect("release");
        assert_eq!(xdp_program("cali0"), None);
        assert!(!attachment.is_alive());
        program.detach(attachment).expect("detach");
    });
}

#[test]
fn a_full_or_repeated_attachment_is_refused() {
    if skipped_without_root("a_full_or_repeated_attachment_is_refused") {
        return;
    }
    isolated(|| {
        veth("cali1", "eth1");
        veth("cali2", "eth2");
        veth("cali3", "eth3");
        let pins = PinDir::open().expect("pins");
        let mut program = pods(FailMode::Closed);
        let first = program.attach("cali1", &pins).expect("attach");
        let again = program
            .attach("cali1", &pins)
            .expect_err("attached already");
        assert!(matches!(again, AttachError::AlreadyAttached { .. }));
        assert!(xdp_program("cali1").is_some());

        let _second = program.attach("cali2", &pins).expect("attach");
        let third = program.attach("cali3", &pins).expect_err("full");
        assert_eq!(
            third.to_string(),
            "cali3: all endpoints (2) are in use; raise `maxPods`"
        );
        assert_eq!(xdp_program("cali3"), None);
        program.detach(first).expect("detach");
        program
            .attach("cali3", &pins)
            .expect("a slot is free again");
    });
}

#[test]
fn an_unknown_interface_is_named() {
    if skipped_without_root("an_unknown_interface_is_named") {
        return;
    }
    isolated(|| {
        for name in ["nosuch0", "", "a-name-longer-than-any-interface"] {
            let error = nic().attach(name, NicMode::Native).expect_err("unknown");
            assert!(
                matches!(&error, AttachError::UnknownInterface { ifname } if ifname == name),
                "{error}"
            );
        }
    });
}

#[test]
fn the_holder_of_a_device_is_named() {
    if skipped_without("the_holder_of_a_device_is_named", &["bpftool"]) {
        return;
    }
    isolated(|| {
        veth("cali0", "eth0");
        let pins = PinDir::open().expect("pins");
        let other = nic();
        let held = other.attach("cali0", NicMode::Native).expect("attach");
        let id = xdp_program("cali0").expect("a program");
        let error = pods(FailMode::Closed)
            .attach("cali0", &pins)
            .expect_err("held");
        let expected = format!("cali0: held by another XDP program \"caracal_nic\" (id {id}); ");
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert!(held.is_alive());
        assert_eq!(pin_names(&pins), [""; 0]);
        drop(held);

        // A program attached without a link, in the mode that we do not use.
        let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../xdp/nic.bpf.o");
        command(
            "bpftool",
            &format!("prog load {object} /sys/fs/bpf/other type xdp"),
        );
        for mode in ["xdpgeneric", "xdpdrv"] {
            command(
                "bpftool",
                &format!("net attach {mode} pinned /sys/fs/bpf/other dev cali0"),
            );
            let error = nic().attach("cali0", NicMode::Native).expect_err("held");
            assert!(matches!(error, AttachError::Held { .. }), "{mode}: {error}");
            assert!(error.to_string().contains("caracal_nic"), "{mode}: {error}");
            command("bpftool", &format!("net detach {mode} dev cali0"));
        }
    });
}

#[test]
fn too_large_an_mtu_is_told_with_the_limit() {
    if skipped_without_root("too_large_an_mtu_is_told_with_the_limit") {
        return;
    }
    isolated(|| {
        veth("cali0", "eth0");
        let pins = PinDir::open().expect("pins");
        let set = |mtu: u32| {
            ip(&format!("link set cali0 mtu {mtu}"));
            ip(&format!("link set eth0 mtu {mtu}"));
        };
        set(9000);
        let mut program = pods(FailMode::Closed);
        let error = program.attach("cali0", &pins).expect_err("too large");
        assert!(
            error.to_string().starts_with(
                "cali0: an MTU of 9000 is too large for XDP; lower it on both ends to 3506"
            ),
            "{error}"
        );
        assert_eq!(xdp_program("cali0"), None);
        assert_eq!(pin_names(&pins), [""; 0]);
        set(3506);
        program
            .attach("cali0", &pins)
            .expect("the slot is free again");
    });
}

#[test]
fn more_transmit_queues_than_we_receive_on_are_told() {
    if skipped_without(
        "more_transmit_queues_than_we_receive_on_are_told",
        &["ethtool"],
    ) {
        return;
    }
    isolated(|| {
        ip(
            "link add cali0 numrxqueues 2 numtxqueues 2 type veth peer name eth0 numrxqueues 2 numtxqueues 2",
        );
        command("ethtool", "-L cali0 rx 1 tx 1");
        command("ethtool", "-L eth0 rx 2 tx 2");
        let pins = PinDir::open().expect("pins");
        let mut program = pods(FailMode::Closed);
        let error = program.attach("cali0", &pins).expect_err("too many");
        assert!(
            matches!(error, AttachError::TooManyPeerQueues { .. }),
            "{error}"
        );
        assert_eq!(xdp_program("cali0"), None);
        command("ethtool", "-L cali0 rx 2");
        program.attach("cali0", &pins).expect("enough now");
    });
}

#[test]
fn the_generic_mode_is_used_only_when_allowed() {
    if skipped_without_root("the_generic_mode_is_used_only_when_allowed") {
        return;
    }
    isolated(|| {
        // The loopback device has no driver to speak of.
        let nic = nic();
        let error = nic.attach("lo", NicMode::Native).expect_err("no driver");
        assert!(matches!(error, AttachError::NoNativeXdp { .. }), "{error}");
        assert_eq!(xdp_program("lo"), None);
        let attachment = nic.attach("lo", NicMode::NativeOrGeneric).expect("attach");
        assert!(attachment.is_generic());
        drop(attachment);
        assert_eq!(xdp_program("lo"), None);
        // A pod's veth has no such way out.
        let pins = PinDir::open().expect("pins");
        let error = pods(FailMode::Closed)
            .attach("lo", &pins)
            .expect_err("no driver");
        assert!(matches!(error, AttachError::NoNativeXdp { .. }), "{error}");
    });
}

#[test]
fn what_cannot_be_pinned_is_not_attached() {
    if skipped_without_root("what_cannot_be_pinned_is_not_attached") {
        return;
    }
    isolated(|| {
        veth("cali0", "eth0");
        let pins = PinDir::open().expect("pins");
        make_read_only(BPFFS);
        let mut program = pods(FailMode::Closed);
        let error = program.attach("cali0", &pins).expect_err("read-only");
        assert!(error.to_string().contains("cannot pin"), "{error}");
        assert!(error.to_string().contains(BPFFS), "{error}");
        assert_eq!(xdp_program("cali0"), None);

        let error = PinDir::open_on("/sys/fs/nosuch".as_ref()).expect_err("no such place");
        assert!(
            error
                .to_string()
                .starts_with("no BPF file system at /sys/fs/nosuch"),
            "{error}"
        );
    });
}

#[test]
fn an_unprivileged_process_is_told_what_it_needs() {
    if skipped_without_root("an_unprivileged_process_is_told_what_it_needs") {
        return;
    }
    let said = Role::start("nobody").hear();
    assert!(said.contains("CAP_BPF"), "{said}");
}
