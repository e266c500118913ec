//! The uplinks: what the daemon asks of them, and what of it can be seen without touching them.

use std::io;
use std::path::Path;

use fastpath::io::xsk::ethtool::{self, Channels, Offloads};

use super::finding::Finding;
use crate::config::DaemonConfig;
use crate::config::daemon::{Offload, Uplink, UplinkMode};
use crate::netlink::features::{XdpFeatures, xdp_features};
use crate::netlink::{Link, Mirror};
use crate::node::error::{RunError, WHOLE_MTU};
use crate::node::{devices, ports, uplink};
use crate::words::counted;
use crate::xdp::{AttachError, NIC_PROGRAM, is_left_on, programs_on};

/// What was seen of the uplinks.
pub(super) struct Seen {
    pub(super) findings: Vec<Finding>,
    /// Queues that are served, of all together.
    pub(super) queues: u32,
    /// The largest MTU; 0 without uplinks.
    pub(super) mtu: u32,
}

/// Looks at each.
pub(super) fn look(path: &Path, config: &DaemonConfig, mirror: &Mirror) -> Seen {
    let mut seen = Seen {
        findings: Vec::new(),
        queues: 0,
        mtu: 0,
    };
    if config.uplinks.is_empty() {
        seen.findings.push(Finding::warn(
            "uplink",
            "none is named: pods reach each other and the host, and nothing else",
            "name one in `uplinks` of caracal.yaml, or here with --interface",
        ));
    }
    for uplink in &config.uplinks {
        let name = &uplink.interface.value;
        let link = match uplink::link(path, uplink, mirror) {
            Ok(link) => link,
            Err(error) => {
                let finding = Finding::refused("uplink", &error);
                seen.findings.push(finding.of(name));
                continue;
            }
        };
        seen.mtu = seen.mtu.max(link.mtu);
        let mut of_link: Vec<_> = mtu(link, config.frames.largest()).into_iter().collect();
        of_link.extend(place(link, mirror));
        let devices = devices::of(link, mirror);
        if devices::is_bond(link) {
            of_link.insert(0, bond(link, &devices));
            seen.add(name, std::mem::take(&mut of_link));
        }
        if config.offload == Offload::Kernel {
            seen.queues += config.pollers();
            let found = format!("{} to send", counted(link.tx_queues.into(), "queue"));
            of_link.insert(
                0,
                if link.is_up() {
                    Finding::ok("uplink", found)
                } else {
                    let todo = format!("`ip link set {name} up`, and look at the cable");
                    Finding::warn("uplink", format!("it is down; {found}"), todo)
                },
            );
            of_link.extend(
                uplink::check_to_send(link, config.pollers())
                    .err()
                    .map(|error| Finding::refused("uplink-queues", &error)),
            );
        } else {
            for device in devices {
                let (queues, findings) = look_at(device, uplink, config.pollers(), mirror);
                seen.queues += queues;
                seen.add(&device.name, findings);
            }
        }
        seen.add(name, of_link);
    }
    seen
}

/// Looks at a device that packets of an uplink come in by. How many queues of it are served.
fn look_at(device: &Link, uplink: &Uplink, pollers: u32, mirror: &Mirror) -> (u32, Vec<Finding>) {
    let facts = Facts::gather(device);
    let queues = uplink::queues(&device.name, uplink, pollers);
    let mut findings = vec![summary(uplink, device, &facts, pollers)];
    let served = queues.unwrap_or_else(|error| {
        findings.push(Finding::refused("uplink-queues", &error));
        1
    });
    findings.extend(match no_native_xdp(device, uplink.mode) {
        Some(finding) => vec![finding],
        None => driver(&device.name, uplink.mode, &facts),
    });
    findings.extend(program(&device.name, &facts));
    findings.extend(tags(device, mirror.links(), facts.offloads));
    (served, findings)
}

/// A bond, whose members are looked at one by one.
fn bond(link: &Link, members: &[&Link]) -> Finding {
    let check = "uplink";
    if members.is_empty() {
        let interface = link.name.clone();
        return Finding::refused(check, &RunError::NoMembers { interface });
    }
    let names: Vec<_> = members.iter().map(|it| it.name.as_str()).collect();
    let found = format!(
        "a bond of {}: packets come in by them, and leave by it, in copy mode",
        names.join(" and ")
    );
    if link.is_up() {
        return Finding::ok(check, found);
    }
    let todo = format!("`ip link set {} up`, and look at the cables", link.name);
    Finding::warn(check, format!("it is down; {found}"), todo)
}

