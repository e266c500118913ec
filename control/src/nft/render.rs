//! The calculated model's host endpoints as our table: what a packet of the host's own meets, in Calico's order.
//!
//! ```text
//! in:   raw -300          untracked policy      allowed: not tracked, and accepted by all below
//!       mangle -150       policy before DNAT    allowed: accepted below
//!       input 0           normal policy, profiles
//!       forward 0 and 1   policy of what the kernel forwards, in and out
//! out:  raw -300          untracked policy      allowed: not tracked, and accepted below
//!       output 0          normal policy, profiles; what was given another destination waits for
//!       postrouting -150  the same, when it is known by which interface it leaves
//! ```
//!
//! "Accepted below" is [`MARK`]. Each base chain leads to the chain of the interface's endpoint, that to its first tier, and
//! a tier to the next one; nothing comes back. `accept` ends our base chain and no other table's.
//! The order is that of `felix/rules/static.go` and `felix/rules/endpoints.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::matches::lines;
use super::names;
use super::ruleset::{Chain, Members, Ruleset, Set};
use super::sets::{outermost, part};
use crate::netlink::host_port::{DATAPLANE_END, HOST_END};
use crate::policy::model::{
    Direction, Failsafe, HostEndpoint, IpSet, Model, Settings, Stage, TierPolicies,
};
use crate::policy::rule::{Action, Family, IpSetId, Protocol, Rule};
use crate::policy::verdict::{DefaultDenial, Owner};

/// The bit of a packet's mark that says that early policy has allowed it. Ours between our first chain, which clears it, and
/// our last, which does, too. kube-proxy has 0x4000 and 0x8000, Calico 0xffff0000, the `portmap` plugin 0x2000, Cilium 0x0f00.
pub const MARK: u32 = 0x1000;

/// What there is to be enforced, and on what.
#[derive(Debug)]
pub struct View<'m> {
    /// The calculated model.
    pub model: &'m Model,
    /// Our node.
    pub node: &'m str,
    /// Host endpoints by interface: of interfaces that have one of their own.
    pub interfaces: BTreeMap<String, String>,
    /// The host endpoint of all others.
    pub wildcard: Option<String>,
    /// Prefixes of the names of pods' interfaces.
    pub pod_prefixes: &'m [String],
    /// Interfaces of pods of this node, whatever they are called.
    pub pod_interfaces: BTreeSet<String>,
    /// Their addresses.
    pub pods: BTreeSet<IpNet>,
    /// Whose tunnel packets are let in, and to whom they are sent.
    pub peers: BTreeSet<IpNet>,
    /// The UDP port of VXLAN, where it is used.
    pub vxlan: Option<u16>,
}

trait Words {
    /// The first part of chains' names.
    fn word(self, direction: Direction) -> &'static str;
    /// What becomes of a packet that policy allows.
    fn allow(self) -> String;
    /// Whether the end of a tier is its default action.
    fn ends(self) -> bool;
}

impl Words for Stage {
    fn word(self, direction: Direction) -> &'static str {
        match (self, direction) {
            (Self::Untracked, Direction::Ingress) => "untracked-in",
            (Self::Untracked, Direction::Egress) => "untracked-out",
            (Self::PreDnat, _) => "prednat",
            (Self::Own, Direction::Ingress) => "in",
            (Self::Own, Direction::Egress) => "out",
            (Self::Forward, Direction::Ingress) => "forward-in",
            (Self::Forward, Direction::Egress) => "forward-out",
        }
    }

    fn allow(self) -> String {
        match self {
            Self::Untracked => format!("{} notrack accept", set_mark()),
            Self::PreDnat => format!("{} accept", set_mark()),
            Self::Own | Self::Forward => "accept".to_owned(),
        }
    }

    fn ends(self) -> bool {
        matches!(self, Self::Own | Self::Forward)
    }
}

/// What a counter counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counting {
    /// A rule of an owner, by its place in the direction's list.
    Rule(Owner, usize),
    /// What denies where no rule does.
    Default(DefaultDenial),
}

/// The name of the counter of each thing that is counted.
pub type Counters = Vec<(Stage, Direction, Counting, String)>;

