//! The NIC's program: passes by default, takes overlay and pod traffic.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::EbpfLoader;
use aya::maps::{MapData, XskMap};
use aya::programs::ProgramError;

use super::counters::{CounterMap, NicCounters};
use super::device::Device;
use super::error::{AttachError, LoadError, UpdateError};
use super::link::{Link, Mode};
use super::object::{self, Loaded, Verdict};
use super::pins::{self, PinDir};
use super::sys::LinkKind;
use super::taken::Taken;

/// The program, by the name that the kernel shows.
pub(crate) const NIC_PROGRAM: &str = "caracal_nic";
/// More receive queues than any NIC in use has.
const MAX_QUEUES: u32 = 256;

/// What a NIC's program is loaded with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NicConfig {
    /// The UDP port of VXLAN; `None` leaves VXLAN to the kernel.
    pub vxlan_port: Option<u16>,
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
    taken: Taken,
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
        Taken::size(&mut loader).map_max_entries("xsks", MAX_QUEUES);
        let mut loaded = Loaded::load(&mut loader, object::NIC, NIC_PROGRAM)?;
        let mut program = Self {
            sockets: loaded.map("xsks")?,
            taken: Taken::take(loaded.ebpf())?,
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
        // What a daemon left in the driver; anything else goes.
        let exchanged = match link.kind() {
            Ok(LinkKind::Xdp) => link.update(fd(&self.loaded, ifname)?),
            Ok(LinkKind::Tcx) => Err(std::io::ErrorKind::Unsupported.into()),
            Err(e) => Err(e),
        };
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

/// What it takes is told to its maps.
impl Deref for NicProgram {
    type Target = Taken;

    fn deref(&self) -> &Taken {
        &self.taken
    }
}

impl DerefMut for NicProgram {
    fn deref_mut(&mut self) -> &mut Taken {
        &mut self.taken
    }
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
