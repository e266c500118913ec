//! The settings of `caracal.yaml`.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::word;
use crate::config::daemon::{
    Connections, DaemonConfig, FailMode, Frames, Offload, PollMode, UpdateSource, Uplink,
    UplinkMode,
};
use crate::config::listen::Listen;
use crate::config::{Access, HostEndpoints};

/// Each setting and its value in force, in the order of the example. `null`: chosen at start. `node`: our node's name.
pub(super) fn values(config: &DaemonConfig, node: &str) -> Vec<(&'static str, Value)> {
    // By name, so that none is forgotten.
    let DaemonConfig {
        node_name: _,
        resources,
        source,
        felix_socket,
        mtu_file,
        kubernetes,
        uplinks,
        cores,
        poll_mode,
        fail_mode,
        offload,
        max_pods,
        frames,
        connections,
        reevaluate_established,
        host_endpoints,
        control_socket,
        listen,
        rule_metrics,
    } = config;
    let Frames {
        total,
        size,
        uplink_ring,
        pod_ring,
    } = frames;
    let Connections {
        entries,
        entries_v6,
        per_endpoint_percent,
        pick_up,
        keep,
    } = connections;
    let Listen { metrics, health } = listen;
    let path = |path: &std::path::Path| json!(path.display().to_string());
    let access = kubernetes.as_ref().map(|it| &it.access);
    let kubeconfig = match access {
        Some(Access::Kubeconfig(file)) => path(file),
        Some(Access::InCluster) | None => Value::Null,
    };
    let in_cluster = access.map(|it| *it == Access::InCluster);
    let server = kubernetes.as_ref().map(|it| &it.server);
    let cores: Vec<u16> = cores.iter().map(|core| core.value).collect();
    vec![
        ("nodeName", json!(node)),
        ("source", word(&UpdateSource::WORDS, source)),
        ("felixSocket", path(felix_socket)),
        ("mtuFile", path(mtu_file)),
        ("kubernetes.kubeconfig", kubeconfig),
        ("kubernetes.inCluster", json!(in_cluster)),
        ("kubernetes.server", json!(server)),
        ("resources", path(resources)),
        ("uplinks", uplinks.iter().map(uplink).collect()),
        (
            "pollers.cores",
            if cores.is_empty() {
                Value::Null
            } else {
                json!(cores)
            },
        ),
        ("pollMode", word(&PollMode::WORDS, poll_mode)),
        ("failMode", word(&FailMode::WORDS, fail_mode)),
        ("offload", word(&Offload::WORDS, offload)),
        ("maxPods", json!(max_pods)),
        ("frames.uplinkRing", json!(uplink_ring)),
        ("frames.podRing", json!(pod_ring)),
        ("frames.total", json!(total)),
        ("frames.size", json!(size)),
        ("connections.entries", json!(entries)),
        ("connections.entriesV6", json!(entries_v6)),
        (
            "connections.perEndpointPercent",
            json!(per_endpoint_percent),
        ),
        ("connections.pickUp", json!(pick_up)),
        ("connections.keep", json!(keep)),
        ("reevaluateEstablished", json!(reevaluate_established)),
        ("hostEndpoints", word(&HostEndpoints::WORDS, host_endpoints)),
        ("controlSocket", path(control_socket)),
        ("metrics", address(*metrics)),
        ("health", address(*health)),
        ("ruleMetrics", json!(rule_metrics)),
    ]
}

fn uplink(uplink: &Uplink) -> Value {
    let Uplink {
        interface,
        queues,
        mode,
    } = uplink;
    json!({
        "interface": interface.value,
        "queues": queues.as_ref().map(|queues| queues.value),
        "mode": word(&UplinkMode::WORDS, mode),
    })
}

fn address(address: Option<SocketAddr>) -> Value {
    json!(address.map_or_else(|| "off".to_owned(), |address| address.to_string()))
}
