//! `caracal.yaml`: what Calico does not say. One small file; everything in it has a default.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decode::{self, Context, Fields};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::hosts::HostEndpoints;
use super::kubernetes::{self, Kubernetes};
use super::listen::Listen;
use super::load;
use super::source::{Located, Source, Span};
use super::yaml::{self, Node};

/// The daemon's own settings. [`DaemonConfig::default`] is what an empty file gives.
#[derive(Clone, Debug, PartialEq)]
pub struct DaemonConfig {
    /// `nodeName`: our Node resource. Default: the host's name, in lower case as Calico has it.
    pub node_name: Option<Located<String>>,
    /// `resources`: directory of `projectcalico.org/v3` files. Default: `conf.d` beside the file; a relative
    /// path counts from the file's directory.
    pub resources: PathBuf,
    /// `source`: where resources come from. Default: `files`.
    pub source: UpdateSource,
    /// `felixSocket`: where Felix's driver finds the daemon, with `source: felix`. Default: `/var/run/calico/felix-dataplane.sock`.
    pub felix_socket: PathBuf,
    /// `mtuFile`: where Calico's CNI plugin is told the MTU of pods, with `source: felix`. Default: `/var/lib/calico/mtu`.
    pub mtu_file: PathBuf,
    /// `kubernetes`: the API server that services come from, with either source. Default: none.
    pub kubernetes: Option<Kubernetes>,
    /// `uplinks`: interfaces to other nodes and the world. Default: none (local pods only).
    pub uplinks: Vec<Uplink>,
    /// `pollers.cores`: one poller on each of these CPUs. Default: none, one poller that runs anywhere.
    pub cores: Vec<Located<u16>>,
    /// `pollMode`. Default: `adaptive`.
    pub poll_mode: PollMode,
    /// `failMode`. Default: `closed`.
    pub fail_mode: FailMode,
    /// `offload`: who moves the packets of connections that are under way. Default: `off`.
    pub offload: Offload,
    /// `maxPods`: pods that the frame budget must hold. Default: 250, 1 to 4096.
    pub max_pods: u16,
    /// `frames`: memory for packets.
    pub frames: Frames,
    /// `connections`: the table of connections.
    pub connections: Connections,
    /// `reevaluateEstablished`: whether connections that are under way are judged again when policy or routes change.
    /// Default: false, as with Calico.
    pub reevaluate_established: bool,
    /// `hostEndpoints`. Default: `refuse`.
    pub host_endpoints: HostEndpoints,
    /// `controlSocket`. Default: `/run/caracal/control.sock`.
    pub control_socket: PathBuf,
    /// `metrics` and `health`: where they are served.
    pub listen: Listen,
    /// `ruleMetrics`: whether metrics count what each rule of policy has decided. Default: false, since each rule is a series, and
    /// counting looks at every connection.
    pub rule_metrics: bool,
}

/// Where resources come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UpdateSource {
    /// `files`: a directory of resources.
    #[default]
    Files,
    /// `felix`: Calico's agent, whose dataplane driver the daemon is.
    Felix,
}

impl UpdateSource {
    /// As they are written.
    pub const WORDS: [(&'static str, Self); 2] = [("files", Self::Files), ("felix", Self::Felix)];
}

/// An interface to other nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Uplink {
    /// `interface`: its name.
    pub interface: Located<String>,
    /// `queues`: how many of its queues are served. Default: all that it has.
    pub queues: Option<Located<u16>>,
    /// `mode`. Default: `auto`.
    pub mode: UplinkMode,
}

/// How an AF_XDP socket is bound to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UplinkMode {
    /// `auto`: zero-copy where the driver has it, copy otherwise.
    #[default]
    Auto,
    /// `copy`: never zero-copy.
    Copy,
    /// `zero-copy`: nothing else will do.
    ZeroCopy,
    /// `generic`: the kernel's generic XDP, for drivers without XDP. Slow.
    Generic,
}

