//! The NIC's program: passes by default, takes overlay and pod traffic.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use aya::EbpfLoader;
use aya::maps::{Array, MapData, XskMap};
use aya::programs::ProgramError;

use super::counters::{CounterMap, NicCounters};
use super::device::Device;
use super::error::{AttachError, LoadError, UpdateError};
use super::link::{Link, Mode};
use super::object::{self, Loaded, Verdict};
use super::pins::{self, PinDir};
use super::prefixes::{AddressMap, PrefixMap, SyncedSet, prefix};

/// The program, by the name that the kernel shows.
pub(crate) const NIC_PROGRAM: &str = "caracal_nic";
const MAX_PREFIXES: u32 = 65_536;
const MAX_LOCAL: u32 = 1024;
/// Room for the addresses that pods' connections leave with.
const MAX_NAT: u32 = 256;
/// TCP, UDP and SCTP, and the protocols without ports together.
const NAT_PROTOCOLS: usize = 4;
/// 64-bit words that hold a bit for each port.
const PORT_WORDS: usize = 65_536 / 64;
/// More receive queues than any NIC in use has.
const MAX_QUEUES: u32 = 256;

/// What a NIC's program is loaded with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NicConfig {
    /// The UDP port of VXLAN; `None` leaves VXLAN to the kernel.
    pub vxlan_port: Option<u16>,
}

/// The ports that pods' connections to the outside leave with, a bit each: TCP's, UDP's and SCTP's. Bit `port % 64` of
/// word `port / 64`. The fourth are the protocols without ports that leave, by their numbers.
pub type NatPorts = [[u64; PORT_WORDS]; NAT_PROTOCOLS];

/// No ports.
#[expect(clippy::large_stack_arrays, reason = "24 KiB, and not in a loop")]
pub fn no_ports() -> Box<NatPorts> {
    Box::new([[0; PORT_WORDS]; NAT_PROTOCOLS])
}

/// How a NIC may run the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NicMode {
    /// In the driver only.
    #[default]
    Native,
    /// In the driver, or else in the kernel's stack: slower, and worth a warning. The attachment says which it is.
    NativeOrGeneric,
}

/// The program of one NIC with its maps. Load one for each NIC: sockets are found by receive queue.
pub struct NicProgram {
    loaded: Loaded,
    sockets: XskMap<MapData>,
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
    counters: CounterMap,
}

impl NicProgram {
    /// Loads the program; it takes nothing until it is attached, told its addresses and given sockets.
    ///
    /// # Errors
    ///
    /// [`LoadError`]; nothing stays behind.
    pub fn load(config: &NicConfig) -> Result<Self, LoadError> {
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("pods4", MAX_PREFIXES)
            .map_max_entries("pods6", MAX_PREFIXES)
            .map_max_entries("local4", MAX_LOCAL)
            .map_max_entries("local6", MAX_LOCAL)
            .map_max_entries("nat4", MAX_NAT)
            .map_max_entries("nat6", MAX_NAT)
            .map_max_entries("xsks", MAX_QUEUES);
        let mut loaded = Loaded::load(&mut loader, object::NIC, NIC_PROGRAM)?;
        let mut program = Self {
            sockets: loaded.map("xsks")?,
            vxlan_port: loaded.map("vxlan_port")?,
            pods4: SyncedSet::take(&mut loaded, "pods4", "IPv4 pod prefixes", MAX_PREFIXES)?,
            pods6: SyncedSet::take(&mut loaded, "pods6", "IPv6 pod prefixes", MAX_PREFIXES)?,
            local4: SyncedSet::take(&mut loaded, "local4", "IPv4 tunnel addresses", MAX_LOCAL)?,
            local6: SyncedSet::take(&mut loaded, "local6", "IPv6 tunnel addresses", MAX_LOCAL)?,
            nat4: SyncedSet::take(&mut loaded, "nat4", "IPv4 NAT addresses", MAX_NAT)?,
            nat6: SyncedSet::take(&mut loaded, "nat6", "IPv6 NAT addresses", MAX_NAT)?,
            nat_ports: loaded.map("nat_ports")?,
            away_until: loaded.map("away_until")?,
            ports_held: no_ports(),
            counters: loaded.map("counters")?,
            loaded,
        };
        program
            .set_vxlan_port(config.vxlan_port)
            .map_err(|e| LoadError::Refused {
                program: NIC_PROGRAM,
                reason: e.to_string(),
            })?;
        Ok(program)
    }

    /// Attaches to `ifname` by a link that goes with the attachment, and so with the process.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; nothing stays attached.
    pub fn attach(&self, ifname: &str, mode: NicMode) -> Result<NicAttachment, AttachError> {
        let device = find(ifname)?;
        let prog = fd(&self.loaded, ifname)?;
        let (link, generic) = match (Link::create(prog, &device, Mode::Native), mode) {
            (
                Err(AttachError::NoNativeXdp { .. } | AttachError::VlanDevice { .. }),
                NicMode::NativeOrGeneric,
            ) => (Link::create(prog, &device, Mode::Generic)?, true),
            (result, _) => (result?, false),
        };
        Ok(NicAttachment {
            link,
            ifindex: device.index,
            generic,
            stays: false,
        })
    }

