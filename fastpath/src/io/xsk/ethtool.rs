//! What the device's driver says and can be told, through `SIOCETHTOOL`.
//!
//! All of it is about an interface of the calling thread's network namespace.

use std::io;
use std::os::fd::AsFd;

use super::sys;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_GTSO: u32 = 0x1e;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_SCHANNELS: u32 = 0x3d;

/// `struct ethtool_drvinfo`.
#[repr(C)]
#[derive(Clone, Copy)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    erom_version: [u8; 32],
    reserved: [u8; 12],
    counts: [u32; 5],
}

/// `struct ethtool_value`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawChannels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// A device's queues, and how many it could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    /// Queues that only receive.
    pub rx: u32,
    /// Queues that only send.
    pub tx: u32,
    /// Queues that do both.
    pub combined: u32,
    /// Most queues that only receive.
    pub max_rx: u32,
    /// Most queues that only send.
    pub max_tx: u32,
    /// Most queues that do both.
    pub max_combined: u32,
}

impl Channels {
    /// Queues that an AF_XDP socket can bind to: numbers below this.
    pub fn queues(&self) -> u32 {
        self.combined + self.rx.max(self.tx)
    }

    /// Queues that can both receive and send.
    pub fn both_ways(&self) -> u32 {
        self.combined + self.rx.min(self.tx)
    }

    /// Most queues that can both receive and send.
    pub fn max_both_ways(&self) -> u32 {
        self.max_combined.max(self.max_rx.min(self.max_tx))
    }
}

/// Name of the interface's driver: `veth`, `ixgbe`.
///
/// # Errors
///
/// What the ioctl says: `ENODEV` for an unknown interface, `EOPNOTSUPP` where the driver does not tell.
pub fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        erom_version: [0; 32],
        reserved: [0; 12],
        counts: [0; 5],
    };
    run(interface, &mut info)?;
    let name = info
        .driver
        .split(|&byte| byte == 0)
        .next()
        .unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The interface's queues.
///
/// # Errors
///
/// What the ioctl says: `EOPNOTSUPP` where the driver has a fixed number that it does not tell.
pub fn channels(interface: &str) -> io::Result<Channels> {
    let raw = raw_channels(interface)?;
    Ok(Channels {
        rx: raw.rx,
        tx: raw.tx,
        combined: raw.combined,
        max_rx: raw.max_rx,
        max_tx: raw.max_tx,
        max_combined: raw.max_combined,
    })
}

/// Gives the interface `queues` queues that both receive and send.
///
/// # Errors
///
/// What the ioctl says: `EINVAL` over the driver's most, `EPERM` without `CAP_NET_ADMIN`.
pub fn set_channels(interface: &str, queues: u32) -> io::Result<()> {
    let mut raw = raw_channels(interface)?;
    if raw.max_combined != 0 {
        (raw.combined, raw.rx, raw.tx) = (queues, 0, 0);
    } else {
        (raw.rx, raw.tx) = (queues, queues);
    }
    raw.command = ETHTOOL_SCHANNELS;
    run(interface, &mut raw)
}

/// Whether the device fills in L4 checksums on sending, so that its stack leaves them partial.
///
/// # Errors
///
/// What the ioctl says.
pub fn tx_checksum(interface: &str) -> io::Result<bool> {
    let mut value = Value {
        command: ETHTOOL_GTXCSUM,
        data: 0,
    };
    run(interface, &mut value)?;
    Ok(value.data != 0)
}

/// Whether the device takes TCP super-frames from its stack (TSO). Of a veth not while the other end has an XDP program.
///
/// # Errors
///
/// What the ioctl says.
pub fn segmentation(interface: &str) -> io::Result<bool> {
    let mut value = Value {
        command: ETHTOOL_GTSO,
        data: 0,
    };
    run(interface, &mut value)?;
    Ok(value.data != 0)
}

/// What a device does to packets before anybody sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// LRO joins packets, which native XDP does not go with (`ETH_FLAG_LRO`).
    pub lro: bool,
    /// VLAN tags are taken off (`ETH_FLAG_RXVLAN`).
    pub rx_vlan: bool,
}

/// What the device does to packets that it receives.
///
/// # Errors
///
/// What the ioctl says.
pub fn offloads(interface: &str) -> io::Result<Offloads> {
    let mut value = Value {
        command: ETHTOOL_GFLAGS,
        data: 0,
    };
    run(interface, &mut value)?;
    Ok(Offloads {
        lro: value.data & 1 << 15 != 0,
        rx_vlan: value.data & 1 << 8 != 0,
    })
}

/// Turns checksum offload on sending on or off, as `ethtool -K <interface> tx on|off`. Off makes the
/// stack above fill in whole checksums (and segment TCP itself).
///
/// # Errors
///
/// What the ioctl says.
pub fn set_tx_checksum(interface: &str, on: bool) -> io::Result<()> {
    run(
        interface,
        &mut Value {
            command: ETHTOOL_STXCSUM,
            data: u32::from(on),
        },
    )
}

/// The interface's MTU: bytes of an IP packet.
///
/// # Errors
///
/// What the ioctl says.
pub fn mtu(interface: &str) -> io::Result<u32> {
    let fd = sys::control_socket()?;
    let mtu = sys::mtu(fd.as_fd(), &ioctl_name(interface)?)?;
    u32::try_from(mtu).map_err(io::Error::other)
}

fn raw_channels(interface: &str) -> io::Result<RawChannels> {
    let mut raw = RawChannels {
        command: ETHTOOL_GCHANNELS,
        max_rx: 0,
        max_tx: 0,
        max_other: 0,
        max_combined: 0,
        rx: 0,
        tx: 0,
        other: 0,
        combined: 0,
    };
    run(interface, &mut raw)?;
    Ok(raw)
}

fn run<T: Copy>(interface: &str, argument: &mut T) -> io::Result<()> {
    let fd = sys::control_socket()?;
    sys::ethtool(fd.as_fd(), &ioctl_name(interface)?, argument)
}

/// The name as an ioctl wants it: with a zero behind it, in 16 bytes.
fn ioctl_name(interface: &str) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
    let mut name = [0; libc::IFNAMSIZ];
    if interface.is_empty() || interface.len() >= name.len() || interface.contains('\0') {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, byte) in name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([byte]);
    }
    Ok(name)
}