impl UplinkMode {
    /// As they are written.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("copy", Self::Copy),
        ("zero-copy", Self::ZeroCopy),
        ("generic", Self::Generic),
    ];
}

/// What pollers do when no packet comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PollMode {
    /// `adaptive`: spin under load, sleep when idle.
    #[default]
    Adaptive,
    /// `busy`: always spin.
    Busy,
    /// `interrupt`: always sleep until packets come.
    Interrupt,
}

impl PollMode {
    /// As they are written.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("adaptive", Self::Adaptive),
        ("busy", Self::Busy),
        ("interrupt", Self::Interrupt),
    ];
}

/// What happens to pods' packets while no daemon serves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FailMode {
    /// `closed`: they are dropped.
    #[default]
    Closed,
    /// `open`: the kernel forwards them, without policy.
    Open,
}

impl FailMode {
    /// As they are written.
    pub const WORDS: [(&'static str, Self); 2] = [("closed", Self::Closed), ("open", Self::Open)];
}

/// Who moves the packets of connections that are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Offload {
    /// `off`: pollers, all of them.
    #[default]
    Off,
    /// `kernel`: programs on the devices repeat what pollers decided; pods and uplinks carry no XDP program.
    Kernel,
}

impl Offload {
    /// As they are written.
    pub const WORDS: [(&'static str, Self); 2] = [("off", Self::Off), ("kernel", Self::Kernel)];
}

/// The table of connections. Its memory is taken at start: 65 bytes an IPv4 entry, 129 an IPv6 entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// `connections.entries`: entries for IPv4, two a connection. Default: 1,048,576.
    pub entries: u32,
    /// `connections.entriesV6`: the same for IPv6. Default: 262,144.
    pub entries_v6: u32,
    /// `connections.perEndpointPercent`: the part of the table that one pod may fill. Default: 25.
    pub per_endpoint_percent: u32,
    /// `connections.pickUp`: whether connections that are met in their middle are taken for established, as after a
    /// restart. Default: true.
    pub pick_up: bool,
    /// `connections.keep`: whether they are kept over an orderly stop for the next start. Default: true.
    pub keep: bool,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            entries: 1 << 20,
            entries_v6: 1 << 18,
            per_endpoint_percent: 25,
            pick_up: true,
            keep: true,
        }
    }
}

impl Connections {
    fn decode(&mut self, fields: &mut Fields<'_>, cx: &mut Context<'_>) {
        for (name, entries) in [
            ("entries", &mut self.entries),
            ("entriesV6", &mut self.entries_v6),
        ] {
            if let Some(given) = fields.get(name, cx, decode::number(1024..=1_073_741_824u32)) {
                if given.value.is_power_of_two() {
                    *entries = given.value;
                } else {
                    let label = format!(
                        "a power of two, such as {}",
                        given.value.next_power_of_two()
                    );
                    cx.error(&given.at, "bad number of entries", label);
                }
            }
        }
        if let Some(given) = fields.get("perEndpointPercent", cx, decode::number(1..=100u32)) {
            self.per_endpoint_percent = given.value;
        }
        if let Some(given) = fields.get("pickUp", cx, decode::boolean) {
            self.pick_up = given.value;
        }
        if let Some(given) = fields.get("keep", cx, decode::boolean) {
            self.keep = given.value;
        }
    }
}

