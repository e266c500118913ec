//! The fields of FelixConfiguration that this dataplane has no use for: they steer iptables, nftables, BPF,
//! WireGuard or Felix itself. Their types are checked, so that a slip is found here and not in production.

use crate::config::decode::{self, Context, Fields};
use crate::config::diagnostic::Diagnostic;
use crate::config::yaml::{Node, Value};

/// What a field holds.
#[derive(Clone, Copy)]
enum Type {
    Bool,
    Text,
    Int(i64, i64),
    Duration,
    Ports,
    /// One of some words, whatever their case.
    Word(&'static [&'static str]),
    Texts,
    Cidrs,
    TextMap,
    TableRange,
    TableRanges,
    Timeouts,
    /// A list or map that only Felix reads.
    Any,
}

const MAX: i64 = i64::MAX;
const PORT: Type = Type::Int(0, 65535);
const MASK: Type = Type::Int(0, 0xffff_ffff);
const COUNT: Type = Type::Int(0, MAX);
const SWITCH: Type = Type::Word(&["Enabled", "Disabled"]);
const VERDICT: Type = Type::Word(&["Accept", "Return"]);
const DENY: Type = Type::Word(&["Drop", "Reject"]);
const LEVEL: Type = Type::Word(&[
    "Trace", "Debug", "Info", "Warning", "Error", "Fatal", "None",
]);