impl Seen {
    fn add(&mut self, name: &str, findings: Vec<Finding>) {
        self.findings
            .extend(findings.into_iter().map(|it| it.of(name)));
    }
}

/// What the kernel and the driver say.
struct Facts {
    driver: String,
    channels: Option<Channels>,
    offloads: Offloads,
    /// `None`: nobody says.
    features: io::Result<Option<XdpFeatures>>,
    /// Programs on it: names, where they can be seen, and numbers.
    programs: io::Result<Vec<(String, u32)>>,
    /// Whether a former daemon left it there.
    is_left: bool,
}

impl Facts {
    fn gather(link: &Link) -> Self {
        let name = &link.name;
        Self {
            driver: ethtool::driver(name).unwrap_or_else(|_| "unknown".to_owned()),
            channels: ethtool::channels(name).ok(),
            offloads: ethtool::offloads(name).unwrap_or_default(),
            features: xdp_features(link.ifindex),
            programs: programs_on(name),
            is_left: is_left_on(name),
        }
    }
}

/// What it is.
fn summary(uplink: &Uplink, link: &Link, facts: &Facts, pollers: u32) -> Finding {
    let check = "uplink";
    let queues = match facts.channels {
        Some(channels) => counted(channels.queues().into(), "queue"),
        None => "1 queue (the driver does not say)".to_owned(),
    };
    let xdp = match &facts.features {
        Err(_) => "native XDP and zero-copy not known",
        Ok(None) => {
            "native XDP and zero-copy not tried: the kernel does not say before 6.3, and to try would disturb it"
        }
        Ok(Some(features)) if !features.has_native() => "no native XDP",
        Ok(Some(features)) if !features.has_zero_copy() => "native XDP, no zero-copy",
        Ok(Some(_)) if uplink.mode == UplinkMode::Copy => {
            "native XDP, zero-copy not wanted (`mode: copy`)"
        }
        Ok(Some(_)) => "native XDP, zero-copy offered (not tried: it would reset the link)",
    };
    let found = format!(
        "driver {}, {queues} for {}, MTU {}, {xdp}",
        facts.driver,
        counted(pollers.into(), "poller"),
        link.mtu
    );
    if link.is_up() {
        return Finding::ok(check, found);
    }
    let todo = format!("`ip link set {} up`, and look at the cable", link.name);
    Finding::warn(check, format!("it is down; {found}"), todo)
}

/// Whether packets fit frames, and what drivers take.
fn mtu(link: &Link, frame: u32) -> Option<Finding> {
    let check = "uplink-mtu";
    if let Err(error) = ports::check_mtu(link, frame) {
        return Some(Finding::refused(check, &error));
    }
    let found = format!(
        "MTU {}: with more than {WHOLE_MTU} a packet is in pieces, and drivers refuse XDP (not tried)",
        link.mtu
    );
    let todo = format!("lower it to {WHOLE_MTU} or less, here and on the network");
    (link.mtu > WHOLE_MTU).then(|| Finding::warn(check, found, todo))
}

/// What the kernel can not do on a VLAN device, whatever is below it.
fn no_native_xdp(device: &Link, mode: UplinkMode) -> Option<Finding> {
    if device.kind.as_deref() != Some("vlan") || mode == UplinkMode::Generic {
        return None;
    }
    let ifname = device.name.clone();
    Some(Finding::refused(
        "uplink-xdp",
        &AttachError::VlanDevice { ifname },
    ))
}

/// Whether the driver does what the configuration wants.
fn driver(ifname: &str, mode: UplinkMode, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.offloads.lro && mode != UplinkMode::Generic {
        findings.push(Finding::warn(
            "uplink-offloads",
            "LRO is on, and drivers refuse native XDP with it",
            format!("`ethtool -K {ifname} lro off`"),
        ));
    }
    let features = match &facts.features {
        Ok(Some(features)) => features,
        Ok(None) => return findings,
        Err(error) => {
            findings.push(Finding::unknown("uplink-xdp", error));
            return findings;
        }
    };
    match mode {
        UplinkMode::Generic if !features.has_native() => findings.push(Finding::warn(
            "uplink-xdp",
            "generic XDP: about ten times slower than native",
            "another NIC, if that is too slow",
        )),
        UplinkMode::Generic => {}
        _ if !features.has_native() => {
            let ifname = ifname.to_owned();
            let error = AttachError::NoNativeXdp { ifname };
            findings.push(Finding::refused("uplink-xdp", &error));
        }
        UplinkMode::ZeroCopy if !features.has_zero_copy() => findings.push(Finding::missing(
            "uplink-zero-copy",
            format!(
                "`mode: zero-copy`, and its driver ({}) has none",
                facts.driver
            ),
            "`mode: auto` or `copy` in caracal.yaml",
        )),
        _ => {}
    }
    findings
}

