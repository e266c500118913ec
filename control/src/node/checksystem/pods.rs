//! The pods' interfaces that are here, and the host's port.

use fastpath::io::xsk::ethtool;

use super::finding::Finding;
use super::machine::Machine;
use crate::config::DaemonConfig;
use crate::config::daemon::FailMode;
use crate::desired::Desired;
use crate::netlink::host_port::{DATAPLANE_END, HOST_END};
use crate::netlink::{Link, Mirror};
use crate::node::ports;
use crate::words::counted;

/// So many names are said.
const NAMES: usize = 3;

/// Looks at them. `desired`: `None` where the resources are not known.
pub(super) fn look(
    machine: &Machine,
    config: &DaemonConfig,
    desired: Option<&Desired>,
    mirror: &Mirror,
) -> Vec<Finding> {
    let prefixes = desired.map_or_else(
        || vec!["cali".to_owned()],
        |desired| desired.felix.interface_prefixes.clone(),
    );
    let is_pods = |link: &&Link| {
        prefixes
            .iter()
            .any(|prefix| link.name.starts_with(prefix.as_str()))
    };
    let pods: Vec<&Link> = mirror.links().filter(is_pods).collect();
    let mut findings = vec![known(&pods, desired)];
    findings.extend(queues(&pods, config.pollers()));
    findings.extend(mtus(&pods, config));
    findings.push(kernel_forwards(machine, config, &pods));
    findings.push(host_port(mirror));
    findings
}

/// Interfaces without an endpoint are closed from the first second.
fn known(pods: &[&Link], desired: Option<&Desired>) -> Finding {
    let check = "pods";
    let count = counted(pods.len() as u64, "interface");
    let Some(desired) = desired else {
        return Finding::ok(
            check,
            format!("{count} of pods: which are served is not known here"),
        );
    };
    let endpoints = &desired.endpoints;
    let unknown = pods
        .iter()
        .filter(|link| endpoints.iter().all(|it| it.interface != link.name));
    let unknown: Vec<_> = unknown.map(|link| link.name.as_str()).collect();
    if unknown.is_empty() {
        return Finding::ok(
            check,
            format!("{count} here, each named by a WorkloadEndpoint"),
        );
    }
    Finding::warn(
        check,
        format!(
            "closed from the start, since no WorkloadEndpoint names them: {}",
            some(&unknown)
        ),
        "export the endpoints anew (docs/real-node.md); or remove interfaces of pods that are gone",
    )
}

/// Each needs as many queues as there are pollers, or to be able to have them.
fn queues(pods: &[&Link], pollers: u32) -> Option<Finding> {
    let few = pods.iter().filter(|link| {
        let channels = ethtool::channels(&link.name);
        channels.is_ok_and(|channels| channels.max_both_ways().max(channels.queues()) < pollers)
    });
    let few: Vec<_> = few.map(|link| link.name.as_str()).collect();
    if few.is_empty() {
        return None;
    }
    Some(Finding::warn(
        "pod-queues",
        format!(
            "fewer queues than {}, and so closed: {}",
            counted(pollers.into(), "poller"),
            some(&few)
        ),
        format!(
            "`\"num_queues\": {pollers}` in Calico's CNI configuration, and make the pods anew; or fewer `pollers.cores`"
        ),
    ))
}

fn mtus(pods: &[&Link], config: &DaemonConfig) -> Option<Finding> {
    let frame = config.frames.largest();
    let large = pods
        .iter()
        .filter(|link| ports::check_mtu(link, frame).is_err());
    let large: Vec<_> = large.map(|link| link.name.as_str()).collect();
    let first = pods
        .iter()
        .find_map(|link| ports::check_mtu(link, frame).err())?;
    let finding = Finding::refused("pod-mtu", &first).only_a_warning();
    let found = format!("too large for frames, and so closed: {}", some(&large));
    Some(Finding { found, ..finding })
}

