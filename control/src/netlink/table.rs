//! The routes of one table, compact: a full Internet table of IPv4 is one hash map of 16 byte entries.
//!
//! Everything of a route but prefix and metric is interned as a [`Path`]: a million routes share a few thousand.
//! The best route of a prefix is in one map; the rare others are kept in a second one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::decode::Insert;
use super::model::{Path, Route, RouteKind};

/// Routes of both families.
#[derive(Debug, Default)]
pub(super) struct RouteTable {
    v4: Family<Key4>,
    v6: Family<Key6>,
    paths: Paths,
}

/// The families that a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Families {
    V4,
    Both,
}

/// Number of a path in [`Paths`].
type PathId = u32;

/// A route of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    path: PathId,
    metric: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key4 {
    addr: u32,
    len: u8,
}

/// As bytes, so that it is no larger than it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key6 {
    addr: [u8; 16],
    len: u8,
}

impl From<Ipv4Net> for Key4 {
    fn from(net: Ipv4Net) -> Self {
        Self {
            addr: net.network().to_bits(),
            len: net.prefix_len(),
        }
    }
}

impl From<Ipv6Net> for Key6 {
    fn from(net: Ipv6Net) -> Self {
        Self {
            addr: net.network().octets(),
            len: net.prefix_len(),
        }
    }
}

impl From<Key4> for IpNet {
    fn from(key: Key4) -> Self {
        Ipv4Net::new_assert(Ipv4Addr::from_bits(key.addr), key.len).into()
    }
}

impl From<Key6> for IpNet {
    fn from(key: Key6) -> Self {
        Ipv6Net::new_assert(Ipv6Addr::from(key.addr), key.len).into()
    }
}

/// Routes of one family.
#[derive(Debug)]
struct Family<K> {
    best: HashMap<K, Record>,
    /// What comes after the best one, in the kernel's order. Never an empty list.
    others: HashMap<K, Vec<Record>>,
    /// Number of prefixes of each length.
    lengths: [u32; 129],
}

impl<K> Default for Family<K> {
    fn default() -> Self {
        Self {
            best: HashMap::new(),
            others: HashMap::new(),
            lengths: [0; 129],
        }
    }
}

impl<K: Copy + Eq + std::hash::Hash> Family<K> {
    /// All routes of a prefix, best first.
    fn records(&self, key: K) -> Vec<Record> {
        let best = self.best.get(&key).into_iter();
        best.chain(self.others.get(&key).into_iter().flatten())
            .copied()
            .collect()
    }

    /// Writes all routes of a prefix, best first; returns whether the best one changed.
    fn store(&mut self, key: K, len: u8, records: &[Record]) -> bool {
        let old = match records.first() {
            Some(&best) => self.best.insert(key, best),
            None => self.best.remove(&key),
        };
        match records.get(1..).filter(|others| !others.is_empty()) {
            Some(others) => drop(self.others.insert(key, others.to_vec())),
            None if self.others.is_empty() => {}
            None => drop(self.others.remove(&key)),
        }
        if let Some(count) = self.lengths.get_mut(usize::from(len)) {
            match (old.is_some(), records.is_empty()) {
                (false, false) => *count += 1,
                (true, true) => *count -= 1,
                _ => {}
            }
        }
        old.as_ref() != records.first()
    }

    /// Prefix lengths in use, longest first.
    fn lengths(&self) -> impl Iterator<Item = u8> {
        (0..=128u8)
            .rev()
            .filter(|&len| self.lengths.get(usize::from(len)).is_some_and(|&n| n > 0))
    }

    /// Prefixes that have a route over one of `paths`.
    fn using(&self, paths: &HashSet<PathId>) -> Vec<K> {
        let others = self
            .others
            .iter()
            .flat_map(|(key, list)| list.iter().map(move |r| (key, r)));
        let mut keys: Vec<K> = (self.best.iter().chain(others))
            .filter(|(_, record)| paths.contains(&record.path))
            .map(|(key, _)| *key)
            .collect();
        if !self.others.is_empty() {
            let mut seen = HashSet::new();
            keys.retain(|key| seen.insert(*key));
        }
        keys
    }
}

/// Paths by number, each counted.
#[derive(Debug, Default)]
struct Paths {
    slots: Vec<Option<(Arc<Path>, u32)>>,
    free: Vec<PathId>,
    ids: HashMap<Arc<Path>, PathId>,
}

impl Paths {
    /// The number of `path`, with one more user.
    fn acquire(&mut self, path: Path) -> PathId {
        if let Some(&id) = self.ids.get(&path) {
            self.retain(id);
            return id;
        }
        let path = Arc::new(path);
        let slot = Some((Arc::clone(&path), 1));
        let id = if let Some(id) = self.free.pop() {
            self.slots[id as usize] = slot;
            id
        } else {
            self.slots.push(slot);
            (self.slots.len() - 1) as PathId
        };
        self.ids.insert(path, id);
        id
    }

    fn retain(&mut self, id: PathId) {
        if let Some(Some((_, users))) = self.slots.get_mut(id as usize) {
            *users += 1;
        }
    }