/// A table, and what its counters count.
#[derive(Debug, Default, PartialEq)]
pub struct Rendered {
    /// The table.
    pub ruleset: Ruleset,
    /// Its counters.
    pub counters: Counters,
}

/// An interface's name that nft has no word for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "interface {0:?} has a name that nftables can not be told; give it another (`ip link set dev … name …`)"
)]
pub struct Unspeakable(pub String);

/// The table of a node's host endpoints. Empty if there are none.
///
/// # Errors
/// An interface with an endpoint has a name that can not be written.
pub fn render(view: &View<'_>, known: &mut KnownSets) -> Result<Rendered, Unspeakable> {
    let endpoints: BTreeSet<&String> = view.interfaces.values().chain(&view.wildcard).collect();
    let hosts = endpoints.into_iter();
    let hosts: Vec<_> = hosts
        .filter_map(|name| Some((name, &**view.model.host_endpoints.get(name)?)))
        .collect();
    if hosts.is_empty() {
        return Ok(Rendered::default());
    }
    let mut table = Table {
        view,
        settings: view.model.settings_of(view.node),
        done: Rendered::default(),
        used: BTreeSet::new(),
    };
    for (name, host) in &hosts {
        table.endpoint(name, host);
    }
    table.base_chains()?;
    table.add_sets(known);
    Ok(table.done)
}

/// IP sets as they were made last: those that are the same again are not made again.
#[derive(Debug, Default)]
pub struct KnownSets(BTreeMap<IpSetId, (Arc<IpSet>, [Set; 2])>);

struct Table<'v> {
    view: &'v View<'v>,
    settings: &'v Settings,
    done: Rendered,
    /// Sets that rules name.
    used: BTreeSet<IpSetId>,
}

fn set_mark() -> String {
    format!("meta mark set meta mark | {MARK:#x}")
}

fn clear_mark() -> String {
    format!("meta mark set meta mark & {:#010x}", !MARK)
}

fn is_marked() -> String {
    format!("meta mark & {MARK:#x} == {MARK:#x}")
}

/// A chain's name.
fn chain_name(stage: Stage, direction: Direction, endpoint: &str) -> String {
    format!("{}/{}", stage.word(direction), names::endpoint(endpoint))
}

const STAGES: [(Stage, Direction); 7] = [
    (Stage::Untracked, Direction::Ingress),
    (Stage::Untracked, Direction::Egress),
    (Stage::PreDnat, Direction::Ingress),
    (Stage::Own, Direction::Ingress),
    (Stage::Own, Direction::Egress),
    (Stage::Forward, Direction::Ingress),
    (Stage::Forward, Direction::Egress),
];

