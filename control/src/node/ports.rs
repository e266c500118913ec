//! Ports that come and go: XDP programs, sockets, and the pollers that serve them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use encap::eth::MacAddr;
use fastpath::io::xsk::{
    Command, Mode, ModeInForce, Reply, RingLen, SocketOptions, Statistics, XskSocket, ethtool,
};
use fastpath::port::PortId;
use ipnet::IpNet;

use super::keep::Away;
use super::tally::Tally;
use super::{Budget, Node, RETRY, RunError, budget::BUSY_RING};
use crate::compile::{PortRole, PortSpec};
use crate::config::daemon::{Uplink, UplinkMode};
use crate::netlink::host_port::{DATAPLANE_END, HOST_MAC};
use crate::netlink::{Link, Mirror};
use crate::xdp::{
    EndpointAttachment, EndpointProgram, NatPorts, NicAttachment, NicConfig, NicMode, NicProgram,
    PinDir,
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
    /// What the kernel counts on its sockets, by queue.
    pub(super) statistics: BTreeMap<u32, Statistics>,
    program: Program,
}

enum Program {
    Uplink {
        program: Box<NicProgram>,
        attachment: NicAttachment,
    },
    Endpoint(EndpointAttachment),
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
            Program::Uplink { attachment, .. } => attachment.is_alive(),
            Program::Endpoint(attachment) => attachment.is_alive(),
        }
    }

    /// What keeps it closed without sockets; an uplink is not.
    pub(super) const fn endpoint(&self) -> Option<&EndpointAttachment> {
        match &self.program {
            Program::Uplink { .. } => None,
            Program::Endpoint(attachment) => Some(attachment),
        }
    }

    /// Whether XDP runs in the kernel's stack instead of the driver.
    pub(super) fn is_generic(&self) -> bool {
        matches!(&self.program, Program::Uplink { attachment, .. } if attachment.is_generic())
    }

    /// Attaches an uplink's program again, with all that it knows: sockets, addresses. False: this is no uplink.
    ///
    /// # Errors
    /// The kernel refuses; then nothing is attached.
    pub(super) fn attach_again(&mut self, name: &str) -> Result<bool, crate::xdp::AttachError> {
        let Program::Uplink {
            program,
            attachment,
        } = &mut self.program
        else {
            return Ok(false);
        };
        let mode = if attachment.is_generic() {
            NicMode::NativeOrGeneric
        } else {
            NicMode::Native
        };
        *attachment = program.attach(name, mode)?;
        Ok(true)
    }

    /// Tells an uplink's program what is ours.
    pub(super) fn sync_taken(
        &mut self,
        taken: &[IpNet],
        local: &BTreeSet<IpAddr>,
        vxlan_port: Option<u16>,
    ) -> Result<(), crate::xdp::UpdateError> {
        match &mut self.program {
            Program::Uplink { program, .. } => sync_program(program, taken, local, vxlan_port),
            Program::Endpoint(_) => Ok(()),
        }
    }

    /// Takes the answers to translated connections.
    pub(super) fn sync_nat(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        ports: &NatPorts,
    ) -> Result<(), crate::xdp::UpdateError> {
        match &mut self.program {
            Program::Uplink { program, .. } => program.sync_nat(addresses.iter().copied(), ports),
            Program::Endpoint(_) => Ok(()),
        }
    }

    /// Has the answers to connections that are kept lost meanwhile, or taken again.
    pub(super) fn set_away(&mut self, away: Option<&Away>) -> Result<(), crate::xdp::UpdateError> {
        let Program::Uplink { program, .. } = &mut self.program else {
            return Ok(());
        };
        if let Some(away) = away {
            program.sync_nat(away.addresses.iter().copied(), away.ports.ports())?;
        }
        self.set_away_until(away.map(|away| away.until))
    }

    /// The same for those of all connections of natOutgoing.
    pub(super) fn set_away_until(
        &mut self,
        until: Option<Duration>,
    ) -> Result<(), crate::xdp::UpdateError> {
        match &mut self.program {
            Program::Uplink { program, .. } => program.set_away(until),
            Program::Endpoint(_) => Ok(()),
        }
    }

    /// Undoes a start that failed. With answers that are still to be kept from the host the uplink's program stays for the next start.
    pub(super) fn undo(
        self,
        name: &str,
        away: Option<&Away>,
        endpoints: &mut EndpointProgram,
        pins: &PinDir,
    ) {
        match self.program {
            Program::Uplink { .. } => self.leave(name, away, pins),
            Program::Endpoint(attachment) => undo(attachment, endpoints),
        }
    }

    /// Ends with the process: an uplink is the kernel's again, but for answers to the connections that are kept; a pod stays closed.
    pub(super) fn leave(mut self, name: &str, away: Option<&Away>, pins: &PinDir) {
        let is_away = away.is_some() && self.set_away(away).is_ok();
        match self.program {
            Program::Uplink { attachment, .. } if is_away => leave(attachment, name, pins),
            Program::Uplink { attachment, .. } => drop(attachment),
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
                let ifindex = self.mirror.link_by_name(name).map(|link| link.ifindex);
                ifindex != Some(served.ifindex) || !wanted.contains_key(*name) || !served.is_alive()
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.unserve(&name);
        }
        for (name, kind) in wanted {
            let Some(link) = self.mirror.link_by_name(&name).cloned() else {
                continue;
            };
            let outcome = if self.served.contains_key(&name) {
                self.refresh(&link, &kind);
                Ok(())
            } else {
                self.serve_port(&link, &kind)
            };
            match outcome {
                Ok(()) => drop(self.complaints.remove(&name)),
                Err(error) => self.complain(&name, &error),
            }
        }
        self.close_unknown();
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
        tracing::info!(interface = link.name, ifindex = link.ifindex, queues = served.queues, mode = %served.mode, "serving");
        self.served.insert(link.name.clone(), served);
        self.stale = true;
        Ok(())
    }

    fn serve_uplink(&mut self, link: &Link, uplink: &Uplink) -> Result<Served, RunError> {
        let queues = uplink_queues(uplink, self.pollers.len() as u32)?;
        let vxlan_port = super::start::vxlan_port(self.compiler.desired());
        let mut program = Box::new(NicProgram::load(&NicConfig { vxlan_port })?);
        let mode = if uplink.mode == UplinkMode::Generic {
            NicMode::NativeOrGeneric
        } else {
            NicMode::Native
        };
        // What the daemon before has left keeps them from the host until the new one knows them.
        let away = self.inherited.away(&self.config);
        if let Some(away) = &away {
            program.sync_nat(away.addresses.iter().copied(), away.ports.ports())?;
            program.set_away(Some(away.until))?;
        }
        let attachment = program.attach_next(&link.name, mode, &self.pins)?;
        if attachment.is_generic() {
            tracing::warn!(
                interface = link.name,
                "generic XDP: about ten times slower than native"
            );
        }
        let sockets = match self.uplink_sockets(link, uplink, queues, vxlan_port, &mut program) {
            Ok(sockets) => sockets,
            Err(error) => {
                if away.is_some() {
                    leave(attachment, &link.name, &self.pins);
                }
                return Err(error);
            }
        };
        let mode = sockets.first().map_or(ModeInForce::Copy, XskSocket::mode);
        // Last: from here on the sockets are the pollers'.
        let (id, base) = self.add_port(link, &Wanted::Uplink(uplink.clone()), sockets);
        Ok(Served {
            id,
            ifindex: link.ifindex,
            queues,
            mode,
            driver: ethtool::driver(&link.name).ok(),
            base,
            statistics: BTreeMap::new(),
            program: Program::Uplink {
                program,
                attachment,
            },
        })
    }

    /// The sockets of an uplink whose program is attached, and in its program, which is told what is ours.
    fn uplink_sockets(
        &self,
        link: &Link,
        uplink: &Uplink,
        queues: u32,
        vxlan_port: Option<u16>,
        program: &mut NicProgram,
    ) -> Result<Vec<XskSocket>, RunError> {
        let xsk_mode = match uplink.mode {
            UplinkMode::Auto => Mode::PreferZeroCopy,
            UplinkMode::ZeroCopy => Mode::ZeroCopy,
            UplinkMode::Copy | UplinkMode::Generic => Mode::Copy,
        };
        let ring = RingLen::new(self.config.frames.uplink_ring)?;
        let rings = SocketOptions {
            mode: xsk_mode,
            ..SocketOptions::both_ways(ring)
        };
        let sockets = self.open(&link.name, queues, rings)?;
        for (queue, socket) in (0..).zip(&sockets) {
            program.set_socket(queue, &socket.descriptor())?;
        }
        let local = super::kernel::underlay_addresses(&self.mirror, self.host.host_ifindex);
        let taken = self.compiler.taken_prefixes();
        sync_program(program, &taken, &local, vxlan_port)?;
        Ok(sockets)
    }

    fn serve_endpoint(&mut self, link: &Link, kind: &Wanted) -> Result<Served, RunError> {
        let queues = self.pollers.len() as u32;
        let attachment = match self.closed.remove(&link.ifindex) {
            Some(attachment) if attachment.is_alive() => attachment,
            // Of a device that was here before, with the same index.
            Some(attachment) => {
                let _ = self.endpoints.detach(attachment);
                self.close(link)?
            }
            None => self.close(link)?,
        };
        let opened = endpoint_rings(self.config.frames.pod_ring)
            .and_then(|rings| self.open(&link.name, queues, rings))
            .and_then(|sockets| {
                for (queue, socket) in (0..).zip(&sockets) {
                    self.endpoints
                        .set_socket(link.ifindex, queue, &socket.descriptor())?;
                }
                Ok(sockets)
            });
        let sockets = match opened {
            Ok(sockets) => sockets,
            Err(error) => {
                // Without sockets, and so closed. By its own index: it was found by name, and may be one that was made since.
                self.closed.insert(attachment.ifindex(), attachment);
                return Err(error);
            }
        };
        let (id, base) = self.add_port(link, kind, sockets);
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

    /// Attaches the endpoints' program: nothing passes without a socket.
    fn close(&mut self, link: &Link) -> Result<EndpointAttachment, RunError> {
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
        Ok(self.endpoints.attach(&link.name, &self.pins)?)
    }

    fn open(
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
    fn add_port(&mut self, link: &Link, kind: &Wanted, sockets: Vec<XskSocket>) -> (PortId, Tally) {
        let id = self.compiler.ports_mut().insert(spec(link, kind));
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
        let spec = spec(link, kind);
        let ports = self.compiler.ports_mut();
        if ports.by_name(&link.name).and_then(|id| ports.get(id)) != Some(&spec) {
            ports.insert(spec);
            self.stale = true;
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
        self.publish();
        match served.program {
            Program::Uplink { attachment, .. } => drop(attachment),
            Program::Endpoint(attachment) => {
                for queue in 0..served.queues {
                    // A device that is gone has taken its entries with it.
                    let _ = self.endpoints.clear_socket(served.ifindex, queue);
                }
                if attachment.is_alive() {
                    self.closed.insert(served.ifindex, attachment);
                } else if let Err(error) = self.endpoints.detach(attachment) {
                    tracing::debug!(%error, interface = name, "pin of a device that is gone");
                }
            }
        }
        self.retire(served.id);
        // Said when it is true: nothing more comes in; what the pollers hold still goes its way.
        tracing::info!(
            interface = name,
            ifindex = served.ifindex,
            "no longer serving"
        );
    }

    /// Has the pollers let go of a port; its number may go to another when all have, and when no table in force names it.
    pub(super) fn retire(&mut self, port: PortId) {
        self.retiring.insert(port, self.pollers.len());
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
                let _ = self.endpoints.detach(attachment);
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
        for (index, reply) in self.pollers.replies() {
            match reply {
                Reply::Detached { socket, .. } => {
                    let closed = socket.close();
                    self.pollers.send(index, Command::Closed(closed));
                }
                Reply::Gone { port } => {
                    if let Some(left) = self.retiring.get_mut(&port) {
                        *left -= 1;
                        if *left == 0 {
                            self.retiring.remove(&port);
                            if self.refused.is_some() {
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
                } => self.keep_statistics(port, queue, statistics),
            }
        }
    }
}

/// An uplink's link.
pub(super) fn uplink_link<'m>(
    config: &Path,
    uplink: &Uplink,
    mirror: &'m Mirror,
) -> Result<&'m Link, RunError> {
    let interface = &uplink.interface.value;
    let link = mirror.link_by_name(interface);
    link.ok_or_else(|| RunError::NoUplink {
        config: config.to_owned(),
        interface: interface.clone(),
    })
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

/// How many queues of an uplink are served: all that it has, or as many as are configured, at least one a poller.
pub(super) fn uplink_queues(uplink: &Uplink, pollers: u32) -> Result<u32, RunError> {
    let interface = &uplink.interface.value;
    let available = ethtool::channels(interface).map_or(1, |channels| channels.queues().max(1));
    let queues = uplink.queues.as_ref();
    let queues = queues.map_or(available, |queues| u32::from(queues.value));
    if queues > available || queues < pollers {
        return Err(RunError::TooFewQueues {
            interface: interface.clone(),
            wanted: queues.max(pollers),
            available,
        });
    }
    Ok(queues)
}

/// Takes the program off again, unless an earlier daemon had left it there: then the pod was closed before, and stays so.
pub(super) fn undo(attachment: EndpointAttachment, endpoints: &mut EndpointProgram) {
    if attachment.was_taken_over() {
        attachment.leave_pinned();
    } else if let Err(error) = endpoints.detach(attachment) {
        tracing::warn!(%error, "the XDP program stays");
    }
}

/// Leaves an uplink's program there for the next start.
fn leave(attachment: NicAttachment, name: &str, pins: &PinDir) {
    if let Err(error) = attachment.leave(name, pins) {
        tracing::warn!(%error, "the host will reset connections of natOutgoing");
    }
}

/// Tells an uplink's program what is ours.
fn sync_program(
    program: &mut NicProgram,
    taken: &[IpNet],
    local: &BTreeSet<IpAddr>,
    vxlan_port: Option<u16>,
) -> Result<(), crate::xdp::UpdateError> {
    program.set_vxlan_port(vxlan_port)?;
    program.sync_local(local.iter().copied())?;
    program.sync_pods4(taken.iter().filter_map(|net| match net {
        IpNet::V4(net) => Some((net.network(), net.prefix_len())),
        IpNet::V6(_) => None,
    }))?;
    program.sync_pods6(taken.iter().filter_map(|net| match net {
        IpNet::V6(net) => Some((net.network(), net.prefix_len())),
        IpNet::V4(_) => None,
    }))
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
fn spec(link: &Link, kind: &Wanted) -> PortSpec {
    let role = match kind {
        Wanted::Uplink(_) => PortRole::Uplink,
        Wanted::Host => PortRole::Host(MacAddr(HOST_MAC)),
        Wanted::Pod => PortRole::Pod,
    };
    let partial_checksums = match role {
        // Virtual devices hand on what a stack of this machine left to hardware.
        PortRole::Uplink => ethtool::driver(&link.name).is_ok_and(|driver| {
            matches!(driver.as_str(), "veth" | "virtio_net" | "tun" | "bridge")
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
