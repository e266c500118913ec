//! IP sets as sets of one family each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::ruleset::{Members, Set};
use crate::policy::model::IpSet;
use crate::policy::rule::{Family, IpSetId};

/// IP sets as they are in a table, by their names in the model.
pub(super) type Sets = BTreeMap<IpSetId, Made>;

/// An IP set, and what is made of it.
#[derive(Clone, Debug)]
pub(super) struct Made {
    of: Arc<IpSet>,
    v4: Set,
    v6: Set,
}

impl Made {
    pub(super) fn new(of: &Arc<IpSet>) -> Self {
        Self {
            of: Arc::clone(of),
            v4: part(of, Family::V4),
            v6: part(of, Family::V6),
        }
    }

    /// Whether it is of this very set.
    pub(super) fn is_of(&self, set: &Arc<IpSet>) -> bool {
        Arc::ptr_eq(&self.of, set)
    }

    pub(super) const fn part(&self, family: Family) -> &Set {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// A set's members of one family. Single addresses need no intervals, of which nft reads all before it changes one.
fn part(set: &IpSet, family: Family) -> Set {
    let members = match set {
        IpSet::Nets(nets) => {
            let own = nets.iter().filter(|net| Family::of_net(**net) == family);
            let single =
                own.map(|net| (net.prefix_len() == net.max_prefix_len()).then(|| net.addr()));
            match single.collect() {
                Some(addresses) => Members::Addresses(Arc::new(addresses)),
                None => Members::Nets(Arc::new(outermost(nets, family))),
            }
        }
        IpSet::IpPorts(members) => {
            let own = members
                .iter()
                .filter(|member| Family::of(member.address) == family);
            Members::Ports(Arc::new(own.copied().collect()))
        }
    };
    Set { family, members }
}

/// The prefixes of a family that lie in no other of the same.
pub(super) fn outermost<'n>(
    nets: impl IntoIterator<Item = &'n IpNet>,
    family: Family,
) -> BTreeSet<IpNet> {
    let own = nets
        .into_iter()
        .filter(|net| Family::of_net(**net) == family);
    // By first address, and of one first address the widest first: who holds a prefix comes before it.
    let mut own: Vec<IpNet> = own.map(IpNet::trunc).collect();
    own.sort_unstable_by_key(|net| (net.network(), net.prefix_len()));
    let mut kept: Vec<IpNet> = Vec::new();
    for net in own {
        if kept.last().is_none_or(|last| !last.contains(&net)) {
            kept.push(net);
        }
    }
    kept.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_within_others_are_left_out() {
        let nets = [
            "10.1.0.0/16",
            "10.0.0.0/8",
            "10.0.0.0/24",
            "11.0.0.0/8",
            "fd00::/8",
            "11.0.0.1/32",
            "12.0.0.1/32",
        ];
        let nets = nets.map(|net| net.parse::<IpNet>().unwrap());
        let said = |family| {
            let kept = outermost(&nets, family);
            let kept: Vec<_> = kept.iter().map(ToString::to_string).collect();
            kept.join(" ")
        };
        assert_eq!(said(Family::V4), "10.0.0.0/8 11.0.0.0/8 12.0.0.1/32");
        assert_eq!(said(Family::V6), "fd00::/8");
    }

    #[test]
    fn single_addresses_are_no_intervals() {
        let nets = ["10.0.0.1/32", "10.0.0.2/32", "fd00::1/128", "fd01::/64"];
        let nets = nets.map(|net| net.parse::<IpNet>().unwrap());
        let made = Made::new(&Arc::new(IpSet::Nets(nets.into())));
        let addresses = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        let expected = Members::Addresses(Arc::new(addresses.into()));
        assert_eq!(made.part(Family::V4).members, expected);
        let expected = Members::Nets(Arc::new(nets[2..].iter().copied().collect()));
        assert_eq!(made.part(Family::V6).members, expected);
    }
}
