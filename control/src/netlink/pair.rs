//! Veth pairs of our own that have both ends in the node's namespace.
//!
//! Their names are fixed, and they outlive the process: the next one takes over the pair that it finds, with what is attached to it.

use std::io;

use super::model::Link;
use super::socket::{Error, Result};
use super::sysctl::{self, Tree};
use super::write::{VethEnd, Writer};

/// The pair's interface indexes. A pair with the right queues is kept; of another only the names are. `what` is the pair's name in errors.
///
/// # Errors
/// What the kernel says; when a name is taken by a link that is not a veth it is left alone.
pub(super) fn ensure(writer: &mut Writer, what: &str, ends: &[VethEnd; 2]) -> Result<[u32; 2]> {
    let [first, second] = ends;
    let there = [
        writer.find_link(&first.name)?,
        writer.find_link(&second.name)?,
    ];
    if let Some(link) = there.iter().flatten().find(|link| !is_veth(link)) {
        let what = format!(
            "set up {what}: {} is there already and not a veth",
            link.name
        );
        return Err(Error::new(what, io::Error::from_raw_os_error(libc::EEXIST)));
    }
    if let [Some(one), Some(other)] = &there
        && one.peer == Some(other.ifindex)
        && one.peer_netns.is_none()
        && [(one, first), (other, second)]
            .iter()
            .all(|(link, end)| (link.rx_queues, link.tx_queues) == (end.queues, end.queues))
    {
        return Ok([one.ifindex, other.ifindex]);
    }
    for link in there.iter().flatten() {
        writer.delete_link(link.ifindex)?;
    }
    writer.create_veth(first, second)?;
    let mut made = |end: &VethEnd| {
        let link = writer.find_link(&end.name)?;
        link.map(|link| link.ifindex).ok_or_else(|| {
            Error::new(
                format!("set up {what}: {} vanished", end.name),
                io::Error::from_raw_os_error(libc::ENODEV),
            )
        })
    };
    Ok([made(first)?, made(second)?])
}

/// Makes an end take no part in anything, and sets it up: what XDP does not take there must not get on.
///
/// # Errors
/// What the kernel says.
pub(super) fn isolate(writer: &mut Writer, ifindex: u32, end: &VethEnd) -> Result<()> {
    sysctl::set(Tree::Ipv6, &end.name, "disable_ipv6", 1)?;
    for (key, value) in [
        ("forwarding", 0),
        ("rp_filter", 1),
        ("accept_local", 0),
        ("route_localnet", 0),
        ("arp_ignore", 8),
    ] {
        sysctl::set(Tree::Ipv4, &end.name, key, value)?;
    }
    for address in writer.addresses(ifindex)? {
        writer.delete_address(ifindex, address)?;
    }
    set_mac_and_mtu(writer, ifindex, end)?;
    writer.set_arp(ifindex, false)?;
    writer.set_up(ifindex, true)
}

/// Only where they differ: a new address, even the same one, flushes the neighbours.
///
/// # Errors
/// What the kernel says.
pub(super) fn set_mac_and_mtu(writer: &mut Writer, ifindex: u32, end: &VethEnd) -> Result<()> {
    let link = writer.find_link(&end.name)?.unwrap_or_default();
    if link.mac != Some(end.mac) {
        writer.set_mac(ifindex, end.mac)?;
    }
    if link.mtu != end.mtu {
        writer.set_mtu(ifindex, end.mtu)?;
    }
    Ok(())
}

/// Deletes what there is of a pair. A link of another kind is left alone.
///
/// # Errors
/// What the kernel says.
pub(super) fn remove(writer: &mut Writer, names: [&str; 2]) -> Result<()> {
    for name in names {
        if let Some(link) = writer.find_link(name)?.filter(is_veth) {
            writer.delete_link(link.ifindex)?;
        }
    }
    Ok(())
}

fn is_veth(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
}
