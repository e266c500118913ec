//! The Linux kernel as the judge: the same packets go into a node whose dataplane is the kernel's and into one whose
//! dataplane is Caracal, the daemon itself over AF_XDP. What comes out must be the same, byte by byte, but for the
//! differences that `allowed-differences.yaml` lists with their reasons. As root.

mod allowed;
mod compare;
mod daemon;
mod frame;
mod lab;
mod live;
mod masquerade;
mod node;
mod plan;
mod run;
mod scenarios;
mod script;
mod services;
mod skip;
mod source_ports;
mod tap;
mod uml;
mod view;

use node::{CaracalNode, KernelNode, UmlNode};
use plan::Tunnel;
use script::Script;

/// Sends a script into both nodes and judges what comes out.
fn against_the_kernel(test: &str, write: impl FnOnce(&mut Script)) {
    if skip::skipped(test) {
        return;
    }
    let mut script = Script::default();
    write(&mut script);
    let kernel = KernelNode::start(test);
    let caracal = CaracalNode::start(test, Tunnel::Vxlan);
    let outcomes = run::run(&script, &kernel.dataplane, &caracal.dataplane);
    source_ports::check(&outcomes);
    allowed::judge(test, &outcomes);
}

/// The same with a kernel that has IPIP.
fn against_a_guest(test: &str, write: impl FnOnce(&mut Script)) {
    if skip::skipped_without_uml(test) {
        return;
    }
    let mut script = Script::default();
    write(&mut script);
    let kernel = UmlNode::start(test);
    let caracal = CaracalNode::start(test, Tunnel::Ipip);
    let outcomes = run::run(&script, &kernel.dataplane, &caracal.dataplane);
    allowed::judge(test, &outcomes);
}

/// Lets pods talk to the world through both nodes, each of which masquerades.
#[test]
fn masquerade() {
    let test = "masquerade";
    if skip::skipped(test) || skip::skipped_without_nft(test) {
        return;
    }
    let mut talk = masquerade::Talk::default();
    scenarios::masquerade::write(&mut talk);
    let kernel = KernelNode::start_with(test, masquerade::RULES);
    let resources =
        node::resources(Tunnel::Vxlan).replace("natOutgoing: false", "natOutgoing: true");
    let caracal = CaracalNode::start_with(test, &resources);
    let outcomes = talk.with(&kernel.dataplane, &caracal.dataplane);
    allowed::judge(test, &outcomes);
}

/// Lets pods talk to a service, whose connections the kernel translates by kube-proxy's rules.
#[test]
fn services() {
    let test = "services";
    if skip::skipped(test) || skip::skipped_without_nft(test) {
        return;
    }
    let mut talk = masquerade::Talk::default();
    scenarios::services::write(&mut talk);
    let kernel = KernelNode::start_with(test, &services::rules());
    let caracal = CaracalNode::start_with(test, &services::resources());
    let outcomes = talk.with(&kernel.dataplane, &caracal.dataplane);
    allowed::judge(test, &outcomes);
}

#[test]
fn ipv4_forwarding() {
    against_the_kernel("ipv4_forwarding", scenarios::forward4::write);
}

#[test]
fn ipv4_errors_and_fragments() {
    against_the_kernel("ipv4_errors_and_fragments", scenarios::icmp4::write);
}

#[test]
fn vxlan_over_ipv4() {
    against_the_kernel("vxlan_over_ipv4", scenarios::vxlan4::write);
}

#[test]
fn ipv6_forwarding() {
    against_the_kernel("ipv6_forwarding", scenarios::forward6::write);
}

#[test]
fn vxlan_over_ipv6() {
    against_the_kernel("vxlan_over_ipv6", scenarios::vxlan6::write);
}

#[test]
fn ipip() {
    against_a_guest("ipip", scenarios::ipip::write);
}

#[test]
fn ipip_conversation() {
    if skip::skipped_without_uml("ipip_conversation") {
        return;
    }
    let outcomes = live::converse("ipip_conversation");
    let alike: Vec<&str> = outcomes.iter().map(|outcome| &outcome.name[..]).collect();
    // Echo replies bear the TOS of their requests: both nodes have encapsulated all of these.
    for (tos, df) in [
        ("00", 0),
        ("01", 0),
        ("02", 0),
        ("03", 0),
        ("b8", 0),
        ("00", 1),
    ] {
        let seen = alike.contains(&&format!("outer/tos-{tos}-df-{df}")[..]);
        assert!(seen, "both encapsulated only {alike:?}");
    }
    allowed::judge("ipip_conversation", &outcomes);
}
