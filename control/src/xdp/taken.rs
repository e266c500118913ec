//! What of an uplink's packets is ours: the maps that the NIC's program and the flows' program ask alike (`xdp/classify.h`).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use aya::maps::{Array, MapData};
use aya::{Ebpf, EbpfLoader};

use super::error::{LoadError, UpdateError};
use super::object::take_map;
use super::prefixes::{AddressMap, PrefixMap, SyncedSet, prefix};

const MAX_PREFIXES: u32 = 65_536;
const MAX_LOCAL: u32 = 1024;
/// Room for the addresses that pods' connections leave with.
const MAX_NAT: u32 = 256;
/// TCP, UDP and SCTP, and the protocols without ports together.
const NAT_PROTOCOLS: usize = 4;
/// 64-bit words that hold a bit for each port.
const PORT_WORDS: usize = 65_536 / 64;

/// The ports that pods' connections to the outside leave with, a bit each: TCP's, UDP's and SCTP's. Bit `port % 64` of
/// word `port / 64`. The fourth are the protocols without ports that leave, by their numbers.
pub type NatPorts = [[u64; PORT_WORDS]; NAT_PROTOCOLS];

/// No ports.
#[expect(clippy::large_stack_arrays, reason = "24 KiB, and not in a loop")]
pub fn no_ports() -> Box<NatPorts> {
    Box::new([[0; PORT_WORDS]; NAT_PROTOCOLS])
}

/// The maps of one loaded program. Written by control alone, read by the program on every packet.
pub struct Taken {
    vxlan_port: Array<MapData, u16>,
    pods4: SyncedSet<PrefixMap<4>>,
    pods6: SyncedSet<PrefixMap<16>>,
    local4: SyncedSet<AddressMap<4>>,
    local6: SyncedSet<AddressMap<16>>,
    nat4: SyncedSet<AddressMap<4>>,
    nat6: SyncedSet<AddressMap<16>>,
    nat_ports: Array<MapData, u64>,
    away_until: Array<MapData, u64>,
    /// What `nat_ports` holds: the kernel's arrays start as zeros.
    ports_held: Box<NatPorts>,
}

impl Taken {
    /// Tells a loader how much room there is to be.
    pub(super) fn size<'a, 'b>(loader: &'b mut EbpfLoader<'a>) -> &'b mut EbpfLoader<'a> {
        loader
            .map_max_entries("pods4", MAX_PREFIXES)
            .map_max_entries("pods6", MAX_PREFIXES)
            .map_max_entries("local4", MAX_LOCAL)
            .map_max_entries("local6", MAX_LOCAL)
            .map_max_entries("nat4", MAX_NAT)
            .map_max_entries("nat6", MAX_NAT)
    }

    /// Takes the maps of what was loaded so. They take nothing as yet.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            vxlan_port: take_map(ebpf, "vxlan_port")?,
            pods4: SyncedSet::take(ebpf, "pods4", "IPv4 pod prefixes", MAX_PREFIXES)?,
            pods6: SyncedSet::take(ebpf, "pods6", "IPv6 pod prefixes", MAX_PREFIXES)?,
            local4: SyncedSet::take(ebpf, "local4", "IPv4 tunnel addresses", MAX_LOCAL)?,
            local6: SyncedSet::take(ebpf, "local6", "IPv6 tunnel addresses", MAX_LOCAL)?,
            nat4: SyncedSet::take(ebpf, "nat4", "IPv4 NAT addresses", MAX_NAT)?,
            nat6: SyncedSet::take(ebpf, "nat6", "IPv6 NAT addresses", MAX_NAT)?,
            nat_ports: take_map(ebpf, "nat_ports")?,
            away_until: take_map(ebpf, "away_until")?,
            ports_held: no_ports(),
        })
    }

    /// Until this time after the machine's start (`CLOCK_BOOTTIME`) nobody is there for answers of
    /// [`sync_nat`](Self::sync_nat)'s ports, and they are dropped: the host would reset what they belong to. `None`: they are taken.
    pub fn set_away(&mut self, until: Option<Duration>) -> Result<(), UpdateError> {
        let until = until.map_or(0, |until| until.as_nanos() as u64);
        self.away_until
            .set(0, until, 0)
            .map_err(|e| UpdateError::of("times", 1, &e))
    }

    /// Changes the UDP port of VXLAN; packets see the old or the new one.
    pub fn set_vxlan_port(&mut self, port: Option<u16>) -> Result<(), UpdateError> {
        self.vxlan_port
            .set(0, port.unwrap_or(0).to_be(), 0)
            .map_err(|e| UpdateError::of("VXLAN ports", 1, &e))
    }

    /// Takes traffic to exactly these IPv4 prefixes; bits beyond a length are ignored.
    pub fn sync_pods4(
        &mut self,
        prefixes: impl IntoIterator<Item = (Ipv4Addr, u8)>,
    ) -> Result<(), UpdateError> {
        let wanted = prefixes
            .into_iter()
            .map(|(addr, len)| prefix(addr.octets(), len))
            .collect::<Result<_, _>>()?;
        self.pods4.sync(&wanted)
    }

    /// Takes traffic to exactly these IPv6 prefixes; bits beyond a length are ignored.
    pub fn sync_pods6(
        &mut self,
        prefixes: impl IntoIterator<Item = (Ipv6Addr, u8)>,
    ) -> Result<(), UpdateError> {
        let wanted = prefixes
            .into_iter()
            .map(|(addr, len)| prefix(addr.octets(), len))
            .collect::<Result<_, _>>()?;
        self.pods6.sync(&wanted)
    }

    /// Takes tunnels that end at exactly these addresses of the node, and what pods send to them.
    pub fn sync_local(
        &mut self,
        addrs: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), UpdateError> {
        let (v4, v6) = by_family(addrs);
        self.local4.sync(&v4)?;
        self.local6.sync(&v6)
    }

    /// Takes what comes back to exactly these ports and protocols of exactly these addresses, and what tells of it by ICMP.
    pub fn sync_nat(
        &mut self,
        addrs: impl IntoIterator<Item = IpAddr>,
        ports: &NatPorts,
    ) -> Result<(), UpdateError> {
        let held = self.ports_held.as_flattened_mut();
        for (index, (held, wanted)) in held.iter_mut().zip(ports.as_flattened()).enumerate() {
            if held != wanted {
                let set = self.nat_ports.set(index as u32, *wanted, 0);
                set.map_err(|e| UpdateError::of("NAT ports", 65_536, &e))?;
                *held = *wanted;
            }
        }
        let (v4, v6) = by_family(addrs);
        self.nat4.sync(&v4)?;
        self.nat6.sync(&v6)
    }
}

/// Addresses as the maps' keys.
fn by_family(addrs: impl IntoIterator<Item = IpAddr>) -> (BTreeSet<[u8; 4]>, BTreeSet<[u8; 16]>) {
    let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
    for addr in addrs {
        match addr {
            IpAddr::V4(addr) => drop(v4.insert(addr.octets())),
            IpAddr::V6(addr) => drop(v6.insert(addr.octets())),
        }
    }
    (v4, v6)
}
