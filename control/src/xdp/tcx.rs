//! The flows' programs: on pods' veths and uplinks that carry no XDP, where the kernel repeats what was decided.

use std::net::Ipv4Addr;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd as _, BorrowedFd};

use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfError, EbpfLoader};
use encap::eth::MacAddr;
use encap::vxlan::Vni;

use super::counters::{CounterMap, TcxCounters};
use super::device::Device;
use super::endpoint::{EndpointAttachment, FailMode};
use super::error::{AttachError, LoadError, UpdateError};
use super::flow_maps::FlowMaps;
use super::link::Link;
use super::nic::find;
use super::object::{self, take_map};
use super::pins::{self, PinDir};
use super::sys::{self, LinkKind};
use super::taken::Taken;

/// The programs, by the names that the object has.
const GATE: &str = "caracal_gate";
const POD: &str = "caracal_flow_pod";
const NIC: &str = "caracal_flow_nic";
const NANOSECONDS: u64 = 1_000_000_000;

/// What the programs are loaded with; fixed until they are loaded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcxConfig {
    /// What becomes of a pod's packets while no poller serves it.
    pub fail_mode: FailMode,
    /// The most pods' devices attached at a time.
    pub max_endpoints: u32,
    /// The most flows of IPv4.
    pub max_flows4: u32,
    /// The most flows of IPv6.
    pub max_flows6: u32,
    /// How many packets a second one pod may have sent to the pollers; what is beyond is dropped, but not while it is
    /// [paused](Tcx::set_paused). 0: as many as come.
    pub punts_per_second: u32,
    /// How many of them at once, after a pause. Less than a queue of the punt device has room for, or one pod alone fills it.
    pub punt_burst: u32,
    /// The queues of the punt device: the first is the uplinks', pods share the others.
    pub punt_queues: u32,
}

impl Default for TcxConfig {
    fn default() -> Self {
        Self {
            fail_mode: FailMode::Closed,
            max_endpoints: 1024,
            max_flows4: 65_536,
            max_flows6: 65_536,
            punts_per_second: 100_000,
            punt_burst: 1024,
            punt_queues: 1,
        }
    }
}

/// The programs of all pods and uplinks, with their maps. Dropping it, or the end of the process, takes them off uplinks, and closes pods
/// (or opens them, as configured).
pub struct Tcx {
    ebpf: Ebpf,
    /// The last descriptor of this map holds the gate open.
    gate: ProgramArray<MapData>,
    settings: Settings,
    config: Array<MapData, [u8; Settings::LEN]>,
    punters: HashMap<MapData, u32, u64>,
    taken: Taken,
    counters: CounterMap,
    flows: Option<FlowMaps>,
    max_endpoints: u32,
}

/// `struct config` of `xdp/flow.h`.
#[derive(Debug, Clone, Copy, Default)]
struct Settings {
    punt: u32,
    is_paused: bool,
    takes_ipip: bool,
    vxlan: Option<(Vni, MacAddr)>,
    tunnel: Option<Ipv4Addr>,
}

impl Settings {
    const LEN: usize = 32;

    fn bytes(&self) -> [u8; Self::LEN] {
        let [a, b, c, d] = self.punt.to_ne_bytes();
        let [p0, p1, p2, p3] = u32::from(self.is_paused).to_ne_bytes();
        let [i0, i1, i2, i3] = u32::from(self.takes_ipip).to_ne_bytes();
        let [x0, x1, x2, x3] = u32::from(self.vxlan.is_some()).to_ne_bytes();
        let (vni, mac) = self.vxlan.unwrap_or((Vni::CALICO, MacAddr::ZERO));
        let [n0, n1, n2, n3] = (vni.get() << 8).to_be_bytes();
        let [m0, m1, m2, m3, m4, m5] = mac.0;
        let [t0, t1, t2, t3] = self.tunnel.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
        [
            a, b, c, d, p0, p1, p2, p3, i0, i1, i2, i3, x0, x1, x2, x3, n0, n1, n2, n3, m0, m1, m2,
            m3, m4, m5, 0, 0, t0, t1, t2, t3,
        ]
    }
}

