//! Ports that come and go: XDP programs, sockets, and the pollers that serve them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use encap::eth::MacAddr;
use fastpath::io::xsk::{
    Command, ModeInForce, Reply, RingLen, SocketOptions, Statistics, XskSocket, ethtool,
};
use fastpath::port::PortId;
use ipnet::IpNet;

use super::devices;
use super::keep::Away;
use super::offload;
use super::tally::Tally;
use super::uplink::{self, Nic};
use super::{Budget, Node, RETRY, RunError, budget::BUSY_RING};
use crate::compile::{PortRole, PortSpec};
use crate::config::daemon::Uplink;
use crate::netlink::host_port::{DATAPLANE_END, HOST_MAC};
use crate::netlink::{Link, Mirror};
use crate::xdp::{
    AttachError, EndpointAttachment, EndpointProgram, NatPorts, NicMode, PinDir, Tcx,
    UplinkAttachment,
};

/// How long the control thread waits for a queue that an earlier process has not let go of.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);

/// A port with sockets.
pub(super) struct Served {
    pub(super) id: PortId,
    pub(super) ifindex: u32,
    pub(super) queues: u32,
    /// How the kernel moves its packets.
    pub(super) mode: ModeInForce,
    /// The interface's driver.
    pub(super) driver: Option<String>,
    /// What earlier ports of the same number had counted.
    pub(super) base: Tally,
    /// What the kernel counts on its sockets, by interface index and queue.
    pub(super) statistics: BTreeMap<(u32, u32), Statistics>,
    pub(super) program: Program,
}

pub(super) enum Program {
    /// On each device that its packets come in by.
    Uplink(Vec<Nic>),
    /// On an uplink whose flows the kernel repeats; what it knows of all uplinks is the node's.
    OffloadedUplink(UplinkAttachment),
    Endpoint(EndpointAttachment),
}

/// A port whose number is nobody's until pollers let go of it.
pub(super) struct Retiring {
    /// How many have not.
    pollers: usize,
    /// Whose sockets they have.
    interface: Option<String>,
}

/// An interface that should be served.
pub(super) enum Wanted {
    Uplink(Uplink),
    Host,
    Pod,
}

impl Served {
    /// Whether its XDP program is still attached.
    pub(super) fn is_alive(&self) -> bool {
        match &self.program {
            Program::Uplink(nics) => nics.iter().all(|nic| nic.attachment.is_alive()),
            Program::OffloadedUplink(attachment) => attachment.is_alive(),
            Program::Endpoint(attachment) => attachment.is_alive(),
        }
    }

    /// What keeps it closed without sockets; an uplink is not.
    pub(super) const fn endpoint(&self) -> Option<&EndpointAttachment> {
        match &self.program {
            Program::Uplink(_) | Program::OffloadedUplink(_) => None,
            Program::Endpoint(attachment) => Some(attachment),
        }
    }

    /// How its packets get to and from the kernel, in a word: `tcx` where its flows are the kernel's.
    pub(super) fn mode_in_words(&self) -> String {
        let is_offloaded = match &self.program {
            Program::OffloadedUplink(_) => true,
            Program::Endpoint(attachment) => attachment.is_gate(),
            Program::Uplink(_) => false,
        };
        if is_offloaded {
            return "tcx".to_owned();
        }
        self.mode.to_string()
    }

    /// Whether XDP runs in the kernel's stack instead of the driver.
    pub(super) fn is_generic(&self) -> bool {
        self.nics().iter().any(|nic| nic.attachment.is_generic())
    }

    /// The devices of an uplink; of an endpoint none.
    fn nics(&self) -> &[Nic] {
        match &self.program {
            Program::Uplink(nics) => nics,
            Program::OffloadedUplink(_) | Program::Endpoint(_) => &[],
        }
    }

    fn nics_mut(&mut self) -> &mut [Nic] {
        match &mut self.program {
            Program::Uplink(nics) => nics,
            Program::OffloadedUplink(_) | Program::Endpoint(_) => &mut [],
        }
    }

