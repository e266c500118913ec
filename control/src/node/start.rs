//! From a configuration file to a node that serves. Nothing stays attached when a step fails.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use encap::flow_hash::HashKey;
use fastpath::io::xsk::{UmemArea, ethtool, probe};
use fastpath::snapshot::Publisher;
use fastpath::tables::Tables;

use super::host_ports::HostPorts;
use super::neighbours::Neighbours;
use super::{
    Budget, Node, RunError, connections, devices, kernel, offload, pollers, ports, uplink,
};
use crate::api;
use crate::compile::Compiler;
use crate::config::{DaemonConfig, daemon};
use crate::desired::{Desired, PoolType};
use crate::netlink::host_port::HOST_END;
use crate::netlink::{self, HostPort, HostPortConfig, Mirror, Writer};
use crate::xdp::{EndpointConfig, EndpointProgram, FailMode, PinDir};

/// MTU where no uplink says one.
pub(super) const DEFAULT_MTU: u32 = 1500;

/// Sets everything up and starts the pollers.
pub(super) fn start(path: &Path) -> Result<(Node, super::Wake), RunError> {
    let config = DaemonConfig::load(path).map_err(RunError::Config)?;
    connections::check_memory(path, &config.connections)?;
    let name = config
        .node_name_or_host()
        .map_err(|source| RunError::System {
            what: "read the host's name",
            source,
        })?;
    // Before the files are read, which may take a while: probes are told.
    let telemetry = super::telemetry::Telemetry::start(config.listen)?;
    let super::source::Opened {
        source,
        mut desired,
        store,
    } = super::source::open(path, &config, &name)?;
    if config.uplinks.is_empty() {
        let config = path.display();
        tracing::warn!(
            "{config} names no uplink: pods reach each other and the host, and nothing else"
        );
    }
    probe::probe()?;
    let lock = super::leftovers::lock()?;
    let api = api::Server::new(
        api::Bound::bind(&config.control_socket)?,
        api::Limits::default(),
    );

    let mirror = Mirror::new()?;
    let count = config.pollers();
    let mut mtu = 0;
    let mut queues = 0;
    for uplink in &config.uplinks {
        let link = uplink::link(path, uplink, &mirror)?;
        ports::check_mtu(link, config.frames.largest())?;
        mtu = mtu.max(link.mtu);
        if config.offload == daemon::Offload::Kernel {
            uplink::check_to_send(link, count)?;
            queues += count;
            continue;
        }
        for device in devices::of(link, &mirror) {
            queues += uplink::queues(&device.name, uplink, count)?;
        }
    }
    if mtu == 0 {
        mtu = DEFAULT_MTU;
    }
    let budget = Budget::of(&config, queues, mtu);
    tracing::info!("{budget}");
    let shares = vec![budget.per_poller; count as usize];
    let (area, mut parts) = UmemArea::new(&shares, budget.frame_size, false)?;
    for part in &mut parts {
        part.set_extra(budget.extra);
    }

    let mut compiler = Compiler::new(HashKey(random_key()?));
    compiler
        .policy_mut()
        .set_reevaluate(config.reevaluate_established);
    let mut services = super::kubernetes::Services::start(&config, &name, &desired)?;
    services.add_to(&mut desired);
    compiler.set_desired(desired, &mirror)?;
    let mut publisher = Publisher::new(Tables::default());
    let host_ports = HostPorts::read(mirror.links()).map_err(|source| RunError::System {
        what: "read what the host uses ports for",
        source,
    })?;
    // One more: that of what comes by the punt device and is no port's.
    let port_numbers = port_numbers(&config) + 1;
    let connections = connections::connections(&config, port_numbers)?;
    compiler.set_pick_up(config.connections.pick_up);
    let wake = pollers::wake()?;
    let offload = match config.offload {
        daemon::Offload::Off => None,
        daemon::Offload::Kernel => Some(offload::Planned::new(&mut publisher, port_numbers)),
    };
    let (pollers, planned) = pollers::plan(
        parts,
        &config,
        port_numbers,
        &mut publisher,
        &wake,
        &connections,
        offload.as_ref(),
    )?;

    let endpoints = EndpointProgram::load(&endpoint_config(&config))?;
    let writer = Writer::open()?;
    let pins = PinDir::open()?;
    let addresses = tunnel_addresses(compiler.desired());
    // What a daemon before us left keeps the host's packets off the pods, also when we fail.
    let inherited = mirror.link_by_name(HOST_END).is_some();
    let host_config = HostPortConfig {
        mtu,
        queues: count,
        addresses,
    };
    let host = HostPort::ensure(&host_config);
    let host = host.inspect_err(|_| {
        pins.remove_if_empty();
        if !inherited && let Err(error) = HostPort::remove_leftovers() {
            tracing::warn!(%error, "the host's port stays");
        }
    })?;
    // The host's packets come with whole checksums; without this they are completed in software.
    let _ = ethtool::set_tx_checksum(HOST_END, false);
    let mut node = Node {
        name,
        config,
        config_path: path.to_owned(),
        compiler,
        publisher,
        pollers,
        area,
        endpoints,
        offload: None,
        pins,
        pins_error: None,
        punt_error: None,
        served: BTreeMap::new(),
        closed: BTreeMap::new(),
        retiring: HashMap::new(),
        withheld: Vec::new(),
        mirror,
        writer,
        host,
        host_config,
        host_due: None,
        host_looked: Instant::now(),
        host_error: None,
        host_guard_at: Instant::now(),
        host_policy: super::host_policy::HostPolicy::default(),
        guard_at: Instant::now(),
        neighbours: Neighbours::default(),
        host_ports,
        host_ports_due: Instant::now() + super::PORTS_EVERY,
        lingering: super::lingering::Lingering::default(),
        connections,
        inherited: super::keep::Inherited::default(),
        path_mtus: HashMap::new(),
        observation: super::Observation::default(),
        capture: super::Capture::default(),
        source,
        services,
        api,
        telemetry,
        started: Instant::now(),
        packet_memory: budget.bytes(),
        store,
        retry_at: None,
        complaints: HashMap::new(),
        stale: true,
        refused: None,
        _lock: lock,
    };
    if let Err(error) = node.begin(planned, offload) {
        node.abandon(inherited);
        return Err(error);
    }
    Ok((node, wake))
}

