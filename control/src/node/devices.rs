//! The devices of an uplink: itself, or the members of the bond that it is.
//!
//! A socket receives what its own device received, and XDP runs on that device: of a bond on the member that a packet came by. So
//! programs and receiving sockets are on the members; sending is the bond's, which chooses a member as for the host's own packets.

use std::collections::BTreeSet;

use crate::netlink::{Link, Mirror};

/// Whether packets come in by other devices, which are parts of it.
pub(super) fn is_bond(link: &Link) -> bool {
    matches!(link.kind.as_deref(), Some("bond" | "team"))
}

/// The devices that an uplink's packets come in by, by name; none of a bond without members.
pub(super) fn of<'m>(link: &'m Link, mirror: &'m Mirror) -> Vec<&'m Link> {
    among(link, mirror.links())
}

fn among<'m>(link: &'m Link, links: impl Iterator<Item = &'m Link>) -> Vec<&'m Link> {
    if !is_bond(link) {
        return vec![link];
    }
    let mut members: Vec<_> = links.filter(|it| it.master == Some(link.ifindex)).collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    members
}

/// How many devices may lie on one another: more than anybody stacks, and an end where they go in a circle.
const DEPTH: usize = 8;

/// The devices at the bottom of an uplink, that carry its packets: members of bonds, and what VLANs are on.
pub(super) fn carriers<'m>(link: &'m Link, mirror: &'m Mirror) -> Vec<&'m Link> {
    let mut carriers = vec![link];
    for _ in 0..DEPTH {
        carriers = carriers
            .into_iter()
            .flat_map(|it| match lower(it).and_then(|index| mirror.link(index)) {
                Some(lower) => vec![lower],
                None => of(it, mirror),
            })
            .collect();
    }
    carriers
}

/// What a VLAN device is on, where that is in this namespace.
fn lower(link: &Link) -> Option<u32> {
    let is_here = link.kind.as_deref() == Some("vlan") && link.peer_netns.is_none();
    link.peer.filter(|_| is_here)
}

/// The interface indexes of the devices that an uplink's packets come in by.
pub(super) fn indexes(link: &Link, mirror: &Mirror) -> BTreeSet<u32> {
    of(link, mirror).iter().map(|it| it.ifindex).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ifindex: u32, name: &str, kind: Option<&str>, master: Option<u32>) -> Link {
        Link {
            ifindex,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            master,
            ..Link::default()
        }
    }

    fn names(link: &Link, all: &[Link]) -> Vec<String> {
        let devices = among(link, all.iter());
        devices.iter().map(|it| it.name.clone()).collect()
    }

    #[test]
    fn packets_of_a_bond_come_in_by_its_members_and_of_others_by_themselves() {
        let all = [
            link(1, "lo", None, None),
            link(2, "ens2", None, Some(4)),
            link(3, "ens1", None, Some(4)),
            link(4, "bond0", Some("bond"), None),
            link(5, "ens3", None, Some(6)),
            link(6, "br0", Some("bridge"), None),
            link(7, "team0", Some("team"), None),
        ];
        assert_eq!(names(&all[3], &all), ["ens1", "ens2"]);
        assert_eq!(names(&all[1], &all), ["ens2"]);
        // A bridge forwards by itself: what is for the host is its own.
        assert_eq!(names(&all[5], &all), ["br0"]);
        assert!(names(&all[6], &all).is_empty());
    }
}
