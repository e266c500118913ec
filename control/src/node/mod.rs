//! The daemon: owns the node's ports, pollers and tables, and follows files, kernel and pods.
//!
//! One thread, one loop over poll(2). It never touches a packet; pollers never wait for it. What takes long, large files and
//! nft, and what waits for others, a cluster's API server, has threads of its own.

mod answer;
mod budget;
mod capture;
mod checksystem;
mod connections;
mod devices;
mod error;
mod events;
mod felix;
mod files;
mod flows;
mod guard;
mod health;
mod host;
mod host_counts;
mod host_policy;
mod host_ports;
mod host_protocols;
mod keep;
mod kernel;
mod kubernetes;
mod leftovers;
mod lingering;
mod neighbours;
mod observe;
mod offload;
mod perf;
mod pollers;
mod ports;
mod rules;
mod services;
mod source;
mod start;
mod systemd;
mod tally;
mod telemetry;
mod uplink;
mod vitals;

pub use budget::Budget;
pub use checksystem::{Asked, Finding, State, checksystem};
pub use error::RunError;
pub(crate) use host_ports::HostPorts;
pub use leftovers::{Cleaned, cleanup};

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastpath::batch::PeerId;
use fastpath::connections::Connections;
use fastpath::io::xsk::UmemArea;
use fastpath::port::PortId;
use fastpath::snapshot::Publisher;
use fastpath::tables::Tables;

use crate::api;
use crate::compile::{CompileError, Compiler, FibError};
use crate::config::{self, DaemonConfig, Diagnostics, Loader, daemon::FailMode, watch::Changed};
use crate::desired::Desired;
use crate::netlink::{HostPort, HostPortConfig, Mirror, Writer};
use crate::nft::Nft;
use crate::xdp::{EndpointAttachment, EndpointProgram, PinDir};
use capture::Capture;
use files::Read;
use lingering::Lingering;
use neighbours::Neighbours;
use observe::Observation;
use pollers::Pollers;
use ports::Served;
use source::Source;
use telemetry::Telemetry;

/// Where the daemon's own file is unless somebody says another.
pub const DEFAULT_CONFIG: &str = "/etc/caracal/caracal.yaml";

/// After a failure to serve a port it is tried again this much later.
const RETRY: Duration = Duration::from_secs(1);

/// What the host uses ports for is looked at this often.
const PORTS_EVERY: Duration = Duration::from_secs(10);

/// For how long a narrow path of a tunnel is remembered (RFC 1191 section 6.3).
const PATH_MTU_LIVES: Duration = Duration::from_mins(10);

/// A node that runs.
pub struct Node {
    name: String,
    config: DaemonConfig,
    /// The file that it is from.
    config_path: PathBuf,
    compiler: Compiler,
    publisher: Publisher<Tables>,
    pollers: Pollers,
    area: UmemArea,
    endpoints: EndpointProgram,
    /// What flows in the kernel take, if there are to be any.
    offload: Option<Box<offload::Offload>>,
    pins: PinDir,
    /// Why pods' programs are not pinned.
    pins_error: Option<String>,
    /// Why the punt device is not there.
    punt_error: Option<String>,
    /// Ports with sockets, by interface name.
    served: BTreeMap<String, Served>,
    /// Pods' interfaces without sockets, and so closed, by index: no endpoint is known for them, or sockets are not to be had.
    closed: BTreeMap<u32, EndpointAttachment>,
    /// Numbers of ports that are gone, and how many pollers have yet to let go.
    retiring: HashMap<PortId, ports::Retiring>,
    /// Numbers that all pollers have let go, and that tables in force may name.
    withheld: Vec<PortId>,
    mirror: Mirror,
    writer: Writer,
    host: HostPort,
    /// What the host's port is made by; its addresses are as at start.
    host_config: HostPortConfig,
    /// The host's port is looked after then.
    host_due: Option<Instant>,
    /// It was looked after last then.
    host_looked: Instant,
    /// What the kernel said when it could not be.
    host_error: Option<String>,
    /// Its rules and routes are looked at then.
    host_guard_at: Instant,
    /// Policy on the host's own traffic.
    host_policy: host_policy::HostPolicy,
    /// Attachments are looked at then.
    guard_at: Instant,
    neighbours: Neighbours,
    /// What the host uses ports for, and when that is looked at again.
    host_ports: HostPorts,
    host_ports_due: Instant,
    /// Ports of connections from before those were chosen that are given now.
    lingering: Lingering,
    connections: Arc<Connections>,
    /// Those of the run before.
    inherited: keep::Inherited,
    /// When each tunnel was last told that its path is narrower than the uplink; by node, and whether it is over IPv6.
    path_mtus: HashMap<(PeerId, bool), Instant>,
    /// What was told of connections.
    observation: Observation,
    capture: Capture,
    source: Source,
    services: kubernetes::Services,
    api: api::Server,
    telemetry: Telemetry,
    started: Instant,
    /// Bytes set aside for packets.
    packet_memory: u64,
    store: Store,
    /// Ports that could not be served are tried again then.
    retry_at: Option<Instant>,
    /// What was said about each interface that can not be served, so that it is said once.
    complaints: HashMap<String, String>,
    /// Whether tables must be made anew.
    stale: bool,
    /// Why those in force are older than what is known.
    refused: Option<String>,
    /// Keeps a second daemon out of this network namespace.
    _lock: leftovers::Lock,
}

