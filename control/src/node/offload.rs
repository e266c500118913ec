//! `offload: kernel`: established flows are the kernel's (ADR 27). Pods and uplinks carry the flows' programs instead of XDP; what those do not
//! know comes to the pollers through the punt device, and goes out by sockets that only send.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_queue::ArrayQueue;
use encap::eth::MacAddr;
use encap::vxlan::Vni;
use fastpath::batch::Family;
use fastpath::counters::Counters;
use fastpath::io::xsk::{
    Command, Mode, ModeInForce, RingLen, SocketOptions, Statistics, XskSocket, ethtool,
};
use fastpath::offload::{Candidate, Offers};
use fastpath::port::PortId;
use fastpath::snapshot::{Publisher, Subscriber};
use fastpath::tables::Tables;
use ipnet::IpNet;

use super::answer::xsk_counters;
use super::keep::Away;
use super::ports::{Program, Served, Wanted};
use super::{Node, RunError, start, uplink};
use crate::api::report::{self, FlowCount, XskCounters};
use crate::compile::{Compiler, PortRole, PortSpec};
use crate::config::DaemonConfig;
use crate::config::daemon::{self, Uplink};
use crate::netlink::host_port::DATAPLANE_END;
use crate::netlink::punt::{self, PuntPort};
use crate::netlink::{Link, Mirror};
use crate::offload::{Devices, Orders, Parts, Refused, Removed, Stats, Worker};
use crate::xdp::{
    AttachError, EndpointAttachment, FailMode, FlowMaps, LoadError, NatPorts, Tcx, TcxConfig,
    UpdateError,
};

/// Queues of the punt device: one for uplinks, the others for pods. At least one a poller.
const QUEUES: u32 = 8;

/// The most frames that one of them has to receive.
const MOST_FRAMES: u32 = 4096;

/// The most flows of IPv4 that the kernel knows, two a connection, and of IPv6.
const FLOWS: (u32, u32) = (1 << 18, 1 << 16);

/// What the maps of them take, in bytes; by `bpftool map show` on Linux 6.18.
pub(super) const MAP_BYTES: u64 = FLOWS.0 as u64 * 272 + FLOWS.1 as u64 * 296;

/// From how many of them on they are read together. Reading them so is going over as many buckets as there may be flows, which is as much as some
/// thousandth of them read one by one (ADR 27).
const WALK_FROM: [usize; 2] = [FLOWS.0 as usize / 512, FLOWS.1 as usize / 512];

/// Candidates that pollers may have offered and nobody taken: less than a megabyte.
const CANDIDATES: usize = 16_384;

/// What the punt device lost, as the kernel counts it.
#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    /// By devices that were there before this one.
    before: u64,
    now: u64,
}

impl Lost {
    fn see(&mut self, now: u64) {
        // Of a new device it begins anew.
        if now < self.now {
            self.before += self.now;
        }
        self.now = now;
    }
}

/// What is set up before there are pollers.
pub(super) struct Planned {
    ring: Arc<ArrayQueue<Candidate>>,
    orders: Orders,
    tables: Subscriber<Tables>,
    pub(super) counters: Arc<Counters>,
}

impl Planned {
    /// For pollers that get these tables, with so many numbers for ports.
    pub(super) fn new(publisher: &mut Publisher<Tables>, ports: usize) -> Self {
        Self {
            ring: Arc::new(ArrayQueue::new(CANDIDATES)),
            orders: Orders::default(),
            tables: publisher.subscribe(),
            counters: Arc::new(Counters::new(ports)),
        }
    }

    /// A poller's end.
    pub(super) fn offers(&self) -> Offers {
        Offers::new(Arc::clone(&self.ring), self.orders.notify())
    }
}

/// The worker, before and after it is started.
enum Thread {
    Planned(Box<Worker<FlowMaps>>),
    Started(JoinHandle<()>),
    Ended,
}

