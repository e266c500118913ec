//! The JSON and the metrics are one list, and what is written about metrics names those that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use fastpath::reason::DropReason;
use serde_json::Value;

use super::gather::each;
use super::list::{Kind, METRICS, Metric, Unit};
use super::strict::{About, Exposition};
use super::{Dropped, Figures, Format, Page, RuleUse};
use crate::api::report::{
    Changes, Drops, Felix, FlowCount, Kubernetes, Offload, Part, Status, XskCounters,
};

/// Numbers of the JSON that are no metric, and why.
const NO_METRICS: &[(&str, &str)] = &[
    ("status.pid", "names, and measures nothing"),
    ("status.reevaluate_established", "a setting"),
    ("status.ports[].id", "names, and measures nothing"),
    ("status.ports[].queues", "does not change"),
    ("status.ports[].mtu", "does not change"),
    ("status.ports[].software_checksums", "does not change"),
    ("status.ports[].drops", "the sum of port_drops"),
    ("status.pollers[].core", "a label"),
    (
        "status.datastore.loaded_seconds_ago",
        "generation says whether something changed",
    ),
    (
        "status.felix.since_seconds",
        "felix_connections says whether something changed",
    ),
    ("status.felix.sequence", "felix_messages follows it"),
    (
        "status.kubernetes.synced_seconds",
        "a server that has not answered yet is a problem",
    ),
    (
        "status.host_table_pending",
        "true for a moment behind a change; if for longer, it is a problem",
    ),
    ("status.tunnels[].vni", "does not change"),
    ("status.tunnels[].port", "does not change"),
    ("status.tunnels[].peers", "config_resources follows it"),
    ("status.accounting.drop", "the sum of drops"),
    ("status.changes.count", "a part of the histogram"),
    ("status.changes.sum_microseconds", "a part of the histogram"),
    ("status.changes.buckets[]", "a part of the histogram"),
    ("rules[].rule", "a label"),
];

/// A node of which every member of the JSON is there.
fn figures() -> Figures {
    let mut status: Status =
        serde_json::from_str(include_str!("../../tests/golden/status.json")).unwrap();
    let drops: Drops = serde_json::from_str(include_str!("../../tests/golden/drops.json")).unwrap();
    status.changes.took(std::time::Duration::from_micros(250));
    status.changes.took(std::time::Duration::from_secs(20));
    status.felix = Some(Felix {
        connected: true,
        since_seconds: Some(7),
        in_sync: true,
        sequence: 41,
        messages: 42,
        ignored: 3,
        connections: 2,
        last_error: None,
    });
    status.kubernetes = Some(Kubernetes {
        server: Some("https://192.0.2.10:6443".to_owned()),
        synced_seconds: Some(7),
        services: 12,
        endpoint_slices: 15,
        error: None,
    });
    status.offload = Some(Offload {
        paused: false,
        flows_v4: 20,
        flows_v6: 2,
        offered: 40,
        inserted: 36,
        refused: vec![FlowCount {
            why: "not assured".to_owned(),
            count: 4,
        }],
        removed: vec![FlowCount {
            why: "closing".to_owned(),
            count: 14,
        }],
        hits: 5000,
        punted: 600,
        limited: 70,
        passed: 8,
        spoilt: 9,
        xsk: XskCounters {
            rx_ring_full: 6,
            ..XskCounters::default()
        },
    });
    status.pollers[0].busy_nanoseconds = 1_500_000_000;
    status.pollers[1].core = None;
    // Of such a name there can be an interface.
    status.ports[3].name = "a\"b\\c".to_owned();
    let rule = RuleUse {
        tier: Some("default".to_owned()),
        policy: "NetworkPolicy shop/db".to_owned(),
        direction: "ingress",
        rule: 2,
        action: "Deny",
        connections: 3,
        packets: 7,
    };
    let profile = RuleUse {
        tier: None,
        policy: "Profile kns.shop".to_owned(),
        ..rule
    };
    Figures {
        status,
        drops: Dropped { drops: drops.drops },
        rules: vec![rule, profile],
    }
}

