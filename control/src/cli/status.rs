//! `caracal status`: the node on one screen.

use std::fmt::Write as _;

use super::table::{duration, one_line, or_dash};
use super::watch::Watch;
use super::{Cli, Exit, Output, ask};
use crate::api::Method;
use crate::api::report::{
    Connections, Felix, Kubernetes, Offload, Part, Port, Problem, Status, TableUse, XskCounters,
};
use crate::words::{counted, number};

/// Drop reasons that are named; the others are in `caracal drops`.
const REASONS: usize = 4;
/// Pods' ports that are named; the others are in `caracal ports`.
const PODS: usize = 6;

/// Arguments of `caracal status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One word: OK or DEGRADED.
    #[arg(long)]
    brief: bool,
    #[command(flatten)]
    watch: Watch,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    args.watch.ask(cli, &Method::Status, |status: &Status| {
        let text = match cli.output {
            Output::Json => ask::to_json("caracal.status/v1", status),
            Output::Table | Output::Wide if args.brief => {
                format!("{}\n", word(status.problems.is_empty()))
            }
            Output::Table | Output::Wide => render(status),
        };
        let exit = if status.is_healthy() {
            Exit::Ok
        } else {
            Exit::Degraded
        };
        (text, exit)
    })
}

const fn word(ok: bool) -> &'static str {
    if ok { "OK" } else { "DEGRADED" }
}

/// The screen.
fn render(status: &Status) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "caracal {}   node {}   pid {}   up {}   tables {}",
        one_line(&status.version),
        one_line(&status.node),
        status.pid,
        duration(status.uptime_seconds),
        number(status.generation)
    );
    let cores: Vec<_> = status
        .pollers
        .iter()
        .filter_map(|poller| poller.core)
        .map(|core| core.to_string())
        .collect();
    let cores = if cores.is_empty() {
        String::new()
    } else {
        format!(" on cores {}", cores.join(", "))
    };
    let daemon = format!(
        "{}{cores}   {} MiB at most for packets   without it pods are {}",
        counted(status.pollers.len() as u64, "poller"),
        status.packet_memory_bytes >> 20,
        one_line(&status.fail_mode)
    );
    line(&mut out, status, &[Part::Daemon], "Daemon", &daemon);
    let store = &status.datastore;
    let remarks = match store.remarks {
        0 => String::new(),
        count => format!("   {}", counted(count as u64, "remark")),
    };
    let path = store.path.to_string_lossy();
    let path = one_line(&path);
    let resources = counted(store.resources as u64, "resource");
    let taken = duration(store.loaded_seconds_ago);
    let datastore = match &status.felix {
        Some(felix) => format!(
            "Felix {path} ({resources}){remarks}   {}",
            self::felix(felix, &taken)
        ),
        None => format!("files {path} ({resources}){remarks}   taken {taken} ago"),
    };
    line(
        &mut out,
        status,
        &[Part::Datastore],
        "Datastore",
        &datastore,
    );
    if let Some(it) = &status.kubernetes {
        let text = kubernetes(it);
        line(&mut out, status, &[Part::Kubernetes], "Kubernetes", &text);
    }
    let routes = &status.routes;
    let overruns = match routes.overruns {
        0 => String::new(),
        count => format!("   overrun {}", counted(count, "time")),
    };
    let text = format!(
        "{} IPv4, {} IPv6   kernel's main table {}{overruns}",
        number(routes.ipv4 as u64),
        number(routes.ipv6 as u64),
        number(routes.kernel as u64)
    );
    line(&mut out, status, &[], "Routes", &text);
    if status.services.total > 0 {
        line(&mut out, status, &[], "Services", &services(status));
    }
    line(
        &mut out,
        status,
        &[Part::Ports, Part::Host],
        "Ports",
        &ports(status),
    );
    for port in &status.ports {
        for warning in warnings(port) {
            let _ = writeln!(out, "{:26}! {}: {warning}", "", one_line(&port.name));
        }
    }
    line(
        &mut out,
        status,
        &[Part::Connections],
        "Connections",
        &connections(&status.connections),
    );
    if let Some(it) = &status.offload {
        line(&mut out, status, &[], "Offload", &offload(it));
    }
    for tunnel in &status.tunnels {
        let vni = tunnel
            .vni
            .map_or(String::new(), |vni| format!(" vni {vni}"));
        let port = tunnel
            .port
            .map_or(String::new(), |port| format!(" port {port}"));
        let text = format!(
            "{}{vni}{port} from {}, {}",
            one_line(&tunnel.kind),
            or_dash(tunnel.local.as_ref()),
            counted(tunnel.peers as u64, "peer")
        );
        line(&mut out, status, &[], "Tunnels", &text);
    }
    let sums = &status.accounting;
    let held = match sums.held {
        0 => String::new(),
        held => format!(" + held {}", number(held)),
    };
    let word = if sums.balanced {
        "balanced"
    } else {
        "UNBALANCED"
    };
    let _ = writeln!(
        out,
        "  {:<12} {word:<10} rx {} = tx {} + drop {} + punt {}{held}",
        "Accounting",
        number(sums.rx),
        number(sums.tx),
        number(sums.drop),
        number(sums.punt)
    );
    let _ = writeln!(out, "  {:<12} {}", "Drops", drops(status));
    problems(&mut out, &status.problems);
    out
}