const FIELDS: &[(&str, Type)] = &[
    (
        "awsSrcDstCheck",
        Type::Word(&["DoNothing", "Enable", "Disable"]),
    ),
    ("bpfAttachType", Type::Word(&["TC", "TCX"])),
    ("bpfCTLBLogFilter", Type::Text),
    (
        "bpfConnectTimeLoadBalancing",
        Type::Word(&["TCP", "Enabled", "Disabled"]),
    ),
    ("bpfConnectTimeLoadBalancingEnabled", Type::Bool),
    ("bpfConntrackLogLevel", Type::Word(&["Off", "Debug"])),
    (
        "bpfConntrackMode",
        Type::Word(&["Auto", "Userspace", "BPFProgram"]),
    ),
    ("bpfDSROptoutCIDRs", Type::Cidrs),
    ("bpfDataIfacePattern", Type::Text),
    ("bpfDisableGROForIfaces", Type::Text),
    ("bpfDisableUnprivileged", Type::Bool),
    ("bpfEnabled", Type::Bool),
    (
        "bpfEnforceRPF",
        Type::Word(&["Disabled", "Strict", "Loose"]),
    ),
    ("bpfExcludeCIDRsFromNAT", Type::Cidrs),
    ("bpfExportBufferSizeMB", COUNT),
    ("bpfExtToServiceConnmark", MASK),
    ("bpfExternalServiceMode", Type::Word(&["Tunnel", "DSR"])),
    ("bpfForceTrackPacketsFromIfaces", Type::Texts),
    ("bpfHostConntrackBypass", Type::Bool),
    ("bpfHostNetworkedNATWithoutCTLB", SWITCH),
    ("bpfJITHardening", Type::Word(&["Auto", "Strict"])),
    ("bpfKubeProxyEndpointSlicesEnabled", Type::Bool),
    ("bpfKubeProxyHealthzPort", PORT),
    ("bpfKubeProxyIptablesCleanupEnabled", Type::Bool),
    ("bpfKubeProxyMinSyncPeriod", Type::Duration),
    ("bpfL3IfacePattern", Type::Text),
    ("bpfLogFilters", Type::TextMap),
    ("bpfLogLevel", Type::Word(&["Off", "Info", "Debug"])),
    ("bpfMaglevMaxEndpointsPerService", COUNT),
    ("bpfMaglevMaxServices", COUNT),
    ("bpfMapSizeConntrack", COUNT),
    ("bpfMapSizeConntrackCleanupQueue", COUNT),
    ("bpfMapSizeConntrackScaling", Type::Text),
    ("bpfMapSizeIPSets", COUNT),
    ("bpfMapSizeIfState", COUNT),
    ("bpfMapSizeNATAffinity", COUNT),
    ("bpfMapSizeNATBackend", COUNT),
    ("bpfMapSizeNATFrontend", COUNT),
    ("bpfMapSizePerCpuConntrack", COUNT),
    ("bpfMapSizeRoute", COUNT),
    ("bpfPSNATPorts", Type::Ports),
    ("bpfPolicyDebugEnabled", Type::Bool),
    ("bpfProfiling", SWITCH),
    (
        "bpfRedirectToPeer",
        Type::Word(&["Enabled", "Disabled", "L2Only"]),
    ),
    ("cgroupV2Path", Type::Text),
    ("chainInsertMode", Type::Word(&["insert", "append"])),
    ("dataplaneDriver", Type::Text),
    ("dataplaneWatchdogTimeout", Type::Duration),
    ("debugDisableLogDropping", Type::Bool),
    ("debugHost", Type::Text),
    ("debugMemoryProfilePath", Type::Text),
    ("debugPort", PORT),
    ("debugSimulateCalcGraphHangAfter", Type::Duration),
    ("debugSimulateDataplaneApplyDelay", Type::Duration),
    ("debugSimulateDataplaneHangAfter", Type::Duration),
    ("endpointReportingDelay", Type::Duration),
    ("endpointReportingEnabled", Type::Bool),
    ("endpointStatusPathPrefix", Type::Text),
    ("featureDetectOverride", Type::Text),
    ("featureGates", Type::Text),
    ("floatingIPs", SWITCH),
    ("flowLogsCollectorDebugTrace", Type::Bool),
    ("flowLogsFlushInterval", Type::Duration),
    ("flowLogsGoldmaneServer", Type::Text),
    ("flowLogsLocalReporter", SWITCH),
    (
        "flowLogsPolicyEvaluationMode",
        Type::Word(&["None", "Continuous"]),
    ),
    ("genericXDPEnabled", Type::Bool),
    ("goGCThreshold", Type::Int(-1, MAX)),
    ("goMaxProcs", Type::Int(-1, MAX)),
    ("goMemoryLimitMB", Type::Int(-1, MAX)),
    ("healthEnabled", Type::Bool),
    ("healthHost", Type::Text),
    ("healthPort", PORT),
    ("healthTimeoutOverrides", Type::Timeouts),
    ("interfaceExclude", Type::Text),
    ("interfaceRefreshInterval", Type::Duration),
    ("ipForwarding", SWITCH),
    ("ipsetsRefreshInterval", Type::Duration),
    ("iptablesBackend", Type::Word(&["Auto", "Legacy", "NFT"])),
    ("iptablesFilterAllowAction", VERDICT),
    ("iptablesFilterDenyAction", DENY),
    ("iptablesLockFilePath", Type::Text),
    ("iptablesLockProbeInterval", Type::Duration),
    ("iptablesLockTimeout", Type::Duration),
    ("iptablesMangleAllowAction", VERDICT),
    ("iptablesMarkMask", MASK),
    ("iptablesPostWriteCheckInterval", Type::Duration),
    ("iptablesRefreshInterval", Type::Duration),
    ("ipv4ElevatedRoutePriority", COUNT),
    ("ipv4NormalRoutePriority", COUNT),
    ("ipv6ElevatedRoutePriority", COUNT),
    ("ipv6NormalRoutePriority", COUNT),
    ("istioAmbientMode", SWITCH),
    ("istioDSCPMark", Type::Any),
    ("liveMigrationRouteConvergenceTime", Type::Duration),
    ("logActionRateLimit", Type::Text),
    ("logActionRateLimitBurst", COUNT),
    ("logDebugFilenameRegex", Type::Text),
    ("logFilePath", Type::Text),
    ("logPrefix", Type::Text),
    ("logSeverityFile", LEVEL),
    ("logSeverityScreen", LEVEL),
    ("logSeveritySys", LEVEL),
    ("maxIpsetSize", COUNT),
    ("metadataAddr", Type::Text),
    ("metadataPort", PORT),
    ("mtuIfacePattern", Type::Text),
    ("netlinkTimeout", Type::Duration),
    ("nftablesFilterAllowAction", VERDICT),
    ("nftablesFilterDenyAction", DENY),
    ("nftablesMangleAllowAction", VERDICT),
    ("nftablesMarkMask", MASK),
    ("nftablesMode", Type::Word(&["Enabled", "Disabled", "Auto"])),
    ("nftablesRefreshInterval", Type::Duration),
    ("openstackRegion", Type::Text),
    ("policySyncPathPrefix", Type::Text),
    (
        "programClusterRoutes",
        Type::Word(&[
            "Enabled",
            "Disabled",
            "EnabledIPIPOnly",
            "EnabledNoEncapOnly",
        ]),
    ),
    ("prometheusGoMetricsEnabled", Type::Bool),
    ("prometheusMetricsCAFile", Type::Text),
    ("prometheusMetricsCertFile", Type::Text),
    ("prometheusMetricsClientAuth", Type::Text),
    ("prometheusMetricsEnabled", Type::Bool),
    ("prometheusMetricsHost", Type::Text),
    ("prometheusMetricsKeyFile", Type::Text),
    ("prometheusMetricsPort", PORT),
    ("prometheusProcessMetricsEnabled", Type::Bool),
    ("prometheusWireGuardMetricsEnabled", Type::Bool),
    ("reportingInterval", Type::Duration),
    ("reportingTTL", Type::Duration),
    ("requireMTUFile", Type::Bool),
    ("routeRefreshInterval", Type::Duration),
    ("routeSource", Type::Word(&["WorkloadIPs", "CalicoIPAM"])),
    ("routeSyncDisabled", Type::Bool),
    ("routeTableRange", Type::TableRange),
    ("routeTableRanges", Type::TableRanges),
    ("sidecarAccelerationEnabled", Type::Bool),
    ("usageReportingEnabled", Type::Bool),
    ("usageReportingInitialDelay", Type::Duration),
    ("usageReportingInterval", Type::Duration),
    ("useInternalDataplaneDriver", Type::Bool),
    ("windowsManageFirewallRules", SWITCH),
    ("wireguardHostEncryptionEnabled", Type::Bool),
    ("wireguardInterfaceName", Type::Text),
    ("wireguardInterfaceNameV6", Type::Text),
    ("wireguardKeepAlive", Type::Duration),
    ("wireguardListeningPort", PORT),
    ("wireguardListeningPortV6", PORT),
    ("wireguardMTU", Type::Int(0, 65535)),
    ("wireguardMTUV6", Type::Int(0, 65535)),
    ("wireguardRoutingRulePriority", Type::Int(1, 32765)),
    ("wireguardThreadingEnabled", Type::Bool),
    ("xdpEnabled", Type::Bool),
    ("xdpRefreshInterval", Type::Duration),
];

