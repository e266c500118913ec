//! What is tried: the encapsulation mode, where node 2 stands, and what the wire between the nodes must then show.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// How pods' packets travel between nodes: the mode of both address pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// `vxlanMode: Always`, both families.
    Vxlan,
    /// `ipipMode: Always`; IPIP is IPv4 only, so IPv6 goes unencapsulated.
    Ipip,
    /// No encapsulation: the underlay knows the way to the pods.
    Direct,
    /// `vxlanMode: CrossSubnet`: VXLAN to nodes of other subnets only.
    CrossSubnet,
}

impl Mode {
    /// Every mode, in the order of the demonstration.
    pub const ALL: [Self; 4] = [Self::Vxlan, Self::Ipip, Self::Direct, Self::CrossSubnet];
}

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    #[value(name = "ipv4", alias = "4")]
    Ipv4,
    /// IPv6.
    #[value(name = "ipv6", alias = "6")]
    Ipv6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

/// The form in which a pod's packet crosses the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Carriage {
    /// As it is, with the pod's own addresses.
    Plain,
    /// In VXLAN (UDP port 4789).
    Vxlan,
    /// In IPv4 (protocol 4).
    Ipip,
}

impl fmt::Display for Carriage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Plain => "plain",
            Self::Vxlan => "vxlan",
            Self::Ipip => "ipip",
        })
    }
}

/// A mode together with where node 2 stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scenario {
    /// Mode of the pools.
    pub mode: Mode,
    /// Node 2 is in node 1's subnet.
    pub same_subnet: bool,
}

impl Scenario {
    /// The scenarios that show `mode`: cross-subnet needs node 2 in both places.
    pub fn of(mode: Mode) -> &'static [Self] {
        const fn with(mode: Mode, same_subnet: bool) -> Scenario {
            Scenario { mode, same_subnet }
        }
        match mode {
            Mode::Vxlan => const { &[with(Mode::Vxlan, false)] },
            Mode::Ipip => const { &[with(Mode::Ipip, false)] },
            Mode::Direct => const { &[with(Mode::Direct, false)] },
            Mode::CrossSubnet => {
                const {
                    &[
                        with(Mode::CrossSubnet, true),
                        with(Mode::CrossSubnet, false),
                    ]
                }
            }
        }
    }

    /// The form that packets between pods of different nodes must have on the underlay.
    pub fn carriage(self, family: Family) -> Carriage {
        match (self.mode, family) {
            (Mode::Ipip, Family::Ipv4) => Carriage::Ipip,
            (Mode::Ipip, Family::Ipv6) | (Mode::Direct, _) => Carriage::Plain,
            (Mode::CrossSubnet, _) if self.same_subnet => Carriage::Plain,
            (Mode::Vxlan | Mode::CrossSubnet, _) => Carriage::Vxlan,
        }
    }

    /// MTU of the pods' interfaces: the underlay's 1500 less the largest header that the mode may add, as Calico
    /// computes it (IPIP 20, VXLAN over IPv6 70).
    pub fn pod_mtu(self) -> u16 {
        match self.mode {
            Mode::Vxlan | Mode::CrossSubnet => 1430,
            Mode::Ipip => 1480,
            Mode::Direct => 1500,
        }
    }

    /// The name that the output shows.
    pub fn label(self) -> &'static str {
        match (self.mode, self.same_subnet) {
            (Mode::Vxlan, _) => "vxlan",
            (Mode::Ipip, _) => "ipip",
            (Mode::Direct, _) => "direct",
            (Mode::CrossSubnet, true) => "cross-subnet/same",
            (Mode::CrossSubnet, false) => "cross-subnet/other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_subnet_encapsulates_only_to_the_other_subnet() {
        let forms: Vec<_> = Scenario::of(Mode::CrossSubnet)
            .iter()
            .map(|scenario| (scenario.same_subnet, scenario.carriage(Family::Ipv6)))
            .collect();
        assert_eq!(forms, [(true, Carriage::Plain), (false, Carriage::Vxlan)]);
    }

    #[test]
    fn ipip_carries_ipv4_only() {
        let [scenario] = Scenario::of(Mode::Ipip) else {
            panic!("one scenario")
        };
        assert_eq!(scenario.carriage(Family::Ipv4), Carriage::Ipip);
        assert_eq!(scenario.carriage(Family::Ipv6), Carriage::Plain);
    }
}