/// Numbers for ports: pods', uplinks' and the host's. Twice as many as ports, since those of ports that are gone rest for a while.
pub(super) fn port_numbers(config: &DaemonConfig) -> usize {
    2 * (usize::from(config.max_pods) + config.uplinks.len() + 1)
}

/// How the program of the pods' interfaces is loaded.
pub(super) fn endpoint_config(config: &DaemonConfig) -> EndpointConfig {
    EndpointConfig {
        fail_mode: match config.fail_mode {
            daemon::FailMode::Closed => FailMode::Closed,
            daemon::FailMode::Open => FailMode::Open,
        },
        max_endpoints: port_numbers(config) as u32,
        queues: match config.offload {
            daemon::Offload::Off => config.pollers(),
            daemon::Offload::Kernel => offload::queues(config),
        },
    }
}

impl Node {
    /// Serves what there is, makes the first tables, starts the pollers.
    fn begin(
        &mut self,
        planned: Vec<pollers::Planned>,
        offload: Option<offload::Planned>,
    ) -> Result<(), RunError> {
        // The host's port may be new. Whatever else changed is taken in with all the rest below.
        self.mirror.drain()?;
        self.inherited = super::keep::Inherited::open(&self.config, &self.name);
        self.begin_offload(offload)?;
        self.serve_first()?;
        self.reconcile_ports();
        // Which interfaces are pods' Felix says later.
        if !self.source.is_felix() {
            self.release_strangers();
        }
        self.sync_host();
        let routes: Vec<_> = self
            .mirror
            .routes()
            .map(|route| (route.dst, netlink::hop(&route)))
            .collect();
        self.compiler
            .kernel_routes(routes.iter().map(|(dst, hop)| (*dst, hop.as_ref())))?;
        self.follow_addresses()?;
        self.choose_nat_ports();
        if !self.source.is_felix() {
            self.take_over_connections();
        }
        self.sync_taken();
        self.stale = false;
        self.try_publish()?;
        self.neighbours
            .forget_others(&self.mirror, &mut self.writer);
        self.pollers.start(planned)?;
        self.start_offload()?;
        self.begin_host_policy()
    }

