//! The ports by number, name and interface index.

use std::collections::BTreeMap;

use encap::eth::MacAddr;
use fastpath::port::PortId;

/// What the node knows of one port: what links and sockets there are, not what is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// The interface's name.
    pub name: String,
    /// The interface's index.
    pub ifindex: u32,
    /// The interface's MAC address.
    pub mac: MacAddr,
    /// The interface's MTU, in bytes.
    pub mtu: u16,
    /// Whether packets may come in with partial transport checksums.
    pub partial_checksums: bool,
    /// What the port is for.
    pub role: PortRole,
}

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRole {
    /// The underlay.
    Uplink,
    /// A pod: the endpoint whose `interface` is the port's name.
    Pod,
    /// The host's own stack, whose end has this MAC address.
    Host(MacAddr),
}

/// The ports in use. Numbers are reused, lowest first, once every poller has let go of them.
#[derive(Clone, Debug, Default)]
pub struct PortTable {
    slots: Vec<Slot>,
    names: BTreeMap<String, PortId>,
}

#[derive(Clone, Debug, Default)]
enum Slot {
    #[default]
    Free,
    Used(PortSpec),
    /// Taken away, and pollers may still have sockets under the number.
    Retiring,
}

impl PortTable {
    /// Adds a port, or changes the one with this name.
    pub fn insert(&mut self, spec: PortSpec) -> PortId {
        let id = self.names.get(&spec.name).copied().unwrap_or_else(|| {
            let free = self
                .slots
                .iter()
                .position(|slot| matches!(slot, Slot::Free));
            PortId(free.unwrap_or(self.slots.len()) as u16)
        });
        let index = usize::from(id.0);
        if index >= self.slots.len() {
            self.slots.resize(index + 1, Slot::Free);
        }
        self.names.insert(spec.name.clone(), id);
        self.slots[index] = Slot::Used(spec);
        id
    }

    /// Takes a port away. Its number stays out of use until [`release`](Self::release).
    pub fn remove(&mut self, name: &str) -> Option<(PortId, PortSpec)> {
        let id = self.names.remove(name)?;
        match std::mem::replace(self.slots.get_mut(usize::from(id.0))?, Slot::Retiring) {
            Slot::Used(spec) => Some((id, spec)),
            Slot::Free | Slot::Retiring => None,
        }
    }

    /// No poller has a socket under this number any more.
    pub fn release(&mut self, id: PortId) {
        if let Some(slot @ Slot::Retiring) = self.slots.get_mut(usize::from(id.0)) {
            *slot = Slot::Free;
        }
    }

    /// A port by number.
    pub fn get(&self, id: PortId) -> Option<&PortSpec> {
        match self.slots.get(usize::from(id.0))? {
            Slot::Used(spec) => Some(spec),
            Slot::Free | Slot::Retiring => None,
        }
    }

    /// A port's number by its interface's name.
    pub fn by_name(&self, name: &str) -> Option<PortId> {
        self.names.get(name).copied()
    }

    /// A port's number by its interface's index.
    pub fn by_ifindex(&self, ifindex: u32) -> Option<PortId> {
        self.iter()
            .find(|(_, spec)| spec.ifindex == ifindex)
            .map(|(id, _)| id)
    }

    /// The host's port.
    pub fn host(&self) -> Option<(PortId, &PortSpec)> {
        self.iter()
            .find(|(_, spec)| matches!(spec.role, PortRole::Host(_)))
    }

    /// All ports, by number.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &PortSpec)> {
        (0..self.slots.len()).filter_map(|index| {
            let id = PortId(index as u16);
            Some((id, self.get(id)?))
        })
    }

    /// One more than the highest number ever in use.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no port.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ifindex: u32) -> PortSpec {
        PortSpec {
            name: name.to_owned(),
            ifindex,
            mac: MacAddr([0xee; 6]),
            mtu: 1500,
            partial_checksums: true,
            role: PortRole::Pod,
        }
    }

    #[test]
    fn a_number_is_used_again_only_after_its_release() {
        let mut table = PortTable::default();
        let first = table.insert(pod("cali1", 1));
        assert_eq!(
            table.insert(pod("cali1", 7)),
            first,
            "the same name keeps its number"
        );
        assert_eq!(table.by_ifindex(7), Some(first));
        table.remove("cali1").unwrap();
        let second = table.insert(pod("cali2", 2));
        assert_ne!(second, first);
        table.release(first);
        assert_eq!(table.insert(pod("cali3", 3)), first);
        assert_eq!(table.get(second).map(|spec| spec.ifindex), Some(2));
    }

    #[test]
    fn a_port_in_use_can_not_be_released() {
        let mut table = PortTable::default();
        let id = table.insert(pod("cali1", 1));
        table.release(id);
        assert!(table.get(id).is_some());
    }
}
