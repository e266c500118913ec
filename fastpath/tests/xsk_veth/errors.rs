//! Everything that can be wrong gets one error that says what, where and what to do.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fastpath::io::xsk::test_support::{can_run, skip};
use fastpath::io::xsk::{Mode, ModeInForce, SocketOptions, XskError, XskSocket, ethtool, probe};

use crate::lab::{Lab, arena, both_ways};

#[test]
fn an_unknown_interface_is_named() {
    if !can_run("an_unknown_interface_is_named") {
        return;
    }
    let lab = Lab::new(1);
    let (area, _part) = arena(64);
    for name in ["nosuch0", "", "a-name-longer-than-fifteen-bytes", "r0\0"] {
        let error = lab
            .right
            .within(|| XskSocket::open(&area, name, 0, &both_ways(32)))
            .expect_err("no such");
        assert!(
            matches!(error, XskError::NoSuchInterface { .. }),
            "{name:?}: {error:?}"
        );
        assert!(error.to_string().contains("no such interface"), "{error}");
    }
    assert_eq!(area.bound_sockets(), 0);
}

#[test]
fn a_queue_out_of_range_says_how_many_there_are() {
    if !can_run("a_queue_out_of_range_says_how_many_there_are") {
        return;
    }
    let lab = Lab::new(2);
    let (area, _part) = arena(64);
    let error = lab
        .right
        .within(|| XskSocket::open(&area, "r0", 2, &both_ways(32)))
        .expect_err("out of range");
    assert!(
        matches!(
            error,
            XskError::QueueOutOfRange {
                queue: 2,
                available: 2,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .starts_with("r0: queue 2 asked for, it has 2"),
        "{error}"
    );
}

#[test]
fn a_held_queue_is_tried_for_a_while_and_then_reported() {
    if !can_run("a_held_queue_is_tried_for_a_while_and_then_reported") {
        return;
    }
    let lab = Lab::new(1);
    let (first, _part) = arena(64);
    let (second, _part) = arena(64);
    let options = SocketOptions {
        busy_patience: Duration::from_millis(100),
        ..both_ways(32)
    };
    let held = lab
        .right
        .within(|| XskSocket::open(&first, "r0", 0, &options))
        .expect("a socket");
    let error = lab
        .right
        .within(|| XskSocket::open(&second, "r0", 0, &options))
        .expect_err("busy");
    assert!(
        matches!(error, XskError::QueueBusy { queue: 0, waited, .. } if waited >= options.busy_patience),
        "{error:?}"
    );
    let again = lab
        .right
        .within(|| XskSocket::open(&first, "r0", 0, &options))
        .expect_err("taken");
    assert!(
        matches!(again, XskError::QueueTaken { queue: 0, .. }),
        "{again:?}"
    );
    // It is freed while somebody waits for it.
    let waiting = SocketOptions {
        busy_patience: Duration::from_secs(5),
        ..options
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            let _ = held.close();
        });
        lab.right
            .within(|| XskSocket::open(&second, "r0", 0, &waiting))
            .expect("free by now");
    });
}

#[test]
fn zero_copy_is_reported_honestly_on_a_veth() {
    if !can_run("zero_copy_is_reported_honestly_on_a_veth") {
        return;
    }
    let lab = Lab::new(1);
    let (area, _part) = arena(64);
    let open = |mode| {
        let options = SocketOptions {
            mode,
            ..both_ways(32)
        };
        lab.right
            .within(|| XskSocket::open(&area, "r0", 0, &options))
    };
    let error = open(Mode::ZeroCopy).expect_err("veth has no zero-copy");
    assert!(
        matches!(&error, XskError::NoZeroCopy { driver, .. } if driver == "veth"),
        "{error:?}"
    );
    let socket = open(Mode::PreferZeroCopy).expect("falls back");
    assert_eq!(socket.mode(), ModeInForce::Copy);
    assert_eq!(socket.mode().to_string(), "copy");
}

#[test]
fn a_socket_without_rings_and_impossible_ring_lengths_are_refused() {
    use fastpath::io::xsk::RingLen;
    for len in [0, 3, 1000, 1 << 21] {
        assert!(
            matches!(RingLen::new(len), Err(XskError::RingLen { len: refused }) if refused == len)
        );
    }
    let (area, _part) = arena(64);
    let options = SocketOptions {
        rx: None,
        tx: None,
        ..both_ways(32)
    };
    let error = XskSocket::open(&area, "lo", 0, &options).expect_err("no rings");
    assert!(matches!(error, XskError::NoRings { .. }), "{error:?}");
}

/// Not a test of its own: what `without_privileges_the_error_says_which` runs as nobody.
#[test]
#[ignore = "run as another user by without_privileges_the_error_says_which"]
fn unprivileged() {
    let (area, _part) = arena(64);
    let error = XskSocket::open(&area, "lo", 0, &both_ways(32)).expect_err("no privileges");
    assert!(matches!(error, XskError::NotPermitted { .. }), "{error:?}");
    let refused = probe::probe().expect_err("no privileges");
    assert!(refused.to_string().contains("CAP_NET_RAW"), "{refused}");
}