/// Memory for packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// `frames.total`: frames in all. Default: computed from `maxPods`, queues and pollers.
    pub total: Option<u32>,
    /// `frames.size`: bytes a frame, 2048 or 4096. Default: 2048, or 4096 where an MTU needs it.
    pub size: Option<u32>,
    /// `frames.uplinkRing`: descriptors in each ring of an uplink's queue. Default: 2048.
    pub uplink_ring: u32,
    /// `frames.podRing`: frames that a pod's queue has to receive while it is quiet, and descriptors in its rings to send. Default: 128:
    /// each frame costs the kernel 128 bytes for each pod.
    pub pod_ring: u32,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            total: None,
            size: None,
            uplink_ring: 2048,
            pod_ring: 128,
        }
    }
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            node_name: None,
            resources: PathBuf::from("conf.d"),
            source: UpdateSource::default(),
            felix_socket: PathBuf::from(crate::felix::DEFAULT_SOCKET),
            mtu_file: PathBuf::from(crate::felix::DEFAULT_MTU_FILE),
            kubernetes: None,
            uplinks: Vec::new(),
            cores: Vec::new(),
            poll_mode: PollMode::default(),
            fail_mode: FailMode::default(),
            offload: Offload::default(),
            max_pods: 250,
            frames: Frames::default(),
            connections: Connections::default(),
            reevaluate_established: false,
            host_endpoints: HostEndpoints::default(),
            control_socket: PathBuf::from("/run/caracal/control.sock"),
            listen: Listen::default(),
            rule_metrics: false,
        }
    }
}

impl DaemonConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        let source = load::read(path).map_err(|error| Diagnostics(vec![*error]))?;
        Self::parse(&source)
    }

    /// Reads a text. Relative paths in it count from the directory of the text's name.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn parse(source: &Arc<Source>) -> Result<Self, Diagnostics> {
        let mut diagnostics = Diagnostics::default();
        let documents = yaml::parse(source).map_err(|error| Diagnostics(vec![*error]))?;
        let mut cx = Context {
            diagnostics: &mut diagnostics,
            resource: String::new(),
        };
        let mut config = Self::default();
        if let Some(second) = documents.get(1) {
            cx.error(
                &second.at,
                "this file has one document only",
                "a second one starts here",
            );
        }
        if let Some(document) = documents.first() {
            config.decode(document, &mut cx);
        }
        if diagnostics.has_errors() {
            diagnostics.sort();
            return Err(diagnostics);
        }
        let beside = source.path.parent().unwrap_or(Path::new(""));
        config.resources = beside.join(&config.resources);
        Ok(config)
    }

    /// How many pollers there are, at least one.
    pub fn pollers(&self) -> u32 {
        self.cores.len().max(1) as u32
    }

    /// The name of our node: `nodeName`, or the host's.
    ///
    /// # Errors
    /// The host's name cannot be read.
    pub fn node_name_or_host(&self) -> std::io::Result<String> {
        if let Some(name) = &self.node_name {
            return Ok(name.value.clone());
        }
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
        Ok(name.trim().to_lowercase())
    }

    fn decode(&mut self, node: &Node, cx: &mut Context<'_>) {
        let Some(mut fields) = Fields::open(node, "caracal.yaml", cx) else {
            return;
        };
        self.node_name = fields.get("nodeName", cx, decode::name);
        if let Some(path) = fields.get("resources", cx, decode::name) {
            self.resources = PathBuf::from(path.value);
        }
        let sources = decode::choice(&UpdateSource::WORDS, true);
        if let Some(source) = fields.get("source", cx, sources) {
            self.source = source.value;
        }
        if let Some(path) = fields.get("felixSocket", cx, absolute_path) {
            self.felix_socket = path.value;
        }
        if let Some(path) = fields.get("mtuFile", cx, absolute_path) {
            self.mtu_file = path.value;
        }
        let given = fields.take("kubernetes");
        self.kubernetes = given.and_then(|given| kubernetes::decode(given, cx));
        if let Some(uplinks) = fields.get("uplinks", cx, decode::list(uplink)) {
            self.uplinks = uplinks
                .value
                .into_iter()
                .map(|uplink| uplink.value)
                .collect();
            uplinks_are_unique(&self.uplinks, cx);
        }
        if let Some(pollers) = fields.take("pollers")
            && let Some(mut pollers) = Fields::open(pollers, "pollers", cx)
        {
            if let Some(cores) = pollers.get("cores", cx, decode::list(decode::number(0..=4095u16)))
            {
                self.cores = cores.value;
                cores_are_unique(&self.cores, cx);
            }
            pollers.finish(cx);
        }
        let poll_modes = decode::choice(&PollMode::WORDS, true);
        if let Some(mode) = fields.get("pollMode", cx, poll_modes) {
            self.poll_mode = mode.value;
        }
        let fail_modes = decode::choice(&FailMode::WORDS, true);
        if let Some(mode) = fields.get("failMode", cx, fail_modes) {
            self.fail_mode = mode.value;
        }
        let offloads = decode::choice(&Offload::WORDS, true);
        if let Some(given) = fields.get("offload", cx, offloads) {
            self.offload = given.value;
            if self.offload == Offload::Kernel {
                uplinks_need_no_xdp(&self.uplinks, &given.at, cx);
            }
        }
        if let Some(pods) = fields.get("maxPods", cx, decode::number(1..=4096u16)) {
            self.max_pods = pods.value;
        }
        if let Some(frames) = fields.take("frames")
            && let Some(mut frames) = Fields::open(frames, "frames", cx)
        {
            self.frames.decode(&mut frames, cx);
            frames.finish(cx);
        }
        if let Some(connections) = fields.take("connections")
            && let Some(mut connections) = Fields::open(connections, "connections", cx)
        {
            self.connections.decode(&mut connections, cx);
            connections.finish(cx);
        }
        if let Some(given) = fields.get("reevaluateEstablished", cx, decode::boolean) {
            self.reevaluate_established = given.value;
        }
        let choice = decode::choice(&HostEndpoints::WORDS, true);
        if let Some(given) = fields.get("hostEndpoints", cx, choice) {
            self.host_endpoints = given.value;
        }
        if let Some(path) = fields.get("controlSocket", cx, absolute_path) {
            self.control_socket = path.value;
        }
        self.listen.decode(&mut fields, cx);
        if let Some(given) = fields.get("ruleMetrics", cx, decode::boolean) {
            self.rule_metrics = given.value;
        }
        fields.finish(cx);
    }
}

