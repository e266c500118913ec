//! The control thread's loop.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use fastpath::event::Event;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{Node, RunError, Wake};
use crate::compile::PortRole;
use crate::netlink::{self, Changes};

/// The loop looks around at least this often.
const LONGEST: Duration = Duration::from_secs(1);

/// Blocks the signals that end the daemon, in this thread and all it starts, and makes them readable.
pub(super) fn block_signals() -> Result<SignalFd, RunError> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.add(Signal::SIGHUP);
    set.thread_block()
        .map_err(RunError::system("block signals"))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(RunError::system("create a signalfd"))
}

impl Node {
    /// Follows signals, files, the kernel and the pollers until it is told to end.
    pub(super) fn serve(&mut self, signals: &SignalFd, wake: &Wake) -> Result<(), RunError> {
        loop {
            self.sleep(signals, wake)?;
            self.beat(Instant::now());
            // Empties the counter; it may be empty already.
            let _ = wake.read();
            while let Ok(Some(signal)) = signals.read_signal() {
                if signal.ssi_signo == Signal::SIGHUP as u32 {
                    self.check_config();
                    self.reload();
                } else {
                    return Ok(());
                }
            }
            if let Some(index) = self.pollers.dead() {
                return Err(RunError::PollerDied(index));
            }
            if self
                .offload
                .as_ref()
                .is_some_and(|offload| offload.is_dead())
            {
                return Err(RunError::OffloadDied);
            }
            // What was seen of a port counts before its number may go to another.
            self.hear_pollers();
            let now = Instant::now();
            self.take_records(now);
            self.take_copies(now);
            self.collect_sockets();
            match self.mirror.drain() {
                Ok(changes) => {
                    // The routes that fit are in force; a daemon that ended would close every pod.
                    if let Err(error) = self.follow(&changes) {
                        tracing::error!(%error, "a change of the kernel's is left out");
                        self.telemetry.refusals += 1;
                    }
                }
                Err(error) => tracing::warn!(%error, "the kernel's network state"),
            }
            let now = Instant::now();
            self.look_after_host(now);
            self.guard_host(now);
            self.look_after_ports(now);
            self.forget_path_mtus(now);
            self.guard(now);
            if let Some(read) = self.source.read_files(now) {
                self.take_files(read);
            }
            self.follow_felix(now);
            self.follow_kubernetes();
            if self.retry_at.is_some_and(|at| at <= now) {
                self.reconcile_ports();
            }
            self.publish();
            self.sync_host_policy(now);
            for (ticket, request) in self.api.requests(now) {
                let response = self.answer(&request);
                self.api.respond(ticket, &response, now);
            }
            self.serve_metrics(now);
        }
    }

    fn sleep(&self, signals: &SignalFd, wake: &Wake) -> Result<(), RunError> {
        let now = Instant::now();
        let until = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now));
        let dues = [
            until(self.retry_at),
            until(self.mirror.resync_due()),
            until(self.host_due),
            until(self.host_policy_due()),
            until(Some(self.guard_at)),
            until(Some(self.host_guard_at)),
            until(Some(self.host_ports_due)),
            self.source.timeout(now),
            self.api.timeout(now),
            self.telemetry.timeout(now),
        ];
        let timeout = dues.into_iter().flatten().fold(LONGEST, Duration::min);
        let mut fds = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.mirror.fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.source.poll_fds());
        fds.extend(self.services.poll_fd());
        fds.extend(self.api.poll_fds());
        fds.extend(self.telemetry.poll_fds());
        let timeout =
            PollTimeout::try_from(timeout.as_millis() as u64 + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(RunError::system("poll")(errno)),
        }
    }

    /// Acts on what pollers saw.
    fn hear_pollers(&mut self) {
        for event in self.pollers.events() {
            match event {
                Event::MissingNeighbour { port, addr } => {
                    if let Some(spec) = self.compiler.ports().get(port) {
                        self.neighbours
                            .ask((spec.ifindex, addr), &self.mirror, &mut self.writer);
                    }
                }
                Event::PathMtu { peer, v6, mtu } => {
                    if self.compiler.learn_path_mtu((peer, v6), mtu) {
                        tracing::info!(
                            ?peer,
                            v6,
                            mtu,
                            "a tunnel's path is narrower than the uplink"
                        );
                        self.stale = true;
                    }
                    self.path_mtus.insert((peer, v6), Instant::now());
                }
                Event::PodMac { port, mac } => {
                    self.compiler.learn(port, mac);
                    self.stale = true;
                }
            }
        }
    }

    /// Takes over what changed in the kernel.
    fn follow(&mut self, changes: &Changes) -> Result<(), RunError> {
        if changes.is_empty() {
            return Ok(());
        }
        if !changes.routes.is_empty() {
            let hops: Vec<_> = changes
                .routes
                .iter()
                .map(|(dst, route)| {
                    let hop = route.as_ref().and_then(netlink::hop);
                    (*dst, hop)
                })
                .collect();
            self.compiler
                .kernel_routes(hops.iter().map(|(dst, hop)| (*dst, hop.as_ref())))?;
            self.stale = true;
        }
        for &key in &changes.neighbours {
            self.neighbours.changed(key, &self.mirror, &mut self.writer);
        }
        let host = [self.host.host_ifindex, self.host.dataplane_ifindex];
        if host.iter().any(|end| changes.links.contains(end)) {
            self.host_changed();
        }
        if !changes.links.is_empty() {
            for &ifindex in &changes.links {
                self.neighbours
                    .link_up(ifindex, &self.mirror, &mut self.writer);
            }
            self.reconcile_ports();
            // An uplink's MTU may be another.
            self.tell_cni();
        }
        if !changes.addresses.is_empty() || !changes.links.is_empty() {
            self.sync_taken();
            self.host_policy.is_stale = true;
        }
        let uplinks = self.uplinks();
        let near = !changes.neighbours.is_empty() && self.neighbours.moved(&self.mirror, &uplinks);
        if near
            || !changes.addresses.is_empty()
            || !changes.links.is_empty()
            || !changes.routes.is_empty()
        {
            self.follow_addresses()?;
        }
        Ok(())
    }

    /// The interface indexes of the uplinks.
    pub(super) fn uplinks(&self) -> BTreeSet<u32> {
        let ports = self.compiler.ports().iter();
        ports
            .filter(|(_, spec)| spec.role == PortRole::Uplink)
            .map(|(_, spec)| spec.ifindex)
            .collect()
    }
}
