//! The endpoints' program: takes everything from pods' veths and the host port.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use aya::EbpfLoader;
use aya::maps::{HashMap, MapData, XskMap};
use aya::programs::ProgramError;

use super::counters::{CounterMap, EndpointCounters};
use super::device::Device;
use super::direct::DirectSlots;
use super::error::{AttachError, LoadError, PinError, UpdateError};
use super::link::{Link, Mode};
use super::nic::{clear, fd, find};
use super::object::{self, Loaded, Verdict};
use super::pins::{self, PinDir};
use super::sys::LinkKind;

/// What happens to a frame that no poller serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FailMode {
    /// Dropped: the pod is cut off.
    #[default]
    Closed,
    /// Left to the kernel, which forwards it past every policy of ours.
    Open,
}

/// What the endpoints' program is loaded with; fixed until it is loaded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointConfig {
    /// What happens while no poller serves.
    pub fail_mode: FailMode,
    /// The most devices attached at a time, at least 1.
    pub max_endpoints: u32,
    /// Receive queues served on each device, at least 1: one a poller.
    pub queues: u32,
}

/// The one program of all endpoints, with its maps.
pub struct EndpointProgram {
    loaded: Loaded,
    config: EndpointConfig,
    slots: HashMap<MapData, u32, u32>,
    direct: DirectSlots,
    sockets: XskMap<MapData>,
    counters: CounterMap,
    /// By interface index: the mirror of `slots` and `direct`.
    taken: BTreeMap<u32, u32>,
    free: Vec<u32>,
}

impl EndpointProgram {
    /// Loads the program.
    ///
    /// # Errors
    ///
    /// [`LoadError`]; nothing stays behind.
    pub fn load(config: &EndpointConfig) -> Result<Self, LoadError> {
        let config = EndpointConfig {
            max_endpoints: config.max_endpoints.max(1),
            queues: config.queues.max(1),
            ..*config
        };
        // enum xdp_action.
        let action: u32 = match config.fail_mode {
            FailMode::Closed => 1,
            FailMode::Open => 2,
        };
        let places = DirectSlots::places(config.max_endpoints);
        let mask = places - 1;
        let mut loader = EbpfLoader::new();
        loader
            .override_global("direct_mask", &mask, true)
            .map_max_entries("direct", places)
            .override_global("queues_per_endpoint", &config.queues, true)
            .override_global("no_socket_action", &action, true)
            .map_max_entries("slots", config.max_endpoints)
            .map_max_entries("xsks", config.max_endpoints.saturating_mul(config.queues));
        let mut loaded = Loaded::load(&mut loader, object::POD, "caracal_pod")?;
        Ok(Self {
            slots: loaded.map("slots")?,
            direct: DirectSlots::new(loaded.map("direct")?, config.max_endpoints),
            sockets: loaded.map("xsks")?,
            counters: loaded.map("counters")?,
            loaded,
            config,
            taken: BTreeMap::new(),
            free: (0..config.max_endpoints).rev().collect(),
        })
    }

    /// Attaches to `ifname` by a link pinned in `pins`. A link that an earlier daemon left on the device is taken
    /// over: its program is exchanged for this one and the device is never without.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; nothing that was not there before stays attached or pinned.
    pub fn attach(
        &mut self,
        ifname: &str,
        pins: &PinDir,
    ) -> Result<EndpointAttachment, AttachError> {
        let device = find(ifname)?;
        self.take_slot(&device)?;
        let linked = self.link(&device, pins);
        if linked.is_err() {
            self.free_slot(device.index);
        }
        linked
    }

    /// Serves receive queue `queue` of an attached device by an `AF_XDP` socket of that device and queue. The kernel
    /// forgets a socket when it is closed.
    pub fn set_socket(
        &mut self,
        ifindex: u32,
        queue: u32,
        socket: &impl AsRawFd,
    ) -> Result<(), UpdateError> {
        let place = self.place(ifindex, queue)?;
        self.sockets
            .set(place, socket.as_raw_fd(), 0)
            .map_err(|e| UpdateError::of("sockets", self.config.max_endpoints, &e))
    }

    /// Stops serving `queue` of a device: its frames are dropped, or passed when configured open.
    pub fn clear_socket(&mut self, ifindex: u32, queue: u32) -> Result<(), UpdateError> {
        let place = self.place(ifindex, queue)?;
        clear(&mut self.sockets, place, self.config.max_endpoints)
    }

    /// Takes the program off a device, whether the device is still there or not, and leaves nothing behind.
    ///
    /// # Errors
    ///
    /// The pin could not be removed. The device is free all the same.
    pub fn detach(&mut self, attachment: EndpointAttachment) -> Result<(), AttachError> {
        self.free_slot(attachment.ifindex);
        attachment.detach_and_unpin()
    }