impl Frames {
    /// Bytes of the largest frame that there may be.
    pub fn largest(&self) -> u32 {
        self.size.unwrap_or(4096)
    }

    fn decode(&mut self, fields: &mut Fields<'_>, cx: &mut Context<'_>) {
        self.total = fields
            .get("total", cx, decode::number(1024..=16_777_216u32))
            .map(|total| total.value);
        if let Some(size) = fields.get("size", cx, decode::number(2048..=4096u32)) {
            if matches!(size.value, 2048 | 4096) {
                self.size = Some(size.value);
            } else {
                cx.error(&size.at, "bad frame size", "must be 2048 or 4096");
            }
        }
        for (name, ring) in [
            ("uplinkRing", &mut self.uplink_ring),
            ("podRing", &mut self.pod_ring),
        ] {
            if let Some(given) = fields.get(name, cx, decode::number(64..=32768u32)) {
                if given.value.is_power_of_two() {
                    *ring = given.value;
                } else {
                    let label = format!(
                        "a power of two, such as {}",
                        given.value.next_power_of_two()
                    );
                    cx.error(&given.at, "bad ring size", label);
                }
            }
        }
    }
}

fn uplink(node: &Node, cx: &mut Context<'_>) -> Option<Uplink> {
    let mut fields = Fields::open(node, "an uplink", cx)?;
    let interface = fields.require("interface", cx, decode::foreign_interface);
    let queues = fields.get("queues", cx, decode::number(1..=1024u16));
    let mode = fields.get("mode", cx, decode::choice(&UplinkMode::WORDS, true));
    fields.finish(cx);
    Some(Uplink {
        interface: interface?,
        queues,
        mode: mode.map_or(UplinkMode::Auto, |mode| mode.value),
    })
}