/// What the node has for flows in the kernel.
pub(super) struct Offload {
    /// The programs of pods and uplinks.
    pub(super) tcx: Tcx,
    /// The endpoints' program at the end of the punt device that leads to the pollers. None while that is made anew.
    attachment: Option<EndpointAttachment>,
    /// What the kernel counts on the punt device's sockets, by interface index and queue.
    pub(super) statistics: BTreeMap<(u32, u32), Statistics>,
    lost: Lost,
    worker: Thread,
    pub(super) orders: Orders,
    pub(super) stats: Arc<Stats>,
    is_paused: bool,
    /// Devices on which another program runs before ours.
    pub(super) overtaken: BTreeSet<String>,
    /// What the worker was told of devices.
    devices: Devices,
    /// The number of what it was told last.
    told: u64,
    /// What the programs were told of our tunnels' ends.
    ends: Option<Ends>,
}

/// How many queues the punt device has.
pub(super) fn queues(config: &DaemonConfig) -> u32 {
    QUEUES.max(config.pollers() + 1)
}

/// Frames that each of them has to receive: all together half of what pods' own queues would have.
pub(super) fn ring(config: &DaemonConfig) -> u32 {
    let frames = &config.frames;
    let all = u32::from(config.max_pods) * frames.pod_ring / 2;
    let each = (all / queues(config)).next_power_of_two();
    each.clamp(frames.uplink_ring.min(MOST_FRAMES), MOST_FRAMES)
}

/// Our tunnels' ends: the address, VXLAN's network and MAC address, and whether IPIP is taken.
type Ends = (Option<Ipv4Addr>, Option<(Vni, MacAddr)>, bool);

/// Whether a device that is no uplink's is a pod's.
pub(super) fn is_pod(name: &str) -> bool {
    name != DATAPLANE_END && name != punt::OUT_END
}

impl Node {
    /// Loads the flows' programs and serves the punt device, if flows are to be the kernel's.
    pub(super) fn begin_offload(&mut self, planned: Option<Planned>) -> Result<(), RunError> {
        let Some(planned) = planned else {
            // Of a daemon that had it on.
            PuntPort::remove_leftovers()?;
            return Ok(());
        };
        self.set_up(planned).inspect_err(|_| {
            // Nobody else knows of it.
            let _ = PuntPort::remove_leftovers();
        })
    }

    fn set_up(&mut self, planned: Planned) -> Result<(), RunError> {
        let max_endpoints = start::port_numbers(&self.config) as u32;
        let mut tcx = Tcx::load(&TcxConfig {
            fail_mode: match self.config.fail_mode {
                daemon::FailMode::Closed => FailMode::Closed,
                daemon::FailMode::Open => FailMode::Open,
            },
            max_endpoints,
            punt_queues: queues(&self.config),
            max_flows4: FLOWS.0,
            max_flows6: FLOWS.1,
            ..TcxConfig::default()
        })?;
        let (port, attachment) = self.open_punt()?;
        if let Err(error) = tcx.set_punt(port.in_ifindex) {
            super::ports::undo(attachment, &mut self.endpoints, None);
            return Err(error.into());
        }
        let flows = tcx.flows().ok_or(LoadError::BadObject("flows4"))?;
        let stats = Arc::new(Stats::default());
        let parts = Parts {
            connections: Arc::clone(&self.connections),
            tables: planned.tables,
            offers: planned.ring,
            orders: planned.orders.clone(),
            counters: planned.counters,
            stats: Arc::clone(&stats),
            max_flows: [FLOWS.0 as usize, FLOWS.1 as usize],
            walk_from: WALK_FROM,
        };
        self.offload = Some(Box::new(Offload {
            tcx,
            attachment: Some(attachment),
            statistics: BTreeMap::new(),
            lost: Lost::default(),
            worker: Thread::Planned(Box::new(Worker::new(flows, parts))),
            orders: planned.orders,
            stats,
            is_paused: false,
            overtaken: BTreeSet::new(),
            devices: Devices::default(),
            told: 0,
            ends: None,
        }));
        tracing::info!("established flows are the kernel's");
        Ok(())
    }