/// With `failMode: open` the kernel forwards while no daemon runs; otherwise it need not.
fn kernel_forwards(machine: &Machine, config: &DaemonConfig, pods: &[&Link]) -> Finding {
    let check = "forwarding";
    let forward = machine
        .number("proc/sys/net/ipv4/ip_forward")
        .unwrap_or_default();
    let filter = machine
        .number("proc/sys/net/ipv4/conf/all/rp_filter")
        .unwrap_or_default();
    if config.fail_mode == FailMode::Closed {
        let found = format!(
            "ip_forward {forward}, not needed (`failMode: closed`); rp_filter {filter}, and loose on the host's port whatever it is"
        );
        return Finding::ok(check, found);
    }
    if forward == 0 {
        return Finding::warn(
            check,
            "`failMode: open`, and the kernel does not forward: pods are cut off while no daemon runs",
            "`sysctl -w net.ipv4.ip_forward=1`, and a file in /etc/sysctl.d; or `failMode: closed`",
        );
    }
    let silent = pods.iter().filter(|link| {
        let path = format!("proc/sys/net/ipv4/conf/{}/proxy_arp", link.name);
        machine.number(&path) == Some(0)
    });
    let silent: Vec<_> = silent.map(|link| link.name.as_str()).collect();
    if silent.is_empty() {
        return Finding::ok(
            check,
            "`failMode: open`: the kernel forwards, and answers pods' ARP",
        );
    }
    Finding::warn(
        check,
        format!(
            "`failMode: open`, and the kernel does not answer ARP for pods' router 169.254.1.1 there: {}",
            some(&silent)
        ),
        "`sysctl -w net.ipv4.conf.INTERFACE.proxy_arp=1`, as Calico's CNI plugin does",
    )
}

/// The names of the host's port must be free, or ours.
fn host_port(mirror: &Mirror) -> Finding {
    let check = "host-port";
    let strange = [HOST_END, DATAPLANE_END]
        .into_iter()
        .filter_map(|name| mirror.link_by_name(name))
        .find(|link| link.kind.as_deref() != Some("veth"));
    match strange {
        None => Finding::ok(check, format!("{HOST_END} is free, or ours")),
        Some(link) => Finding::missing(
            check,
            format!("{} is there, and no veth of ours", link.name),
            format!("rename it: `ip link set {} name OTHER`", link.name),
        ),
    }
}

fn some(names: &[&str]) -> String {
    let mut all: Vec<_> = names.to_vec();
    all.sort_unstable();
    let first = all
        .iter()
        .take(NAMES)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match all.len().saturating_sub(NAMES) {
        0 => first,
        more => format!("{first}, and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::machine::played::Played;
    use super::*;

    #[test]
    fn a_kernel_that_is_to_forward_must_be_able_to() {
        let mut config = DaemonConfig::default();
        let link = Link {
            name: "cali1".to_owned(),
            ..Link::default()
        };
        let said = |config: &DaemonConfig, forward: &str, arp: &str| {
            let files = [
                ("proc/sys/net/ipv4/ip_forward", forward),
                ("proc/sys/net/ipv4/conf/cali1/proxy_arp", arp),
            ];
            let name = format!("forward-{forward}-{arp}-{:?}", config.fail_mode);
            let machine = Played::new(&name, &files);
            kernel_forwards(&machine.0, config, &[&link])
        };
        assert_eq!(said(&config, "0", "0").state, State::Ok);
        config.fail_mode = FailMode::Open;
        assert!(said(&config, "0", "1").found.contains("does not forward"));
        assert!(said(&config, "1", "0").found.ends_with("there: cali1"));
        assert_eq!(said(&config, "1", "1").state, State::Ok);
    }

    #[test]
    fn a_few_names_are_enough() {
        assert_eq!(some(&["b", "a"]), "a, b");
        assert_eq!(some(&["e", "d", "c", "b", "a"]), "a, b, c, and 2 more");
    }
}