fn json() -> Value {
    serde_json::to_value(figures()).unwrap()
}

fn page(format: Format) -> Exposition {
    let text = Page::new(&figures()).into_text(format);
    Exposition::parse(&text, format).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The paths of all numbers and booleans.
fn numbers(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let dot = if path.is_empty() { "" } else { "." };
                numbers(value, &format!("{path}{dot}{name}"), found);
            }
        }
        Value::Array(items) => {
            for item in items {
                numbers(item, &format!("{path}[]"), found);
            }
        }
        Value::Number(_) | Value::Bool(_) => {
            found.insert(path.to_owned());
        }
        Value::Null | Value::String(_) => {}
    }
}

#[test]
fn every_number_of_the_json_is_a_metric_or_is_said_to_be_none() {
    let json = json();
    let mut in_json = BTreeSet::new();
    numbers(&json, "", &mut in_json);
    // Those of reports that metrics are made of, and words that only count.
    for from in METRICS.iter().map(|metric| metric.from) {
        let mut is_there = false;
        each(&json, from, |_, _, _| is_there = true);
        assert!(is_there, "the JSON has no {from}");
    }
    let listed = METRICS.iter().map(|metric| metric.from);
    let listed: BTreeSet<_> = listed
        .chain(NO_METRICS.iter().map(|(path, _)| *path))
        .collect();
    let missing: Vec<_> = in_json
        .iter()
        .filter(|path| !listed.contains(&***path))
        .collect();
    assert!(
        missing.is_empty(),
        "neither a metric nor said to be none: {missing:?}"
    );
    for (path, _) in NO_METRICS {
        assert!(in_json.contains(*path), "the JSON has no {path}");
        assert!(
            METRICS.iter().all(|metric| metric.from != *path),
            "{path} is both"
        );
    }
}

#[test]
fn metrics_have_the_values_of_the_json() {
    let (page, figures) = (page(Format::OpenMetrics), figures());
    let is = |name: &str, labels: &[(&str, &str)], value: f64| {
        let found = page.value(&format!("caracal_{name}"), labels);
        assert_eq!(found, Some(value), "{name} {labels:?}");
    };
    for port in &figures.status.ports {
        for (name, number) in [
            ("rx_packets_total", port.rx_packets),
            ("rx_bytes_total", port.rx_bytes),
            ("tx_packets_total", port.tx_packets),
            ("tx_bytes_total", port.tx_bytes),
            ("xsk_rx_ring_full_total", port.xsk.rx_ring_full),
            ("xsk_rx_fill_ring_empty_total", port.xsk.fill_empty),
            ("port_up", port.up.into()),
        ] {
            is(name, &[("port", &*port.name)], number as f64);
        }
    }
    let profile = [
        ("policy", "Profile kns.shop"),
        ("direction", "ingress"),
        ("rule", "2"),
        ("action", "Deny"),
    ];
    for (name, labels, value) in [
        ("build_info", &[("version", "0.1.0")][..], 1.0),
        ("uptime_seconds", &[], 184_440.0),
        (
            "poller_busy_seconds_total",
            &[("poller", "0"), ("core", "2")],
            1.5,
        ),
        ("poller_rounds_total", &[("poller", "1")], 8_999_000.0),
        ("flow_cache_entries", &[("family", "ipv4")], 424_242.0),
        (
            "flow_cache_removals_total",
            &[("cause", "expired")],
            80_776_099.0,
        ),
        ("problems", &[("part", "datastore")], 1.0),
        // It is there without one.
        ("problems", &[("part", "host")], 0.0),
        ("closed_interfaces", &[], 1.0),
        ("route_apply_seconds_count", &[], 2.0),
        ("route_apply_seconds_bucket", &[("le", "0.0003")], 1.0),
        ("route_apply_seconds_bucket", &[("le", "10.0")], 1.0),
        ("route_apply_seconds_sum", &[], 20.000_25),
        ("policy_rule_packets_total", &profile, 7.0),
    ] {
        is(name, labels, value);
    }
}