    /// The members of the bond that it is.
    pub(super) fn members(&self) -> Vec<String> {
        let members = self.nics().iter();
        let others = members.filter(|nic| nic.attachment.ifindex() != self.ifindex);
        others.map(|nic| nic.name.clone()).collect()
    }

    /// Whether it is served by the devices that it has now.
    fn has_devices_of(&self, link: &Link, mirror: &Mirror) -> bool {
        let nics = self.nics().iter();
        let served: BTreeSet<_> = nics.map(|nic| nic.attachment.ifindex()).collect();
        !matches!(self.program, Program::Uplink(_)) || served == devices::indexes(link, mirror)
    }

    /// Attaches an uplink's program again, with all that it knows: sockets, addresses. False: this is no uplink.
    ///
    /// # Errors
    /// The kernel refuses; then nothing is attached there.
    pub(super) fn attach_again(&mut self) -> Result<bool, crate::xdp::AttachError> {
        for nic in self.nics_mut() {
            if nic.attachment.is_alive() {
                continue;
            }
            let mode = if nic.attachment.is_generic() {
                NicMode::NativeOrGeneric
            } else {
                NicMode::Native
            };
            nic.attachment = nic.program.attach(&nic.name, mode)?;
        }
        Ok(matches!(self.program, Program::Uplink(_)))
    }

    /// Tells an uplink's program what is ours.
    pub(super) fn sync_taken(
        &mut self,
        taken: &[IpNet],
        local: &BTreeSet<IpAddr>,
        vxlan_port: Option<u16>,
    ) -> Result<(), crate::xdp::UpdateError> {
        self.nics_mut()
            .iter_mut()
            .try_for_each(|nic| uplink::sync_program(&mut nic.program, taken, local, vxlan_port))
    }

    /// Takes the answers to translated connections.
    pub(super) fn sync_nat(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        ports: &NatPorts,
    ) -> Result<(), crate::xdp::UpdateError> {
        self.nics_mut()
            .iter_mut()
            .try_for_each(|nic| nic.program.sync_nat(addresses.iter().copied(), ports))
    }

    /// Has the answers to connections that are kept lost meanwhile, or taken again.
    pub(super) fn set_away(&mut self, away: Option<&Away>) -> Result<(), crate::xdp::UpdateError> {
        if let Some(away) = away {
            self.sync_nat(&away.addresses, away.ports.ports())?;
        }
        self.set_away_until(away.map(|away| away.until))
    }

    /// The same for those of all connections of natOutgoing.
    pub(super) fn set_away_until(
        &mut self,
        until: Option<Duration>,
    ) -> Result<(), crate::xdp::UpdateError> {
        self.nics_mut()
            .iter_mut()
            .try_for_each(|nic| nic.program.set_away(until))
    }

    /// Undoes a start that failed. With answers that are still to be kept from the host the uplink's program stays for the next start.
    pub(super) fn undo(
        self,
        away: Option<&Away>,
        endpoints: &mut EndpointProgram,
        tcx: Option<&mut Tcx>,
        pins: &PinDir,
    ) {
        match self.program {
            Program::Uplink(_) | Program::OffloadedUplink(_) => self.leave(away, pins),
            Program::Endpoint(attachment) => undo(attachment, endpoints, tcx),
        }
    }

    /// Ends with the process: an uplink is the kernel's again, but for answers to the connections that are kept; a pod stays closed.
    pub(super) fn leave(mut self, away: Option<&Away>, pins: &PinDir) {
        let is_away = away.is_some() && self.set_away(away).is_ok();
        match self.program {
            Program::Uplink(nics) if is_away => uplink::leave(nics, pins),
            Program::Uplink(nics) => drop(nics),
            // Its maps were told.
            Program::OffloadedUplink(attachment) if is_away => {
                uplink::leave_offloaded(attachment, pins);
            }
            Program::OffloadedUplink(attachment) => drop(attachment),
            Program::Endpoint(attachment) => attachment.leave_pinned(),
        }
    }
}

