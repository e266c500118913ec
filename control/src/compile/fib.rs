//! Routes from several sources, and which one counts.

use std::collections::{BTreeMap, BTreeSet};

use flowtable::lpm::{Lpm4, Lpm6, LpmError, NextHopId, Prefix4, Prefix6, Rib4, Rib6};
use ipnet::IpNet;

use super::hops::{Hop, HopTable};
use super::kernel::KernelView;

/// Why routes were refused.
#[derive(Debug, thiserror::Error)]
pub enum FibError {
    /// There are more next hops than numbers for them.
    #[error("more than 32767 different next hops; fewer gateways or nodes are needed on this node")]
    TooManyNextHops,
    /// There are more nodes than numbers for them.
    #[error("more than 32,766 nodes, counted since the start")]
    TooManyNodes,
    /// The lookup table refuses a route.
    #[error("route to {prefix}: {source}")]
    Lpm {
        /// Its destination.
        prefix: IpNet,
        /// Why.
        source: LpmError,
    },
}

/// Who asks for a route. Of two routes to one prefix the earlier layer's counts; the kernel's are behind all of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// The node's own addresses.
    Own,
    /// Calico's calculated state.
    Calico,
    /// Neighbours on connected networks.
    Neighbour,
}

const LAYERS: usize = 3;

/// The routes in force, and behind them those that would be if others went away.
#[derive(Debug, Default)]
pub(super) struct Fib {
    pub(super) rib4: Rib4,
    pub(super) rib6: Rib6,
    /// What the layers ask for. The kernel's routes are not here: there may be a million, and the mirror has them.
    pub(super) layers: BTreeMap<IpNet, [Option<Hop>; LAYERS]>,
}

/// What a layer asked for before it was replaced: each prefix that changed, in order.
#[derive(Debug)]
#[must_use = "what was replaced can be put back"]
pub(super) struct Before {
    layer: Layer,
    routes: Vec<(IpNet, Option<Hop>)>,
}

impl Fib {
    /// Makes `routes` all that `layer` asks for. On an error nothing changes.
    pub(super) fn replace_layer(
        &mut self,
        layer: Layer,
        routes: BTreeMap<IpNet, Hop>,
        hops: &mut HopTable,
        kernel: &dyn KernelView,
    ) -> Result<Before, FibError> {
        let index = layer as usize;
        let had = self
            .layers
            .iter()
            .filter(|(_, by_layer)| by_layer[index].is_some());
        let gone: BTreeSet<_> = had
            .map(|(prefix, _)| *prefix)
            .filter(|prefix| !routes.contains_key(prefix))
            .collect();
        let gone = gone.into_iter().map(|prefix| (prefix, None));
        let asked = routes.into_iter().map(|(prefix, hop)| (prefix, Some(hop)));
        let mut before = Before {
            layer,
            routes: Vec::new(),
        };
        for (prefix, hop) in gone.chain(asked) {
            let had = self.layers.get(&prefix);
            if had.and_then(|had| had[index].as_ref()) == hop.as_ref() {
                continue;
            }
            before.routes.push((prefix, self.ask(layer, prefix, hop)));
            if let Err(error) = self.settle(prefix, hops, kernel) {
                self.put_back(before, hops, kernel);
                return Err(error);
            }
        }
        Ok(before)
    }

    /// Undoes [`replace_layer`](Self::replace_layer), if nothing was changed since.
    pub(super) fn put_back(
        &mut self,
        before: Before,
        hops: &mut HopTable,
        kernel: &dyn KernelView,
    ) {
        // Backwards, so that each step needs the room that it needed a moment ago.
        for (prefix, hop) in before.routes.into_iter().rev() {
            self.ask(before.layer, prefix, hop);
            let _ = self.settle(prefix, hops, kernel);
        }
    }

    /// Notes what a layer asks for, and returns what it asked for before.
    fn ask(&mut self, layer: Layer, prefix: IpNet, hop: Option<Hop>) -> Option<Hop> {
        let by_layer = self.layers.entry(prefix).or_default();
        let had = std::mem::replace(&mut by_layer[layer as usize], hop);
        if by_layer.iter().all(Option::is_none) {
            self.layers.remove(&prefix);
        }
        had
    }

    /// Takes the kernel's best route to a prefix, or that there is none. Counts only where no layer asks for another.
    pub(super) fn set_kernel(
        &mut self,
        prefix: IpNet,
        hop: Option<Hop>,
        hops: &mut HopTable,
    ) -> Result<(), FibError> {
        if self.layers.contains_key(&prefix) {
            Ok(())
        } else {
            self.put(prefix, hop, hops)
        }
    }

    /// Puts the route that counts in force.
    fn settle(
        &mut self,
        prefix: IpNet,
        hops: &mut HopTable,
        kernel: &dyn KernelView,
    ) -> Result<(), FibError> {
        let wanted = self
            .layers
            .get(&prefix)
            .and_then(|by_layer| by_layer.iter().flatten().next().cloned());
        let hop = wanted.or_else(|| kernel.exact(prefix).as_ref().map(Hop::from));
        self.put(prefix, hop, hops)
    }

    fn put(
        &mut self,
        prefix: IpNet,
        hop: Option<Hop>,
        hops: &mut HopTable,
    ) -> Result<(), FibError> {
        let old = match hop {
            None => self.remove(prefix),
            Some(hop) => {
                let id = hops.acquire(hop)?;
                match self.insert(prefix, id) {
                    Ok(old) => old,
                    Err(source) => {
                        hops.release(id);
                        return Err(FibError::Lpm { prefix, source });
                    }
                }
            }
        };
        if let Some(old) = old {
            hops.release(old);
        }
        Ok(())
    }

    fn insert(&mut self, prefix: IpNet, id: NextHopId) -> Result<Option<NextHopId>, LpmError> {
        match prefix {
            IpNet::V4(net) => match Prefix4::containing(net.addr().into(), net.prefix_len()) {
                Ok(prefix) => self.rib4.insert(prefix, id),
                Err(_) => Ok(None),
            },
            IpNet::V6(net) => match Prefix6::containing(net.addr().into(), net.prefix_len()) {
                Ok(prefix) => self.rib6.insert(prefix, id),
                Err(_) => Ok(None),
            },
        }
    }

    fn remove(&mut self, prefix: IpNet) -> Option<NextHopId> {
        match prefix {
            IpNet::V4(net) => Prefix4::containing(net.addr().into(), net.prefix_len())
                .ok()
                .and_then(|prefix| self.rib4.remove(prefix)),
            IpNet::V6(net) => Prefix6::containing(net.addr().into(), net.prefix_len())
                .ok()
                .and_then(|prefix| self.rib6.remove(prefix)),
        }
    }

    /// The tables for lookups, as of now.
    pub(super) fn snapshot(&self) -> (Lpm4, Lpm6) {
        (self.rib4.snapshot(), self.rib6.snapshot())
    }

    /// How many routes are in force, IPv4 and IPv6.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.rib4.len(), self.rib6.len())
    }
}