    /// Makes the punt device, closes its end and gives its sockets to the pollers.
    fn open_punt(&mut self) -> Result<(PuntPort, EndpointAttachment), RunError> {
        let queues = queues(&self.config);
        let mtu = PuntPort::largest_mtu(self.area.chunk_size());
        // Made anew, since nothing of it is to outlive us.
        PuntPort::remove_leftovers()?;
        let port = PuntPort::ensure(queues, mtu)?;
        self.mirror.drain()?;
        let link = self.mirror.link(port.out_ifindex).cloned();
        let link = link.ok_or_else(|| RunError::System {
            what: "find the punt device",
            source: std::io::Error::from_raw_os_error(libc::ENODEV),
        })?;
        let attachment = self.close(&link)?;
        let opened = attachment.unpin().map_err(RunError::from);
        let opened = opened.and_then(|()| self.open_endpoint(&link, queues, ring(&self.config)));
        let sockets = match opened {
            Ok(sockets) => sockets,
            Err(error) => {
                super::ports::undo(attachment, &mut self.endpoints, None);
                return Err(error);
            }
        };
        for (queue, socket) in sockets.into_iter().enumerate() {
            let poller = queue % self.pollers.len();
            let (port, socket) = (self.punt_number(), Box::new(socket));
            self.pollers
                .send(poller, Command::AttachPunt { port, socket });
        }
        Ok((port, attachment))
    }

    /// A number that no port has: what comes by the punt device and is no port's is dropped under it, and counted.
    pub(super) fn punt_number(&self) -> PortId {
        PortId(u16::try_from(start::port_numbers(&self.config)).unwrap_or(u16::MAX))
    }

    /// Makes the punt device anew if somebody deleted it, or detached its program.
    pub(super) fn guard_punt(&mut self) {
        if let (Some(offload), Some(lost)) = (&mut self.offload, PuntPort::lost()) {
            offload.lost.see(lost);
        }
        let mirror = &self.mirror;
        let is_up = |name| mirror.link_by_name(name).is_some_and(|it| it.admin_up);
        let is_whole = |offload: &Offload| {
            let attachment = offload.attachment.as_ref();
            attachment.is_some_and(EndpointAttachment::is_alive)
                && is_up(punt::IN_END)
                && is_up(punt::OUT_END)
        };
        let Some(mut offload) = self.offload.take_if(|offload| !is_whole(offload)) else {
            return;
        };
        if self.punt_error.is_none() {
            tracing::warn!(
                interface = punt::IN_END,
                "somebody deleted the punt device, set it down or detached its program; made anew"
            );
        }
        let number = self.punt_number();
        for poller in 0..self.pollers.len() {
            self.pollers.send(poller, Command::Detach { port: number });
        }
        if let Some(before) = offload.attachment.take() {
            // With it goes what is left of its device.
            let _ = self.endpoints.detach(before);
        }
        let opened = self.open_punt();
        let done = opened.and_then(|(port, attachment)| {
            offload.tcx.set_punt(port.in_ifindex)?;
            offload.attachment = Some(attachment);
            Ok(())
        });
        self.offload = Some(offload);
        let failed = done.err().map(|error| error.to_string());
        if let Some(error) = failed.as_ref().filter(|_| failed != self.punt_error) {
            tracing::error!(
                "the punt device is not as it should be, and tried again twice a second: {error}"
            );
        }
        self.punt_error = failed;
    }

    /// Sees whether another program stands before ours on a device: it could let packets past us.
    pub(super) fn guard_order(&mut self) {
        let Some(offload) = &mut self.offload else {
            return;
        };
        let served = self
            .served
            .iter()
            .filter(|(_, served)| match &served.program {
                Program::OffloadedUplink(it) => it.is_alive() && !it.is_first(),
                Program::Endpoint(it) => it.is_gate() && it.is_alive() && !it.is_first(),
                Program::Uplink(_) => false,
            });
        let before: BTreeSet<_> = served.map(|(name, _)| name.clone()).collect();
        for name in before.difference(&offload.overtaken) {
            tracing::error!(
                interface = name,
                "another tcx program runs before ours, and may let packets past policy; `bpftool net` shows it"
            );
        }
        offload.overtaken = before;
    }

    /// Starts the worker, by the clock of the pollers, which run.
    pub(super) fn start_offload(&mut self) -> Result<(), RunError> {
        let (Some(offload), Some(start)) = (&mut self.offload, self.pollers.started()) else {
            return Ok(());
        };
        if let Thread::Planned(worker) = std::mem::replace(&mut offload.worker, Thread::Ended) {
            let thread = std::thread::Builder::new()
                .name("offload".to_owned())
                .spawn(move || worker.run(start));
            let thread = thread.map_err(|source| RunError::System {
                what: "start the thread of flows in the kernel",
                source,
            })?;
            offload.worker = Thread::Started(thread);
        }
        Ok(())
    }