    fn release(&mut self, id: PathId) {
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return;
        };
        let Some((path, users)) = slot else { return };
        *users -= 1;
        if *users == 0 {
            self.ids.remove(path);
            *slot = None;
            self.free.push(id);
        }
    }

    fn get(&self, id: PathId) -> Option<&Arc<Path>> {
        self.slots.get(id as usize)?.as_ref().map(|(path, _)| path)
    }

    fn matching(&self, mut wanted: impl FnMut(&Path) -> bool) -> HashSet<PathId> {
        (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.as_ref().is_some_and(|(path, _)| wanted(path)))
            .map(|(id, _)| id)
            .collect()
    }
}

impl RouteTable {
    /// Number of prefixes.
    pub(super) fn len(&self) -> usize {
        self.v4.best.len() + self.v6.best.len()
    }

    /// The best route to exactly `dst`.
    pub(super) fn get(&self, dst: IpNet) -> Option<Route> {
        let record = match dst {
            IpNet::V4(net) => self.v4.best.get(&Key4::from(net)),
            IpNet::V6(net) => self.v6.best.get(&Key6::from(net)),
        };
        self.route(dst.trunc(), *record?)
    }

    /// The best route of the longest prefix that holds `ip`.
    pub(super) fn lookup(&self, ip: IpAddr) -> Option<Route> {
        match ip {
            IpAddr::V4(ip) => (self.v4.lengths())
                .filter_map(|len| Ipv4Net::new(ip, len).ok())
                .find(|&net| self.v4.best.contains_key(&Key4::from(net)))
                .and_then(|net| self.get(net.into())),
            IpAddr::V6(ip) => (self.v6.lengths())
                .filter_map(|len| Ipv6Net::new(ip, len).ok())
                .find(|&net| self.v6.best.contains_key(&Key6::from(net)))
                .and_then(|net| self.get(net.into())),
        }
    }

