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

/// The ports in use. Numbers are reused, lowest first.
#[derive(Clone, Debug, Default)]
pub struct PortTable {
    slots: Vec<Option<PortSpec>>,
    names: BTreeMap<String, PortId>,
}

impl PortTable {
    /// Adds a port, or changes the one with this name.
    pub fn insert(&mut self, spec: PortSpec) -> PortId {
        let id = self.names.get(&spec.name).copied().unwrap_or_else(|| {
            let index = self
                .slots
                .iter()
                .position(Option::is_none)
                .unwrap_or(self.slots.len());
            PortId(index as u16)
        });
        let index = usize::from(id.0);
        if index >= self.slots.len() {
            self.slots.resize(index + 1, None);
        }
        self.names.insert(spec.name.clone(), id);
        self.slots[index] = Some(spec);
        id
    }

    /// Takes a port away.
    pub fn remove(&mut self, name: &str) -> Option<(PortId, PortSpec)> {
        let id = self.names.remove(name)?;
        let spec = self.slots.get_mut(usize::from(id.0))?.take()?;
        Some((id, spec))
    }

    /// A port by number.
    pub fn get(&self, id: PortId) -> Option<&PortSpec> {
        self.slots.get(usize::from(id.0))?.as_ref()
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
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| Some((PortId(index as u16), slot.as_ref()?)))
    }

    /// One more than the highest number in use.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no port.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}
