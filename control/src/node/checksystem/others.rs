//! Who else moves pods' packets here, or has a hand in the host's.

use std::collections::BTreeSet;
use std::io;

use super::finding::Finding;
use super::machine::Machine;
use crate::config::daemon::UpdateSource;
use crate::config::{DaemonConfig, HostEndpoints};
use crate::desired::{Desired, PoolType};
use crate::netlink::nftables::Nftables;
use crate::netlink::{Link, Mirror};
use crate::nft::Nft;
use crate::node::{host_ports, kernel, start};

/// Names of chains' tables, and their own.
type Chains = BTreeSet<(String, String)>;

/// What was seen of the machine.
pub(super) struct Seen<'s> {
    pub(super) machine: &'s Machine,
    pub(super) config: &'s DaemonConfig,
    /// `None` where the resources are not known.
    pub(super) desired: Option<&'s Desired>,
    pub(super) mirror: &'s Mirror,
    /// Chains of nftables, iptables' among them.
    pub(super) chains: io::Result<Chains>,
}

impl Seen<'_> {
    /// Looks at each.
    pub(super) fn look(&self) -> Vec<Finding> {
        let mut findings = vec![self.nft()];
        findings.extend(self.misplaced());
        findings.extend(self.vxlan());
        findings.extend(self.ipip());
        findings.push(self.calico());
        findings.push(self.services());
        findings.extend(self.cilium());
        findings.extend(self.ipv6());
        findings
    }

    fn link(&self, is_it: impl Fn(&Link) -> bool) -> Option<&Link> {
        self.mirror.links().find(|link| is_it(link))
    }

    /// nft is needed where host endpoints are enforced.
    fn nft(&self) -> Finding {
        let check = "nftables";
        let hosts = self.desired.map(|desired| {
            let mut all = desired.policy.host_endpoints.values();
            all.any(|endpoint| endpoint.node == desired.node_name)
        });
        let enforced = self.config.host_endpoints == HostEndpoints::Enforced;
        let there = Nft::find().map(|_| Nftables::open().and_then(|it| it.generation()));
        match (there, enforced && hosts != Some(false)) {
            (_, false) => Finding::ok(
                check,
                "not needed: no host endpoint of this node is enforced on the host's own traffic",
            ),
            (Ok(Ok(_)), true) => Finding::ok(check, "`nft` and the kernel's part are there"),
            (Ok(Err(error)), true) => Finding::warn(
                check,
                format!("the kernel's nf_tables does not answer: {error}"),
                "`modprobe nf_tables`; or `hostEndpoints: forwarded-only` in caracal.yaml",
            ),
            (Err(error), true) if hosts == Some(true) => Finding::refused(check, &error),
            // From Felix, or with bad files: there may be some.
            (Err(error), true) => {
                let finding = Finding::refused(check, &error).only_a_warning();
                let found = format!("{}; needed if there is a host endpoint", finding.found);
                Finding { found, ..finding }
            }
        }
    }

    /// An address of our node that is not here: as `caracal status` says it.
    fn misplaced(&self) -> Vec<Finding> {
        let desired = self.desired.filter(|_| !self.config.uplinks.is_empty());
        let Some(desired) = desired else {
            return Vec::new();
        };
        let found = |text| Finding::refused("node-address", &text).only_a_warning();
        kernel::misplaced(desired, self.mirror).map(found).collect()
    }

    /// VXLAN addressed to this node comes to us, whoever else wants it.
    fn vxlan(&self) -> Vec<Finding> {
        let Some(port) = self.desired.and_then(start::vxlan_port) else {
            return Vec::new();
        };
        let device = self.link(|link| link.kind.as_deref() == Some("vxlan"));
        let udp = |file: &str| {
            self.machine
                .read(&format!("proc/thread-self/net/{file}"))
                .unwrap_or_default()
        };
        let bound = ["udp", "udp6"]
            .iter()
            .any(|file| host_ports::local_ports(&udp(file)).any(|it| it == port));
        let found = match device {
            Some(device) if bound => format!(
                "the kernel's {} has UDP port {port}, and receives nothing any more once pods are served",
                device.name
            ),
            None if bound => format!(
                "somebody has UDP port {port}, and receives no VXLAN any more once pods are served"
            ),
            _ => {
                return vec![Finding::ok(
                    "vxlan",
                    format!("UDP port {port} is nobody else's"),
                )];
            }
        };
        let todo = match device {
            Some(device) => format!("`ip link delete {}`, and its routes with it, once nobody keeps it (calico-node does)", device.name),
            None => "`ss -lunp` shows who; or set another `vxlanPort` in the FelixConfiguration of all nodes".to_owned(),
        };
        vec![Finding::warn("vxlan", found, todo)]
    }

    fn ipip(&self) -> Option<Finding> {
        let pools = &self.desired?.pools;
        let used = pools.iter().any(|pool| pool.kind() == PoolType::Ipip);
        let device = self.link(|link| link.kind.as_deref() == Some("ipip") && link.admin_up);
        let device = device.filter(|_| used)?;
        Some(Finding::warn(
            "ipip",
            format!(
                "the kernel's {} is up, and receives nothing any more once pods are served",
                device.name
            ),
            format!(
                "`ip link set {} down`, once nobody keeps it (calico-node does)",
                device.name
            ),
        ))
    }

    /// Felix with its own dataplane beside us, or what it left.
    fn calico(&self) -> Finding {
        let check = "calico";
        if let Some(link) = self.link(|link| {
            link.name.starts_with("bpfin.cali") || link.name.starts_with("bpfout.cali")
        }) {
            return Finding::warn(
                check,
                format!(
                    "Calico's BPF dataplane was here ({}): its programs on the NIC and the pods may be attached still",
                    link.name
                ),
                "set `bpfEnabled: false` and let calico-node clean up before the daemon starts",
            );
        }
        let felix = self.machine.process(&["calico-node", "calico-felix"]);
        let ours = self.config.source == UpdateSource::Felix;
        let chains = match &self.chains {
            Ok(chains) => has_rules(chains, "calico", "cali-"),
            // Its process says more.
            Err(_) if felix.is_some() && !ours => false,
            Err(error) => return Finding::unknown(check, error),
        };
        match (felix, chains) {
            (Some((name, process)), _) if !ours => Finding::warn(
                check,
                format!(
                    "{name} runs (pid {process}) with a dataplane of its own: pods' packets no longer meet its rules, and host endpoints are enforced twice"
                ),
                "have it drive this daemon (`source: felix`, docs/felix.md); or `hostEndpoints: forwarded-only` in caracal.yaml",
            ),
            (None, true) if self.machine.is_container() => Finding::warn(
                check,
                "rules of Calico (chains `cali-…`) are in force; whether it runs is not seen from a container",
                "run this on the node itself: while it runs they are its own",
            ),
            (None, false) if self.machine.is_container() => {
                let then = "pods' packets no longer meet its rules, unless it drives this daemon";
                Finding::unseen(check, then)
            }
            (None, true) => Finding::warn(
                check,
                "rules of Calico (chains `cali-…`) are in force though it does not run: they judge the host's own traffic still",
                "boot, or remove them: `nft list ruleset` shows them, `iptables-save | grep cali-` with iptables",
            ),
            (Some(_), true) => Finding::warn(
                check,
                "Felix runs, and is to drive this daemon; rules of its own dataplane (chains `cali-…`) are in force still",
                "once Felix drives this daemon, boot or remove them: `nft list ruleset` shows them, `iptables-save | grep cali-` with iptables",
            ),
            (Some(_), false) => Finding::ok(check, "Felix runs, and is to drive this daemon"),
            (None, false) => Finding::ok(check, "no dataplane of Calico's is in force"),
        }
    }

    /// What kube-proxy does for the host is the dataplane's to do for pods, and it has to know the services.
    fn services(&self) -> Finding {
        let check = "kube-proxy";
        let process = self.machine.process(&["kube-proxy"]);
        let ipvs = self.link(|link| link.name == "kube-ipvs0");
        let runs = process.is_some() || ipvs.is_some();
        let rules = match &self.chains {
            Ok(chains) => has_rules(chains, "kube-proxy", "KUBE-SERVICES"),
            Err(error) if !runs => return Finding::unknown(check, error),
            Err(_) => false,
        };
        if !runs && !rules {
            // Its rules would be seen from a container, too.
            let found = if self.machine.is_container() {
                "none of its rules are here"
            } else {
                "does not run"
            };
            return Finding::ok(check, found);
        }
        let is_told = self.desired.is_some_and(|it| !it.services.is_empty());
        if is_told || self.config.kubernetes.is_some() {
            let found = "its rules are for the host and for node ports; pods reach services by the dataplane";
            return Finding::ok(check, found);
        }
        Finding::warn(
            check,
            "its rules are in force for the host's own traffic; pods' packets do not meet them, and nobody says which services there are: pods reach none by its address, cluster DNS neither",
            "name the API server (`kubernetes` in caracal.yaml, docs/kubernetes.md), or have services among the resources (docs/services.md)",
        )
    }

    fn cilium(&self) -> Option<Finding> {
        let link = self.link(|link| link.name.starts_with("cilium_"))?;
        Some(Finding::warn(
            "cilium",
            format!(
                "{} is here: Cilium's programs are on interfaces that are to be ours",
                link.name
            ),
            "one of the two; remove Cilium, and boot",
        ))
    }

    fn ipv6(&self) -> Option<Finding> {
        let wanted = self
            .desired?
            .pools
            .iter()
            .any(|pool| pool.cidr.addr().is_ipv6());
        let off = self
            .machine
            .number("proc/sys/net/ipv6/conf/all/disable_ipv6");
        if !wanted || off == Some(0) {
            return None;
        }
        Some(Finding::warn(
            "ipv6",
            "a pool is IPv6, and the host has IPv6 switched off: it does not reach those pods, nor find next hops",
            "`sysctl -w net.ipv6.conf.all.disable_ipv6=0`, or boot without ipv6.disable=1",
        ))
    }
}

