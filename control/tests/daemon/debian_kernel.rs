//! The kernels of Debian 12 and 13, which users run, and uplinks of kinds that they have.

use std::process::Command;

use crate::host::all_reach_all;
use crate::lab::{Lab, Options, Uplink};
use crate::offload;
use crate::process::Daemon;
use crate::virtual_machine::{on_a_kernel_with, on_debian_12, on_debian_13};

#[test]
fn pods_are_served() {
    let test = "debian_kernel::pods_are_served";
    on_debian_12(test, || {
        let Some(mut lab) = Lab::new(test) else {
            return;
        };
        let pods = [lab.pod(0), lab.pod(1)];
        let mut daemon = Daemon::start(&lab);
        all_reach_all(&lab, &pods);
        daemon.wait_for("pollers wait by epoll");
        daemon.finish();
    });
}

#[test]
fn established_flows_are_its_own_only_if_it_can_have_them() {
    let test = "debian_kernel::established_flows_are_its_own_only_if_it_can_have_them";
    on_debian_12(test, || {
        let options = Options {
            settings: "offload: kernel\n".to_owned(),
            ..Options::default()
        };
        let Some(mut lab) = Lab::with(test, options) else {
            return;
        };
        lab.pod(0);
        let mut daemon = Daemon::spawn(&lab);
        assert_eq!(daemon.wait().code(), Some(1));
        let log = daemon.log();
        let said = log.lines().last().unwrap_or_default();
        assert!(
            said.contains("this kernel is too old for flows in the kernel; run Linux 6.6 or newer")
                && said.contains("set `offload: off`"),
            "{log}"
        );
        assert_eq!(lab.attached(), Vec::<String>::new());
    });
}

#[test]
fn debian_13_carries_what_is_established() {
    let test = "debian_kernel::debian_13_carries_what_is_established";
    on_debian_13(test, || {
        let bond = Uplink::Bond {
            mode: "balance-xor",
        };
        for uplink in [Uplink::Veth, Uplink::Vlan, bond] {
            offload::carried(test, uplink);
        }
    });
}

#[test]
fn debian_13_serves_pods() {
    let test = "debian_kernel::debian_13_serves_pods";
    on_debian_13(test, || {
        let Some(mut lab) = Lab::new(test) else {
            return;
        };
        let pods = [lab.pod(0), lab.pod(1)];
        let mut daemon = Daemon::start(&lab);
        all_reach_all(&lab, &pods);
        daemon.finish();
    });
}

#[test]
fn a_vlan_device_is_an_uplink_in_generic_mode() {
    let test = "debian_kernel::a_vlan_device_is_an_uplink_in_generic_mode";
    on_a_kernel_with("vlan", test, || {
        let options = Options {
            uplink: Uplink::Vlan,
            uplink_mode: Some("generic"),
            ..Options::default()
        };
        let Some(mut lab) = Lab::with(test, options) else {
            return;
        };
        let pods = [lab.pod(0), lab.pod(1)];
        let mut daemon = Daemon::start(&lab);
        all_reach_all(&lab, &pods);
        daemon.finish();
    });
}

#[test]
fn a_vlan_device_has_no_native_xdp_and_that_is_said() {
    let test = "debian_kernel::a_vlan_device_has_no_native_xdp_and_that_is_said";
    on_a_kernel_with("vlan", test, || {
        let options = Options {
            uplink: Uplink::Vlan,
            ..Options::default()
        };
        let Some(lab) = Lab::with(test, options) else {
            return;
        };
        let mut daemon = Daemon::spawn(&lab);
        assert_eq!(daemon.wait().code(), Some(1));
        let log = daemon.log();
        let said = log.lines().last().unwrap_or_default();
        assert!(
            said.contains("eth0.100: a VLAN device has no native XDP")
                && said.contains("`mode: generic`"),
            "{log}"
        );
        assert_eq!(lab.attached(), Vec::<String>::new());
    });
}

/// The one step of the demo that not every kernel can show.
#[test]
fn a_node_of_the_kernels_ipip_device_and_ours_understand_each_other() {
    let test = "debian_kernel::a_node_of_the_kernels_ipip_device_and_ours_understand_each_other";
    on_a_kernel_with("ipip", test, || {
        let words = "demo --mode ipip --family ipv4 --step interop-ipip --size 1 --no-color";
        let output = Command::new(env!("CARGO_BIN_EXE_caracal"))
            .args(words.split(' '))
            .args(["--lab", "ipip"])
            .output()
            .expect("caracal");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("0 failed, 0 skipped"), "{said}");
        assert!(said.contains("wire ipip"), "{said}");
    });
}