impl Table<'_> {
    fn chain(&mut self, name: &str, hook: Option<&'static str>, rules: Vec<String>) {
        let chain = Chain { hook, rules };
        self.done.ruleset.chains.insert(name.to_owned(), chain);
    }

    /// All chains of an endpoint.
    fn endpoint(&mut self, name: &str, host: &HostEndpoint) {
        for (stage, direction) in STAGES {
            let tiers = stage.tiers(host).iter();
            let tiers: Vec<_> = tiers
                .filter(|tier| !tier.of(direction).is_empty())
                .collect();
            if tiers.is_empty() && stage != Stage::Own {
                continue;
            }
            let chain = chain_name(stage, direction, name);
            let mut rules = self.head(stage, direction);
            rules.push(format!("goto {chain}/0"));
            self.chain(&chain, None, rules);
            for (at, tier) in tiers.iter().enumerate() {
                self.tier((stage, direction), &chain, at, tier);
            }
            let rest = format!("{chain}/{}", tiers.len());
            if stage == Stage::Own {
                self.profiles(direction, &chain, &rest, &host.profiles);
            } else {
                self.chain(&rest, None, vec!["accept".to_owned()]);
            }
        }
    }

    /// What comes before an endpoint's tiers: the state of the connection, and ports that policy can not close.
    fn head(&self, stage: Stage, direction: Direction) -> Vec<String> {
        let mut rules = Vec::new();
        if stage != Stage::Untracked {
            let invalid = if self.settings.disable_conntrack_invalid_check {
                ""
            } else {
                ", invalid : drop"
            };
            rules.push(format!(
                "ct state vmap {{ established : accept, related : accept{invalid} }}"
            ));
        }
        if stage == Stage::Forward {
            return rules;
        }
        let (own, replies) = match direction {
            Direction::Ingress => (
                &self.settings.failsafe_inbound,
                &self.settings.failsafe_outbound,
            ),
            Direction::Egress => (
                &self.settings.failsafe_outbound,
                &self.settings.failsafe_inbound,
            ),
        };
        // Not untracked: answers would need policy of their own. Later policy lets these ports through itself.
        let allow = if stage == Stage::Untracked {
            "accept".to_owned()
        } else {
            stage.allow()
        };
        let mut open = |ports: &[Failsafe], port: &str| {
            for failsafe in ports {
                let rule = failsafe_rule(failsafe, port, direction);
                rules.push(format!(
                    "{rule} counter {allow} comment {}",
                    names::quoted(&format!("failsafe port {failsafe}"))
                ));
            }
        };
        open(own, "dport");
        if stage == Stage::Untracked {
            // Without connection tracking a reply is known by its source port.
            open(replies, "sport");
        }
        if (stage, direction) == (Stage::Own, Direction::Egress) {
            // Nobody may have tracked connections before our first table. Those to failsafe ports go on: such segments open none.
            for failsafe in replies.iter().filter(|it| it.protocol == Protocol::TCP) {
                let rule = failsafe_rule(failsafe, "sport", direction);
                let comment = names::quoted(&format!("begun before: failsafe port {failsafe}"));
                rules.push(format!(
                    "{rule} tcp flags & (syn | ack) == ack counter accept comment {comment}"
                ));
            }
        }
        rules
    }

    fn tier(
        &mut self,
        (stage, direction): (Stage, Direction),
        chain: &str,
        at: usize,
        tier: &TierPolicies,
    ) {
        let next = format!("{chain}/{}", at + 1);
        let mut rules = Vec::new();
        for id in tier.of(direction) {
            if id.kind.is_staged() {
                continue;
            }
            let model = self.view.model;
            let policy = model.policies.get(id);
            let list = policy.map_or(&[][..], |policy| policy.rules.of(direction));
            let owner = Owner::Policy {
                tier: Arc::clone(&tier.name),
                id: id.clone(),
            };
            rules.extend(self.rules((stage, direction), &owner, list, &next));
        }
        let denial = tier.default_denial(direction);
        match denial.filter(|_| stage.ends()) {
            Some(denial) => rules.push(self.denial((stage, direction), denial)),
            None => rules.push(format!("goto {next}")),
        }
        self.chain(&format!("{chain}/{at}"), None, rules);
    }

    /// Profiles in order. Pass leaves the profile for the next one.
    fn profiles(&mut self, direction: Direction, chain: &str, first: &str, names: &[String]) {
        let of_profile = |at: usize| {
            if at == 0 {
                first.to_owned()
            } else {
                format!("{chain}/profile{at}")
            }
        };
        for (at, name) in names.iter().enumerate() {
            let next = of_profile(at + 1);
            let profile = self.view.model.profiles.get(name);
            let list = profile.map_or(&[][..], |profile| profile.rules.of(direction));
            let owner = Owner::Profile(name.clone());
            let mut rules = self.rules((Stage::Own, direction), &owner, list, &next);
            rules.push(format!("goto {next}"));
            self.chain(&of_profile(at), None, rules);
        }
        let denial = DefaultDenial::NoProfileMatched(names.to_vec());
        let denial = self.denial((Stage::Own, direction), denial);
        self.chain(&of_profile(names.len()), None, vec![denial]);
    }

    fn rules(
        &mut self,
        (stage, direction): (Stage, Direction),
        owner: &Owner,
        list: &[Rule],
        next: &str,
    ) -> Vec<String> {
        let (place, short) = match owner {
            Owner::Policy { tier, id } => (format!("{tier} {id}"), format!("{id} in tier {tier}")),
            Owner::Profile(name) => (format!("profile {name}"), format!("profile {name}")),
        };
        let mut all = Vec::new();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (at, rule) in list.iter().enumerate() {
            self.used.extend(rule.matches.ip_sets().cloned());
            let lines = lines(&rule.matches, &self.view.model.ip_sets);
            if lines.is_empty() {
                continue;
            }
            // The same rule is the same counter, wherever in the list it goes.
            let text = format!("{} {}", rule.action.as_str(), lines.join("\n"));
            let again = seen.entry(text.clone()).or_default();
            let counter =
                names::counter(&[stage.word(direction), &place, &text, &again.to_string()]);
            *again += 1;
            let what = Counting::Rule(owner.clone(), at);
            self.count((stage, direction), what, &counter);
            let verdict = match rule.action {
                Action::Allow => stage.allow(),
                Action::Deny => "drop".to_owned(),
                Action::Pass => format!("goto {next}"),
                Action::Log => format!(
                    "limit rate 10/second burst 20 packets log prefix {}",
                    names::quoted(&format!("calico-packet: {place}: "))
                ),
            };
            let comment = format!(
                "{} rule {} of {short}",
                direction.as_str(),
                rule.origin.index + 1
            );
            let comment = names::quoted(&comment);
            for line in lines {
                let space = if line.is_empty() { "" } else { " " };
                all.push(format!(
                    "{line}{space}counter name {counter} {verdict} comment {comment}"
                ));
            }
        }
        all
    }

    /// Drops what no rule has decided about.
    fn denial(&mut self, (stage, direction): (Stage, Direction), denial: DefaultDenial) -> String {
        let text = match &denial {
            DefaultDenial::EndOfTier { tier, policy } => {
                format!("end of tier {tier} after {policy}")
            }
            DefaultDenial::NoProfileMatched(profiles) => {
                format!("no profile matched: {}", profiles.join(", "))
            }
            DefaultDenial::Inactive | DefaultDenial::UnknownEndpoint => "no endpoint".to_owned(),
        };
        let counter = names::counter(&[stage.word(direction), "", &text]);
        self.count((stage, direction), Counting::Default(denial), &counter);
        let text = names::quoted(&format!("{}, {text}", direction.as_str()));
        format!("counter name {counter} drop comment {text}")
    }

    fn count(&mut self, (stage, direction): (Stage, Direction), what: Counting, counter: &str) {
        // Endpoints that apply the same policy share its counters.
        if self.done.ruleset.counters.insert(counter.to_owned()) {
            let line = (stage, direction, what, counter.to_owned());
            self.done.counters.push(line);
        }
    }

    fn base_chains(&mut self) -> Result<(), Unspeakable> {
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
    /// judged already, those out of tunnels, which the endpoint for all interfaces is asked about, and some that poller have
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

    fn add_sets(&mut self, known: &mut KnownSets) {
        let model = self.view.model;
        let mut kept = BTreeMap::new();
        for id in &self.used {
            let Some(set) = model.ip_sets.get(id) else {
                continue;
            };
            let parts = match known.0.remove(id) {
                Some((same, parts)) if Arc::ptr_eq(&same, set) => parts,
                _ => [Family::V4, Family::V6].map(|family| part(set, family)),
            };
            for part in &parts {
                let name = names::set(id, set, part.family);
                self.done.ruleset.sets.insert(name, part.clone());
            }
            kept.insert(id.clone(), (Arc::clone(set), parts));
        }
        known.0 = kept;
        for (name, nets) in [("pods", &self.view.pods), ("peers", &self.view.peers)] {
            for (family, number) in [(Family::V4, 4), (Family::V6, 6)] {
                let members = Members::Nets(Arc::new(outermost(nets, family)));
                let set = Set { family, members };
                self.done
                    .ruleset
                    .sets
                    .insert(format!("{name}{number}"), set);
            }
        }
    }
}

/// What a failsafe port matches. Its net is that of the other end.
fn failsafe_rule(failsafe: &Failsafe, port: &str, direction: Direction) -> String {
    let protocol = failsafe.protocol.0;
    let net = failsafe.net.map(|net| {
        let address = match net.addr() {
            IpAddr::V4(_) => "ip",
            IpAddr::V6(_) => "ip6",
        };
        let end = match direction {
            Direction::Ingress => "saddr",
            Direction::Egress => "daddr",
        };
        format!("{address} {end} {} ", net.trunc())
    });
    format!(
        "{}meta l4proto {protocol} th {port} {}",
        net.unwrap_or_default(),
        failsafe.port
    )
}
