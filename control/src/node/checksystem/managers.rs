//! Programs that configure networks, and are to leave ours alone.

use super::finding::Finding;
use super::machine::Machine;

/// Names that must be left alone, one of each kind of ours.
const OURS: [&str; 2] = ["cali0123456789a", "caracal0"];

/// Looks at those that run.
pub(super) fn look(machine: &Machine) -> Vec<Finding> {
    let mut findings = vec![network_manager(machine)];
    findings.extend(networkd(machine));
    findings
}

fn network_manager(machine: &Machine) -> Finding {
    let check = "network-manager";
    if machine.is_container() {
        return Finding::unseen(
            check,
            "it may take addresses and routes off cali* and caracal0",
        );
    }
    if machine.process(&["NetworkManager"]).is_none() {
        return Finding::ok(check, "does not run");
    }
    let mut values: Vec<String> = Vec::new();
    for text in network_manager_files(machine) {
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let appended = key.strip_suffix('+');
            if appended.unwrap_or(key).trim() != "unmanaged-devices" {
                continue;
            }
            if appended.is_none() {
                values.clear();
            }
            let names = value.split([';', ',']);
            let names = names.filter_map(|part| part.trim().strip_prefix("interface-name:"));
            values.extend(names.map(str::to_owned));
        }
    }
    let free = OURS
        .iter()
        .all(|name| values.iter().any(|pattern| matches(pattern, name)));
    if free {
        return Finding::ok(check, "runs, and leaves cali* and caracal0 alone");
    }
    Finding::warn(
        check,
        "runs, and may take addresses and routes off cali* and caracal0",
        "write /etc/NetworkManager/conf.d/90-caracal.conf (docs/real-node.md), and `nmcli general reload`",
    )
}

/// What NetworkManager reads, in its order: the vendor's, the boot's, the main file, the administrator's. A file hides those of its
/// name before it.
fn network_manager_files(machine: &Machine) -> Vec<String> {
    let directories = ["usr/lib", "run", "etc"].map(|it| format!("{it}/NetworkManager/conf.d"));
    let names = directories.each_ref().map(|it| machine.names(it, ".conf"));
    let mut texts = Vec::new();
    for (at, directory) in directories.iter().enumerate() {
        if at + 1 == directories.len() {
            texts.extend(machine.read("etc/NetworkManager/NetworkManager.conf"));
        }
        for name in names.get(at).into_iter().flatten() {
            let hidden = names
                .iter()
                .skip(at + 1)
                .flatten()
                .any(|other| other == name);
            let text = machine.read(&format!("{directory}/{name}"));
            texts.extend(text.filter(|_| !hidden));
        }
    }
    texts
}

fn networkd(machine: &Machine) -> Vec<Finding> {
    let check = "systemd-networkd";
    if machine.is_container() {
        let then = "it may manage cali* and caracal0, and delete the daemon's rules and routes";
        return vec![Finding::unseen(check, then)];
    }
    if machine
        .process(&["systemd-network", "systemd-networkd"])
        .is_none()
    {
        return vec![Finding::ok(check, "does not run")];
    }
    let directories = [
        "etc/systemd/network",
        "run/systemd/network",
        "usr/lib/systemd/network",
    ];
    let files = machine.drop_ins(&directories, ".network");
    let managed = OURS.iter().find_map(|name| {
        let (path, text) = files.iter().find(|(_, text)| is_for(text, name))?;
        (!says([text.as_str()], "Link", "Unmanaged", YES)).then_some((name, path))
    });
    let mut findings = vec![match managed {
        None => Finding::ok(check, "runs, and leaves cali* and caracal0 alone"),
        Some((name, path)) => Finding::warn(
            check,
            format!("/{path} has it manage {name}"),
            "write /etc/systemd/network/10-caracal.network (docs/real-node.md), and `networkctl reload`",
        ),
    }];
    let directories = [
        "etc/systemd/networkd.conf.d",
        "run/systemd/networkd.conf.d",
        "usr/lib/systemd/networkd.conf.d",
    ];
    let drop_ins = machine.drop_ins(&directories, ".conf");
    let main = machine
        .read("etc/systemd/networkd.conf")
        .unwrap_or_default();
    let kept = |key: &str| {
        let texts = drop_ins.iter().map(|(_, text)| text.as_str());
        says([main.as_str()].into_iter().chain(texts), "Network", key, NO)
    };
    if !(kept("ManageForeignRoutes") && kept("ManageForeignRoutingPolicyRules")) {
        findings.push(Finding::warn(
            "networkd-foreign-routes",
            "deletes rules and routes that it does not know whenever it starts; the daemon puts its own back within a second",
            "`ManageForeignRoutes=no` and `ManageForeignRoutingPolicyRules=no` in /etc/systemd/networkd.conf.d/10-caracal.conf",
        ));
    }
    findings
}

