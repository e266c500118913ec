//! Next hops as they are meant, and their numbers.

use std::collections::HashMap;
use std::net::IpAddr;

use fastpath::port::PortId;
use fastpath::reason::DropReason;
use flowtable::lpm::NextHopId;

use super::fib::FibError;
use super::kernel::{KernelHop, KernelLeg};

/// A next hop by what it means. Which MAC address, interface and headers that is, is found out when tables are made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Hop {
    /// Nothing may go there.
    Drop(DropReason),
    /// The host's own stack.
    Host,
    /// A local pod.
    Pod(PortId),
    /// A router or a neighbour.
    Via {
        /// Its address.
        gateway: IpAddr,
        /// The interface it is on.
        ifindex: u32,
    },
    /// A connected network: the neighbour is the destination itself.
    OnLink {
        /// The interface it is on.
        ifindex: u32,
    },
    /// Over several of these, of which each flow takes one.
    Legs(Vec<KernelLeg>),
    /// A node, without encapsulation, by its IPv4 address.
    Node(String),
    /// A node, without encapsulation, by its IPv6 address.
    Node6(String),
    /// A node, in VXLAN.
    Vxlan {
        /// The node.
        node: String,
        /// Whether it is the IPv6 tunnel.
        v6: bool,
    },
    /// A node, in IPIP.
    Ipip(String),
}

impl From<&KernelHop> for Hop {
    fn from(hop: &KernelHop) -> Self {
        match hop {
            &KernelHop::Via { gateway, ifindex } => Self::Via { gateway, ifindex },
            &KernelHop::OnLink { ifindex } => Self::OnLink { ifindex },
            KernelHop::Legs(legs) => Self::Legs(legs.clone()),
            KernelHop::Blackhole => Self::Drop(DropReason::Blackhole),
            KernelHop::Unreachable => Self::Drop(DropReason::Unreachable),
            KernelHop::Prohibit => Self::Drop(DropReason::Prohibited),
        }
    }
}

/// Gives each next hop in use a number, and the number back when no route uses it any more.
#[derive(Debug, Default)]
pub(super) struct HopTable {
    numbers: HashMap<Hop, NextHopId>,
    /// By number; number 0 is never used.
    slots: Vec<Option<(Hop, u32)>>,
    free: Vec<NextHopId>,
}

impl HopTable {
    /// The number of a next hop, which is used once more from now on.
    ///
    /// # Errors
    /// When there are no numbers left.
    pub(super) fn acquire(&mut self, hop: Hop) -> Result<NextHopId, FibError> {
        if let Some(&id) = self.numbers.get(&hop) {
            if let Some(Some((_, uses))) = self.slots.get_mut(id.index()) {
                *uses += 1;
            }
            return Ok(id);
        }
        if self.slots.is_empty() {
            self.slots.push(None);
        }
        let id = if let Some(id) = self.free.pop() {
            id
        } else {
            let next = u16::try_from(self.slots.len())
                .ok()
                .and_then(NextHopId::new);
            let next = next.ok_or(FibError::TooManyNextHops)?;
            self.slots.push(None);
            next
        };
        self.numbers.insert(hop.clone(), id);
        if let Some(slot) = self.slots.get_mut(id.index()) {
            *slot = Some((hop, 1));
        }
        Ok(id)
    }

    /// Takes one use back.
    pub(super) fn release(&mut self, id: NextHopId) {
        let Some(slot) = self.slots.get_mut(id.index()) else {
            return;
        };
        let Some((_, uses)) = slot else { return };
        *uses -= 1;
        if *uses == 0
            && let Some((hop, _)) = slot.take()
        {
            self.numbers.remove(&hop);
            self.free.push(id);
        }
    }

    /// The next hop with this number.
    pub(super) fn get(&self, id: NextHopId) -> Option<&Hop> {
        let (hop, _) = self.slots.get(id.index())?.as_ref()?;
        Some(hop)
    }

    /// The next hops in use, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NextHopId, &Hop)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let (hop, _) = slot.as_ref()?;
            Some((NextHopId::new(index as u16)?, hop))
        })
    }

    /// One more than the largest number ever used.
    pub(super) fn len(&self) -> usize {
        self.slots.len().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_next_hops_share_a_number_until_the_last_use_is_gone() {
        let mut table = HopTable::default();
        let first = table.acquire(Hop::Host).unwrap();
        assert_eq!(table.acquire(Hop::Host).unwrap(), first);
        assert_ne!(first, NextHopId::NONE);
        table.release(first);
        assert_eq!(table.iter().count(), 1);
        table.release(first);
        assert_eq!(table.iter().count(), 0);
        assert_eq!(
            table.acquire(Hop::Pod(PortId(3))).unwrap(),
            first,
            "numbers are used again"
        );
    }

    #[test]
    fn numbers_run_out_with_an_error() {
        let mut table = HopTable::default();
        for port in 0..NextHopId::MAX.get() {
            table.acquire(Hop::Pod(PortId(port))).unwrap();
        }
        assert!(matches!(
            table.acquire(Hop::Host),
            Err(FibError::TooManyNextHops)
        ));
    }
}