impl Node {
    /// Makes the ports what files and links say. What can not be served is said once and tried again.
    pub(super) fn reconcile_ports(&mut self) {
        self.retry_at = None;
        let mirror = &self.mirror;
        self.complaints
            .retain(|name, _| mirror.link_by_name(name).is_some());
        let wanted = self.wanted();
        let gone: Vec<_> = self
            .served
            .iter()
            .filter(|(name, served)| {
                let link = self.mirror.link_by_name(name);
                let is_there = link.is_some_and(|link| {
                    link.ifindex == served.ifindex && served.has_devices_of(link, &self.mirror)
                });
                !is_there || !wanted.contains_key(*name) || !served.is_alive()
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.unserve(&name);
        }
        let mut has_new_uplink = false;
        for (name, kind) in wanted {
            let Some(link) = self.mirror.link_by_name(&name).cloned() else {
                continue;
            };
            let is_uplink = matches!(kind, Wanted::Uplink(_));
            if is_uplink && self.is_leaving(&name) {
                self.retry_at = Some(Instant::now() + RETRY);
                continue;
            }
            let outcome = if self.served.contains_key(&name) {
                self.refresh(&link, &kind);
                Ok(())
            } else {
                let outcome = self.serve_port(&link, &kind);
                has_new_uplink |= is_uplink && outcome.is_ok();
                outcome
            };
            match outcome {
                Ok(()) => drop(self.complaints.remove(&name)),
                Err(error) => self.complain(&name, &error),
            }
        }
        self.close_unknown();
        if has_new_uplink {
            // Its program knows of no answers to translated connections.
            self.sync_taken();
        }
    }

    /// Whether pollers have yet to let go of an interface's sockets, as a bond's, which is served anew with other members: its queues are not
    /// free until then.
    fn is_leaving(&self, interface: &str) -> bool {
        let mut retiring = self.retiring.values();
        retiring.any(|it| it.interface.as_deref() == Some(interface))
    }

    pub(super) fn complain(&mut self, name: &str, error: &RunError) {
        if error.is_about_a_gone_interface() {
            // It went between the kernel's last word and now; the next says so.
            self.retry_at = Some(Instant::now() + RETRY);
            return;
        }
        let error = error.to_string();
        if self.complaints.get(name) != Some(&error) {
            tracing::error!(
                interface = name,
                "not served, and tried again every second: {error}"
            );
            self.complaints.insert(name.to_owned(), error);
        }
        self.retry_at = Some(Instant::now() + RETRY);
    }

    /// The interfaces that should be served, if they are there.
    pub(super) fn wanted(&self) -> BTreeMap<String, Wanted> {
        let uplinks = self.config.uplinks.iter().map(|uplink| {
            (
                uplink.interface.value.clone(),
                Wanted::Uplink(uplink.clone()),
            )
        });
        let pods = self
            .compiler
            .desired()
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.interface.clone(), Wanted::Pod));
        let mut wanted: BTreeMap<_, _> = pods.chain(uplinks).collect();
        wanted.insert(DATAPLANE_END.to_owned(), Wanted::Host);
        wanted
    }

    /// Serves the uplinks and the host's port; at start, any failure is final.
    pub(super) fn serve_first(&mut self) -> Result<(), RunError> {
        for (name, kind) in self.wanted() {
            if matches!(kind, Wanted::Pod) {
                continue;
            }
            let Some(link) = self.mirror.link_by_name(&name).cloned() else {
                continue;
            };
            self.serve_port(&link, &kind)?;
        }
        Ok(())
    }

    fn serve_port(&mut self, link: &Link, kind: &Wanted) -> Result<(), RunError> {
        check_mtu(link, self.area.chunk_size())?;
        let served = match kind {
            Wanted::Uplink(uplink) => self.serve_uplink(link, uplink)?,
            Wanted::Host | Wanted::Pod => self.serve_endpoint(link, kind)?,
        };
        tracing::info!(
            interface = link.name,
            ifindex = link.ifindex,
            queues = served.queues,
            mode = served.mode_in_words(),
            "serving"
        );
        self.served.insert(link.name.clone(), served);
        self.stale = true;
        Ok(())
    }

    fn serve_endpoint(&mut self, link: &Link, kind: &Wanted) -> Result<Served, RunError> {
        let queues = self.pollers.len() as u32;
        let attachment = match self.closed.remove(&link.ifindex) {
            Some(attachment) if attachment.is_alive() => attachment,
            // Of a device that was here before, with the same index.
            Some(attachment) => {
                let _ = self.detach(attachment);
                self.close(link)?
            }
            None => self.close(link)?,
        };
        let is_offloaded = self.offload.is_some() && matches!(kind, Wanted::Pod);
        let opened = if is_offloaded {
            self.open_to_send(&link.name, self.config.frames.pod_ring)
        } else {
            self.open_endpoint(link, queues, self.config.frames.pod_ring)
        };
        let sockets = match opened {
            Ok(sockets) => sockets,
            Err(error) => {
                // Without sockets, and so closed. By its own index: it was found by name, and may be one that was made since.
                self.closed.insert(attachment.ifindex(), attachment);
                return Err(error);
            }
        };
        let (id, base) = self.add_port(link, kind, sockets);
        if is_offloaded {
            self.tag(link, id);
        }
        let program = Program::Endpoint(attachment);
        Ok(Served {
            id,
            ifindex: link.ifindex,
            queues,
            mode: ModeInForce::Copy,
            driver: ethtool::driver(&link.name).ok(),
            base,
            statistics: BTreeMap::new(),
            program,
        })
    }

    /// A socket a queue that receives and sends, found by the endpoints' program.
    pub(super) fn open_endpoint(
        &mut self,
        link: &Link,
        queues: u32,
        at_rest: u32,
    ) -> Result<Vec<XskSocket>, RunError> {
        let sockets = self.open(&link.name, queues, endpoint_rings(at_rest)?)?;
        for (queue, socket) in (0..).zip(&sockets) {
            self.endpoints
                .set_socket(link.ifindex, queue, &socket.descriptor())?;
        }
        Ok(sockets)
    }

    /// Takes a program off a device.
    pub(super) fn detach(&mut self, attachment: EndpointAttachment) -> Result<(), AttachError> {
        match &mut self.offload {
            Some(offload) if attachment.is_gate() => offload.tcx.detach(attachment),
            _ => self.endpoints.detach(attachment),
        }
    }

    /// Attaches the endpoints' program: nothing passes without a socket. Or that of pods whose flows the kernel repeats.
    pub(super) fn close(&mut self, link: &Link) -> Result<EndpointAttachment, RunError> {
        let queues = self.pollers.len() as u32;
        let channels = ethtool::channels(&link.name).ok();
        if let Some(channels) = channels.filter(|channels| channels.queues() < queues) {
            let too_few = || RunError::TooFewQueues {
                interface: link.name.clone(),
                wanted: queues,
                available: channels.max_both_ways(),
            };
            if channels.max_both_ways() < queues {
                return Err(too_few());
            }
            ethtool::set_channels(&link.name, queues).map_err(|_| too_few())?;
        }
        match &mut self.offload {
            Some(offload) if offload::is_pod(&link.name) => {
                Ok(offload.tcx.attach_pod(&link.name, &self.pins)?)
            }
            _ => Ok(self.endpoints.attach(&link.name, &self.pins)?),
        }
    }

    pub(super) fn open(
        &self,
        name: &str,
        queues: u32,
        rings: SocketOptions,
    ) -> Result<Vec<XskSocket>, RunError> {
        let options = SocketOptions {
            busy_patience: BUSY_PATIENCE,
            ..rings
        };
        (0..queues)
            .map(|queue| Ok(XskSocket::open(&self.area, name, queue, &options)?))
            .collect()
    }

    /// Gives a port a number and its sockets to the pollers. Tables that name it are published afterwards.
    pub(super) fn add_port(
        &mut self,
        link: &Link,
        kind: &Wanted,
        sockets: Vec<XskSocket>,
    ) -> (PortId, Tally) {
        let id = self
            .compiler
            .ports_mut()
            .insert(spec(link, kind, &self.mirror));
        // No poller serves the number now.
        let base = Tally::of(&self.pollers.counters(), id);
        for (queue, socket) in sockets.into_iter().enumerate() {
            let socket = Box::new(socket);
            self.pollers.send(
                queue % self.pollers.len(),
                Command::Attach { port: id, socket },
            );
        }
        (id, base)
    }

    /// Takes over what changed about a link that is served: its MAC address, its MTU. It stays served if that is too big now.
    fn refresh(&mut self, link: &Link, kind: &Wanted) {
        let spec = spec(link, kind, &self.mirror);
        let ports = self.compiler.ports_mut();
        if ports.by_name(&link.name).and_then(|id| ports.get(id)) != Some(&spec) {
            let id = ports.insert(spec);
            self.stale = true;
            if self.offload.is_some() && !matches!(kind, Wanted::Host) {
                self.tag(link, id);
            }
            if let Some(problem) = self.too_long_for_frames(link) {
                tracing::error!(interface = link.name, "{problem}");
            }
        }
    }

    /// What is lost where a link's MTU is larger than it was when it was served.
    pub(super) fn too_long_for_frames(&self, link: &Link) -> Option<String> {
        let too_big = check_mtu(link, self.area.chunk_size()).err()?;
        Some(format!("longer packets are lost on the way in: {too_big}"))
    }

    /// Takes a port away: from the tables first, then from the pollers.
    fn unserve(&mut self, name: &str) {
        let Some(served) = self.served.remove(name) else {
            return;
        };
        self.compiler.ports_mut().remove(name);
        self.stale = true;
        if let Some(offload) = &mut self.offload {
            offload.tell_devices(&self.compiler, &self.mirror);
        }
        self.publish();
        match served.program {
            Program::Uplink(nics) => drop(nics),
            Program::OffloadedUplink(attachment) => drop(attachment),
            Program::Endpoint(attachment) => {
                for queue in 0..served.queues {
                    // A device that is gone has taken its entries with it.
                    let _ = self.endpoints.clear_socket(served.ifindex, queue);
                }
                if attachment.is_alive() {
                    self.closed.insert(served.ifindex, attachment);
                } else if let Err(error) = self.detach(attachment) {
                    tracing::debug!(%error, interface = name, "pin of a device that is gone");
                }
            }
        }
        self.retire(served.id, Some(name));
        // Said when it is true: nothing more comes in; what the pollers hold still goes its way.
        tracing::info!(
            interface = name,
            ifindex = served.ifindex,
            "no longer serving"
        );
    }

    /// Has the pollers let go of a port; its number may go to another when all have, and when no table in force names it.
    pub(super) fn retire(&mut self, port: PortId, interface: Option<&str>) {
        let retiring = Retiring {
            pollers: self.pollers.len(),
            interface: interface.map(str::to_owned),
        };
        self.retiring.insert(port, retiring);
        for index in 0..self.pollers.len() {
            self.pollers.send(index, Command::Detach { port });
        }
    }

    /// Closes interfaces of pods that no endpoint is known for, and forgets those that are gone.
    fn close_unknown(&mut self) {
        let dead: Vec<_> = self
            .closed
            .iter()
            .filter(|(_, at)| !at.is_alive())
            .map(|(&ifindex, _)| ifindex)
            .collect();
        for ifindex in dead {
            if let Some(attachment) = self.closed.remove(&ifindex) {
                let _ = self.detach(attachment);
            }
        }
        let prefixes = &self.compiler.desired().felix.interface_prefixes;
        let unknown: Vec<_> = self
            .mirror
            .links()
            .filter(|link| prefixes.iter().any(|prefix| link.name.starts_with(prefix)))
            .filter(|link| {
                !self.served.contains_key(&link.name) && !self.closed.contains_key(&link.ifindex)
            })
            .cloned()
            .collect();
        for link in unknown {
            match self.close(&link) {
                Ok(attachment) => {
                    tracing::info!(
                        interface = link.name,
                        "closed: no WorkloadEndpoint names this interface"
                    );
                    self.closed.insert(link.ifindex, attachment);
                }
                Err(error) => self.complain(&link.name, &error),
            }
        }
    }

    /// Carries on what pollers have done with ports that are gone.
    pub(super) fn collect_sockets(&mut self) {
        let offload = self.offload.as_ref();
        let is_settled = offload.is_none_or(|offload| offload.is_settled());
        for (index, reply) in self.pollers.replies() {
            match reply {
                Reply::Detached { socket, .. } => {
                    let closed = socket.close();
                    self.pollers.send(index, Command::Closed(closed));
                }
                Reply::Gone { port } => {
                    if let Some(retiring) = self.retiring.get_mut(&port) {
                        retiring.pollers -= 1;
                        if retiring.pollers == 0 {
                            self.retiring.remove(&port);
                            // Who waited for its queues.
                            self.retry_at = self.retry_at.map(|at| at.min(Instant::now()));
                            if self.refused.is_some() || !is_settled {
                                self.withheld.push(port);
                            } else {
                                self.compiler.ports_mut().release(port);
                            }
                        }
                    }
                }
                Reply::Statistics {
                    port,
                    queue,
                    statistics,
                } => self.keep_statistics(port, (queue.ifindex, queue.queue), statistics),
            }
        }
    }
}

