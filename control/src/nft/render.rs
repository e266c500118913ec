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
use super::sets::{Made, Sets, outermost};
use crate::policy::model::{
    Direction, Failsafe, HostEndpoint, Model, Settings, Stage, TierPolicies,
};
use crate::policy::rule::{Action, Family, Matches, Protocol, Rule};
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

/// A stage in nft's words.
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
        sets: Sets::new(),
        known: std::mem::take(&mut known.0),
    };
    for (name, host) in &hosts {
        table.endpoint(name, host);
    }
    table.add_sets();
    known.0 = std::mem::take(&mut table.sets);
    table.base_chains()?;
    Ok(table.done)
}

/// IP sets as they were made last: those that are the same again are not made again.
#[derive(Debug, Default)]
pub struct KnownSets(Sets);

/// A table as far as it is made.
pub(super) struct Table<'v> {
    pub(super) view: &'v View<'v>,
    settings: &'v Settings,
    pub(super) done: Rendered,
    /// Sets that rules name.
    sets: Sets,
    /// Sets of the table before that no rule has named yet.
    known: Sets,
}

pub(super) fn set_mark() -> String {
    format!("meta mark set meta mark | {MARK:#x}")
}

pub(super) fn clear_mark() -> String {
    format!("meta mark set meta mark & {:#010x}", !MARK)
}

pub(super) fn is_marked() -> String {
    format!("meta mark & {MARK:#x} == {MARK:#x}")
}

/// A chain's name.
pub(super) fn chain_name(stage: Stage, direction: Direction, endpoint: &str) -> String {
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
    pub(super) fn chain(&mut self, name: &str, hook: Option<&'static str>, rules: Vec<String>) {
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
        // Without the mark: that ends the step, no more. The host's own policy has these ports open, too; what is forwarded to
        // them is for its policy to decide.
        let mut open = |ports: &[Failsafe], port: &str| {
            for failsafe in ports {
                let rule = failsafe_rule(failsafe, port, direction);
                rules.push(format!(
                    "{rule} counter accept comment {}",
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
            self.make_sets(&rule.matches);
            let lines = lines(&rule.matches, &self.sets);
            if lines.is_empty() {
                continue;
            }
            // The same rule is the same counter, wherever in the list it goes, and whatever is in the sets that it names.
            let text = format!("{} {:?}", rule.action.as_str(), rule.matches);
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

    /// Makes the sets that a rule names, where the model has them.
    fn make_sets(&mut self, matches: &Matches) {
        let model = self.view.model;
        for id in matches.ip_sets() {
            let Some(set) = model.ip_sets.get(id) else {
                continue;
            };
            if !self.sets.contains_key(id) {
                let known = self.known.remove(id).filter(|made| made.is_of(set));
                let made = known.unwrap_or_else(|| Made::new(set));
                self.sets.insert(id.clone(), made);
            }
        }
    }

    fn add_sets(&mut self) {
        for (id, made) in &self.sets {
            for family in [Family::V4, Family::V6] {
                let part = made.part(family);
                let name = names::set(id, part);
                self.done.ruleset.sets.insert(name, part.clone());
            }
        }
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