fn services(status: &Status) -> String {
    let counts = &status.services;
    let lacking = match counts.without_endpoints {
        0 => String::new(),
        count => format!(
            "   {} without endpoints (caracal services)",
            number(count as u64)
        ),
    };
    format!("{}{lacking}", number(counts.total as u64))
}

/// The way to Felix, in words.
fn felix(felix: &Felix, taken: &str) -> String {
    let since = felix.since_seconds.map(duration);
    let way = match (felix.connected, since) {
        (true, since) => format!("connected for {}", or_dash(since.as_ref())),
        (false, Some(since)) => format!("gone for {since}"),
        (false, None) => "never connected".to_owned(),
    };
    let sync = match (felix.connected, felix.in_sync) {
        (true, true) => format!(", in sync, taken {taken} ago"),
        (true, false) => ", not in sync yet".to_owned(),
        (false, _) => String::new(),
    };
    let messages = number(felix.messages);
    let ignored = number(felix.ignored);
    let last = felix.last_error.as_ref();
    let last = last.map_or_else(String::new, |error| {
        format!("   last error: {}", one_line(error))
    });
    format!(
        "{way}{sync}   messages {messages} (sequence {}, ignored {ignored}){last}",
        felix.sequence
    )
}

/// The way to the API server, in words.
fn kubernetes(kubernetes: &Kubernetes) -> String {
    let server = kubernetes.server.as_deref();
    let server = one_line(server.unwrap_or("unknown server"));
    let state = match (kubernetes.synced_seconds, &kubernetes.error) {
        (None, _) => "connecting".to_owned(),
        (Some(since), None) => format!("synced {} ago", duration(since)),
        (Some(since), Some(_)) => format!("not up to date, synced {} ago", duration(since)),
    };
    format!(
        "{server}   {state}   {}, {}",
        counted(kubernetes.services as u64, "service"),
        counted(kubernetes.endpoint_slices as u64, "endpoint slice")
    )
}

fn line(out: &mut String, status: &Status, parts: &[Part], name: &str, text: &str) {
    let is_ok = !status
        .problems
        .iter()
        .any(|problem| parts.contains(&problem.part));
    let _ = writeln!(out, "  {name:<12} {:<10} {text}", word(is_ok));
}

