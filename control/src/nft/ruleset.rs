//! Our table as data, and the script that makes the kernel's what it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::policy::model::IpPort;
use crate::policy::rule::Family;

/// The one table that is ours, in all scripts.
pub const TABLE: &str = "inet caracal";

/// Its name, without the family.
pub(super) const NAME: &str = "caracal";

/// What is to be in the table. An empty one means that there is no table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets by name.
    pub sets: BTreeMap<String, Set>,
    /// Names of counters that rules share, and that outlive them.
    pub counters: BTreeSet<String>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets meet it: hook and priority. `None`: other chains lead here.
    pub hook: Option<&'static str>,
    /// Its rules, in order, as nft has them.
    pub rules: Vec<String>,
}

/// A named set of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The family.
    pub family: Family,
    /// What is in it.
    pub members: Members,
}

/// Members of a set. Shared: a model keeps the sets that did not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// Single addresses: a hash set, of which nft reads no members to change one.
    Addresses(Arc<BTreeSet<IpAddr>>),
    /// Prefixes, not all of one address, and none within another: a set of intervals takes no overlaps.
    Nets(Arc<BTreeSet<IpNet>>),
    /// Addresses with protocol and port.
    Ports(Arc<BTreeSet<IpPort>>),
}

impl Set {
    fn declaration(&self) -> &'static str {
        match (&self.members, self.family) {
            (Members::Addresses(_), Family::V4) => "{ type ipv4_addr; }",
            (Members::Addresses(_), Family::V6) => "{ type ipv6_addr; }",
            (Members::Nets(_), Family::V4) => "{ type ipv4_addr; flags interval; }",
            (Members::Nets(_), Family::V6) => "{ type ipv6_addr; flags interval; }",
            (Members::Ports(_), Family::V4) => "{ type ipv4_addr . inet_proto . inet_service; }",
            (Members::Ports(_), Family::V6) => "{ type ipv6_addr . inet_proto . inet_service; }",
        }
    }

    /// What is here and not in `other`, which is of the same kind.
    fn beyond(&self, other: Option<&Self>) -> Vec<String> {
        match (&self.members, other.map(|other| &other.members)) {
            (Members::Addresses(own), Some(Members::Addresses(others))) => {
                missing(own, Some(others), IpAddr::to_string)
            }
            (Members::Nets(own), Some(Members::Nets(others))) => missing(own, Some(others), net),
            (Members::Ports(own), Some(Members::Ports(others))) => missing(own, Some(others), port),
            (Members::Addresses(own), _) => missing(own, None, IpAddr::to_string),
            (Members::Nets(own), _) => missing(own, None, net),
            (Members::Ports(own), _) => missing(own, None, port),
        }
    }
}

/// The members of one set that another has not, in nft's words.
fn missing<T: Ord>(
    own: &Arc<BTreeSet<T>>,
    others: Option<&Arc<BTreeSet<T>>>,
    say: impl Fn(&T) -> String,
) -> Vec<String> {
    match others {
        Some(others) if Arc::ptr_eq(own, others) => Vec::new(),
        Some(others) => own.difference(others).map(say).collect(),
        None => own.iter().map(say).collect(),
    }
}

pub(super) fn net(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

fn port(member: &IpPort) -> String {
    let IpPort {
        address,
        protocol,
        port,
    } = member;
    format!("{address} . {} . {port}", protocol.0)
}

impl Ruleset {
    /// True if there is to be no table.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// How many members all sets have together.
    pub fn members(&self) -> usize {
        let len = |set: &Set| match &set.members {
            Members::Addresses(addresses) => addresses.len(),
            Members::Nets(nets) => nets.len(),
            Members::Ports(ports) => ports.len(),
        };
        self.sets.values().map(len).sum()
    }

    /// Makes the table anew, whatever there is: one transaction, in which counters begin at 0.
    pub fn replace(&self) -> String {
        // A table that is not there can not be deleted; one that is there can be added.
        let mut script = format!("add table {TABLE}\ndelete table {TABLE}\n");
        if !self.is_empty() {
            let _ = writeln!(script, "add table {TABLE}");
            self.write_changes(&Self::default(), &mut script);
        }
        script
    }

    /// Changes the kernel's table from `before`, which it must be: one transaction, in which what stays goes on counting.
    /// Empty if nothing changes.
    pub fn change(&self, before: &Self) -> String {
        if self.is_empty() != before.is_empty() {
            return self.replace();
        }
        let mut script = String::new();
        self.write_changes(before, &mut script);
        script
    }

    fn write_changes(&self, before: &Self, script: &mut String) {
        let mut say = |line: fmt::Arguments<'_>| {
            let _ = writeln!(script, "{line}");
        };
        for counter in self.counters.difference(&before.counters) {
            say(format_args!("add counter {TABLE} {counter}"));
        }
        for (name, set) in &self.sets {
            let known = before.sets.get(name);
            if known.is_none() {
                say(format_args!("add set {TABLE} {name} {}", set.declaration()));
            }
            let gone = known.map(|known| known.beyond(Some(set)));
            for (verb, members) in [
                ("delete", gone.unwrap_or_default()),
                ("add", set.beyond(known)),
            ] {
                if !members.is_empty() {
                    let members = members.join(", ");
                    say(format_args!(
                        "{verb} element {TABLE} {name} {{ {members} }}"
                    ));
                }
            }
        }
        for (name, chain) in &self.chains {
            if before.chains.contains_key(name) {
                continue;
            }
            match chain.hook {
                Some(hook) => say(format_args!(
                    "add chain {TABLE} {name} {{ type filter hook {hook}; policy accept; }}"
                )),
                None => say(format_args!("add chain {TABLE} {name}")),
            }
        }
        for (name, old) in &before.chains {
            if self.chains.get(name) != Some(old) {
                say(format_args!("flush chain {TABLE} {name}"));
            }
        }
        for (name, chain) in &self.chains {
            if before.chains.get(name) != Some(chain) {
                for rule in &chain.rules {
                    say(format_args!("add rule {TABLE} {name} {rule}"));
                }
            }
        }
        for name in before.chains.keys() {
            if !self.chains.contains_key(name) {
                say(format_args!("delete chain {TABLE} {name}"));
            }
        }
        for name in before.sets.keys() {
            if !self.sets.contains_key(name) {
                say(format_args!("delete set {TABLE} {name}"));
            }
        }
        for counter in before.counters.difference(&self.counters) {
            say(format_args!("delete counter {TABLE} {counter}"));
        }
    }
}
