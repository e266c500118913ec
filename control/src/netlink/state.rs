//! The mirrored state, and how events change it. Pure: no socket, no clock.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

use super::decode::{Event, Insert, RouteEntry};
use super::model::{Address, Leg, Link, Neighbour, Path};
use super::table::{Families, RouteTable};

/// What the kernel told, as far as it is of interest.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) links: BTreeMap<u32, Link>,
    /// By interface, in the kernel's order.
    pub(super) addresses: BTreeMap<u32, Vec<Address>>,
    pub(super) neighbours: HashMap<(u32, IpAddr), Neighbour>,
    pub(super) routes: RouteTable,
}

/// What changed since it was last asked.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) links: HashSet<u32>,
    pub(super) addresses: HashSet<u32>,
    pub(super) neighbours: HashSet<(u32, IpAddr)>,
    pub(super) routes: HashSet<IpNet>,
}

/// Whether events suffice to follow the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    /// They do.
    Yes,
    /// Something changed of which the kernel does not tell the consequences.
    Resync,
}

impl State {
    /// Brings one event in. Events may come again, or tell what a dump already told.
    pub(super) fn apply(&mut self, event: Event, dirty: &mut Dirty) -> Follow {
        match event {
            Event::NewLink(update) => {
                let ifindex = update.ifindex;
                let old = self.links.get(&ifindex).cloned();
                let mut link = old.clone().unwrap_or_default();
                update.apply(&mut link);
                if old.as_ref() != Some(&link) {
                    dirty.links.insert(ifindex);
                }
                let went_down = old.is_some_and(|old| old.admin_up) && !link.admin_up;
                self.links.insert(ifindex, link);
                if went_down {
                    self.flush_routes_of(ifindex, Families::Both, dirty);
                }
            }
            Event::DelLink(ifindex) => {
                if self.links.remove(&ifindex).is_some() {
                    dirty.links.insert(ifindex);
                }
                if self.addresses.remove(&ifindex).is_some() {
                    dirty.addresses.insert(ifindex);
                }
                let gone: Vec<_> = self
                    .neighbours
                    .keys()
                    .filter(|(i, _)| *i == ifindex)
                    .copied()
                    .collect();
                for key in gone {
                    self.neighbours.remove(&key);
                    dirty.neighbours.insert(key);
                }
                // A multipath route goes with the first of its devices that is deleted.
                dirty.routes.extend(
                    self.routes
                        .remove_where(Families::Both, |path| uses(path, ifindex)),
                );
            }
            Event::NewAddress(address) => {
                let list = self.addresses.entry(address.ifindex).or_default();
                match list.iter_mut().find(|a| same_address(a, &address)) {
                    Some(known) if *known == address => return Follow::Yes,
                    Some(known) => *known = address.clone(),
                    None => list.push(address.clone()),
                }
                dirty.addresses.insert(address.ifindex);
            }
            Event::DelAddress(address) => self.remove_address(&address, dirty),
            Event::NewRoute(RouteEntry { dst, metric, path }, insert) => {
                if self.routes.insert(dst, metric, path, insert) {
                    dirty.routes.insert(dst.trunc());
                }
            }
            Event::DelRoute(RouteEntry { dst, metric, path }) => {
                if self.routes.remove(dst, metric, &path) {
                    dirty.routes.insert(dst.trunc());
                }
            }
            Event::NewNeighbour(neighbour) => {
                let key = (neighbour.ifindex, neighbour.ip);
                if self.neighbours.insert(key, neighbour.clone()).as_ref() != Some(&neighbour) {
                    dirty.neighbours.insert(key);
                }
            }
            Event::DelNeighbour(ifindex, ip) => {
                if self.neighbours.remove(&(ifindex, ip)).is_some() {
                    dirty.neighbours.insert((ifindex, ip));
                }
            }
            Event::Nexthop { id, gone: true } => {
                // IPv4 routes go with their nexthop object without a word.
                dirty.routes.extend(
                    self.routes
                        .remove_where(Families::Both, |path| path.nexthop_id == Some(id)),
                );
            }
            Event::Nexthop { id, gone: false } if self.routes.uses_nexthop(id) => {
                return Follow::Resync;
            }
            Event::Nexthop { .. } => {}
        }
        Follow::Yes
    }