fn uplinks_are_unique(uplinks: &[Uplink], cx: &mut Context<'_>) {
    for (index, uplink) in uplinks.iter().enumerate() {
        let first = uplinks
            .iter()
            .take(index)
            .find(|other| other.interface == uplink.interface);
        if let Some(first) = first {
            cx.report(
                Diagnostic::error(format!("uplink {} is given twice", uplink.interface.value))
                    .at(&uplink.interface.at, "again here")
                    .see("first given here", &first.interface.at),
            );
        }
    }
}

/// With flows in the kernel uplinks are served without XDP: what asks for a way of it can not be had.
fn uplinks_need_no_xdp(uplinks: &[Uplink], at: &Span, cx: &mut Context<'_>) {
    for uplink in uplinks {
        let mode = match uplink.mode {
            UplinkMode::Auto | UplinkMode::Copy => continue,
            UplinkMode::ZeroCopy => "zero-copy",
            UplinkMode::Generic => "generic",
        };
        let message = format!(
            "uplink {} can not have `mode: {mode}` with `offload: kernel`",
            uplink.interface.value
        );
        cx.report(
            Diagnostic::error(message)
                .at(at, "with this uplinks carry no XDP")
                .see("the uplink", &uplink.interface.at)
                .help("leave the uplink's mode out, or set `offload: off`"),
        );
    }
}

fn cores_are_unique(cores: &[Located<u16>], cx: &mut Context<'_>) {
    for (index, core) in cores.iter().enumerate() {
        if let Some(first) = cores.iter().take(index).find(|other| *other == core) {
            cx.report(
                Diagnostic::error(format!("core {} is given twice", core.value))
                    .at(&core.at, "two pollers on one core would starve each other")
                    .see("first given here", &first.at),
            );
        }
    }
}