/// Fields with values (none: any) that ask for what a user would miss, and what is done instead.
const MISSED: &[(&str, &[&str], &str)] = &[
    (
        "awsSrcDstCheck",
        &["Enable", "Disable"],
        "the instance's source/destination check stays as it is: set it by hand",
    ),
    (
        "bpfEnabled",
        &["true"],
        "services are translated for pods alone: kube-proxy has to run for the host and for node ports",
    ),
    (
        "deviceRouteSourceAddress",
        &[],
        "the host speaks to its pods from the address that the kernel chooses",
    ),
    (
        "deviceRouteSourceAddressIPv6",
        &[],
        "the host speaks to its pods from the address that the kernel chooses",
    ),
    (
        "floatingIPs",
        &["Enabled"],
        "floating addresses are not translated: nothing answers at them",
    ),
    (
        "iptablesFilterAllowAction",
        &["Return"],
        "pods' packets do not pass the host's own rules: what policy allows is sent on",
    ),
    (
        "iptablesFilterDenyAction",
        &["Reject"],
        "what policy denies is dropped silently: senders wait until they give up",
    ),
    (
        "iptablesMangleAllowAction",
        &["Return"],
        "pods' packets do not pass the host's own rules: what policy allows is sent on",
    ),
    (
        "ipv6Support",
        &["false"],
        "IPv6 is forwarded and judged all the same, for pods that have IPv6 addresses",
    ),
    (
        "istioAmbientMode",
        &["Enabled"],
        "pods' packets do not pass the mesh's proxy",
    ),
    (
        "nftablesFilterAllowAction",
        &["Return"],
        "pods' packets do not pass the host's own rules: what policy allows is sent on",
    ),
    (
        "nftablesFilterDenyAction",
        &["Reject"],
        "what policy denies is dropped silently: senders wait until they give up",
    ),
    (
        "nftablesMangleAllowAction",
        &["Return"],
        "pods' packets do not pass the host's own rules: what policy allows is sent on",
    ),
    (
        "routeSyncDisabled",
        &["true"],
        "routes to pods are made all the same, in a table of ours",
    ),
];