/// Whether a .network file is for an interface of ours, which is a veth. One that goes by other things than names and types, as a MAC
/// address, is for none, as far as can be known; one that says nothing is for all.
fn is_for(text: &str, name: &str) -> bool {
    let all = || settings(text, "Match");
    let meant = |key: &str, own: &str| {
        let values = all().filter(|(it, _)| *it == key);
        let values: Vec<_> = values.map(|(_, value)| value).collect();
        values.is_empty() || lists(&values.join(" "), own)
    };
    let is_named = all().any(|(key, _)| key == "Name");
    let is_known = all().all(|(key, _)| ["Type", "Kind"].contains(&key));
    (is_named || is_known) && meant("Name", name) && meant("Type", "ether") && meant("Kind", "veth")
}

/// Whether a list of patterns has a name. `!` in front of the first inverts it.
fn lists(patterns: &str, name: &str) -> bool {
    let (inverted, patterns) = patterns
        .strip_prefix('!')
        .map_or((false, patterns), |patterns| (true, patterns));
    let mut patterns = patterns.split_whitespace();
    inverted != patterns.any(|pattern| matches(pattern, name))
}

/// The settings of a section, as systemd writes them.
fn settings<'t>(text: &'t str, wanted: &'static str) -> impl Iterator<Item = (&'t str, &'t str)> {
    let mut section = "";
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        let (key, value) = line
            .split_once('=')
            .filter(|_| !line.starts_with(['#', ';']))?;
        (section == wanted).then(|| (key.trim(), value.trim()))
    })
}

/// Whether a setting is one of these: what is said last counts.
fn says<'t>(
    texts: impl IntoIterator<Item = &'t str>,
    section: &'static str,
    key: &str,
    words: [&str; 4],
) -> bool {
    let value = texts
        .into_iter()
        .flat_map(|text| settings(text, section))
        .filter(|(name, _)| *name == key)
        .last();
    value.is_some_and(|(_, value)| words.contains(&value))
}

const YES: [&str; 4] = ["yes", "true", "on", "1"];
const NO: [&str; 4] = ["no", "false", "off", "0"];