pub(super) fn absolute_path(node: &Node, cx: &mut Context<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(decode::name(node, cx)?);
    if path.is_absolute() {
        return Some(path);
    }
    cx.error(&node.at, "a relative path", "must start with `/`");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DaemonConfig, Diagnostics> {
        DaemonConfig::parse(&Source::new("/etc/caracal/caracal.yaml", text))
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        for text in ["", "# nothing\n", "{}\n"] {
            let config = parse(text).unwrap();
            assert_eq!(config.resources, Path::new("/etc/caracal/conf.d"));
            let expected = DaemonConfig {
                resources: config.resources.clone(),
                ..DaemonConfig::default()
            };
            assert_eq!(config, expected);
        }
    }

    #[test]
    fn the_committed_example_shows_the_defaults() {
        let text = include_str!("../../examples/caracal.yaml");
        let config = parse(text).unwrap();
        assert_eq!(config.uplinks.len(), 1);
        assert_eq!(config.uplinks[0].mode, UplinkMode::Auto);
        assert_eq!(config.max_pods, DaemonConfig::default().max_pods);
        assert_eq!(config.frames, Frames::default());
        // Each commented-out line is a setting too: uncommented, the file still holds.
        let all: String = text
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n")
            .collect();
        let all = parse(&all).unwrap();
        assert_eq!(
            all.node_name.as_ref().map(|name| name.value.as_str()),
            Some("worker1")
        );
        assert_eq!(all.cores.len(), 2);
        assert_eq!(all.control_socket, DaemonConfig::default().control_socket);
        assert_eq!(all.listen, DaemonConfig::default().listen);
        assert_eq!(all.felix_socket, DaemonConfig::default().felix_socket);
        assert_eq!(all.mtu_file, DaemonConfig::default().mtu_file);
        assert!(all.kubernetes.is_some_and(|it| it.server.is_some()));
    }

    #[test]
    fn our_own_interfaces_are_no_uplinks() {
        for name in ["caracal0", "caracal0-dp"] {
            let errors = parse(&format!("uplinks:\n  - interface: {name}\n")).unwrap_err();
            let said = errors.render(false);
            assert_eq!(errors.0.len(), 1, "{said}");
            assert!(said.contains("caracal.yaml:2:16"), "{said}");
            assert!(said.contains("is Caracal's own"), "{said}");
        }
    }

    #[test]
    fn every_field_is_read() {
        let config = parse(
            "nodeName: n\nresources: /r\nuplinks: [{interface: eth0, queues: 3, mode: zero-copy}]\n\
             pollers: {cores: [2, 3]}\npollMode: busy\nfailMode: open\nmaxPods: 10\n\
             frames: {total: 4096, size: 4096, uplinkRing: 512, podRing: 64}\n\
             connections: {entries: 4096, entriesV6: 1024, perEndpointPercent: 50, pickUp: false, keep: false}\n\
             hostEndpoints: forwarded-only\ncontrolSocket: /s\nsource: felix\nfelixSocket: /f\nmtuFile: /m\n\
             metrics: off\nruleMetrics: true\n",
        )
        .unwrap();
        assert_eq!(config.node_name_or_host().unwrap(), "n");
        assert_eq!(config.resources, Path::new("/r"));
        assert_eq!(config.uplinks[0].queues.as_ref().unwrap().value, 3);
        assert_eq!(config.uplinks[0].mode, UplinkMode::ZeroCopy);
        assert_eq!(
            config
                .cores
                .iter()
                .map(|core| core.value)
                .collect::<Vec<_>>(),
            [2, 3]
        );
        assert_eq!(
            (config.poll_mode, config.fail_mode),
            (PollMode::Busy, FailMode::Open)
        );
        assert_eq!(config.max_pods, 10);
        let frames = Frames {
            total: Some(4096),
            size: Some(4096),
            uplink_ring: 512,
            pod_ring: 64,
        };
        assert_eq!(config.frames, frames);
        let connections = Connections {
            entries: 4096,
            entries_v6: 1024,
            per_endpoint_percent: 50,
            pick_up: false,
            keep: false,
        };
        assert_eq!(config.connections, connections);
        assert_eq!(config.host_endpoints, HostEndpoints::ForwardedOnly);
        assert_eq!(config.control_socket, Path::new("/s"));
        assert_eq!((config.listen.metrics, config.rule_metrics), (None, true));
        assert_eq!(config.source, UpdateSource::Felix);
        assert_eq!(config.felix_socket, Path::new("/f"));
        assert_eq!(config.mtu_file, Path::new("/m"));
    }

    #[test]
    fn all_errors_are_reported_with_their_lines() {
        let errors = parse(
            "nodename: n\nuplinks:\n- {interface: eth0}\n- {interface: eth0, mode: fast}\n\
             pollers: {cores: [2, 2]}\nframes: {podRing: 100, size: 3000}\nhostPort: {name: thirteen-char}\n\
             controlSocket: relative\n---\nx: 1\n",
        )
        .unwrap_err();
        let lines: Vec<usize> = errors
            .0
            .iter()
            .map(|error| error.at.as_ref().unwrap().line_and_column().0)
            .collect();
        assert_eq!(lines, [1, 4, 4, 5, 6, 6, 7, 8, 10]);
    }

    #[test]
    fn uplinks_without_xdp_have_no_mode_of_it() {
        for mode in ["zero-copy", "generic"] {
            let uplinks = format!("uplinks:\n  - interface: eth0\n    mode: {mode}\n");
            assert!(parse(&uplinks).is_ok());
            let error = parse(&format!("{uplinks}offload: kernel\n")).unwrap_err();
            let error = error.render(false);
            for word in [
                &*format!("uplink eth0 can not have `mode: {mode}` with `offload: kernel`"),
                "/etc/caracal/caracal.yaml:4:10",
                "/etc/caracal/caracal.yaml:2:16",
                "set `offload: off`",
            ] {
                assert!(error.contains(word), "{word}: {error}");
            }
        }
        let both =
            parse("offload: kernel\nuplinks:\n  - interface: eth0\n    mode: copy\n").unwrap();
        assert_eq!(both.offload, Offload::Kernel);
    }
}
