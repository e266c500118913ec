//! Where packets meet the table: base chains, and the way from them to the chains of an interface's endpoint.

use super::names;
use super::render::{MARK, Table, Unspeakable, chain_name, clear_mark, is_marked, set_mark};
use crate::netlink::host_port::{DATAPLANE_END, HOST_END};
use crate::policy::model::{Direction, Stage};

impl Table<'_> {
    pub(super) fn base_chains(&mut self) -> Result<(), Unspeakable> {
        use Direction::{Egress, Ingress};
        let (clear, marked) = (clear_mark(), is_marked());
        let accepted = format!("{marked} {clear} accept");

        let mut rules = vec![format!("{marked} {clear}")];
        rules.extend(self.dispatch(Stage::Untracked, Ingress)?);
        self.chain("raw-in", Some("prerouting priority -300"), rules);

        let dispatch = self.dispatch(Stage::PreDnat, Ingress)?;
        if !dispatch.is_empty() {
            let mut rules = vec![format!("{marked} accept")];
            rules.extend(dispatch);
            self.chain("mangle-in", Some("prerouting priority -150"), rules);
        }

        let mut rules = vec![accepted.clone()];
        rules.extend(self.dispatch(Stage::Own, Ingress)?);
        self.chain("input", Some("input priority 0"), rules);

        let mut rules = vec![accepted.clone()];
        rules.extend(self.dispatch(Stage::Forward, Ingress)?);
        self.chain("forward-in", Some("forward priority 0"), rules);

        let rules = self.dispatch(Stage::Forward, Egress)?;
        if !rules.is_empty() {
            self.chain("forward-out", Some("forward priority 1"), rules);
        }

        let mut rules = vec![format!("{marked} {clear}")];
        rules.extend(self.dispatch(Stage::Untracked, Egress)?);
        self.chain("raw-out", Some("output priority -300"), rules);

        // What was given another destination may leave by another interface than is known here.
        let mut rules = vec![accepted, format!("ct status dnat {} accept", set_mark())];
        let dispatch = self.dispatch(Stage::Own, Egress)?;
        rules.extend(dispatch.iter().cloned());
        self.chain("output", Some("output priority 0"), rules);
        let mut rules = vec![format!("meta mark & {MARK:#x} == 0 accept"), clear];
        rules.extend(dispatch);
        self.chain("mangle-out", Some("postrouting priority -150"), rules);
        Ok(())
    }

    /// From a base chain to that of the interface's endpoint. Empty if no endpoint has a say.
    fn dispatch(&self, stage: Stage, direction: Direction) -> Result<Vec<String>, Unspeakable> {
        let chain_of = |endpoint: &String| {
            let chain = chain_name(stage, direction, endpoint);
            let is_there = self.done.ruleset.chains.contains_key(&chain);
            is_there.then(|| format!("goto {chain}"))
        };
        let wildcard = self.view.wildcard.as_ref().and_then(chain_of);
        let mut verdicts = Vec::new();
        let mut asks = wildcard.is_some();
        for (interface, endpoint) in &self.view.interfaces {
            let chain = chain_of(endpoint);
            asks |= chain.is_some();
            let verdict = chain.unwrap_or_else(|| "accept".to_owned());
            let name = names::interface(interface).ok_or_else(|| Unspeakable(interface.clone()))?;
            verdicts.push(format!("{name} : {verdict}"));
        }
        if !asks {
            return Ok(Vec::new());
        }
        let name = match direction {
            Direction::Ingress => "iifname",
            Direction::Egress => "oifname",
        };
        let mut rules = self.always(stage, direction);
        let verdicts = (!verdicts.is_empty()).then(|| verdicts.join(", "));
        rules.extend(self.not_ours(stage, direction, name, verdicts.as_deref())?);
        rules.extend(verdicts.map(|verdicts| format!("{name} vmap {{ {verdicts} }}")));
        rules.extend(wildcard);
        Ok(rules)
    }

    /// What is let through before policy: neighbour and listener discovery, without which no failsafe port is reached over
    /// IPv6, and tunnels between nodes.
    fn always(&self, stage: Stage, direction: Direction) -> Vec<String> {
        if stage == Stage::Forward {
            return Vec::new();
        }
        let end = match direction {
            Direction::Ingress => "saddr",
            Direction::Egress => "daddr",
        };
        let mut rules = vec![
            "meta l4proto 58 icmpv6 type { 130-136, 143 } accept comment \"neighbour discovery\""
                .to_owned(),
        ];
        for (address, family) in [("ip", 4), ("ip6", 6)] {
            if let Some(port) = self.view.vxlan {
                rules.push(format!(
                    "udp dport {port} {address} {end} @peers{family} accept comment \"VXLAN\""
                ));
            }
        }
        rules.push(format!(
            "meta l4proto 4 ip {end} @peers4 accept comment \"IPIP\""
        ));
        rules
    }

    /// Interfaces that are no host endpoint's: loopback, and pods'. By the host's port come local pods' packets, which are
    /// judged already, those out of tunnels, which the endpoint for all interfaces is asked about, and some that pollers have
    /// no use for: of those the interface is asked that leads back to their sender.
    fn not_ours(
        &self,
        stage: Stage,
        direction: Direction,
        name: &str,
        verdicts: Option<&str>,
    ) -> Result<Vec<String>, Unspeakable> {
        let mut rules = vec![format!("{name} {{ \"lo\", \"{DATAPLANE_END}\" }} accept")];
        for prefix in self.view.pod_prefixes {
            let unspeakable = || Unspeakable(prefix.clone());
            let prefix = names::interface(prefix).ok_or_else(unspeakable)?;
            let pattern = prefix.trim_end_matches('"');
            rules.push(format!("{name} {pattern}*\" accept"));
        }
        let is_prefixed = |name: &str| {
            let mut prefixes = self.view.pod_prefixes.iter();
            prefixes.any(|prefix| name.starts_with(prefix.as_str()))
        };
        let others = self.view.pod_interfaces.iter();
        let others = others.filter(|interface| !is_prefixed(interface));
        for interface in others {
            let unspeakable = || Unspeakable(interface.clone());
            let interface = names::interface(interface).ok_or_else(unspeakable)?;
            rules.push(format!("{name} {interface} accept"));
        }
        let port = format!("{name} \"{HOST_END}\"");
        if stage == Stage::Forward {
            // Judged by pollers, on one side or the other.
            rules.push(format!("{port} accept"));
            return Ok(rules);
        }
        let end = match direction {
            Direction::Ingress => "saddr",
            Direction::Egress => "daddr",
        };
        for (address, family) in [("ip", 4), ("ip6", 6)] {
            rules.push(format!("{port} {address} {end} @pods{family} accept"));
        }
        if let Some(verdicts) = verdicts.filter(|_| direction == Direction::Ingress) {
            rules.push(format!("{port} fib saddr oifname vmap {{ {verdicts} }}"));
        }
        Ok(rules)
    }
}