impl Tcx {
    /// Loads the programs. They are on no device, know no flow and no punt device.
    ///
    /// # Errors
    ///
    /// [`LoadError`]; nothing stays behind.
    pub fn load(config: &TcxConfig) -> Result<Self, LoadError> {
        if KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(6, 6, 0)) {
            return Err(LoadError::NoTcx);
        }
        // TC_ACT_SHOT, and TCX_NEXT.
        let action: i32 = match config.fail_mode {
            FailMode::Closed => 2,
            FailMode::Open => -1,
        };
        let interval = NANOSECONDS
            .checked_div(config.punts_per_second.into())
            .map_or(0, |interval| interval.max(1));
        let burst = interval.saturating_mul(config.punt_burst.into());
        let max_endpoints = config.max_endpoints.max(1);
        let queues = config.punt_queues.max(1);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("unserved_action", &action, true)
            .override_global("punt_interval", &interval, true)
            .override_global("punt_burst", &burst, true)
            .override_global("punt_queues", &queues, true)
            .map_max_entries("punters", max_endpoints)
            .map_max_entries("flows4", config.max_flows4.max(1))
            .map_max_entries("flows6", config.max_flows6.max(1));
        let mut ebpf = Taken::size(&mut loader)
            .load(object::FLOW)
            .map_err(|e| LoadError::of(GATE, &e))?;
        for name in [POD, NIC, GATE] {
            let program: &mut SchedClassifier = ebpf
                .program_mut(name)
                .and_then(|found| found.try_into().ok())
                .ok_or(LoadError::BadObject(name))?;
            let loaded = program.load();
            loaded.map_err(|e| LoadError::of(name, &EbpfError::ProgramError(e)))?;
        }
        let mut tcx = Self {
            gate: take_map(&mut ebpf, "progs")?,
            settings: Settings::default(),
            config: take_map(&mut ebpf, "config")?,
            punters: take_map(&mut ebpf, "punters")?,
            taken: Taken::take(&mut ebpf)?,
            counters: take_map(&mut ebpf, "counters")?,
            flows: Some(FlowMaps::take(&mut ebpf)?),
            ebpf,
            max_endpoints,
        };
        tcx.open_gate().map_err(|reason| LoadError::Refused {
            program: GATE,
            reason,
        })?;
        Ok(tcx)
    }

    /// Puts the pods' program behind the gate.
    fn open_gate(&mut self) -> Result<(), String> {
        let pod: &SchedClassifier = program(&self.ebpf, POD).map_err(|e| e.to_string())?;
        let fd = pod.fd().map_err(|e| e.to_string())?;
        self.gate.set(0, fd, 0).map_err(|e| e.to_string())
    }

    /// Attaches to what comes from the pod behind `ifname`, by a link pinned in `pins`. A link that an earlier daemon left on the device is
    /// taken over, one of the endpoints' XDP program too: the device is never without.
    ///
    /// What is attached may be any device. But flows may lead to a pod ([`Way::Pod`](crate::offload::flow::Way::Pod)) only by a veth or a netkit
    /// whose other end is in another network namespace, and up: by any other the kernel drops what `bpf_redirect_peer` is asked for, and
    /// the program counts it as treated. Netlink tells: the kind of such a device, and that it has `IFLA_LINK_NETNSID`.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; nothing that was not there before stays attached or pinned.
    pub fn attach_pod(
        &mut self,
        ifname: &str,
        pins: &PinDir,
    ) -> Result<EndpointAttachment, AttachError> {
        let device = find(ifname)?;
        if self.punters.get(&device.index, 0).is_ok() {
            return Err(AttachError::AlreadyAttached {
                ifname: device.name,
            });
        }
        self.punters.insert(device.index, 0, 0).map_err(|e| {
            match UpdateError::of("endpoints", self.max_endpoints, &e) {
                UpdateError::Full { max, .. } => AttachError::TooManyEndpoints {
                    ifname: device.name.clone(),
                    max,
                },
                source => AttachError::Update {
                    ifname: device.name.clone(),
                    source,
                },
            }
        })?;
        let linked = self.link(&device, pins);
        if linked.is_err() {
            let _ = self.punters.remove(&device.index);
        }
        linked
    }

    fn link(&self, device: &Device, pins: &PinDir) -> Result<EndpointAttachment, AttachError> {
        let gate = self.fd(GATE, &device.name)?;
        let pin_failed = |source| AttachError::Pin {
            ifname: device.name.clone(),
            source,
        };
        let Some(left) = pins.take_over(device).map_err(pin_failed)? else {
            let link = Link::create_tcx(gate, device)?;
            // On an error the link is closed here, which detaches it.
            pins.pin(&link, device).map_err(pin_failed)?;
            return Ok(EndpointAttachment::new(link, device, pins, false));
        };
        let kind = left.kind();
        let kind = kind.map_err(|e| AttachError::kernel(&device.name, "look at the link", e))?;
        let link = match kind {
            LinkKind::Tcx => {
                left.update(gate)
                    .map_err(|e| AttachError::kernel(&device.name, "exchange the gate", e))?;
                left
            }
            // Of a daemon that had no flows in the kernel.
            LinkKind::Xdp => {
                let link = Link::create_tcx(gate, device)?;
                pins.replace(&left, &link, device).map_err(pin_failed)?;
                link
            }
        };
        Ok(EndpointAttachment::new(link, device, pins, true))
    }

    /// Takes the gate off a pod's device, whether the device is still there or not, and leaves nothing behind.
    ///
    /// # Errors
    ///
    /// The pin could not be removed. The device is free all the same.
    pub fn detach(&mut self, attachment: EndpointAttachment) -> Result<(), AttachError> {
        let _ = self.punters.remove(&attachment.ifindex());
        attachment.detach_and_unpin()
    }

    /// Attaches to what comes in by the uplink `ifname`, by a link that goes with the attachment, and so with the process.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; nothing stays attached.
    pub fn attach_uplink(&mut self, ifname: &str) -> Result<UplinkAttachment, AttachError> {
        let device = find(ifname)?;
        Ok(UplinkAttachment {
            link: Link::create_tcx(self.fd(NIC, ifname)?, &device)?,
            ifindex: device.index,
            ifname: device.name,
            stays: false,
        })
    }

    /// As [`attach_uplink`](Self::attach_uplink), and what an earlier daemon [left](super::NicAttachment::leave) there is taken off then.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; nothing stays attached.
    pub fn attach_uplink_next(
        &mut self,
        ifname: &str,
        pins: &PinDir,
    ) -> Result<UplinkAttachment, AttachError> {
        let attachment = self.attach_uplink(ifname)?;
        let device = find(ifname)?;
        let pin_failed = |source| AttachError::Pin {
            ifname: device.name.clone(),
            source,
        };
        if let Some(left) = pins.take_over(&device).map_err(pin_failed)? {
            left.detach()
                .map_err(|e| AttachError::kernel(ifname, "detach the program", e))?;
            pins::remove(&pins.path(&device)).map_err(pin_failed)?;
        }
        Ok(attachment)
    }

    /// Sends what is for the pollers out of this device; 0: nowhere, so pods are closed (or open, as configured) and uplinks' packets the
    /// host's.
    pub fn set_punt(&mut self, ifindex: u32) -> Result<(), UpdateError> {
        self.settings.punt = ifindex;
        self.write_settings()
    }

    /// Takes packets to this address out of their tunnels, which must be the one that the dataplane's own tunnels end at: VXLAN and IPIP to any
    /// other local address are for the pollers. `None`, as it is at first, or 0.0.0.0: nothing is taken out of a tunnel.
    pub fn set_tunnel_address(&mut self, address: Option<Ipv4Addr>) -> Result<(), UpdateError> {
        self.settings.tunnel = address;
        self.write_settings()
    }

    /// Takes VXLAN of this network and to this MAC address out of its tunnel; `None`: all VXLAN is for the pollers.
    pub fn set_vxlan_end(&mut self, end: Option<(Vni, MacAddr)>) -> Result<(), UpdateError> {
        self.settings.vxlan = end;
        self.write_settings()
    }

    /// Takes IPIP out of its tunnel, or leaves all of it to the pollers, as it is at first.
    pub fn set_ipip(&mut self, is_taken: bool) -> Result<(), UpdateError> {
        self.settings.takes_ipip = is_taken;
        self.write_settings()
    }

    /// While it is paused all packets are for the pollers, of whatever flow, and however many one pod sends.
    pub fn set_paused(&mut self, is_paused: bool) -> Result<(), UpdateError> {
        self.settings.is_paused = is_paused;
        self.write_settings()
    }

    fn write_settings(&mut self) -> Result<(), UpdateError> {
        self.config
            .set(0, self.settings.bytes(), 0)
            .map_err(|e| UpdateError::of("settings", 1, &e))
    }

    /// The flows, for the thread that keeps them. Once: `None` later.
    pub fn flows(&mut self) -> Option<FlowMaps> {
        self.flows.take()
    }

    /// What the programs have counted since they were loaded, all devices together.
    pub fn counters(&self) -> Result<TcxCounters, UpdateError> {
        TcxCounters::read(&self.counters).map_err(|e| UpdateError::of("counters", 0, &e))
    }

    /// What the pods' program makes of `frame` as if it had come in by a device; the frame goes nowhere (`BPF_PROG_TEST_RUN`). The program
    /// need not be attached there, and the gate is not asked.
    ///
    /// # Errors
    ///
    /// The kernel refuses frames in which there is less than an IP header, and devices that do not exist.
    pub fn pod_verdict(&self, ifindex: u32, frame: &[u8]) -> Result<TcxResult, ProgramError> {
        self.test(POD, ifindex, frame)
    }

    /// The same of the uplinks' program.
    ///
    /// # Errors
    ///
    /// As [`pod_verdict`](Self::pod_verdict).
    pub fn uplink_verdict(&self, ifindex: u32, frame: &[u8]) -> Result<TcxResult, ProgramError> {
        self.test(NIC, ifindex, frame)
    }

    fn test(&self, name: &str, ifindex: u32, frame: &[u8]) -> Result<TcxResult, ProgramError> {
        // struct __sk_buff, in which only the interface's index is said.
        let mut context = [[0; 4]; 48];
        if let Some(word) = context.get_mut(10) {
            *word = ifindex.to_ne_bytes();
        }
        let mut after = vec![0; frame.len() + 128];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut after),
            ctx_in: Some(context.as_flattened()),
            ..TestRunOptions::new()
        };
        let result = program(&self.ebpf, name)?.test_run(options)?;
        after.truncate(result.data_size_out as usize);
        let verdict = match result.return_value.cast_signed() {
            -1 => TcxVerdict::Next,
            2 => TcxVerdict::Drop,
            7 => TcxVerdict::Redirect,
            other => TcxVerdict::Unknown(other),
        };
        Ok(TcxResult {
            verdict,
            frame: after,
        })
    }

    fn fd(&self, name: &str, ifname: &str) -> Result<BorrowedFd<'_>, AttachError> {
        program(&self.ebpf, name)
            .and_then(|program| Ok(program.fd()?.as_fd()))
            .map_err(|e| {
                AttachError::kernel(ifname, "use the loaded program", std::io::Error::other(e))
            })
    }
}