    /// A socket a poller that only sends.
    pub(super) fn open_to_send(&self, name: &str, ring: u32) -> Result<Vec<XskSocket>, RunError> {
        let rings = SocketOptions {
            mode: Mode::Copy,
            ..SocketOptions::send_only(RingLen::new(ring)?)
        };
        self.open(name, self.pollers.len() as u32, rings)
    }

    /// Tells pollers whose packets are those that the punt device brings of a device.
    pub(super) fn tag(&self, link: &Link, port: PortId) {
        let (ifindex, mac) = (link.ifindex, link.mac.unwrap_or_default());
        for poller in 0..self.pollers.len() {
            self.pollers
                .send(poller, Command::Tag { ifindex, port, mac });
        }
    }

    /// An uplink whose flows the kernel repeats: of a bond, the bond itself.
    pub(super) fn serve_offloaded_uplink(
        &mut self,
        link: &Link,
        uplink: &Uplink,
    ) -> Result<Served, RunError> {
        let pollers = self.pollers.len() as u32;
        uplink::check_to_send(link, pollers)?;
        let sockets = self.open_to_send(&link.name, self.config.frames.uplink_ring)?;
        let Some(offload) = &mut self.offload else {
            return Err(RunError::OffloadDied);
        };
        // What the daemon before has left keeps them from the host until the new one knows them.
        if let Some(away) = self.inherited.away(&self.config) {
            set_away(&mut offload.tcx, &away)?;
        }
        let attachment = offload.tcx.attach_uplink_next(&link.name, &self.pins)?;
        let (id, base) = self.add_port(link, &Wanted::Uplink(uplink.clone()), sockets);
        self.tag(link, id);
        Ok(Served {
            id,
            ifindex: link.ifindex,
            queues: pollers,
            mode: ModeInForce::Copy,
            driver: ethtool::driver(&link.name).ok(),
            base,
            statistics: BTreeMap::new(),
            program: Program::OffloadedUplink(attachment),
        })
    }
}

impl Offload {
    /// Tells the uplinks' program what is ours.
    pub(super) fn sync_taken(
        &mut self,
        taken: &[IpNet],
        local: &BTreeSet<IpAddr>,
        vxlan_port: Option<u16>,
        (addresses, ports): (&BTreeSet<IpAddr>, &NatPorts),
        away: Option<&Away>,
    ) {
        let tcx = &mut self.tcx;
        let done = uplink::sync_program(tcx, taken, local, vxlan_port);
        let done = done.and_then(|()| {
            if let Some(away) = away {
                return set_away(tcx, away);
            }
            tcx.sync_nat(addresses.iter().copied(), ports)?;
            tcx.set_away(None)
        });
        if let Err(error) = done {
            tracing::error!(%error, "the uplinks' program's addresses");
        }
    }

    /// Tells the worker which device is which port. Of one that is not served any more the kernel forgets all flows, whatever tables are
    /// in force.
    pub(super) fn tell_devices(&mut self, compiler: &Compiler, mirror: &Mirror) {
        let is_ours = |spec: &PortSpec| match spec.role {
            PortRole::Uplink => true,
            PortRole::Pod => mirror.link(spec.ifindex).is_some_and(has_peer_elsewhere),
            PortRole::Host(_) => false,
        };
        let ports = compiler.ports().iter();
        let ours = ports.filter(|(_, spec)| is_ours(spec));
        let devices = Devices(ours.map(|(id, spec)| (id, spec.ifindex)).collect());
        if devices != self.devices {
            self.devices = devices.clone();
            self.told = self.orders.set_devices(devices);
        }
    }

    /// Whether the kernel has no flow any more of a port that is not served.
    pub(super) fn is_settled(&self) -> bool {
        self.orders.devices_done() >= self.told
    }

    /// Whether the worker has ended, though nobody asked it to.
    pub(super) fn is_dead(&self) -> bool {
        matches!(&self.worker, Thread::Started(thread) if thread.is_finished())
    }

    /// Attaches the program to an uplink again.
    ///
    /// # Errors
    /// The kernel refuses; then nothing is attached there.
    pub(super) fn attach_again(
        &mut self,
        served: &mut Served,
        name: &str,
    ) -> Result<bool, AttachError> {
        let Program::OffloadedUplink(attachment) = &mut served.program else {
            return Ok(false);
        };
        *attachment = self.tcx.attach_uplink(name)?;
        Ok(true)
    }