    /// Brings in one message of a dump: as an event, but in the kernel's order.
    pub(super) fn load(&mut self, event: Event) {
        let event = match event {
            Event::NewRoute(entry, _) => Event::NewRoute(entry, Insert::Last),
            other => other,
        };
        self.apply(event, &mut Dirty::default());
    }

    /// What differs between this state and a newer one.
    pub(super) fn diff(&self, newer: &Self) -> Dirty {
        fn changed<'a, K: Copy + Eq + std::hash::Hash + 'a, V: PartialEq + 'a>(
            old: impl Iterator<Item = (&'a K, &'a V)> + Clone,
            new: impl Fn(&K) -> Option<&'a V>,
            new_keys: impl Iterator<Item = &'a K>,
            in_old: impl Fn(&K) -> bool,
        ) -> HashSet<K> {
            let gone_or_other = old
                .filter(|(key, value)| new(key) != Some(*value))
                .map(|(key, _)| *key);
            gone_or_other
                .chain(new_keys.filter(|key| !in_old(key)).copied())
                .collect()
        }
        Dirty {
            links: changed(
                self.links.iter(),
                |k| newer.links.get(k),
                newer.links.keys(),
                |k| self.links.contains_key(k),
            ),
            addresses: changed(
                self.addresses.iter(),
                |k| newer.addresses.get(k),
                newer.addresses.keys(),
                |k| self.addresses.contains_key(k),
            ),
            neighbours: changed(
                self.neighbours.iter(),
                |k| newer.neighbours.get(k),
                newer.neighbours.keys(),
                |k| self.neighbours.contains_key(k),
            ),
            routes: self.routes.diff(&newer.routes).into_iter().collect(),
        }
    }

    /// The kernel flushes IPv4 routes with their interface, and IPv6 routes where it is told to be quiet about it,
    /// without a message: those all of whose legs are down now. A multipath route with another leg stays.
    fn flush_routes_of(&mut self, ifindex: u32, families: Families, dirty: &mut Dirty) {
        let links = &self.links;
        let is_down = |leg: &Leg| {
            leg.ifindex == ifindex || !links.get(&leg.ifindex).is_some_and(|l| l.admin_up)
        };
        let flushed = |path: &Path| uses(path, ifindex) && path.legs.iter().all(is_down);
        dirty
            .routes
            .extend(self.routes.remove_where(families, flushed));
    }

    fn remove_address(&mut self, address: &Address, dirty: &mut Dirty) {
        let Some(list) = self.addresses.get_mut(&address.ifindex) else {
            return;
        };
        let before = list.len();
        list.retain(|known| !same_address(known, address));
        if list.len() == before {
            return;
        }
        dirty.addresses.insert(address.ifindex);
        if list.is_empty() {
            self.addresses.remove(&address.ifindex);
        }
        if address.ip.is_ipv6() {
            return;
        }
        // Kernels before 6.7 are silent about the routes that prefer a source address that is gone ...
        let still_here = self
            .addresses
            .values()
            .flatten()
            .any(|a| a.ip == address.ip);
        if !still_here {
            dirty.routes.extend(
                self.routes
                    .remove_where(Families::Both, |path| path.pref_src == Some(address.ip)),
            );
        }
        // ... and all are about those of an interface that lost its last IPv4 address.
        let has_ipv4 = self
            .addresses
            .get(&address.ifindex)
            .is_some_and(|list| list.iter().any(|a| a.ip.is_ipv4()));
        if !has_ipv4 {
            self.flush_routes_of(address.ifindex, Families::V4, dirty);
        }
    }
}

fn uses(path: &Path, ifindex: u32) -> bool {
    path.legs.iter().any(|leg| leg.ifindex == ifindex)
}

/// IPv4 may have one address twice with different prefix lengths or peers; IPv6 may not.
fn same_address(a: &Address, b: &Address) -> bool {
    a.ip == b.ip && (a.ip.is_ipv6() || (a.prefix_len, a.peer) == (b.prefix_len, b.peer))
}

#[cfg(test)]
mod tests;