/// What is known of the resources' files.
struct Store {
    /// Resources in force.
    resources: usize,
    /// Since when.
    loaded: Instant,
    /// Warnings and notes about them.
    remarks: usize,
    /// Those as they were logged last.
    said: String,
    /// What is wrong with the files as they are now.
    error: Option<String>,
}

impl Store {
    fn new(resources: usize, remarks: &Diagnostics) -> Self {
        Self {
            resources,
            loaded: Instant::now(),
            remarks: remarks.0.len(),
            said: remarks.render(false),
            error: None,
        }
    }
}

/// What the files say.
struct Loaded {
    desired: Desired,
    /// How many resources there are.
    resources: usize,
    remarks: Diagnostics,
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`]; then nothing is attached that was not before.
pub fn run(config: &Path) -> Result<(), RunError> {
    let signals = events::block_signals()?;
    let (mut node, wake) = start::start(config)?;
    node.tell_ready();
    tracing::info!(node = node.name, "ready");
    let outcome = node.serve(&signals, &wake);
    node.stop(outcome.is_ok());
    outcome
}

impl Node {
    /// Loads the resources' directory, in which something has changed. The running state is untouched until the result is
    /// applied.
    fn load(
        loader: &mut Loader,
        changed: &Changed,
        config: &DaemonConfig,
        node: &str,
    ) -> Result<Loaded, Diagnostics> {
        let cluster = match changed {
            Changed::Names(names) => loader.load_changed(names)?,
            Changed::Anything => loader.load()?,
        };
        let sorted = |errors| {
            let mut all = Diagnostics(errors);
            all.sort();
            all
        };
        let taken = config::check::uplinks_are_no_pods(&cluster.base, node, &config.uplinks);
        if !taken.is_empty() {
            return Err(sorted(taken));
        }
        let how = config.host_endpoints;
        if how == config::HostEndpoints::Enforced
            && let Err(missing) = Nft::find()
        {
            let without =
                config::HostEndpoints::errors_without(&missing.to_string(), &cluster, node);
            if !without.is_empty() {
                return Err(sorted(without));
            }
        }
        let desired = config::compute_with(&cluster, node, how).map_err(sorted)?;
        let uplinks = config.uplinks.iter();
        let uplinks: Vec<_> = uplinks
            .map(|uplink| uplink.interface.value.as_str())
            .collect();
        let warnings = how.warnings(&cluster, node, Some(&uplinks));
        let mut remarks = cluster.base.remarks;
        remarks.0.extend(warnings);
        remarks.sort();
        Ok(Loaded {
            desired,
            resources: cluster.len,
            remarks,
        })
    }

    /// The daemon's own file is taken at start only. Says what the next start would make of it, if that is another thing.
    fn check_config(&self) {
        let path = self.config_path.display();
        match DaemonConfig::load(&self.config_path) {
            Ok(config) if config == self.config => {}
            Ok(_) => tracing::warn!("{path} has changed; that takes effect with the next start"),
            Err(diagnostics) => {
                let error = diagnostics.render(false);
                tracing::error!("bad {path}; the next start would fail\n{error}");
            }
        }
    }

    /// Has the files read anew.
    fn reload(&mut self) {
        match &mut self.source {
            Source::Files(files) => files.ask(Changed::Anything, Instant::now()),
            Source::Felix(_) => tracing::info!("no resources are read: they come from Felix"),
        }
    }

    /// Takes what was read of files. Bad files change nothing.
    fn take_files(&mut self, read: Read) {
        match read.outcome {
            Ok(Loaded {
                mut desired,
                resources,
                remarks,
            }) => {
                self.services.add_to(&mut desired);
                tracing::info!(
                    endpoints = desired.endpoints.len(),
                    nodes = desired.nodes.len(),
                    "resources loaded"
                );
                if remarks.render(false) != self.store.said {
                    log_remarks(&remarks);
                }
                if desired == *self.compiler.desired() {
                    self.compiler.follow_places(desired);
                    self.store = Store::new(resources, &remarks);
                    return;
                }
                self.telemetry.known_since(read.since);
                match self.put_in_force(desired) {
                    Ok(()) => self.store = Store::new(resources, &remarks),
                    Err(error) => {
                        tracing::error!(%error, "resources refused; the state before stays in force");
                        self.store.error = Some(error.to_string());
                        self.telemetry.refusals += 1;
                    }
                }
            }
            Err(diagnostics) => {
                let error = diagnostics.render(false);
                if read.is_retry && self.store.error.as_ref() == Some(&error) {
                    return;
                }
                tracing::error!("bad resources; the state before stays in force\n{error}");
                self.store.error = Some(error);
                self.telemetry.refusals += 1;
            }
        }
    }

    /// Has the node do what is wanted now. What does not fit changes nothing.
    fn put_in_force(&mut self, desired: Desired) -> Result<(), CompileError> {
        let is_all_policy = self.compiler.desired().is_same_but_policy(&desired);
        self.compiler.set_desired(desired, &self.mirror)?;
        self.stale = true;
        if !is_all_policy {
            self.choose_nat_ports();
            self.reconcile_ports();
            if self.inherited.is_waiting() {
                // Of Felix's first state. Before anything else leads packets to these ports.
                self.take_over_connections();
                self.publish();
            }
            self.sync_host();
            self.sync_taken();
        }
        Ok(())
    }

    /// Makes tables of what is known and publishes them, if anything changed. What does not fit changes nothing, and is said once.
    fn publish(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let refused = self.try_publish().err().map(|error| error.to_string());
        if refused.is_none() {
            self.telemetry.published(Instant::now());
        }
        if let Some(error) = refused.as_ref().filter(|_| refused != self.refused) {
            tracing::error!(%error, "routes refused; the tables before stay in force");
            self.telemetry.refusals += 1;
        }
        self.refused = refused;
    }

    fn try_publish(&mut self) -> Result<(), FibError> {
        self.compiler.refresh_routes(&self.mirror)?;
        self.neighbours.want(
            self.compiler.wanted_neighbours(&self.mirror),
            &self.mirror,
            &mut self.writer,
        );
        let tables = self.compiler.tables(&self.mirror);
        if let Some(offload) = &mut self.offload {
            offload.follow(&tables, &self.compiler, &self.mirror);
        }
        self.publisher.publish(tables);
        self.pollers.wake();
        if let Some(offload) = &self.offload {
            offload.orders.call();
        }
        for port in std::mem::take(&mut self.withheld) {
            // Their sockets are gone.
            self.retire(port, None);
        }
        Ok(())
    }

    /// Tells the uplinks' XDP programs what is ours.
    pub(super) fn sync_taken(&mut self) {
        let taken = self.compiler.taken_prefixes();
        let local = kernel::underlay_addresses(&self.mirror, self.host.host_ifindex);
        let port = start::vxlan_port(self.compiler.desired());
        let nat = self.compiler.nat_addresses(&self.mirror);
        let mut nat_ports = host_ports::bits(self.compiler.nat_ports());
        self.lingering.add_to(&mut nat_ports);
        let away = self.inherited.away(&self.config);
        for (name, served) in &mut self.served {
            let done = served.sync_taken(&taken, &local, port);
            let done = done.and_then(|()| match &away {
                Some(away) => served.set_away(Some(away)),
                None => served
                    .sync_nat(&nat, &nat_ports)
                    .and_then(|()| served.set_away(None)),
            });
            if let Err(error) = done {
                tracing::error!(%error, interface = name, "the XDP program's addresses");
            }
        }
        if let Some(offload) = &mut self.offload {
            offload.sync_taken(&taken, &local, port, (&nat, &nat_ports), away.as_ref());
        }
    }

    /// Sees what the host uses ports for, now and then: what it has come to listen on is no longer ours to use.
    fn look_after_ports(&mut self, now: Instant) {
        if now < self.host_ports_due {
            return;
        }
        self.host_ports_due = now + PORTS_EVERY;
        if self.lingering.release(&self.connections) {
            self.sync_taken();
        }
        match HostPorts::read(self.mirror.links()) {
            Ok(ports) if ports != self.host_ports => {
                self.host_ports = ports;
                self.choose_nat_ports();
                self.stale = true;
                self.sync_taken();
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the host's ports"),
        }
    }

    /// Tries wider paths again that have not been narrow of late (RFC 1191 section 6.3).
    fn forget_path_mtus(&mut self, now: Instant) {
        let old: Vec<_> = self
            .path_mtus
            .iter()
            .filter(|(_, told)| now.duration_since(**told) >= PATH_MTU_LIVES)
            .map(|(path, _)| *path)
            .collect();
        for path in old {
            self.path_mtus.remove(&path);
            self.compiler.forget_path_mtu(path);
            self.stale = true;
        }
    }

    /// Gives natOutgoing the ports that the host does not use.
    fn choose_nat_ports(&mut self) {
        let felix = &self.compiler.desired().felix;
        let ports = self.host_ports.left_for_nat(felix);
        if ports != **self.compiler.nat_ports() {
            if ports.tcp.is_empty() || ports.udp.is_empty() {
                tracing::warn!("natPortRange leaves no port that the host does not use");
            }
            let before = host_ports::bits(self.compiler.nat_ports());
            self.lingering.replaced(&before, &host_ports::bits(&ports));
            self.compiler.set_nat_ports(Arc::new(ports));
        }
    }

    /// Ends: pollers first, then the NIC's programs; pods and the host's port stay closed, unless they are to be open. After an
    /// `orderly` end the connections are kept for the next start.
    fn stop(self, orderly: bool) {
        let Self {
            name,
            mut compiler,
            mirror,
            connections,
            inherited,
            mut pollers,
            pins,
            mut served,
            closed,
            mut host,
            config,
            mut writer,
            telemetry,
            mut offload,
            ..
        } = self;
        telemetry.stopping();
        // Nobody is to be told that all is well, or that pollers stand.
        drop(telemetry);
        // Their sockets go with them.
        if let Some(offload) = &mut offload {
            offload.stop();
        }
        if orderly {
            keep::lose_answers(&config, served.values_mut(), offload.as_deref_mut());
        }
        pollers.stop();
        let mut away = None;
        if orderly {
            let keeper = keep::Keeper {
                config: &config,
                node: &name,
                tables: &compiler.tables(&mirror),
                compiler: &compiler,
                connections: &connections,
                inherited: &inherited,
                now: pollers.now().unwrap_or_default(),
            };
            away = keeper.keep();
        }
        if let Err(error) = neighbours::forget_all(&mut writer) {
            tracing::warn!(%error, "the kernel goes on asking for neighbours");
        }
        if let Some(offload) = &mut offload {
            offload.leave(away.as_ref());
        }
        for served in served.into_values() {
            served.leave(away.as_ref(), &pins);
        }
        for (_, attachment) in closed {
            attachment.leave_pinned();
        }
        // The kernel forwards what pods send; the answers must not end at the host's port.
        if config.fail_mode == FailMode::Open
            && let Err(error) = host.remove_rules()
        {
            tracing::error!(%error, "the kernel does not forward to pods; `caracal cleanup` mends that");
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