/// The programs that run by tcx on what comes in by an interface of the calling thread's network namespace, ours or others', by their
/// ids, in the order in which they run.
///
/// # Errors
///
/// The kernel's. An interface that is not there has none.
pub fn tcx_programs_on(ifname: &str) -> std::io::Result<Vec<u32>> {
    match Device::find(ifname)? {
        Some(device) => sys::tcx_programs(device.index),
        None => Ok(Vec::new()),
    }
}

fn program<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a SchedClassifier, ProgramError> {
    ebpf.program(name)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()
}

/// What of an uplink's packets is ours is told to the maps.
impl Deref for Tcx {
    type Target = Taken;

    fn deref(&self) -> &Taken {
        &self.taken
    }
}

impl DerefMut for Tcx {
    fn deref_mut(&mut self) -> &mut Taken {
        &mut self.taken
    }
}

/// What a program does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcxVerdict {
    /// It goes on to the kernel.
    Next,
    /// It is dropped.
    Drop,
    /// It goes to another device: where a flow goes, or to the pollers.
    Redirect,
    /// No verdict of these programs.
    Unknown(i32),
}

/// What a program makes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcxResult {
    /// Where it goes.
    pub verdict: TcxVerdict,
    /// The frame, as it is then.
    pub frame: Vec<u8>,
}