/// Whether another program is there.
fn program(ifname: &str, facts: &Facts) -> Option<Finding> {
    let check = "uplink-program";
    let (name, id) = match &facts.programs {
        Ok(programs) => programs.first()?,
        Err(error) => return Some(Finding::unknown(check, error)),
    };
    if name == NIC_PROGRAM || facts.is_left {
        return Some(Finding::ok(check, "the daemon's own is attached"));
    }
    let holder = format!(" {name:?} (id {id})");
    let ifname = ifname.to_owned();
    Some(Finding::refused(
        check,
        &AttachError::Held { ifname, holder },
    ))
}

/// Devices that are made of others, or parts of others.
fn place(link: &Link, mirror: &Mirror) -> Vec<Finding> {
    let check = "uplink-place";
    let mut findings = Vec::new();
    if let Some(kind @ ("bridge" | "macvlan" | "ipvlan")) = link.kind.as_deref() {
        findings.push(Finding::warn(
            check,
            format!("it is a {kind}: not tested as an uplink"),
            "take the physical interface, if its packets have no tags and the addresses can be there",
        ));
    }
    if let Some(master) = link.master.and_then(|index| mirror.link(index)) {
        let kind = master.kind.as_deref().unwrap_or("device");
        let what = format!("it is part of the {kind} {}", master.name);
        let away = "which has the addresses, and by which routes lead: no packet of a pod would leave here";
        let (found, todo) = match kind {
            "vrf" => (
                "whose routes are not in table main, which is the one that is read",
                "take it out of the VRF".to_owned(),
            ),
            "bond" | "team" => (away, format!("name {} in `uplinks` instead", master.name)),
            _ => (
                away,
                "give it the addresses itself, outside of that, and try on a node that carries nothing you need"
                    .to_owned(),
            ),
        };
        findings.push(Finding::warn(check, format!("{what}, {found}"), todo));
    }
    findings
}

