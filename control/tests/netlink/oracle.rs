//! A mirror and `ip -j` as text that must be the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use control::netlink::{Mirror, Route, RouteKind};
use ipnet::IpNet;
use serde_json::Value;

use crate::lab::ip_json;

/// Follows until the mirror shows what `ip` does, for some seconds at most: links and addresses settle in their own time.
pub(crate) fn follow_until_same(mirror: &mut Mirror, when: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        mirror.drain().expect("drain");
        match compare(mirror) {
            Ok(()) => return,
            Err(why) => assert!(Instant::now() < deadline, "{when}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Says what is not the same.
pub(crate) fn compare(mirror: &Mirror) -> Result<(), String> {
    compare_links_and_addresses(mirror)?;
    compare_routes(mirror)?;
    compare_neighbours(mirror)
}

fn same(what: &str, ours: &BTreeSet<String>, theirs: &BTreeSet<String>) -> Result<(), String> {
    let differ: Vec<_> = ours.symmetric_difference(theirs).collect();
    if differ.is_empty() {
        Ok(())
    } else {
        Err(format!("{what} on one side only: {differ:?}"))
    }
}

fn name(names: &BTreeMap<u32, String>, ifindex: u32) -> &str {
    names.get(&ifindex).map_or("?", String::as_str)
}

/// One route as text, the same for both sides: "dst kind metric proto [src S] via G dev D …" of the best route.
pub(crate) type Routes = BTreeMap<IpNet, BTreeSet<String>>;

fn prefix(text: &str, v6: bool) -> IpNet {
    match (text, v6) {
        ("default", false) => "0.0.0.0/0".parse().expect("a prefix"),
        ("default", true) => "::/0".parse().expect("a prefix"),
        (text, _) => text
            .parse()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .expect("a prefix"),
    }
}

fn names(mirror: &Mirror) -> BTreeMap<u32, String> {
    mirror
        .links()
        .map(|link| (link.ifindex, link.name.clone()))
        .collect()
}

fn mirrored_routes(mirror: &Mirror) -> Routes {
    let names = names(mirror);
    let text = |route: &Route| {
        let kind = match route.kind {
            RouteKind::Unicast => "unicast",
            RouteKind::Local => "local",
            RouteKind::Blackhole => "blackhole",
            RouteKind::Unreachable => "unreachable",
            RouteKind::Prohibit => "prohibit",
            RouteKind::Unusable => "unusable",
        };
        let mut legs: Vec<String> = (route.legs.iter())
            .map(|leg| {
                let via = leg.gateway.map(|ip| ip.to_string()).unwrap_or_default();
                let onlink = if leg.onlink { " onlink" } else { "" };
                format!(
                    "via {via} dev {} weight {}{onlink}",
                    name(&names, leg.ifindex),
                    leg.weight
                )
            })
            .collect();
        legs.sort();
        let src = route.pref_src.map(|ip| ip.to_string()).unwrap_or_default();
        format!("{kind} metric {} src {src} {legs:?}", route.metric)
    };
    mirror
        .routes()
        .map(|route| (route.dst, BTreeSet::from([text(&route)])))
        .collect()
}

/// The best route to each prefix; several where it is the kernel's secret which that is.
pub(crate) fn kernel_routes() -> Routes {
    let mut best: BTreeMap<IpNet, (u64, BTreeSet<String>)> = BTreeMap::new();
    for (family, v6) in [("-4", false), ("-6", true)] {
        for route in ip_json(&format!("-d {family} route show table main")) {
            let dst = prefix(route["dst"].as_str().expect("dst"), v6);
            let metric = route["metric"].as_u64().unwrap_or(0);
            let kind = route["type"].as_str().unwrap_or("unicast");
            let leg = |leg: &Value| {
                let gateway = leg["gateway"]
                    .as_str()
                    .or(leg["via"]["host"].as_str())
                    .unwrap_or_default();
                let flags = leg["flags"].as_array().into_iter().flatten();
                let onlink = if flags.into_iter().any(|f| f == "onlink") {
                    " onlink"
                } else {
                    ""
                };
                let weight = leg["weight"].as_u64().unwrap_or(1);
                format!(
                    "via {gateway} dev {} weight {weight}{onlink}",
                    leg["dev"].as_str().expect("dev")
                )
            };
            let mut legs: Vec<String> = match route["nexthops"].as_array() {
                Some(legs) => legs.iter().map(leg).collect(),
                None if kind == "unicast" => vec![leg(&route)],
                None => Vec::new(),
            };
            legs.sort();
            let src = route["prefsrc"].as_str().unwrap_or_default();
            let text = format!("{kind} metric {metric} src {src} {legs:?}");
            let entry = best.entry(dst).or_insert((metric, BTreeSet::new()));
            if metric < entry.0 {
                *entry = (metric, BTreeSet::new());
            }
            // IPv4 uses the first that it shows, IPv6 whichever it likes.
            if metric == entry.0 && (v6 || entry.1.is_empty()) {
                entry.1.insert(text);
            }
        }
    }
    best.into_iter()
        .map(|(dst, (_, routes))| (dst, routes))
        .collect()
}

pub(crate) fn compare_routes(mirror: &Mirror) -> Result<(), String> {
    let (ours, theirs) = (mirrored_routes(mirror), kernel_routes());
    let prefixes: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for dst in prefixes {
        let (ours, theirs) = (ours.get(dst), theirs.get(dst));
        if !ours.is_some_and(|ours| theirs.is_some_and(|theirs| ours.is_subset(theirs))) {
            return Err(format!("{dst}: mirror {ours:?}, kernel {theirs:?}"));
        }
    }
    Ok(())
}

fn mac(bytes: Option<[u8; 6]>) -> Option<String> {
    bytes.map(|b| b.map(|byte| format!("{byte:02x}")).join(":"))
}

fn compare_links_and_addresses(mirror: &Mirror) -> Result<(), String> {
    let names = names(mirror);
    let ours: BTreeSet<String> = (mirror.links())
        .map(|l| {
            let master = l.master.map(|m| name(&names, m).to_owned());
            let oper = format!("{:?}", l.oper).to_uppercase();
            format!(
                "{} {} {:?} mtu {} {oper} {} {:?} {master:?}",
                l.ifindex,
                l.name,
                mac(l.mac),
                l.mtu,
                l.admin_up,
                l.kind
            )
        })
        .collect();
    let theirs: BTreeSet<String> = (ip_json("-d link show").iter())
        .map(|l| {
            let address = l["address"].as_str().map(str::to_owned);
            let up = l["flags"]
                .as_array()
                .expect("flags")
                .iter()
                .any(|f| f == "UP");
            let kind = l["linkinfo"]["info_kind"].as_str().map(str::to_owned);
            let master = l["master"].as_str().map(str::to_owned);
            let oper = l["operstate"].as_str().expect("operstate");
            format!(
                "{} {} {address:?} mtu {} {oper} {up} {kind:?} {master:?}",
                l["ifindex"],
                l["ifname"].as_str().expect("ifname"),
                l["mtu"]
            )
        })
        .collect();
    same("links", &ours, &theirs)?;

    let ours: BTreeSet<String> = mirror
        .all_addresses()
        .filter(|a| a.is_usable())
        .map(|a| format!("{} {}/{} {:?}", a.ifindex, a.ip, a.prefix_len, a.peer))
        .collect();
    let mut theirs = BTreeSet::new();
    for link in ip_json("addr show") {
        for a in link["addr_info"].as_array().expect("addr_info") {
            // The kernel tells of an address only when it has made sure that nobody else has it.
            let Some(local) = a["local"].as_str().filter(|_| a["tentative"] != true) else {
                continue;
            };
            let peer = a["address"]
                .as_str()
                .map(|p| p.parse::<IpAddr>().expect("an address"));
            theirs.insert(format!(
                "{} {local}/{} {peer:?}",
                link["ifindex"], a["prefixlen"]
            ));
        }
    }
    same("addresses", &ours, &theirs)
}

fn compare_neighbours(mirror: &Mirror) -> Result<(), String> {
    let names = names(mirror);
    let ours: BTreeSet<String> = (mirror.neighbours())
        .filter(|n| n.usable_mac().is_some() && n.state.0 != 0x40)
        .map(|n| format!("{} {} {:?}", name(&names, n.ifindex), n.ip, mac(n.mac)))
        .collect();
    let theirs: BTreeSet<String> = (ip_json("neigh show").iter())
        .filter(|n| n["lladdr"].is_string() && n["state"][0] != "FAILED")
        .map(|n| {
            let text = |key: &str| n[key].as_str().expect("text");
            format!("{} {} {:?}", text("dev"), text("dst"), Some(text("lladdr")))
        })
        .collect();
    same("neighbours", &ours, &theirs)
}
