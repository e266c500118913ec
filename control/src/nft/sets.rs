//! IP sets as sets of one family each.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use super::ruleset::{Members, Set};
use crate::policy::model::IpSet;
use crate::policy::rule::Family;

/// A set's members of one family.
pub(super) fn part(set: &IpSet, family: Family) -> Set {
    let members = match set {
        IpSet::Nets(nets) => Members::Nets(Arc::new(outermost(nets, family))),
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
}