#[test]
fn every_drop_reason_appears() {
    let (page, figures) = (page(Format::OpenMetrics), figures());
    for reason in DropReason::ALL {
        let labels = [("reason", reason.name()), ("stage", reason.stage())];
        let counted = figures
            .status
            .drops
            .iter()
            .find(|drop| drop.reason == reason.name());
        let expected = counted.map_or(0, |drop| drop.count) as f64;
        let found = page.value("caracal_drops_total", &labels);
        assert_eq!(found, Some(expected), "{}", reason.name());
    }
    // Of ports that are gone there is no series.
    let at = |name: &str, port: &str| {
        let labels = [
            ("port", port),
            ("reason", "source-spoofed"),
            ("stage", "parse"),
        ];
        page.value(name, &labels)
    };
    assert_eq!(
        at("caracal_port_drops_total", "cali92466c287a9"),
        Some(1100.0)
    );
    let of_ports = page
        .samples
        .keys()
        .filter(|(name, _)| name == "caracal_port_drops_total");
    assert_eq!(of_ports.count(), 3);
}

#[test]
fn every_part_of_a_node_may_have_problems() {
    for part in Part::ALL {
        let name = serde_json::to_value(part).unwrap();
        assert_eq!(name, part.name());
    }
}

#[test]
fn both_formats_say_the_same() {
    let (new, old) = (page(Format::OpenMetrics), page(Format::Prometheus));
    let floats = |page: Exposition| {
        // One writes a limit `10.0`, the other `10`.
        let number = |text: &String| {
            text.parse()
                .map_or(text.clone(), |number: f64| number.to_string())
        };
        let samples = page.samples.into_iter();
        let all = samples.map(|((name, labels), value)| {
            let labels = labels
                .iter()
                .map(|(name, value)| (name.clone(), number(value)))
                .collect();
            ((name, labels), value)
        });
        all.collect::<BTreeMap<(String, BTreeMap<_, _>), f64>>()
    };
    let about =
        |page: &Exposition, name: &str| page.families.get(name).map(|about| about.help.clone());
    for metric in METRICS {
        let full = metric.full_name();
        let stem = full
            .strip_suffix("_total")
            .or(full.strip_suffix("_info"))
            .unwrap_or(&full);
        assert_eq!(about(&new, stem), about(&old, &full), "{full}");
    }
    assert_eq!(floats(new), floats(old));
}

#[test]
fn types_and_units_are_said() {
    let page = page(Format::OpenMetrics);
    for metric in METRICS {
        let full = metric.full_name();
        let stem = full
            .strip_suffix("_total")
            .or(full.strip_suffix("_info"))
            .unwrap_or(&full);
        let About { kind, unit, .. } = &page.families[stem];
        let expected = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Info => "info",
            Kind::Histogram => "histogram",
        };
        assert_eq!(kind, expected, "{full}");
        let expected = match metric.unit {
            Unit::None => None,
            Unit::Bytes => Some("bytes"),
            Unit::Seconds(_) => Some("seconds"),
        };
        assert_eq!(unit.as_deref(), expected, "{full}");
    }
}

