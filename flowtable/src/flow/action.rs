//! What was decided about a direction of a connection, and how that fits three words.

use crate::lpm::NextHopId;

/// The bits of [`Action::flags`].
pub mod flag {
    /// The direction of the replies. The table sets and clears it itself when a pair is inserted.
    pub const IS_REPLY: u8 = 1 << 0;
    /// The source becomes (`nat_addr`, `nat_port`).
    pub const NAT_SRC: u8 = 1 << 1;
    /// The destination becomes (`nat_addr`, `nat_port`).
    pub const NAT_DST: u8 = 1 << 2;
    /// Packets are dropped for [`super::Action::reason`].
    pub const DENY: u8 = 1 << 3;
}

/// What happens to the packets of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action<A> {
    /// The generation of the tables by which it was decided; 0 has it decided again. The low 32 bits.
    pub generation: u32,
    /// Where to, in the tables of that generation.
    pub next_hop: NextHopId,
    /// Where packets of this direction come in. The number is the caller's; the table only keeps it.
    pub origin: u16,
    /// What [`flag`] names, and bits of the caller's. They stay as they were inserted.
    pub flags: u8,
    /// The new address, if a flag asks for one.
    pub nat_addr: A,
    /// The new port or ICMP identifier, if a flag asks for one.
    pub nat_port: u16,
    /// The rule that decided; 24 bits are kept.
    pub rule: u32,
    /// Why packets are dropped, under [`flag::DENY`].
    pub reason: u8,
}

const FLAGS: u32 = 40;
const ORIGIN: u32 = 48;
const RULE: u32 = 32;
const REASON: u32 = 56;
const NEXT_HOP: u32 = 48;
const NAT_PORT: u32 = 32;

/// The bits of ports and protocol in the word that they share with flags and origin.
pub(super) const TAIL_BITS: u32 = FLAGS;

impl<A> Action<A> {
    /// Flags and origin, beside the key's last 40 bits.
    #[inline(always)]
    pub(super) const fn beside_key(&self) -> u64 {
        (self.flags as u64) << FLAGS | (self.origin as u64) << ORIGIN
    }

    /// Generation, rule and reason.
    #[inline(always)]
    pub(super) const fn decision(&self) -> u64 {
        self.generation as u64
            | (self.rule as u64 & 0x00ff_ffff) << RULE
            | (self.reason as u64) << REASON
    }

    /// Next hop and new port, beside 32 bits.
    #[inline(always)]
    pub(super) const fn way(&self) -> u64 {
        (self.next_hop.get() as u64) << NEXT_HOP | (self.nat_port as u64) << NAT_PORT
    }

    #[inline(always)]
    pub(super) fn decode([beside_key, decision, way]: [u64; 3], nat_addr: A) -> Self {
        Self {
            generation: generation(decision),
            next_hop: next_hop(way),
            origin: origin(beside_key),
            flags: flags(beside_key),
            nat_addr,
            nat_port: (way >> NAT_PORT) as u16,
            rule: (decision >> RULE) as u32 & 0x00ff_ffff,
            reason: (decision >> REASON) as u8,
        }
    }
}

/// The flags of a word with [`Action::beside_key`].
#[inline(always)]
pub(super) const fn flags(beside_key: u64) -> u8 {
    (beside_key >> FLAGS) as u8
}

/// The origin of a word with [`Action::beside_key`].
#[inline(always)]
pub(super) const fn origin(beside_key: u64) -> u16 {
    (beside_key >> ORIGIN) as u16
}

/// The generation of a word that [`Action::decision`] made.
#[inline(always)]
pub(super) const fn generation(decision: u64) -> u32 {
    decision as u32
}

/// The next hop of a word that [`Action::way`] made.
#[inline(always)]
pub(super) fn next_hop(way: u64) -> NextHopId {
    let id = way >> NEXT_HOP & NextHopId::MAX.get() as u64;
    NextHopId::new(id as u16).unwrap_or(NextHopId::NONE)
}