/// Warns of a field that nothing acts on, where that is not what its value asks for.
fn warn_if_missed(name: &str, node: &Node, cx: &mut Context<'_>) {
    let given = match &node.value {
        Value::Text(text) => text.as_str(),
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        _ => return,
    };
    let asks = |values: &[&str]| {
        values.is_empty() || values.iter().any(|it| it.eq_ignore_ascii_case(given))
    };
    let missed = MISSED
        .iter()
        .find(|(field, values, _)| *field == name && asks(values));
    if let Some((_, _, instead)) = missed {
        let warning = Diagnostic::warning(format!("`{name}: {given}` has no effect"));
        cx.report(warning.at(&node.at, *instead));
    }
}

/// A field that is part of the model, and that nothing acts on yet.
pub(super) fn without_effect<T>(
    spec: &mut Fields<'_>,
    name: &'static str,
    cx: &mut Context<'_>,
    decode: impl Fn(&Node, &mut Context<'_>) -> Option<T>,
) -> Option<T> {
    let decode = |node: &Node, cx: &mut Context<'_>| {
        let value = decode(node, cx)?;
        warn_if_missed(name, node, cx);
        Some(value)
    };
    spec.get(name, cx, decode).map(|located| located.value)
}

/// Takes and checks all fields that nothing acts on.
pub(super) fn check(spec: &mut Fields<'_>, cx: &mut Context<'_>) {
    for (name, kind) in FIELDS {
        if let Some(node) = spec.take(name) {
            check_one(node, *kind, cx);
            warn_if_missed(name, node, cx);
        }
    }
}

fn check_one(node: &Node, kind: Type, cx: &mut Context<'_>) {
    match kind {
        Type::Bool => {
            let _ = decode::boolean(node, cx);
        }
        Type::Text => {
            let _ = decode::text(node, cx);
        }
        Type::Int(min, max) => {
            let _ = decode::number(min..=max)(node, cx);
        }
        Type::Duration => {
            let _ = decode::duration(node, cx);
        }
        Type::Ports => {
            let _ = decode::port_range(node, cx);
        }
        // What `calicoctl get` prints where nothing is set.
        Type::Word(_) if matches!(&node.value, Value::Text(text) if text.is_empty()) => {}
        Type::Word(words) => {
            let words: Vec<(&'static str, ())> = words.iter().map(|word| (*word, ())).collect();
            let _ = decode::choice(&words, false)(node, cx);
        }
        Type::Texts => {
            let _ = decode::list(decode::text)(node, cx);
        }
        Type::Cidrs => {
            let _ = decode::list(decode::address_in_subnet)(node, cx);
        }
        Type::TextMap => {
            let _ = decode::text_map(node, cx);
        }
        Type::TableRange => drop(table_range(node, cx)),
        Type::TableRanges => {
            let _ = decode::list(table_range)(node, cx);
        }
        Type::Timeouts => {
            let _ = decode::list(timeout)(node, cx);
        }
        Type::Any => {}
    }
}

fn table_range(node: &Node, cx: &mut Context<'_>) -> Option<()> {
    let mut fields = Fields::open(node, "a range of route tables", cx)?;
    let min = fields.require("min", cx, decode::number(0..=u32::MAX));
    let max = fields.require("max", cx, decode::number(0..=u32::MAX));
    if let (Some(min), Some(max)) = (min, max)
        && min.value > max.value
    {
        cx.error(&max.at, "an empty range", "max is below min");
    }
    fields.finish(cx);
    Some(())
}

fn timeout(node: &Node, cx: &mut Context<'_>) -> Option<()> {
    let mut fields = Fields::open(node, "a timeout", cx)?;
    let _ = fields.require("name", cx, decode::name);
    let _ = fields.require("timeout", cx, decode::duration);
    fields.finish(cx);
    Some(())
}