/// A shell's pattern, of which only `*` and `?` are known.
fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = name.chars();
    match pattern.chars().next() {
        None => name.is_empty(),
        Some('*') => {
            let after = &pattern[1..];
            (0..=name.len()).any(|at| name.get(at..).is_some_and(|rest| matches(after, rest)))
        }
        Some(first) => {
            let next = rest.next();
            next.is_some_and(|it| first == '?' || first == it)
                && matches(&pattern[first.len_utf8()..], rest.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::machine::played::Played;
    use super::*;

    const NM: (&str, &str) = ("proc/50/comm", "NetworkManager\n");
    // The kernel cuts names at 15 letters.
    const NETWORKD: (&str, &str) = ("proc/51/comm", "systemd-network\n");

    fn states(name: &str, files: &[(&str, &str)]) -> Vec<(&'static str, State)> {
        let machine = Played::new(&format!("managers-{name}"), files);
        let all = look(&machine.0);
        all.iter().map(|it| (it.check, it.state)).collect()
    }

    #[test]
    fn network_manager_is_kept_off_by_the_file_of_the_documentation() {
        let file = "etc/NetworkManager/conf.d/90-caracal.conf";
        let snippet = include_str!("../../../../deploy/90-caracal.conf");
        let none = states("none", &[]);
        assert_eq!(none[0], ("network-manager", State::Ok));
        let bare = states("bare", &[NM]);
        assert_eq!(bare[0], ("network-manager", State::Warn));
        let kept = states("kept", &[NM, (file, snippet)]);
        assert_eq!(kept[0], ("network-manager", State::Ok));
        let half = "[keyfile]\nunmanaged-devices=interface-name:cali*\n";
        let half = states("half", &[NM, (file, half)]);
        assert_eq!(half[0], ("network-manager", State::Warn));
        // The main file is read after the vendor's, and the administrator's after it.
        let main = "etc/NetworkManager/NetworkManager.conf";
        let other = "[keyfile]\nunmanaged-devices=interface-name:wlan0\n";
        let vendors = ("usr/lib/NetworkManager/conf.d/90-caracal.conf", snippet);
        let over = states("over", &[NM, vendors, (main, other)]);
        assert_eq!(over[0], ("network-manager", State::Warn));
        let under = states("under", &[NM, (file, snippet), (main, other)]);
        assert_eq!(under[0], ("network-manager", State::Ok));
        let hidden = states("hidden", &[NM, vendors, (file, "")]);
        assert_eq!(hidden[0], ("network-manager", State::Warn));
        let most = "[keyfile]\nunmanaged-devices+=mac:00:11:22:33:44:55;interface-name:ca*\n";
        let most = states("most", &[NM, (file, most)]);
        assert_eq!(most[0], ("network-manager", State::Ok));
    }

    #[test]
    fn from_a_container_they_are_not_seen() {
        // Its files are the container's, too.
        let machine = Played::container("managers-container", &[NM, NETWORKD]);
        let all = look(&machine.0);
        let said: Vec<_> = all.iter().map(|it| (it.check, it.state)).collect();
        let warned = ["network-manager", "systemd-networkd"].map(|check| (check, State::Warn));
        assert_eq!(said, warned);
        assert!(
            all.iter()
                .all(|it| it.found.starts_with("not seen from a container")),
            "{all:?}"
        );
    }

    #[test]
    fn networkd_is_kept_off_by_the_files_of_the_documentation() {
        let all = (
            "usr/lib/systemd/network/80-all.network",
            "[Match]\nName=*\n[Network]\nDHCP=yes\n",
        );
        let ours = (
            "etc/systemd/network/10-caracal.network",
            include_str!("../../../../deploy/10-caracal.network"),
        );
        let routes = (
            "etc/systemd/networkd.conf.d/10-caracal.conf",
            include_str!("../../../../deploy/10-caracal.conf"),
        );
        let said = |name: &str, files: &[(&str, &str)]| {
            let states = states(name, files);
            states
                .into_iter()
                .skip(1)
                .map(|(_, state)| state)
                .collect::<Vec<_>>()
        };
        assert_eq!(said("absent", &[all]), [State::Ok]);
        assert_eq!(
            said("managed", &[NETWORKD, all]),
            [State::Warn, State::Warn]
        );
        assert_eq!(said("routes", &[NETWORKD, all, routes]), [State::Warn]);
        assert_eq!(
            said("links", &[NETWORKD, all, ours]),
            [State::Ok, State::Warn]
        );
        assert_eq!(said("both", &[NETWORKD, all, ours, routes]), [State::Ok]);
        // Of what networkd itself is told the last counts.
        let later = (
            "etc/systemd/networkd.conf.d/20-x.conf",
            "[Network]\nManageForeignRoutes=yes\n",
        );
        let main = ("etc/systemd/networkd.conf", later.1);
        let over = said("over", &[NETWORKD, all, ours, routes, later]);
        assert_eq!(over, [State::Ok, State::Warn]);
        let under = said("under", &[NETWORKD, all, ours, routes, main]);
        assert_eq!(under, [State::Ok]);
        // The first file that is for it counts.
        let late = ("etc/systemd/network/90-caracal.network", ours.1);
        assert_eq!(said("late", &[NETWORKD, all, late, routes]), [State::Warn]);
        let wired = (all.0, "[Match]\nType=ether\nKind=!*\n[Network]\nDHCP=yes\n");
        assert_eq!(said("wired", &[NETWORKD, wired, routes]), [State::Ok]);
        // Veths have this type, too.
        let ether = (all.0, "[Match]\nType=ether\n[Network]\nDHCP=yes\n");
        assert_eq!(said("ether", &[NETWORKD, ether, routes]), [State::Warn]);
        let wlan = (all.0, "[Match]\nType=wlan\n[Network]\nDHCP=yes\n");
        assert_eq!(said("wlan", &[NETWORKD, wlan, routes]), [State::Ok]);
        let others = (
            all.0,
            "[Match]\nName=!cali* caracal*\n[Network]\nDHCP=yes\n",
        );
        assert_eq!(said("others", &[NETWORKD, others, routes]), [State::Ok]);
    }

    #[test]
    fn patterns() {
        for (pattern, name, is) in [
            ("cali*", "cali1", true),
            ("cali*", "cal", false),
            ("*", "x", true),
            ("e?h0", "eth0", true),
            ("eth0", "eth01", false),
            ("*0", "caracal0", true),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }
}