/// Whether there is a table of that name, or a chain that begins so.
fn has_rules(chains: &Chains, table: &str, prefix: &str) -> bool {
    let mut all = chains.iter();
    all.any(|(of, chain)| of == table || chain.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::machine::played::Played;
    use super::*;
    use crate::desired::Service;

    #[test]
    fn rules_that_can_not_be_read_are_not_said_to_be_absent() {
        let machine = Played::new("others-rules", &[]);
        let config = DaemonConfig::default();
        let mirror = Mirror::new().unwrap();
        let said = |chains| {
            let seen = Seen {
                machine: &machine.0,
                config: &config,
                desired: None,
                mirror: &mirror,
                chains,
            };
            [seen.calico(), seen.services()]
        };
        for finding in said(Err(io::Error::from_raw_os_error(libc::EPERM))) {
            assert_eq!(finding.state, State::Warn, "{finding:?}");
            assert!(finding.found.contains("not permitted"), "{finding:?}");
        }
        for finding in said(Ok(Chains::new())) {
            assert_eq!(finding.state, State::Ok, "{finding:?}");
        }
    }

    #[test]
    fn kube_proxy_is_no_trouble_for_pods_whose_services_are_known() {
        let machine = Played::new("others-services", &[]);
        let config = DaemonConfig::default();
        let mirror = Mirror::new().unwrap();
        let said = |desired: &Desired| {
            let seen = Seen {
                machine: &machine.0,
                config: &config,
                desired: Some(desired),
                mirror: &mirror,
                chains: Ok([("nat".to_owned(), "KUBE-SERVICES".to_owned())].into()),
            };
            seen.services().state
        };
        let mut desired = Desired::default();
        assert_eq!(said(&desired), State::Warn);
        desired.services = vec![Service::default()].into();
        assert_eq!(said(&desired), State::Ok);
    }
}
