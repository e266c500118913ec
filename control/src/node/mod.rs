//! The daemon: owns the node's ports, pollers and tables, and follows files, kernel and pods.
//!
//! One thread, one loop over poll(2). It never touches a packet; pollers never wait for it.

mod budget;
mod error;
mod events;
mod kernel;
mod leftovers;
mod neighbours;
mod pollers;
mod ports;
mod start;

pub use budget::Budget;
pub use error::RunError;
pub use leftovers::cleanup;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastpath::io::xsk::UmemArea;
use fastpath::port::PortId;
use fastpath::snapshot::Publisher;
use fastpath::tables::Tables;
use ipnet::IpNet;

use crate::compile::Compiler;
use crate::config::{self, DaemonConfig, Diagnostics, watch::Watch};
use crate::desired::Desired;
use crate::netlink::{HostPort, HostRoute, Mirror, Writer};
use crate::xdp::{EndpointAttachment, EndpointProgram, PinDir};
use kernel::Kernel;
use neighbours::Neighbours;
use pollers::Pollers;
use ports::Served;

/// After a failure to serve a port it is tried again this much later.
const RETRY: Duration = Duration::from_secs(1);

/// A node that runs.
pub struct Node {
    name: String,
    config: DaemonConfig,
    compiler: Compiler,
    publisher: Publisher<Tables>,
    pollers: Pollers,
    area: UmemArea,
    endpoints: EndpointProgram,
    pins: PinDir,
    /// Ports with sockets, by interface name.
    served: BTreeMap<String, Served>,
    /// Pods' interfaces that belong to no endpoint that is known: closed, without sockets.
    closed: BTreeMap<String, EndpointAttachment>,
    /// Numbers of ports that are gone, and how many pollers have yet to let go.
    retiring: HashMap<PortId, usize>,
    mirror: Mirror,
    writer: Writer,
    host: HostPort,
    neighbours: Neighbours,
    watch: Watch,
    /// Ports that could not be served are tried again then.
    retry_at: Option<Instant>,
    /// What was said about each interface that can not be served, so that it is said once.
    complaints: HashMap<String, String>,
    /// Whether tables must be made anew.
    stale: bool,
    /// Keeps a second daemon out of this network namespace.
    _lock: leftovers::Lock,
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`]; then nothing is attached that was not before.
pub fn run(config: &Path) -> Result<(), RunError> {
    let signals = events::block_signals()?;
    let (mut node, wake) = start::start(config)?;
    tracing::info!(node = node.name, "ready");
    let outcome = node.serve(&signals, &wake);
    node.stop();
    outcome
}

impl Node {
    /// Loads the resources' directory. The running state is untouched until the result is applied.
    fn load(dir: &Path, node: &str) -> Result<(Desired, Diagnostics), Diagnostics> {
        let resources = config::load_dir(dir)?;
        let desired = config::compute(&resources, node).map_err(|errors| {
            let mut all = Diagnostics(errors);
            all.sort();
            all
        })?;
        Ok((desired, resources.remarks))
    }

    /// Takes the files' state anew. Bad files change nothing.
    fn reload(&mut self) {
        match Self::load(&self.config.resources, &self.name) {
            Ok((desired, remarks)) => {
                tracing::info!(
                    endpoints = desired.endpoints.len(),
                    nodes = desired.nodes.len(),
                    "resources loaded"
                );
                log_remarks(&remarks);
                if desired == *self.compiler.desired() {
                    return;
                }
                if let Err(error) = self.compiler.set_desired(desired, &Kernel(&self.mirror)) {
                    tracing::error!(%error, "resources refused; the state before stays in force");
                    return;
                }
                self.stale = true;
                self.reconcile_ports();
                self.sync_host();
                self.sync_taken();
            }
            Err(diagnostics) => {
                tracing::error!(
                    "bad resources; the state before stays in force\n{}",
                    diagnostics.render(false)
                );
            }
        }
    }

    /// Makes tables of what is known and publishes them, if anything changed.
    fn publish(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        if let Err(error) = self.compiler.refresh_routes(&Kernel(&self.mirror)) {
            tracing::error!(%error, "routes refused");
        }
        self.neighbours.want(
            self.compiler.wanted_neighbours(&Kernel(&self.mirror)),
            &mut self.writer,
        );
        let tables = self.compiler.tables(&Kernel(&self.mirror));
        self.publisher.publish(tables);
        self.pollers.wake();
    }

    /// The host's addresses and routes on its port: tunnel addresses, and every pool and pod.
    fn sync_host(&mut self) {
        let desired = self.compiler.desired();
        if let Err(error) = self.host.set_addresses(&start::tunnel_addresses(desired)) {
            tracing::warn!(%error, "tunnel addresses of the host's port");
        }
        let routes: Vec<HostRoute> = self.host_routes();
        if let Err(error) = self.host.sync_routes(&routes) {
            tracing::warn!(%error, "routes of the host's port");
        }
    }

    fn host_routes(&self) -> Vec<HostRoute> {
        let desired = self.compiler.desired();
        let node = desired.local_node();
        let mut routes: Vec<_> = desired
            .pools
            .iter()
            .map(|pool| {
                let direct = pool.kind() == crate::desired::PoolType::NoEncap;
                // Into a tunnel the host speaks from its tunnel address, which is the port's own.
                let pref_src = node
                    .filter(|_| direct)
                    .and_then(|node| node.address_like(pool.cidr.addr()));
                HostRoute {
                    dst: pool.cidr,
                    pref_src,
                }
            })
            .collect();
        let pooled = |net: &IpNet| desired.pools.iter().any(|pool| pool.cidr.contains(net));
        let loose = self
            .compiler
            .taken_prefixes()
            .into_iter()
            .filter(|net| !pooled(net));
        routes.extend(loose.map(|dst| HostRoute {
            dst,
            pref_src: None,
        }));
        routes
    }

    /// Tells the uplinks' XDP programs what is ours.
    fn sync_taken(&mut self) {
        let taken = self.compiler.taken_prefixes();
        let local = kernel::underlay_addresses(&self.mirror, self.host.host_ifindex);
        let port = start::vxlan_port(self.compiler.desired());
        for (name, served) in &mut self.served {
            if let Err(error) = served.sync_taken(&taken, &local, port) {
                tracing::error!(%error, interface = name, "the XDP program's addresses");
            }
        }
    }

    /// Ends: pollers first, then the NIC's programs; pods and the host's port stay closed.
    fn stop(self) {
        let Self {
            mut pollers,
            served,
            closed,
            ..
        } = self;
        pollers.stop();
        for (_, served) in served {
            served.leave();
        }
        for (_, attachment) in closed {
            attachment.leave_pinned();
        }
        tracing::info!("stopped");
    }
}

/// Logs warnings and notes about resources.
fn log_remarks(remarks: &Diagnostics) {
    if !remarks.0.is_empty() {
        tracing::warn!("about the resources\n{}", remarks.render(false));
    }
}

/// A handle that wakes the control thread from pollers.
type Wake = Arc<nix::sys::eventfd::EventFd>;