#[test]
fn without_privileges_the_error_says_which() {
    if !can_run("without_privileges_the_error_says_which") {
        return;
    }
    let copy = OwnBinary::copied();
    let mut command = Command::new(&copy.0);
    command.uid(65534).gid(65534);
    OwnBinary::passes(command, "errors::unprivileged");
}

/// Not a test of its own: what `memory_that_may_not_be_locked_is_said_so` runs without CAP_IPC_LOCK.
#[test]
#[ignore = "run with a limit by memory_that_may_not_be_locked_is_said_so"]
fn limited() {
    let (area, _part) = arena(1024);
    let error = XskSocket::open(&area, "lo", 0, &both_ways(32)).expect_err("too much to lock");
    assert!(
        matches!(
            error,
            XskError::MemoryLimit {
                bytes: 0x0020_0000,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}");
}

#[test]
fn memory_that_may_not_be_locked_is_said_so() {
    const TEST: &str = "memory_that_may_not_be_locked_is_said_so";
    if !can_run(TEST) {
        return;
    }
    if Command::new("setpriv").arg("--version").output().is_err() {
        return skip(TEST, "no setpriv (on Debian: apt install util-linux)");
    }
    let copy = OwnBinary::copied();
    let mut command = Command::new("prlimit");
    // Root without CAP_IPC_LOCK, which would lift the limit.
    command
        .args(["--memlock=65536", "setpriv", "--bounding-set=-ipc_lock"])
        .arg(&copy.0);
    OwnBinary::passes(command, "errors::limited");
}

/// A copy of this test binary where everybody can read it, wherever the build directory is.
struct OwnBinary(PathBuf);

impl OwnBinary {
    fn copied() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let copy =
            std::env::temp_dir().join(format!("caracal-xsk-{}-{number}", std::process::id()));
        std::fs::copy(std::env::current_exe().expect("the test binary"), &copy).expect("a copy");
        Self(copy)
    }

    /// Runs `command`, which ends in this binary, with one test, which must pass.
    fn passes(mut command: Command, test: &str) {
        let output = command
            .args(["--exact", test, "--include-ignored"])
            .current_dir("/")
            .output();
        let output = output.expect("the test binary starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }
}

impl Drop for OwnBinary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_device_tells_its_driver_queues_and_mtu() {
    if !can_run("the_device_tells_its_driver_queues_and_mtu") {
        return;
    }
    let lab = Lab::new(2);
    lab.right.within(|| {
        assert_eq!(ethtool::driver("r0").expect("a driver"), "veth");
        assert_eq!(ethtool::mtu("r0").expect("an MTU"), 1500);
        let channels = ethtool::channels("r0").expect("channels");
        assert_eq!((channels.both_ways(), channels.max_both_ways()), (2, 2));
        ethtool::set_channels("r0", 1).expect("one queue");
        assert_eq!(ethtool::channels("r0").expect("channels").queues(), 1);
        ethtool::set_channels("r0", 3).expect_err("more than there are");
        assert!(ethtool::tx_checksum("r0").expect("a feature"));
        ethtool::set_tx_checksum("r0", false).expect("off");
        assert!(!ethtool::tx_checksum("r0").expect("a feature"));
        ethtool::set_tx_checksum("r0", true).expect("on");
        assert!(ethtool::tx_checksum("r0").expect("a feature"));
        for word in ["off", "on"] {
            let mut program = std::process::Command::new("ethtool");
            program.args(["-K", "r0", "rxvlan", word]);
            assert!(program.status().expect("ethtool").success());
            let offloads = ethtool::offloads("r0").expect("offloads");
            assert_eq!((offloads.rx_vlan, offloads.lro), (word == "on", false));
        }
        let error = ethtool::driver("nosuch0").expect_err("unknown");
        assert_eq!(error.raw_os_error(), Some(19), "ENODEV");
    });
    lab.right.ip("link set r0 mtu 1400");
    assert_eq!(
        lab.right.within(|| ethtool::mtu("r0")).expect("an MTU"),
        1400
    );
}

#[test]
fn the_probe_says_what_the_kernel_can_do() {
    if !can_run("the_probe_says_what_the_kernel_can_do") {
        return;
    }
    let support = probe::probe().expect("AF_XDP");
    assert!(support.release.contains('.'), "{support:?}");
    let lab = Lab::new(1);
    let (area, _part) = arena(64);
    let options = SocketOptions {
        tx_budget: Some(64),
        ..both_ways(128)
    };
    let socket = lab
        .right
        .within(|| XskSocket::open(&area, "r0", 0, &options))
        .expect("a socket");
    assert_eq!(socket.tx_budget() == 64, support.tx_budget);
}
