//! The punt: a veth pair by which packets that the kernel's programs leave to the pollers come to them, whatever device they came in by.
//!
//! ```text
//!  pods' devices, uplinks -- tcx: redirect --> caracal-punt0 ====== caracal-punt1 -- XDP -- pollers
//! ```
//!
//! Since native XDP stands at the second end, the kernel cuts super-frames up on the way; and since the first end fills in no checksums,
//! it completes them. Neither end has addresses, ARP or IPv6, and neither forwards.

use fastpath::io::xsk::ethtool;

use super::model::Mac;
use super::pair;
use super::socket::{Error, Result};
use super::write::{VethEnd, Writer};

/// The end that packets are redirected into.
pub const IN_END: &str = "caracal-punt0";
/// The end that pollers receive by.
pub const OUT_END: &str = "caracal-punt1";
/// Addresses of the ends. Fixed, so that udev leaves them alone; nobody sends to them.
const MACS: [Mac; 2] = [
    [0x02, b'c', b'a', b'r', b'a', 0x02],
    [0x02, b'c', b'a', b'r', b'a', 0x03],
];

/// The punt, set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PuntPort {
    /// Interface index of [`IN_END`].
    pub in_ifindex: u32,
    /// Interface index of [`OUT_END`].
    pub out_ifindex: u32,
}

impl PuntPort {
    /// Sets the punt up, out of whatever is there, as [`HostPort::ensure`](super::HostPort::ensure) does: with so many queues at either
    /// end, and this MTU, in bytes. A packet longer than that is lost, unless it is a super-frame of shorter ones.
    ///
    /// # Errors
    /// What the kernel says; when a name is taken by a link that is not a veth it is left alone.
    pub fn ensure(queues: u32, mtu: u32) -> Result<Self> {
        let mut writer = Writer::open()?;
        let [mac_in, mac_out] = MACS;
        let ends = [(IN_END, mac_in), (OUT_END, mac_out)].map(|(name, mac)| VethEnd {
            name: name.into(),
            mac,
            queues,
            mtu,
        });
        let indexes = pair::ensure(&mut writer, "the punt", &ends)?;
        ethtool::set_tx_checksum(IN_END, false).map_err(|error| {
            Error::new(format!("have checksums completed before {IN_END}"), error)
        })?;
        for (ifindex, end) in indexes.into_iter().zip(&ends) {
            pair::isolate(&mut writer, ifindex, end)?;
        }
        let [in_ifindex, out_ifindex] = indexes;
        Ok(Self {
            in_ifindex,
            out_ifindex,
        })
    }

    /// The largest MTU of a punt whose packets are received into frames of so many bytes, in one piece each.
    pub const fn largest_mtu(frame_size: u32) -> u32 {
        /// What the kernel leaves free in front of a packet that it receives for XDP, the Ethernet header, and a VLAN tag.
        const IN_FRONT: u32 = 256 + 14 + 4;
        /// What XDP takes on a veth: a page less headroom, Ethernet header and what the kernel keeps behind, rounded down.
        const WHOLE: u32 = 3498;
        let fits = frame_size.saturating_sub(IN_FRONT);
        if fits < WHOLE { fits } else { WHOLE }
    }

    /// How many packets the kernel lost on the way to the second end, since the pair was made: that had no room, or they were longer than it takes.
    /// None when that can not be read.
    pub fn lost() -> Option<u64> {
        // Of the thread's own network namespace; sysfs may be another's.
        lost(&std::fs::read_to_string("/proc/thread-self/net/dev").ok()?)
    }

    /// Takes away what an earlier process left, if anything.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_leftovers() -> Result<()> {
        pair::remove(&mut Writer::open()?, [IN_END, OUT_END])
    }
}

/// What [`IN_END`] could not send, by a table such as /proc/net/dev.
fn lost(table: &str) -> Option<u64> {
    /// Behind eight fields of what was received: bytes, packets, errors, and this.
    const TX_DROPPED: usize = 11;
    let fields = table.lines().find_map(|line| {
        let (name, fields) = line.split_once(':')?;
        (name.trim() == IN_END).then_some(fields)
    })?;
    fields.split_whitespace().nth(TX_DROPPED)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_what_the_first_end_could_not_send() {
        let table = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
caracal-punt1: 0 0 0 0 0 0 0 0 0 0 0 5 0 0 0 0
caracal-punt0: 0 0 0 90 0 0 0 0 5400 60 0 7 0 0 0 0
";
        assert_eq!(lost(table), Some(7));
        assert_eq!(lost("caracal-punt0: 1 2 3\n"), None);
        assert_eq!(lost(""), None);
    }
}