/// VLANs on top of an uplink whose tags the NIC takes off: XDP would not see whose packet it is.
fn tags<'l>(
    link: &Link,
    others: impl IntoIterator<Item = &'l Link>,
    offloads: Offloads,
) -> Option<Finding> {
    let on_top = |other: &&Link| {
        other.kind.as_deref() == Some("vlan")
            && other.peer == Some(link.ifindex)
            && other.peer_netns.is_none()
    };
    let vlan = others
        .into_iter()
        .find(on_top)
        .filter(|_| offloads.rx_vlan)?;
    Some(Finding::warn(
        "uplink-vlan",
        format!(
            "{} is on top of it, and it takes tags off before XDP sees them: packets of that VLAN may be taken for the uplink's own",
            vlan.name
        ),
        format!("`ethtool -K {} rxvlan off`", link.name),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use crate::config::{Located, Source, Span};

    fn facts(features: Option<u64>) -> Facts {
        Facts {
            driver: "ice".to_owned(),
            channels: None,
            offloads: Offloads::default(),
            features: Ok(features.map(XdpFeatures::from_bits)),
            programs: Ok(Vec::new()),
            is_left: false,
        }
    }

    fn uplink(mode: UplinkMode) -> Uplink {
        let at = Span {
            source: Source::new("caracal.yaml", ""),
            start: 0,
            len: 0,
        };
        let value = "ens1f0".to_owned();
        Uplink {
            interface: Located { value, at },
            queues: None,
            mode,
        }
    }

    const NONE: Option<u64> = Some(0);
    const NATIVE: Option<u64> = Some(0b11);
    const ZERO_COPY: Option<u64> = Some(0b1011);

    #[test]
    fn what_the_driver_lacks_is_missing_only_if_it_is_wanted() {
        use UplinkMode::{Auto, Copy, Generic, ZeroCopy};
        let said = |mode, features| {
            let all = driver("ens1f0", mode, &facts(features));
            all.first().map(|finding| finding.state)
        };
        for mode in [Auto, Copy, ZeroCopy, Generic] {
            assert_eq!(said(mode, ZERO_COPY), None);
            assert_eq!(said(mode, None), None, "nobody says");
        }
        assert_eq!(said(Auto, NATIVE), None);
        assert_eq!(said(ZeroCopy, NATIVE), Some(State::Missing));
        assert_eq!(said(Auto, NONE), Some(State::Missing));
        assert_eq!(said(Copy, NONE), Some(State::Missing));
        assert_eq!(said(Generic, NONE), Some(State::Warn));
    }

    #[test]
    fn what_was_not_tried_is_said() {
        let link = Link {
            admin_up: true,
            mtu: 1500,
            ..Link::default()
        };
        let said = |features| summary(&uplink(UplinkMode::Auto), &link, &facts(features), 2).found;
        assert!(said(None).contains("not tried"), "{}", said(None));
        assert!(said(ZERO_COPY).contains("zero-copy offered (not tried"));
        assert!(said(NATIVE).ends_with("native XDP, no zero-copy"));
        let down = Link::default();
        let finding = summary(&uplink(UplinkMode::Auto), &down, &facts(NATIVE), 2);
        assert_eq!(finding.state, State::Warn);
    }

    #[test]
    fn a_vlan_device_needs_the_generic_mode() {
        let vlan = Link {
            name: "ens1f0.7".to_owned(),
            kind: Some("vlan".to_owned()),
            ..Link::default()
        };
        let finding = no_native_xdp(&vlan, UplinkMode::Auto).unwrap();
        assert_eq!(finding.state, State::Missing);
        assert!(finding.found.contains("VLAN device"), "{finding:?}");
        assert_eq!(no_native_xdp(&vlan, UplinkMode::Generic), None);
        assert_eq!(no_native_xdp(&Link::default(), UplinkMode::Auto), None);
    }

    #[test]
    fn lro_is_in_the_way() {
        let mut facts = facts(NATIVE);
        facts.offloads.lro = true;
        let all = driver("ens1f0", UplinkMode::Auto, &facts);
        assert_eq!(all[0].check, "uplink-offloads");
        assert_eq!(all[0].todo.as_deref(), Some("`ethtool -K ens1f0 lro off`"));
        assert_eq!(driver("ens1f0", UplinkMode::Generic, &facts), []);
    }

    #[test]
    fn what_could_not_be_looked_at_is_said() {
        let denied = || io::Error::from_raw_os_error(libc::EPERM);
        let mut facts = facts(NATIVE);
        facts.features = Err(denied());
        facts.programs = Err(denied());
        let mut all = driver("ens1f0", UplinkMode::Auto, &facts);
        all.extend(program("ens1f0", &facts));
        let checks: Vec<_> = all.iter().map(|it| (it.check, it.state)).collect();
        let warned = ["uplink-xdp", "uplink-program"].map(|check| (check, State::Warn));
        assert_eq!(checks, warned);
        assert!(
            all.iter().all(|it| it.found.contains("not permitted")),
            "{all:?}"
        );
    }

    #[test]
    fn vlans_on_top_matter_where_tags_are_taken_off() {
        let uplink = Link {
            ifindex: 7,
            name: "ens1f0".to_owned(),
            ..Link::default()
        };
        let vlan = Link {
            ifindex: 8,
            name: "ens1f0.7".to_owned(),
            kind: Some("vlan".to_owned()),
            peer: Some(7),
            ..Link::default()
        };
        let others = [
            Link {
                kind: Some("macvlan".to_owned()),
                ..vlan.clone()
            },
            Link {
                peer: Some(9),
                ..vlan.clone()
            },
            Link {
                peer_netns: Some(0),
                ..vlan.clone()
            },
        ];
        let taken_off = Offloads {
            rx_vlan: true,
            ..Offloads::default()
        };
        let finding = tags(&uplink, [&vlan], taken_off).unwrap();
        assert!(
            finding.found.starts_with("ens1f0.7 is on top"),
            "{finding:?}"
        );
        assert_eq!(
            finding.todo.as_deref(),
            Some("`ethtool -K ens1f0 rxvlan off`")
        );
        assert_eq!(tags(&uplink, [&vlan], Offloads::default()), None);
        assert_eq!(tags(&uplink, &others, taken_off), None);
    }

    #[test]
    fn our_own_program_is_no_strangers() {
        let mut facts = facts(NATIVE);
        assert_eq!(program("ens1f0", &facts), None);
        facts.programs = Ok(vec![(NIC_PROGRAM.to_owned(), 7)]);
        assert_eq!(program("ens1f0", &facts).unwrap().state, State::Ok);
        facts.programs = Ok(vec![("cil_xdp_entry".to_owned(), 8)]);
        let finding = program("ens1f0", &facts).unwrap();
        assert_eq!(finding.state, State::Missing);
        assert!(
            finding.found.contains("\"cil_xdp_entry\" (id 8)"),
            "{finding:?}"
        );
        facts.is_left = true;
        assert_eq!(program("ens1f0", &facts).unwrap().state, State::Ok);
    }
}