#[test]
fn a_node_without_anything_has_a_page_too() {
    let mut figures = figures();
    figures.status.ports.clear();
    figures.status.drops.clear();
    figures.status.changes = Changes::default();
    figures.drops.drops.clear();
    figures.rules.clear();
    let text = Page::new(&figures).into_text(Format::OpenMetrics);
    let page = Exposition::parse(&text, Format::OpenMetrics).unwrap();
    assert_eq!(
        page.value("caracal_route_apply_seconds_count", &[]),
        Some(0.0)
    );
    let drops = page
        .samples
        .keys()
        .filter(|(name, _)| name == "caracal_drops_total");
    assert_eq!(drops.count(), DropReason::COUNT);
    assert!(!text.contains("caracal_policy_rule"), "not wanted");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All names that a query may have.
fn names() -> BTreeSet<String> {
    let names = |metric: &Metric| {
        let full = metric.full_name();
        if metric.kind == Kind::Histogram {
            ["_bucket", "_sum", "_count"]
                .map(|suffix| format!("{full}{suffix}"))
                .to_vec()
        } else {
            vec![full]
        }
    };
    METRICS.iter().flat_map(names).collect()
}

/// The words of a text that begin like a metric's name.
fn named(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let words = text.split(|c: char| !is_part(c));
    words.filter(|word| word.starts_with("caracal_")).collect()
}

#[test]
fn dashboard_and_alerts_name_metrics_that_there_are() {
    let names = names();
    for file in ["deploy/grafana.json", "deploy/alerts.yaml"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let named = named(&text);
        assert!(named.len() >= 6, "{file} names {named:?}");
        let unknown: Vec<_> = named
            .iter()
            .filter(|name| !names.contains(**name))
            .collect();
        assert!(unknown.is_empty(), "{file}: no such metrics: {unknown:?}");
    }
}

#[test]
fn the_dashboard_is_whole() {
    let text = fs::read_to_string(root().join("deploy/grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(
        ids.len(),
        panels.len(),
        "each panel has a number of its own"
    );
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            assert!(!named(query).is_empty(), "{title}: {query}");
        }
        let place = &panel["gridPos"];
        assert!(
            place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24,
            "{title}"
        );
    }
}

#[test]
fn the_alerts_are_whole() {
    let text = fs::read_to_string(root().join("deploy/alerts.yaml")).unwrap();
    let file: Value = serde_saphyr::from_str(&text).unwrap();
    let rules = file["groups"][0]["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 7);
    for rule in rules {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let query = text(&rule["expr"]);
        assert!(!named(&query).is_empty(), "{query}");
        assert!(text(&rule["for"]).ends_with('m'), "{query}");
        assert!(
            ["warning", "critical"].contains(&&*text(&rule["labels"]["severity"])),
            "{query}"
        );
        for part in ["summary", "description"] {
            assert!(!text(&rule["annotations"][part]).is_empty(), "{query}");
        }
        // Labels that a summary names are those of a metric of the query, or Prometheus' own.
        let summary = text(&rule["annotations"]["summary"]);
        for label in summary.split("$labels.").skip(1) {
            let label = label.split(' ').next().unwrap();
            let has = |metric: &&Metric| named(&query).contains(&*metric.full_name());
            let labels = METRICS.iter().filter(has).flat_map(|metric| metric.labels);
            let is_known = labels.into_iter().any(|(name, _)| *name == label);
            assert!(is_known || label == "instance", "{label} in {summary}");
        }
    }
}

/// The table of metrics of the operator's page.
fn table() -> String {
    let mut table = "| metric | labels | in JSON | |\n|---|---|---|---|\n".to_owned();
    for metrics in METRICS.chunk_by(|a, b| a.full_name() == b.full_name()) {
        let first = &metrics[0];
        let mut labels: Vec<_> = first
            .labels
            .iter()
            .map(|(label, _)| format!("`{label}`"))
            .collect();
        labels.dedup();
        let members = metrics.iter().map(|metric| {
            let (_, member) = metric.from.split_once('.').unwrap();
            format!("`{member}`")
        });
        let from = match first.from.split_once('.').unwrap().0 {
            "rules[]" => "`policy show`".to_owned(),
            report => format!("{report} {}", members.collect::<Vec<_>>().join(", ")),
        };
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {} |",
            first.full_name(),
            labels.join(", "),
            from,
            first.help
        );
    }
    table
}

/// `UPDATE_DOCS=1 cargo test -p control --lib metrics` writes it anew.
#[test]
fn the_operators_page_has_the_table_of_metrics() {
    const BEGIN: &str = "<!-- metrics: written from control/src/metrics/list.rs -->\n";
    const END: &str = "<!-- end of metrics -->\n";
    let path = root().join("docs/operator.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the table's beginning");
    let (found, after) = rest.split_once(END).expect("the table's end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
    } else {
        assert_eq!(found, table(), "run with UPDATE_DOCS=1");
    }
}
