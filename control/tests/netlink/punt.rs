//! The punt in a namespace that plays the node.

use control::netlink::PuntPort;
use control::netlink::punt::{IN_END, OUT_END};
use fastpath::io::xsk::ethtool;
use fastpath::io::xsk::test_support::XdpProgram;

use crate::lab::{Lab, ip, ip_json};

const QUEUES: u32 = 2;
const MTU: u32 = PuntPort::largest_mtu(2048);

fn ensure() -> PuntPort {
    PuntPort::ensure(QUEUES, MTU).expect("ensure")
}

/// What matters of either end, as `ip` and the kernel's files show it.
fn shown() -> String {
    [IN_END, OUT_END]
        .map(|end| {
            let link = &ip_json(&format!("-d link show {end}"))[0];
            let addresses: Vec<_> = ip_json(&format!("addr show {end}"))
                .iter()
                .filter_map(|link| link["addr_info"].as_array().cloned())
                .flatten()
                .collect();
            let setting = |key: &str| {
                let path = format!("/proc/sys/net/{}", key.replace("END", end));
                let value = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
                value.trim().to_owned()
            };
            let has = |flag: &str| link["flags"].as_array().is_some_and(|it| it.contains(&flag.into()));
            format!(
                "{end}: queues {} {} mtu {} up {} arp {} addresses {addresses:?} forwarding {} ipv6 off {}\n",
                link["num_rx_queues"],
                link["num_tx_queues"],
                link["mtu"],
                has("UP"),
                !has("NOARP"),
                setting("ipv4/conf/END/forwarding"),
                setting("ipv6/conf/END/disable_ipv6"),
            )
        })
        .concat()
}

fn as_wanted() -> String {
    [IN_END, OUT_END]
        .map(|end| {
            format!(
                "{end}: queues 2 2 mtu 1774 up true arp false addresses [] forwarding 0 ipv6 off 1\n"
            )
        })
        .concat()
}

#[test]
fn it_is_the_same_however_often_it_is_ensured() {
    let Some(lab) = Lab::new("punt") else { return };
    lab.run(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding on");
        let punt = ensure();
        assert_eq!(shown(), as_wanted());
        let index = |end| ip_json(&format!("link show {end}"))[0]["ifindex"].as_u64();
        assert_eq!(index(IN_END), Some(punt.in_ifindex.into()));
        assert_eq!(index(OUT_END), Some(punt.out_ifindex.into()));
        assert_eq!(ethtool::tx_checksum(IN_END).ok(), Some(false));

        assert_eq!(ensure(), punt, "what is attached to the pair stays");
        assert_eq!(shown(), as_wanted());

        ip("link set caracal-punt0 down");
        ip("link set caracal-punt1 mtu 1400");
        ip("link set caracal-punt1 arp on");
        ip("addr add 10.99.0.1/32 dev caracal-punt0");
        ethtool::set_tx_checksum(IN_END, true).expect("a feature");
        assert_eq!(ensure(), punt);
        assert_eq!(shown(), as_wanted());
        assert_eq!(ethtool::tx_checksum(IN_END).ok(), Some(false));
    });
}

#[test]
fn what_will_not_do_is_made_anew_and_a_strangers_link_is_left_alone() {
    let Some(lab) = Lab::new("punt") else { return };
    lab.run(|| {
        let first = ensure();
        let other = PuntPort::ensure(1, MTU).expect("with other queues");
        assert!(other != first, "queues cannot be changed");
        // Half of one: the other end is a stranger's.
        ip("link set caracal-punt1 name elsewhere");
        assert!(ensure() != other);
        assert_eq!(shown(), as_wanted());

        ip("link del caracal-punt0");
        ip("link add caracal-punt1 type bridge");
        let error = PuntPort::ensure(QUEUES, MTU).expect_err("a stranger's link");
        let error = error.to_string();
        assert!(
            error.contains("set up the punt: caracal-punt1 is there already and not a veth"),
            "{error}"
        );
        PuntPort::remove_leftovers().expect("nothing of ours");
        assert_eq!(ip_json("link show caracal-punt1").len(), 1, "left alone");
    });
}

#[test]
fn removal_leaves_nothing() {
    let Some(lab) = Lab::new("punt") else { return };
    lab.run(|| {
        let links = || format!("{:?}", ip_json("link show"));
        let before = links();
        for _ in 0..2 {
            ensure();
            assert!(links() != before);
            PuntPort::remove_leftovers().expect("remove");
            assert_eq!(links(), before);
            PuntPort::remove_leftovers().expect("nothing to remove is no error");
        }
    });
}

#[test]
fn xdp_takes_the_largest_mtu_and_no_super_frames() {
    let Some(lab) = Lab::new("punt") else { return };
    lab.run(|| {
        for frame_size in [2048, 4096] {
            let mtu = PuntPort::largest_mtu(frame_size);
            PuntPort::ensure(QUEUES, mtu).expect("ensure");
            let program = XdpProgram::redirect(QUEUES);
            let link = program.attach(OUT_END);
            assert_eq!(ethtool::segmentation(IN_END).ok(), Some(false));
            // With a program attached, by an earlier process, it is taken over all the same.
            PuntPort::ensure(QUEUES, mtu).expect("ensure");
            drop(link);
        }
        assert_eq!(PuntPort::largest_mtu(2048), 1774);
        assert_eq!(PuntPort::largest_mtu(4096), 3498);
    });
}
