//! Which neighbours the kernel is asked to resolve.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use crate::compile::KernelView;
use crate::netlink::{Mac, Mirror, Neighbour, NeighbourState, PROTOCOL, Result, Writer};

/// A neighbour, by interface index and address.
type Key = (u32, IpAddr);

/// The most neighbours that are resolved because packets asked for them; a scan of a connected network can take no more
/// of the kernel's table.
const ASKED: usize = 1024;

/// The neighbours that we had the kernel resolve.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// Next hops of routes.
    wanted: BTreeSet<Key>,
    /// Destinations on connected networks, oldest first.
    asked: VecDeque<Key>,
    /// The usable MAC addresses that the tables were made with.
    macs: BTreeMap<Key, Mac>,
    /// The next hops of routes that did not answer then.
    failed: BTreeSet<Key>,
}

impl Neighbours {
    /// Whether a usable MAC address on one of these interfaces is new, gone or another since the last call, or a route's next hop has
    /// failed. Other states come and go all the time, and a scan makes many.
    pub(super) fn moved(&mut self, mirror: &Mirror, interfaces: &BTreeSet<u32>) -> bool {
        let near = mirror
            .neighbours()
            .filter(|entry| interfaces.contains(&entry.ifindex));
        let macs = near
            .filter_map(|entry| Some(((entry.ifindex, entry.ip), entry.usable_mac()?)))
            .collect();
        let wanted = self.wanted.iter().copied();
        let failed = wanted
            .filter(|key| mirror.has_failed(key.0, key.1))
            .collect();
        let changed = self.macs != macs || self.failed != failed;
        self.macs = macs;
        self.failed = failed;
        changed
    }

    /// Makes these the next hops that are kept resolved.
    pub(super) fn want(&mut self, wanted: BTreeSet<Key>, mirror: &Mirror, writer: &mut Writer) {
        for &key in wanted.difference(&self.wanted) {
            resolve(mirror, writer, key);
        }
        for &key in self.wanted.difference(&wanted) {
            forget(mirror, writer, key);
        }
        self.wanted = wanted;
    }

    /// A packet waits for this neighbour.
    pub(super) fn ask(&mut self, key: Key, mirror: &Mirror, writer: &mut Writer) {
        if !self.wanted.contains(&key) && !self.asked.contains(&key) {
            if self.asked.len() == ASKED
                && let Some(oldest) = self.asked.pop_front()
            {
                forget(mirror, writer, oldest);
            }
            self.asked.push_back(key);
        }
        resolve(mirror, writer, key);
    }

    /// A neighbour's entry changed. Next hops are asked for again when they are gone, others forgotten when they failed.
    pub(super) fn changed(&mut self, key: Key, mirror: &Mirror, writer: &mut Writer) {
        let entry = mirror.neighbour(key.0, key.1);
        if self.wanted.contains(&key) {
            if entry.is_none() && mirror.link(key.0).is_some_and(crate::netlink::Link::is_up) {
                resolve(mirror, writer, key);
            }
        } else if self.asked.contains(&key)
            && entry.is_none_or(|entry| entry.state == NeighbourState::FAILED)
        {
            self.asked.retain(|asked| *asked != key);
            forget(mirror, writer, key);
        }
    }

    /// Takes back what others of our kind asked for and we do not: a daemon before. The kernel would ask on and on, and a
    /// pod's answers never reach it.
    pub(super) fn forget_others(&self, mirror: &Mirror, writer: &mut Writer) {
        let all = mirror.neighbours().map(|entry| (entry.ifindex, entry.ip));
        let others = all.filter(|key| !self.wanted.contains(key) && !self.asked.contains(key));
        for key in others.collect::<Vec<_>>() {
            forget(mirror, writer, key);
        }
    }

    /// An interface is up again: its entries went with it.
    pub(super) fn link_up(&self, ifindex: u32, mirror: &Mirror, writer: &mut Writer) {
        for &(_, addr) in self.wanted.iter().filter(|key| key.0 == ifindex) {
            if mirror.neighbour(ifindex, addr).is_none() {
                resolve(mirror, writer, (ifindex, addr));
            }
        }
    }
}

/// Set by hand, or by us for the host's port: nothing that the kernel resolves.
fn is_fixed(entry: &Neighbour) -> bool {
    [NeighbourState::PERMANENT, NeighbourState::NOARP].contains(&entry.state)
}

/// Takes back all that the kernel was asked for, by whomever.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn forget_all(writer: &mut Writer) -> Result<()> {
    for entry in writer.own_neighbours()? {
        if !is_fixed(&entry) {
            writer.delete_neighbour(entry.ifindex, entry.ip)?;
        }
    }
    Ok(())
}

/// Asks for a neighbour, unless somebody has set it by hand: that is not ours to change.
fn resolve(mirror: &Mirror, writer: &mut Writer, (ifindex, addr): Key) {
    if mirror.neighbour(ifindex, addr).is_some_and(is_fixed) {
        return;
    }
    if let Err(error) = writer.resolve_neighbour(ifindex, addr) {
        tracing::debug!(%error, ifindex, %addr, "neighbour not asked for");
    }
}

/// Takes back what we asked for, and only that.
fn forget(mirror: &Mirror, writer: &mut Writer, (ifindex, addr): Key) {
    let is_ours = |entry: &Neighbour| entry.protocol == PROTOCOL && !is_fixed(entry);
    if !mirror.neighbour(ifindex, addr).is_some_and(is_ours) {
        return;
    }
    if let Err(error) = writer.delete_neighbour(ifindex, addr) {
        tracing::debug!(%error, ifindex, %addr, "neighbour not forgotten");
    }
}