fn ports(status: &Status) -> String {
    let name = |port: &Port| {
        let generic = if port.generic { " generic" } else { "" };
        let queues = match port.queues {
            1 => String::new(),
            queues => format!(" x{queues}"),
        };
        let (name, mode) = (one_line(&port.name), one_line(&port.mode));
        format!("{name} {mode}{queues}{generic}")
    };
    let (pods, others): (Vec<_>, Vec<_>) = status.ports.iter().partition(|port| port.kind == "pod");
    let mut names: Vec<_> = others.into_iter().map(name).collect();
    names.extend(pods.iter().take(PODS).map(|port| name(port)));
    if pods.len() > PODS {
        names.push(format!(
            "and {}",
            counted((pods.len() - PODS) as u64, "more pod")
        ));
    }
    if !status.closed.is_empty() {
        names.push(format!(
            "{} closed (no WorkloadEndpoint)",
            status.closed.len()
        ));
    }
    names.join("   ")
}

/// What about a port is worth a look, and no reason to call the node degraded.
fn warnings(port: &Port) -> Vec<String> {
    let mut all = Vec::new();
    if !port.up {
        all.push("the interface is down".to_owned());
    }
    if port.generic {
        all.push("generic XDP, about ten times slower than native".to_owned());
    }
    all.extend(xsk_warnings(&port.xsk));
    all
}

/// What the kernel's counters of sockets say that is worth a look.
fn xsk_warnings(xsk: &XskCounters) -> Vec<String> {
    let mut all = Vec::new();
    for (count, what, more) in [
        (
            xsk.rx_ring_full,
            "packet",
            "lost because the receive ring was full: the poller is too slow",
        ),
        (
            xsk.rx_dropped,
            "packet",
            "lost by the kernel on the way to the receive ring",
        ),
        (xsk.tx_invalid, "bad descriptor", "in the send ring"),
        (xsk.rx_invalid, "bad descriptor", "in the fill ring"),
    ] {
        if count > 0 {
            all.push(format!("{} {more}", counted(count, what)));
        }
    }
    all
}

fn connections(connections: &Connections) -> String {
    let table = |table: TableUse| {
        let percent = u64::from(table.used) * 100 / u64::from(table.capacity.max(1));
        let (used, capacity) = (table.used.into(), table.capacity.into());
        format!("{} of {} ({percent} %)", number(used), number(capacity))
    };
    let counts = [
        ("made", connections.made),
        ("taken over", connections.taken_over),
        ("expired", connections.expired),
        ("ended", connections.ended),
        ("evicted", connections.evicted),
        ("untracked", connections.untracked),
    ];
    let counts = counts.map(|(what, count)| format!("{what} {}", number(count)));
    let ports = &connections.nat_ports;
    format!(
        "IPv4 {}, IPv6 {}   {}   NAT ports TCP {}, UDP {}",
        table(connections.ipv4),
        table(connections.ipv6),
        counts.join(", "),
        number(ports.tcp.into()),
        number(ports.udp.into())
    )
}

fn offload(it: &Offload) -> String {
    let paused = if it.paused {
        "   paused: somebody captures"
    } else {
        ""
    };
    let limited = match it.limited {
        0 => String::new(),
        count => format!(", dropped beyond pods' share {}", number(count)),
    };
    let text = format!(
        "in the kernel {} IPv4, {} IPv6 flows   packets there {}, to the pollers {}{limited}{paused}",
        number(it.flows_v4),
        number(it.flows_v6),
        number(it.hits),
        number(it.punted)
    );
    let parts: Vec<_> = [text].into_iter().chain(xsk_warnings(&it.xsk)).collect();
    parts.join("; ")
}

fn drops(status: &Status) -> String {
    let total: u64 = status.drops.iter().map(|entry| entry.count).sum();
    if total == 0 {
        return "none".to_owned();
    }
    let mut named: Vec<_> = status
        .drops
        .iter()
        .take(REASONS)
        .map(|entry| format!("{} {}", one_line(&entry.reason), number(entry.count)))
        .collect();
    if status.drops.len() > REASONS {
        named.push("…".to_owned());
    }
    format!(
        "{:<10} {}   (caracal drops)",
        number(total),
        named.join(", ")
    )
}