    /// As [`attach`](Self::attach), in place of what an earlier daemon [left](NicAttachment::leave) there: the NIC is never without a
    /// program then.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; nothing stays attached.
    pub fn attach_next(
        &self,
        ifname: &str,
        mode: NicMode,
        pins: &PinDir,
    ) -> Result<NicAttachment, AttachError> {
        let device = find(ifname)?;
        let pin_failed = |source| AttachError::Pin {
            ifname: device.name.clone(),
            source,
        };
        let Some(link) = pins.take_over(&device).map_err(pin_failed)? else {
            return self.attach(ifname, mode);
        };
        let exchanged = link.update(fd(&self.loaded, ifname)?);
        // From here on it goes with us.
        pins::remove(&pins.path(&device)).map_err(pin_failed)?;
        if exchanged.is_err() {
            let _ = link.detach();
            return self.attach(ifname, mode);
        }
        Ok(NicAttachment {
            link,
            ifindex: device.index,
            generic: false,
            stays: false,
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

    /// Serves receive queue `queue` by an `AF_XDP` socket of that queue. The kernel forgets a socket when it is closed.
    pub fn set_socket(&mut self, queue: u32, socket: &impl AsRawFd) -> Result<(), UpdateError> {
        check_queue(queue)?;
        self.sockets
            .set(queue, socket.as_raw_fd(), 0)
            .map_err(|e| UpdateError::of("sockets", MAX_QUEUES, &e))
    }

    /// Stops serving `queue`: its traffic passes to the kernel.
    pub fn clear_socket(&mut self, queue: u32) -> Result<(), UpdateError> {
        check_queue(queue)?;
        clear(&mut self.sockets, queue, MAX_QUEUES)
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

    /// What the program has counted since it was loaded.
    pub fn counters(&self) -> Result<NicCounters, UpdateError> {
        NicCounters::read(&self.counters).map_err(|e| UpdateError::of("counters", 0, &e))
    }

    /// What the program does with `frame` on receive queue `queue` of a device; the frame goes nowhere
    /// (`BPF_PROG_TEST_RUN`). The program need not be attached there.
    ///
    /// # Errors
    ///
    /// The kernel refuses frames shorter than an Ethernet header, and devices and queues that do not exist.
    pub fn verdict(&self, ifindex: u32, queue: u32, frame: &[u8]) -> Result<Verdict, ProgramError> {
        self.loaded.verdict(ifindex, queue, frame)
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

/// The program on a NIC. Dropping it, or the end of the process, takes it off; but not what was [left](Self::leave).
#[derive(Debug)]
pub struct NicAttachment {
    link: Link,
    ifindex: u32,
    generic: bool,
    /// It is pinned.
    stays: bool,
}

impl NicAttachment {
    /// The NIC's interface index.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Whether the program runs in the kernel's stack instead of the driver.
    pub fn is_generic(&self) -> bool {
        self.generic
    }

    /// Ends without taking the program off: it stays, without sockets, until the next daemon attaches its own in its place
    /// ([`NicProgram::attach_next`]). Not where it runs in the kernel's stack; then it goes.
    ///
    /// # Errors
    ///
    /// It can not be pinned; then it goes, too.
    pub fn leave(mut self, ifname: &str, pins: &PinDir) -> Result<(), AttachError> {
        if !self.generic {
            let pinned = pins.pin(&self.link, &find(ifname)?);
            pinned.map_err(|source| AttachError::Pin {
                ifname: ifname.into(),
                source,
            })?;
            self.stays = true;
        }
        Ok(())
    }

    /// Whether the program is still on the NIC: false when the NIC is gone or somebody detached the link.
    pub fn is_alive(&self) -> bool {
        self.link.is_on(self.ifindex)
    }
}

impl Drop for NicAttachment {
    fn drop(&mut self) {
        // Closing the descriptor detaches too; this one is done when it returns.
        if !self.stays {
            let _ = self.link.detach();
        }
    }
}

pub(super) fn find(ifname: &str) -> Result<Device, AttachError> {
    Device::find(ifname)
        .map_err(|e| AttachError::kernel(ifname, "look the interface up", e))?
        .ok_or_else(|| AttachError::UnknownInterface {
            ifname: ifname.into(),
        })
}

pub(super) fn fd<'a>(loaded: &'a Loaded, ifname: &str) -> Result<BorrowedFd<'a>, AttachError> {
    loaded.fd().map_err(|e| {
        AttachError::kernel(ifname, "use the loaded program", std::io::Error::other(e))
    })
}

/// Takes a socket out of a map; there being none is fine, since the kernel removes closed ones itself.
pub(super) fn clear(
    sockets: &mut XskMap<MapData>,
    index: u32,
    max: u32,
) -> Result<(), UpdateError> {
    match sockets.unset(index) {
        Err(e)
            if super::error::errno(&e) != Some(libc::ENOENT)
                && !matches!(e, aya::maps::MapError::KeyNotFound) =>
        {
            Err(UpdateError::of("sockets", max, &e))
        }
        _ => Ok(()),
    }
}

fn check_queue(queue: u32) -> Result<(), UpdateError> {
    if queue < MAX_QUEUES {
        return Ok(());
    }
    Err(UpdateError::NoSuchQueue {
        queue,
        queues: MAX_QUEUES,
    })
}