/// The program on an uplink. Dropping it, or the end of the process, takes it off.
#[derive(Debug)]
pub struct UplinkAttachment {
    link: Link,
    ifname: String,
    ifindex: u32,
    /// It is pinned.
    stays: bool,
}

impl UplinkAttachment {
    /// The uplink's interface index.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Whether the program is still on the uplink: false when the uplink is gone or somebody detached the link.
    pub fn is_alive(&self) -> bool {
        self.link.is_on(self.ifindex)
    }

    /// Whether it is [alive](Self::is_alive), and no other program on the uplink sees packets before it, which could lead them past it. Asked in the
    /// network namespace that the device is in. Two system calls, and none waits: to be asked now and then. False where the kernel does not say.
    pub fn is_first(&self) -> bool {
        self.link.is_first_on(self.ifindex)
    }

    /// Ends without taking the program off, as [`NicAttachment::leave`](super::NicAttachment::leave): it stays until the next daemon. It must know
    /// no flow and no punt device by then.
    ///
    /// # Errors
    ///
    /// It can not be pinned; then it goes, too.
    pub fn leave(mut self, pins: &PinDir) -> Result<(), AttachError> {
        let pinned = pins.pin(&self.link, &find(&self.ifname)?);
        pinned.map_err(|source| AttachError::Pin {
            ifname: self.ifname.clone(),
            source,
        })?;
        self.stays = true;
        Ok(())
    }
}

impl Drop for UplinkAttachment {
    fn drop(&mut self) {
        // Closing the descriptor detaches too; this one is done when it returns.
        if !self.stays {
            let _ = self.link.detach();
        }
    }
}
