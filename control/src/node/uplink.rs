//! An uplink: the program and the sockets on each of its devices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use fastpath::io::xsk::{Mode, ModeInForce, RingLen, SocketOptions, XskSocket, ethtool};
use ipnet::IpNet;

use super::keep::Away;
use super::ports::{Program, Served, Wanted};
use super::{Node, RunError, devices};
use crate::config::daemon::{Uplink, UplinkMode};
use crate::netlink::{Link, Mirror};
use crate::xdp::{NicAttachment, NicConfig, NicMode, NicProgram, PinDir, Taken, UplinkAttachment};

/// An uplink's program on one device.
pub(super) struct Nic {
    pub(super) name: String,
    pub(super) program: Box<NicProgram>,
    pub(super) attachment: NicAttachment,
}

/// The sockets of an uplink.
struct Sockets {
    /// The first of a port that a poller is given sends.
    all: Vec<XskSocket>,
    /// Queues that are received from.
    queues: u32,
    /// How received packets are moved.
    mode: ModeInForce,
}

impl Node {
    pub(super) fn serve_uplink(
        &mut self,
        link: &Link,
        uplink: &Uplink,
    ) -> Result<Served, RunError> {
        if self.offload.is_some() {
            return self.serve_offloaded_uplink(link, uplink);
        }
        let vxlan_port = super::start::vxlan_port(self.compiler.desired());
        // What the daemon before has left keeps them from the host until the new one knows them.
        let away = self.inherited.away(&self.config);
        let devices = devices::of(link, &self.mirror);
        if devices.is_empty() {
            let interface = link.name.clone();
            return Err(RunError::NoMembers { interface });
        }
        if devices::is_bond(link) {
            self.release_bond(link);
        }
        let mut nics = Vec::new();
        let opened = devices.iter().try_for_each(|device| {
            nics.push(self.attach_uplink(&device.name, uplink.mode, vxlan_port, away.as_ref())?);
            Ok(())
        });
        let opened = opened.and_then(|()| self.uplink_sockets(link, uplink, vxlan_port, &mut nics));
        let Sockets { all, queues, mode } = match opened {
            Ok(sockets) => sockets,
            Err(error) => {
                if away.is_some() {
                    leave(nics, &self.pins);
                }
                return Err(error);
            }
        };
        // Last: from here on the sockets are the pollers'.
        let (id, base) = self.add_port(link, &Wanted::Uplink(uplink.clone()), all);
        Ok(Served {
            id,
            ifindex: link.ifindex,
            queues,
            mode,
            driver: ethtool::driver(&link.name).ok(),
            base,
            statistics: BTreeMap::new(),
            program: Program::Uplink(nics),
        })
    }

    /// Takes off what a daemon with flows in the kernel left on a bond itself; what goes by its members would not come to it any more.
    fn release_bond(&self, link: &Link) {
        for pin in self.pins.pins() {
            if pin.ifindex == link.ifindex
                && let Err(error) = self.pins.release(&pin)
            {
                tracing::warn!(%error, interface = link.name, "a program of the daemon before stays");
            }
        }
    }

    /// Puts the program on one device of an uplink.
    fn attach_uplink(
        &self,
        name: &str,
        mode: UplinkMode,
        vxlan_port: Option<u16>,
        away: Option<&Away>,
    ) -> Result<Nic, RunError> {
        let mut program = Box::new(NicProgram::load(&NicConfig { vxlan_port })?);
        if let Some(away) = away {
            program.sync_nat(away.addresses.iter().copied(), away.ports.ports())?;
            program.set_away(Some(away.until))?;
        }
        let mode = if mode == UplinkMode::Generic {
            NicMode::NativeOrGeneric
        } else {
            NicMode::Native
        };
        let attachment = program.attach_next(name, mode, &self.pins)?;
        if attachment.is_generic() {
            tracing::warn!(
                interface = name,
                "generic XDP: about ten times slower than native"
            );
        }
        Ok(Nic {
            name: name.to_owned(),
            program,
            attachment,
        })
    }

    /// The sockets of an uplink whose programs are attached, and in its programs, which are told what is ours.
    fn uplink_sockets(
        &self,
        link: &Link,
        uplink: &Uplink,
        vxlan_port: Option<u16>,
        nics: &mut [Nic],
    ) -> Result<Sockets, RunError> {
        let pollers = self.pollers.len() as u32;
        let xsk_mode = match uplink.mode {
            UplinkMode::Auto => Mode::PreferZeroCopy,
            UplinkMode::ZeroCopy => Mode::ZeroCopy,
            UplinkMode::Copy | UplinkMode::Generic => Mode::Copy,
        };
        let ring = RingLen::new(self.config.frames.uplink_ring)?;
        let is_bond = devices::is_bond(link);
        let rings = SocketOptions {
            mode: xsk_mode,
            ..if is_bond {
                SocketOptions::receive_only(ring)
            } else {
                SocketOptions::both_ways(ring)
            }
        };
        let local = super::kernel::underlay_addresses(&self.mirror, self.host.host_ifindex);
        let taken = self.compiler.taken_prefixes();
        // A poller's first socket of a port sends.
        let mut all = if is_bond {
            self.open(&link.name, pollers, SocketOptions::send_only(ring))?
        } else {
            Vec::new()
        };
        let (senders, mut mode) = (all.len(), ModeInForce::Copy);
        for nic in nics {
            let queues = queues(&nic.name, uplink, pollers)?;
            let sockets = self.open(&nic.name, queues, rings)?;
            for (queue, socket) in (0..).zip(&sockets) {
                nic.program.set_socket(queue, &socket.descriptor())?;
                mode = socket.mode();
            }
            sync_program(&mut nic.program, &taken, &local, vxlan_port)?;
            all.extend(sockets);
        }
        let queues = (all.len() - senders) as u32;
        Ok(Sockets { all, queues, mode })
    }
}

/// An uplink's link.
pub(super) fn link<'m>(
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

/// Refuses an uplink that has fewer queues to send than there are pollers, where each has one of its own.
pub(super) fn check_to_send(link: &Link, pollers: u32) -> Result<(), RunError> {
    if link.tx_queues >= pollers {
        return Ok(());
    }
    Err(RunError::TooFewQueues {
        interface: link.name.clone(),
        wanted: pollers,
        available: link.tx_queues,
    })
}

/// How many queues of a device of an uplink are served: all that it has, or as many as are configured, at least one a poller.
pub(super) fn queues(interface: &str, uplink: &Uplink, pollers: u32) -> Result<u32, RunError> {
    let available = ethtool::channels(interface).map_or(1, |channels| channels.queues().max(1));
    let queues = uplink.queues.as_ref();
    let queues = queues.map_or(available, |queues| u32::from(queues.value));
    if queues > available || queues < pollers {
        return Err(RunError::TooFewQueues {
            interface: interface.to_owned(),
            wanted: queues.max(pollers),
            available,
        });
    }
    Ok(queues)
}

/// The same of an uplink whose flows the kernel repeats.
pub(super) fn leave_offloaded(attachment: UplinkAttachment, pins: &PinDir) {
    if let Err(error) = attachment.leave(pins) {
        tracing::warn!(%error, "the host will reset connections of natOutgoing");
    }
}

/// Leaves an uplink's programs there for the next start.
pub(super) fn leave(nics: Vec<Nic>, pins: &PinDir) {
    for nic in nics {
        if let Err(error) = nic.attachment.leave(&nic.name, pins) {
            tracing::warn!(%error, "the host will reset connections of natOutgoing");
        }
    }
}

/// Tells an uplink's program what is ours.
pub(super) fn sync_program(
    program: &mut Taken,
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