    /// Follows tables that are about to be published: the tunnels' ends, and which device is which port.
    pub(super) fn follow(&mut self, tables: &Tables, compiler: &Compiler, mirror: &Mirror) {
        self.tell_devices(compiler, mirror);
        let tunnels = &tables.tunnels;
        let vxlan = tunnels.vxlan4.map(|end| (end.vni, end.mac));
        let ends = (tunnels.local4, vxlan, tunnels.ipip);
        if self.ends == Some(ends) {
            return;
        }
        let told = self.tcx.set_tunnel_address(tunnels.local4);
        let told = told.and_then(|()| self.tcx.set_vxlan_end(vxlan));
        match told.and_then(|()| self.tcx.set_ipip(tunnels.ipip)) {
            Ok(()) => self.ends = Some(ends),
            Err(error) => tracing::error!(%error, "the tunnels' ends"),
        }
    }

    /// What is in the kernel, and what came of it.
    pub(super) fn report(&self) -> report::Offload {
        let stats = &self.stats;
        let refused = Refused::all().map(|why| (why.name(), stats.refused(why)));
        let removed = Removed::ALL.map(|why| (why.name(), stats.removed(why)));
        // The kernel reads its own maps; should it refuse, they are as nothing.
        let counted = self.tcx.counters().unwrap_or_default();
        report::Offload {
            paused: self.is_paused,
            flows_v4: stats.now(Family::V4),
            flows_v6: stats.now(Family::V6),
            offered: stats.offered(),
            inserted: stats.inserted(),
            refused: named(refused),
            removed: named(removed),
            hits: counted.hits,
            punted: counted.punted,
            limited: counted.limited,
            passed: counted.passed,
            spoilt: counted.spoilt,
            xsk: self.xsk(),
        }
    }

    /// What was lost between the programs and the pollers.
    pub(super) fn xsk(&self) -> XskCounters {
        let mut xsk = xsk_counters(self.statistics.values());
        xsk.rx_dropped += self.lost.before + self.lost.now;
        xsk
    }

    /// Has all packets come to the pollers, or established flows be the kernel's again.
    pub(super) fn pause(&mut self, is_paused: bool) {
        if std::mem::replace(&mut self.is_paused, is_paused) == is_paused {
            return;
        }
        self.orders.pause(is_paused);
        if let Err(error) = self.tcx.set_paused(is_paused) {
            tracing::error!(%error, "flows in the kernel");
        }
    }

    /// All packets go to the pollers, which are about to end; what was counted is the connections'.
    pub(super) fn stop(&mut self) {
        self.pause(true);
        self.orders.stop();
        if let Thread::Started(thread) = std::mem::replace(&mut self.worker, Thread::Ended)
            && thread.join().is_err()
        {
            tracing::error!("the thread of flows in the kernel had panicked");
        }
    }

    /// Pollers have ended: pods are closed, or open, and uplinks the kernel's, but for answers to connections that are kept.
    pub(super) fn leave(&mut self, away: Option<&Away>) {
        let away = away.map(|away| set_away(&mut self.tcx, away));
        if let Err(error) = PuntPort::remove_leftovers() {
            tracing::warn!(%error, "the punt device stays");
        }
        for told in [self.tcx.set_paused(true), self.tcx.set_punt(0)]
            .into_iter()
            .chain(away)
        {
            if let Err(error) = told {
                tracing::warn!(%error, "the flows' programs");
            }
        }
    }
}

/// Whether packets can be put at the other end of a device: of a veth, in another namespace. Others are the pollers'.
fn has_peer_elsewhere(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth") && link.peer_netns.is_some()
}

/// Those that are not 0, by name.
fn named(counts: impl IntoIterator<Item = (&'static str, u64)>) -> Vec<FlowCount> {
    let some = counts.into_iter().filter(|(_, count)| *count > 0);
    some.map(|(why, count)| FlowCount {
        why: why.to_owned(),
        count,
    })
    .collect()
}

fn set_away(tcx: &mut Tcx, away: &Away) -> Result<(), UpdateError> {
    tcx.sync_nat(away.addresses.iter().copied(), away.ports.ports())?;
    tcx.set_away(Some(away.until))
}