fn problems(out: &mut String, problems: &[Problem]) {
    for problem in problems {
        let place = problem
            .interface
            .as_ref()
            .map_or(String::new(), |name| format!("{}: ", one_line(name)));
        let mut lines = problem.message.lines();
        let _ = writeln!(
            out,
            "! {place}{}",
            one_line(lines.next().unwrap_or_default())
        );
        for more in lines {
            let _ = writeln!(out, "  {}", one_line(more).trim_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    fn status() -> Status {
        serde_json::from_str(include_str!("../../tests/golden/status.json")).unwrap()
    }

    #[test]
    fn a_degraded_node_on_one_screen() {
        let status = status();
        assert!(!status.is_healthy());
        golden::check("status.txt", &render(&status));
    }

    #[test]
    fn a_healthy_node_on_one_screen() {
        let mut status = status();
        status.problems.clear();
        status.datastore.error = None;
        status.datastore.remarks = 0;
        status.closed.clear();
        status.drops.clear();
        status.ports.truncate(2);
        assert!(status.is_healthy());
        golden::check("status-healthy.txt", &render(&status));
    }

    #[test]
    fn felix_in_one_line() {
        let mut status = status();
        status.datastore.path = "/var/run/calico/felix-dataplane.sock".into();
        let mut lines = String::new();
        let mut add = |status: &Status| {
            let text = render(status);
            let line = text.lines().find(|line| line.contains("Datastore"));
            let _ = writeln!(lines, "{}", line.unwrap());
        };
        let mut felix = Felix {
            connected: false,
            since_seconds: None,
            in_sync: false,
            sequence: 0,
            messages: 0,
            ignored: 0,
            connections: 0,
            last_error: None,
        };
        status.felix = Some(felix.clone());
        add(&status);
        felix.connected = true;
        felix.since_seconds = Some(7);
        felix.messages = 1200;
        felix.sequence = 1199;
        felix.ignored = 3;
        status.felix = Some(felix.clone());
        add(&status);
        felix.in_sync = true;
        status.felix = Some(felix.clone());
        status.problems.clear();
        add(&status);
        felix.connected = false;
        felix.since_seconds = Some(100);
        felix.last_error = Some("no\u{1b}[2J message".to_owned());
        status.felix = Some(felix);
        add(&status);
        golden::check("status-felix.txt", &lines);
    }

    #[test]
    fn kubernetes_in_one_line() {
        let mut status = status();
        status.problems.clear();
        let mut kubernetes = Kubernetes {
            server: None,
            synced_seconds: None,
            services: 0,
            endpoint_slices: 0,
            error: None,
        };
        let mut lines = String::new();
        let mut add = |kubernetes: &Kubernetes, problem: Option<&str>| {
            status.kubernetes = Some(kubernetes.clone());
            status.problems = Vec::from_iter(problem.map(|message| Problem {
                part: Part::Kubernetes,
                interface: None,
                message: message.to_owned(),
            }));
            let text = render(&status);
            let is_about = |line: &&str| line.contains("Kubernetes");
            for line in text.lines().filter(is_about) {
                let _ = writeln!(lines, "{line}");
            }
        };
        add(&kubernetes, Some("Kubernetes has not said which"));
        kubernetes.server = Some("https://192.0.2.10:6443\u{1b}".to_owned());
        kubernetes.synced_seconds = Some(300);
        kubernetes.services = 12;
        kubernetes.endpoint_slices = 1;
        add(&kubernetes, None);
        kubernetes.error = Some("services: no".to_owned());
        add(&kubernetes, Some("Kubernetes: services: no\u{1b}"));
        golden::check("status-kubernetes.txt", &lines);
    }

    #[test]
    fn nothing_from_outside_reaches_the_terminal() {
        let mut status = status();
        status.node = "a\u{1b}[2Jb".to_owned();
        status.problems[0].message = "x\u{1b}]0;y\u{7}\n\u{9b}z".to_owned();
        let text = render(&status);
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
    }

    #[test]
    fn json_says_which_schema_it_follows() {
        let text = ask::to_json("caracal.status/v1", &status());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["schema"], "caracal.status/v1");
        assert_eq!(value["ports"][0]["name"], "ens1f0");
    }
}