    /// The best route of every prefix, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Route> {
        let v4 = self
            .v4
            .best
            .iter()
            .map(|(key, record)| (IpNet::from(*key), *record));
        let v6 = self
            .v6
            .best
            .iter()
            .map(|(key, record)| (IpNet::from(*key), *record));
        v4.chain(v6)
            .filter_map(|(dst, record)| self.route(dst, record))
    }

    fn route(&self, dst: IpNet, record: Record) -> Option<Route> {
        let path = Arc::clone(self.paths.get(record.path)?);
        Some(Route {
            dst,
            metric: record.metric,
            path,
        })
    }

    /// Adds a route as the kernel does; returns whether the best route to `dst` changed.
    pub(super) fn insert(&mut self, dst: IpNet, metric: u32, path: Path, insert: Insert) -> bool {
        let mut records = self.records(dst);
        let before = records.clone();
        let is_v6 = matches!(dst, IpNet::V6(_));
        let mergeable = is_v6 && is_mergeable(&path);
        // A message about an IPv6 multipath route names all legs: it takes the place of its parts.
        let superseded = |other: &Path| {
            *other == path
                || mergeable
                    && is_mergeable(other)
                    && other
                        .legs
                        .iter()
                        .all(|leg| path.legs.iter().any(|l| same_hop(l, leg)))
        };
        let paths = &self.paths;
        let path_of = |record: &Record| paths.get(record.path).map(|p| &**p);
        let is_kin = |r: &Record| !is_v6 || path_of(r).is_some_and(is_mergeable) == mergeable;
        let peers = |r: &Record| r.metric == metric;
        let mut at = records
            .iter()
            .position(|r| peers(r) && path_of(r).is_some_and(&superseded));
        records.retain(|r| !peers(r) || !path_of(r).is_some_and(&superseded));
        if insert == Insert::Replace {
            let replaced = records
                .iter()
                .position(|r| peers(r) && is_kin(r))
                .or_else(|| records.iter().position(peers));
            // What stands behind an equal of the new route is not what the kernel replaced.
            if let Some(replaced) = replaced.filter(|&replaced| at.is_none_or(|at| replaced < at)) {
                records.remove(replaced);
                at = Some(replaced);
            }
        }
        let at = at.unwrap_or_else(|| {
            // IPv6 has no prepending: what is new comes after its equals.
            let first = insert == Insert::First && !is_v6;
            records.partition_point(|r| r.metric < metric || !first && r.metric == metric)
        });
        let path = self.paths.acquire(path);
        records.insert(at, Record { path, metric });
        self.commit(dst, &before, &records, Some(path))
    }

    /// Takes away a route, or the legs of an IPv6 multipath route that `path` names; returns whether the best route
    /// to `dst` changed. Does nothing if there is no such route.
    pub(super) fn remove(&mut self, dst: IpNet, metric: u32, path: &Path) -> bool {
        let mut records = self.records(dst);
        let before = records.clone();
        let equal = records.iter().position(|r| {
            r.metric == metric && self.paths.get(r.path).is_some_and(|p| **p == *path)
        });
        if let Some(at) = equal {
            records.remove(at);
            return self.commit(dst, &before, &records, None);
        }
        if matches!(dst, IpNet::V6(_)) {
            for (at, record) in records
                .iter()
                .enumerate()
                .filter(|(_, r)| r.metric == metric)
            {
                let Some(whole) = self.paths.get(record.path) else {
                    continue;
                };
                let named = |leg: &_| path.legs.iter().any(|l| same_hop(l, leg));
                let rest: Vec<_> = whole
                    .legs
                    .iter()
                    .filter(|leg| !named(leg))
                    .copied()
                    .collect();
                if whole.kind != path.kind
                    || path.legs.is_empty()
                    || rest.len() + path.legs.len() != whole.legs.len()
                {
                    continue;
                }
                let mut remainder = None;
                if rest.is_empty() {
                    records.remove(at);
                } else {
                    let rest = Path {
                        legs: rest,
                        ..(**whole).clone()
                    };
                    let id = self.paths.acquire(rest);
                    remainder = Some(id);
                    records[at].path = id;
                }
                return self.commit(dst, &before, &records, remainder);
            }
        } else if path.nexthop_id.is_some() {
            // What a nexthop object stands for may have changed since.
            let same_object = |r: &Record| {
                r.metric == metric
                    && self
                        .paths
                        .get(r.path)
                        .is_some_and(|p| p.nexthop_id == path.nexthop_id)
            };
            if let Some(at) = records.iter().position(same_object) {
                records.remove(at);
                return self.commit(dst, &before, &records, None);
            }
        }
        false
    }

    /// Takes away all routes of `families` whose path is `unwanted`; returns the prefixes whose best route changed.
    pub(super) fn remove_where(
        &mut self,
        families: Families,
        unwanted: impl FnMut(&Path) -> bool,
    ) -> Vec<IpNet> {
        let paths = self.paths.matching(unwanted);
        if paths.is_empty() {
            return Vec::new();
        }
        let mut prefixes: Vec<IpNet> = self.v4.using(&paths).into_iter().map(IpNet::from).collect();
        if families == Families::Both {
            prefixes.extend(self.v6.using(&paths).into_iter().map(IpNet::from));
        }
        prefixes.retain(|&dst| {
            let before = self.records(dst);
            let after: Vec<_> = before
                .iter()
                .filter(|r| !paths.contains(&r.path))
                .copied()
                .collect();
            self.commit(dst, &before, &after, None)
        });
        prefixes
    }

    /// Whether a route was made with this nexthop object.
    pub(super) fn uses_nexthop(&self, id: u32) -> bool {
        !self
            .paths
            .matching(|path| path.nexthop_id == Some(id))
            .is_empty()
    }

    /// The prefixes whose best route is another one in `newer`.
    pub(super) fn diff(&self, newer: &Self) -> Vec<IpNet> {
        fn side<K: Copy + Eq + std::hash::Hash + Into<IpNet>>(
            old: &Family<K>,
            new: &Family<K>,
            same: impl Fn(&Record, &Record) -> bool,
        ) -> Vec<IpNet> {
            let gone = old.best.keys().filter(|key| !new.best.contains_key(*key));
            let changed = new
                .best
                .iter()
                .filter(|(key, b)| !old.best.get(*key).is_some_and(|a| same(a, b)));
            gone.chain(changed.map(|(key, _)| key))
                .map(|key| (*key).into())
                .collect()
        }
        let same = |a: &Record, b: &Record| {
            a.metric == b.metric && self.paths.get(a.path) == newer.paths.get(b.path)
        };
        let mut all = side(&self.v4, &newer.v4, same);
        all.extend(side(&self.v6, &newer.v6, same));
        all
    }

    fn records(&self, dst: IpNet) -> Vec<Record> {
        match dst {
            IpNet::V4(net) => self.v4.records(net.into()),
            IpNet::V6(net) => self.v6.records(net.into()),
        }
    }

    /// Stores `after` in place of `before` and drops the paths that only `before` used. `acquired` is the one path
    /// of `after` that is counted already.
    fn commit(
        &mut self,
        dst: IpNet,
        before: &[Record],
        after: &[Record],
        acquired: Option<PathId>,
    ) -> bool {
        let mut acquired = acquired;
        for record in after {
            if acquired == Some(record.path) {
                acquired = None;
            } else {
                self.paths.retain(record.path);
            }
        }
        for record in before {
            self.paths.release(record.path);
        }
        match dst {
            IpNet::V4(net) => self.v4.store(net.into(), net.prefix_len(), after),
            IpNet::V6(net) => self.v6.store(net.into(), net.prefix_len(), after),
        }
    }
}

/// Whether the kernel makes IPv6 routes of one prefix and metric into a multipath route (`rt6_qualify_for_ecmp`).
fn is_mergeable(path: &Path) -> bool {
    path.kind == RouteKind::Unicast
        && path.nexthop_id.is_none()
        && path.legs.first().is_some_and(|leg| leg.gateway.is_some())
}

fn same_hop(a: &super::model::Leg, b: &super::model::Leg) -> bool {
    (a.gateway, a.ifindex) == (b.gateway, b.ifindex)
}

#[cfg(test)]
mod tests;