    /// Undoes a start that failed: the uplinks' programs go, but for answers to connections of the run before, which are kept on; pods that were
    /// closed before stay closed, and an inherited host's port stays.
    fn abandon(self, inherited: bool) {
        let Self {
            name,
            config,
            mut compiler,
            mirror,
            connections,
            inherited: kept,
            mut pollers,
            mut served,
            closed,
            mut endpoints,
            mut offload,
            pins,
            host,
            mut writer,
            ..
        } = self;
        if kept.is_any() {
            super::keep::lose_answers(&config, served.values_mut(), offload.as_deref_mut());
        }
        pollers.stop();
        let mut away = None;
        if kept.is_any() {
            let keeper = super::keep::Keeper {
                config: &config,
                node: &name,
                tables: &compiler.tables(&mirror),
                compiler: &compiler,
                connections: &connections,
                inherited: &kept,
                now: pollers.now().unwrap_or_default(),
            };
            away = keeper.keep();
        }
        if let Err(error) = super::neighbours::forget_all(&mut writer) {
            tracing::warn!(%error, "the kernel goes on asking for neighbours");
        }
        if let Some(offload) = &mut offload {
            offload.stop();
            offload.leave(away.as_ref());
        }
        for served in served.into_values() {
            let tcx = offload.as_deref_mut().map(|offload| &mut offload.tcx);
            served.undo(away.as_ref(), &mut endpoints, tcx, &pins);
        }
        for (_, attachment) in closed {
            let tcx = offload.as_deref_mut().map(|offload| &mut offload.tcx);
            super::ports::undo(attachment, &mut endpoints, tcx);
        }
        pins.remove_if_empty();
        if !inherited && let Err(error) = host.remove() {
            tracing::warn!(%error, "the host's port stays");
        }
    }

    /// Takes the node's addresses and the neighbours on uplinks into the routes.
    pub(super) fn follow_addresses(&mut self) -> Result<(), RunError> {
        let own = kernel::own_addresses(&self.mirror);
        let uplinks = self.uplinks();
        let near = kernel::known_neighbours(&self.mirror, &uplinks);
        self.compiler.kernel_addresses(own, near, &self.mirror)?;
        self.stale = true;
        Ok(())
    }
}

/// The addresses of this node's tunnels: the host speaks from them to pods of other nodes.
pub(super) fn tunnel_addresses(desired: &Desired) -> Vec<IpAddr> {
    let Some(node) = desired.local_node() else {
        return Vec::new();
    };
    let v4 = [node.vxlan_tunnel_v4, node.ipip_tunnel_v4];
    let mut all: Vec<_> = v4.into_iter().flatten().map(IpAddr::from).collect();
    all.extend(node.vxlan_tunnel_v6.map(IpAddr::from));
    all.sort_unstable();
    all.dedup();
    all
}

/// The VXLAN port, when a pool uses VXLAN.
pub(super) fn vxlan_port(desired: &Desired) -> Option<u16> {
    let used = desired
        .pools
        .iter()
        .any(|pool| pool.kind() == PoolType::Vxlan);
    desired
        .felix
        .vxlan_enabled
        .unwrap_or(used)
        .then_some(desired.felix.vxlan_port)
}

/// Sixteen random bytes.
pub(super) fn random_key() -> Result<[u64; 2], RunError> {
    use std::io::Read as _;
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|source| RunError::System {
        what: "read /dev/urandom",
        source,
    })?;
    let word = |range: std::ops::Range<usize>| {
        bytes[range]
            .iter()
            .fold(0, |word, &byte| word << 8 | u64::from(byte))
    };
    Ok([word(0..8), word(8..16)])
}