    /// What the program has counted since it was loaded, all endpoints together.
    pub fn counters(&self) -> Result<EndpointCounters, UpdateError> {
        EndpointCounters::read(&self.counters).map_err(|e| UpdateError::of("counters", 0, &e))
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

    fn link(&self, device: &Device, pins: &PinDir) -> Result<EndpointAttachment, AttachError> {
        let prog = fd(&self.loaded, &device.name)?;
        let pin_failed = |source| AttachError::Pin {
            ifname: device.name.clone(),
            source,
        };
        let Some(left) = pins.take_over(device).map_err(pin_failed)? else {
            let link = Link::create(prog, device, Mode::Native)?;
            // On an error the link is closed here, which detaches it.
            pins.pin(&link, device).map_err(pin_failed)?;
            return Ok(EndpointAttachment::new(link, device, pins, false));
        };
        let kind = left.kind();
        let kind = kind.map_err(|e| AttachError::kernel(&device.name, "look at the link", e))?;
        let link = match kind {
            LinkKind::Xdp => {
                left.update(prog).map_err(|e| {
                    AttachError::kernel(&device.name, "exchange the XDP program", e)
                })?;
                left
            }
            // Of a daemon that had flows in the kernel.
            LinkKind::Tcx => {
                let link = Link::create(prog, device, Mode::Native)?;
                pins.replace(&left, &link, device).map_err(pin_failed)?;
                link
            }
        };
        Ok(EndpointAttachment::new(link, device, pins, true))
    }

    fn take_slot(&mut self, device: &Device) -> Result<(), AttachError> {
        if self.taken.contains_key(&device.index) {
            return Err(AttachError::AlreadyAttached {
                ifname: device.name.clone(),
            });
        }
        let slot = self.free.pop().ok_or(AttachError::TooManyEndpoints {
            ifname: device.name.clone(),
            max: self.config.max_endpoints,
        })?;
        let noted = self
            .direct
            .insert(device.index, slot)
            .and_then(|()| self.slots.insert(device.index, slot, 0));
        if let Err(e) = noted {
            if self.direct.remove(device.index).is_ok() {
                self.free.push(slot);
            }
            return Err(AttachError::Update {
                ifname: device.name.clone(),
                source: UpdateError::of("endpoints", self.config.max_endpoints, &e),
            });
        }
        self.taken.insert(device.index, slot);
        Ok(())
    }

    /// Gives a slot back, empty. Where the kernel would not empty it, it is not used again.
    fn free_slot(&mut self, ifindex: u32) {
        let cleared = (0..self.config.queues).all(|q| self.clear_socket(ifindex, q).is_ok());
        let removed = self.direct.remove(ifindex).is_ok() && self.slots.remove(&ifindex).is_ok();
        if let Some(slot) = self.taken.remove(&ifindex)
            && cleared
            && removed
        {
            self.free.push(slot);
        }
    }

    fn place(&self, ifindex: u32, queue: u32) -> Result<u32, UpdateError> {
        let slot = self
            .taken
            .get(&ifindex)
            .ok_or(UpdateError::NotAttached { ifindex })?;
        if queue >= self.config.queues {
            return Err(UpdateError::NoSuchQueue {
                queue,
                queues: self.config.queues,
            });
        }
        Ok(slot * self.config.queues + queue)
    }
}

/// The program on one endpoint's device, pinned: dropping this, or the end of the process, leaves the program on the
/// device, where it drops everything until a daemon takes it over.
#[derive(Debug)]
pub struct EndpointAttachment {
    link: Link,
    ifname: String,
    ifindex: u32,
    pin: std::path::PathBuf,
    taken_over: bool,
}

impl EndpointAttachment {
    pub(super) fn new(link: Link, device: &Device, pins: &PinDir, taken_over: bool) -> Self {
        Self {
            link,
            ifname: device.name.clone(),
            ifindex: device.index,
            pin: pins.path(device),
            taken_over,
        }
    }

    /// The device's interface index.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Whether it is the gate of the flows' programs ([`Tcx`](super::Tcx)), and not the endpoints' XDP program.
    pub fn is_gate(&self) -> bool {
        self.link.kind().is_ok_and(|kind| kind == LinkKind::Tcx)
    }

    /// Whether an earlier daemon's link was taken over.
    pub fn was_taken_over(&self) -> bool {
        self.taken_over
    }

    /// Whether the program is still on the device: false when the device is gone or somebody detached the link.
    pub fn is_alive(&self) -> bool {
        self.link.is_on(self.ifindex)
    }

    /// Whether it is [alive](Self::is_alive), and no other program on the device sees packets before it, which could lead them past it. Asked in the
    /// network namespace that the device is in. Two system calls, and none waits: to be asked now and then. False where the kernel does not say.
    pub fn is_first(&self) -> bool {
        self.link.is_first_on(self.ifindex)
    }

    /// Pins the link again if somebody has removed its pin, which is all that keeps the device closed when the process ends.
    /// Whether somebody had.
    ///
    /// # Errors
    ///
    /// It can not be pinned.
    pub fn ensure_pinned(&self, pins: &PinDir) -> Result<bool, PinError> {
        pins.ensure(&self.link, &self.pin)
    }

    /// Removes the pin: the program goes with the process.
    ///
    /// # Errors
    ///
    /// The pin could not be removed.
    pub fn unpin(&self) -> Result<(), PinError> {
        pins::remove(&self.pin)
    }

    /// Ends without touching the device: it stays closed (or open, as configured) until the next daemon.
    pub fn leave_pinned(self) {
        drop(self);
    }

    pub(super) fn detach_and_unpin(self) -> Result<(), AttachError> {
        let detached = self.link.detach();
        pins::remove(&self.pin).map_err(|source| AttachError::Pin {
            ifname: self.ifname.clone(),
            source,
        })?;
        detached.map_err(|e| AttachError::kernel(&self.ifname, "detach the program", e))
    }
}