/// Refuses a link whose packets do not fit frames of `frame` bytes.
pub(super) fn check_mtu(link: &Link, frame: u32) -> Result<(), RunError> {
    if Budget::fits(link.mtu, frame) {
        return Ok(());
    }
    Err(RunError::MtuTooBig {
        interface: link.name.clone(),
        mtu: link.mtu,
        frame,
    })
}

/// Takes the program off again, unless an earlier daemon had left it there: then the pod was closed before, and stays so.
pub(super) fn undo(
    attachment: EndpointAttachment,
    endpoints: &mut EndpointProgram,
    tcx: Option<&mut Tcx>,
) {
    if attachment.was_taken_over() {
        return attachment.leave_pinned();
    }
    let detached = match tcx {
        Some(tcx) if attachment.is_gate() => tcx.detach(attachment),
        _ => endpoints.detach(attachment),
    };
    if let Err(error) = detached {
        tracing::warn!(%error, "the XDP program stays");
    }
}

/// The rings of a pod's queue, or the host's, with so many frames to receive at rest.
fn endpoint_rings(at_rest: u32) -> Result<SocketOptions, RunError> {
    let receive = RingLen::new(at_rest.max(BUSY_RING))?;
    Ok(SocketOptions {
        rx: Some(receive),
        fill: receive,
        at_rest: Some(at_rest),
        ..SocketOptions::both_ways(RingLen::new(at_rest)?)
    })
}

/// A port as its link is now.
fn spec(link: &Link, kind: &Wanted, mirror: &Mirror) -> PortSpec {
    let role = match kind {
        Wanted::Uplink(_) => PortRole::Uplink,
        Wanted::Host => PortRole::Host(MacAddr(HOST_MAC)),
        Wanted::Pod => PortRole::Pod,
    };
    let partial_checksums = match role {
        // Virtual devices hand on what a stack of this machine left to hardware.
        PortRole::Uplink => devices::carriers(link, mirror).iter().any(|device| {
            ethtool::driver(&device.name).is_ok_and(|driver| {
                matches!(driver.as_str(), "veth" | "virtio_net" | "tun" | "bridge")
            })
        }),
        PortRole::Pod | PortRole::Host(_) => true,
    };
    PortSpec {
        name: link.name.clone(),
        ifindex: link.ifindex,
        mac: MacAddr(link.mac.unwrap_or_default()),
        mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        partial_checksums,
        role,
    }
}
