//! Random policies, IP sets and packets, close to each other so that they meet often.

use std::net::IpAddr;
use std::sync::Arc;

use flowtable::acl::{
    Action, ChainSpec, Family, Icmp, L4, Member, Net, Policy, PortRange, Rule, RuleId, SetId, Side,
    Tier, TierDefault,
};
use flowtable::lpm::{Prefix4, Prefix6};

use crate::naive::Packet;

/// `SplitMix64`.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// `few` values most often none, else up to three.
    fn list<T>(&mut self, none_of: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        if !self.once_in(none_of) {
            return Vec::new();
        }
        let len = 1 + self.below(3);
        (0..len).map(|_| make(self)).collect()
    }

    fn addr4(&mut self) -> u32 {
        let base = self.pick(&[
            0x0a00_0000,
            0x0a00_0000,
            0x0a00_0100,
            0xc0a8_0000,
            0,
            u32::MAX,
        ]);
        let bits = self.pick(&[2, 4, 4, 9, 17]);
        base ^ (self.bits() as u32 & ((1 << bits) - 1))
    }

    fn addr6(&mut self) -> u128 {
        let base = self.pick(&[0xfd00 << 112, 0xfd00 << 112, 0xfd01 << 112, 0, u128::MAX]);
        let shift = self.pick(&[0, 0, 0, 60, 90]);
        base ^ (u128::from(self.bits() & 15) << shift)
    }

    pub(crate) fn net(&mut self, family: Family) -> Net {
        match family {
            Family::V4 => {
                let len = self.pick(&[0, 1, 8, 23, 24, 28, 30, 31, 32, 32, 32]);
                Net::V4(Prefix4::containing(self.addr4(), len).unwrap())
            }
            Family::V6 => {
                let len = self.pick(&[0, 1, 8, 64, 66, 120, 126, 127, 128, 128, 128]);
                Net::V6(Prefix6::containing(self.addr6(), len).unwrap())
            }
        }
    }

    fn family(&mut self) -> Family {
        self.pick(&[Family::V4, Family::V4, Family::V6])
    }

    fn addr(&mut self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.addr4().into()),
            Family::V6 => IpAddr::V6(self.addr6().into()),
        }
    }

    fn port(&mut self) -> u16 {
        if self.once_in(8) {
            return self.bits() as u16;
        }
        self.pick(&[0, 1, 53, 80, 80, 81, 443, 8080, 65_534, 65_535])
    }

    fn ports(&mut self) -> PortRange {
        let (one, other) = (self.port(), self.port());
        match self.below(4) {
            // Holds nothing most often.
            0 => PortRange {
                first: one,
                last: other,
            },
            1 => PortRange {
                first: one.min(other),
                last: one.max(other),
            },
            _ => PortRange::one(one),
        }
    }

    fn protocol(&mut self) -> u8 {
        self.pick(&[6, 6, 6, 17, 17, 1, 58, 132, 0, 255])
    }

    fn icmp(&mut self) -> Icmp {
        Icmp {
            kind: self.pick(&[0, 3, 8, 128, 255]),
            code: self.once_in(2).then(|| self.pick(&[0, 1, 4])),
        }
    }

    pub(crate) fn member(&mut self) -> Member {
        let family = self.family();
        if self.once_in(3) {
            return Member::Port {
                addr: self.addr(family),
                protocol: self.protocol(),
                port: self.port(),
            };
        }
        Member::Net(self.net(family))
    }

    fn set(&mut self) -> SetId {
        // The last is not there.
        SetId(self.below(SETS + 1) as u32)
    }

    fn side(&mut self) -> Side {
        // Most sides ask nothing, few ask much.
        let rare = self.pick(&[3, 8, 40, 40]);
        Side {
            nets: self.list(rare, |random| {
                let family = random.family();
                random.net(family)
            }),
            not_nets: self.list(rare * 3, |random| {
                let family = random.family();
                random.net(family)
            }),
            ports: self.list(rare, Self::ports),
            not_ports: self.list(rare * 3, Self::ports),
            sets: self.list(rare * 2, Self::set),
            not_sets: self.list(rare * 3, Self::set),
            named_ports: self.list(rare * 3, Self::set),
            not_named_ports: self.list(rare * 4, Self::set),
            port_sets: self.list(rare * 6, Self::set),
        }
    }

    /// Rules of long policies match seldom, or the first of them would decide about everything.
    fn rule(&mut self, id: u32, is_picky: bool) -> Rule {
        let mut rule = self.any_rule(id);
        if is_picky && !self.once_in(20) {
            let family = self.family();
            for side in [&mut rule.source, &mut rule.destination] {
                side.nets = vec![self.net(family)];
            }
            rule.family = None;
        }
        rule
    }

    fn any_rule(&mut self, id: u32) -> Rule {
        Rule {
            id: RuleId(id),
            action: self.pick(&[
                Action::Allow,
                Action::Allow,
                Action::Deny,
                Action::Pass,
                Action::Log,
            ]),
            family: self.once_in(6).then(|| self.family()),
            protocol: self.once_in(2).then(|| self.protocol()),
            not_protocol: self.once_in(8).then(|| self.protocol()),
            source: self.side(),
            destination: self.side(),
            icmp: self.once_in(12).then(|| self.icmp()),
            not_icmp: self.once_in(20).then(|| self.icmp()),
        }
    }

    pub(crate) fn policy(&mut self, ids: &mut u32, rules: usize) -> Arc<Policy> {
        let len = self.below(rules + 1);
        let rules = (0..len)
            .map(|_| {
                *ids += 1;
                self.rule(*ids, len > 100)
            })
            .collect();
        Arc::new(Policy { rules })
    }

    /// `len` rules of one family for few addresses each, so that many packets get far.
    pub(crate) fn long_policy(&mut self, len: u32) -> Arc<Policy> {
        let family = self.family();
        let mut rules = Vec::new();
        for id in 1..=len {
            let mut side = || Side {
                nets: vec![
                    std::iter::repeat_with(|| self.net(family))
                        .find(is_long)
                        .unwrap(),
                ],
                ..Side::default()
            };
            let (source, mut destination) = (side(), side());
            destination.ports = self.list(2, Self::ports);
            rules.push(Rule {
                id: RuleId(id),
                action: self.pick(&[Action::Allow, Action::Deny]),
                protocol: self.once_in(2).then(|| self.protocol()),
                source,
                destination,
                ..Rule::default()
            });
        }
        Arc::new(Policy { rules })
    }

    pub(crate) fn policies(&mut self, ids: &mut u32) -> Vec<Arc<Policy>> {
        // Every size of matcher, and lists of more than one segment.
        let (policies, rules) = match self.below(48) {
            0 => (1, 6_000),
            1..3 => (2, 3_000),
            3..8 => (3, 600),
            8..18 => (8, 60),
            18..26 => (40, 6),
            26..34 => (12, 5),
            _ => (4, 3),
        };
        (0..policies).map(|_| self.policy(ids, rules)).collect()
    }

    pub(crate) fn spec(&mut self, all: &[Arc<Policy>]) -> ChainSpec {
        let choose = |random: &mut Self, most: usize| {
            let len = random.below(most + 1).min(all.len());
            let mut chosen: Vec<_> = all.to_vec();
            while chosen.len() > len {
                chosen.remove(random.below(chosen.len()));
            }
            Arc::<[_]>::from(chosen)
        };
        let most = self.pick(&[1, 4, 40]);
        ChainSpec {
            tiers: (0..self.below(4))
                .map(|_| Tier {
                    policies: choose(self, most),
                    default: self.pick(&[TierDefault::Deny, TierDefault::Pass]),
                })
                .collect(),
            profiles: choose(self, 2),
            allow_at_end: self.once_in(4),
        }
    }

    pub(crate) fn packet(&mut self) -> Packet {
        let family = self.family();
        let protocol = self.protocol();
        let l4 = match (protocol, self.below(8)) {
            // What does not go together, too: nothing may panic.
            (_, 0) => L4::Other,
            (1 | 58, 1..) => L4::Icmp {
                kind: self.pick(&[0, 3, 8, 128, 255]),
                code: self.pick(&[0, 1, 4]),
            },
            _ => L4::Ports {
                source: self.port(),
                destination: self.port(),
            },
        };
        Packet {
            source: self.addr(family),
            destination: self.addr(family),
            protocol,
            l4,
        }
    }
}

/// Sets that rules name, but for one that never has a member.
pub(crate) const SETS: usize = 6;

/// Whether a prefix holds at most sixteen addresses.
fn is_long(net: &Net) -> bool {
    match net {
        Net::V4(net) => net.len() >= 28,
        Net::V6(net) => net.len() >= 124,
    }
}
