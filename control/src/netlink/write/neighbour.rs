//! Neighbours: permanent ones, and ones that the kernel is to resolve for us.

use std::fs;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteProtocol, RouteType};

use super::link::family_of;
use super::{Writer, unless};
use crate::netlink::PROTOCOL;
use crate::netlink::decode::{Event, decode};
use crate::netlink::model::{Mac, Neighbour};
use crate::netlink::socket::Result;

/// How the kernel resolves a neighbour that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It keeps it resolved by itself (`NTF_EXT_MANAGED`), until the interface goes down.
    Managed,
    /// It resolves it once (`NTF_USE`, kernels before 5.16): ask again when it gets stale.
    Once,
}

impl Writer {
    /// Sets the address of a neighbour, for good.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub fn set_permanent_neighbour(&mut self, ifindex: u32, ip: IpAddr, mac: Mac) -> Result<()> {
        let mut message = message(ifindex, ip);
        message.header.state = NeighbourState::Permanent;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.replace_neighbour(message, ifindex, ip)
    }

    /// Asks the kernel to resolve a neighbour and to keep it resolved. The outcome comes as a change of the neighbour
    /// table. An entry goes with the interface: ask again when the mirror says that it is gone.
    ///
    /// # Errors
    /// When the interface is not there or down, or the kernel refuses.
    pub fn resolve_neighbour(&mut self, ifindex: u32, ip: IpAddr) -> Result<Resolution> {
        let mut message = message(ifindex, ip);
        // A kernel that does not know of managed entries passes over that flag and does what NTF_USE says.
        message.header.flags = NeighbourFlags::Use;
        message
            .attributes
            .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        self.replace_neighbour(message, ifindex, ip)?;
        Ok(if knows_managed(&release()) {
            Resolution::Managed
        } else {
            Resolution::Once
        })
    }

    /// Deletes a neighbour entry.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_neighbour(&mut self, ifindex: u32, ip: IpAddr) -> Result<()> {
        let message = RouteNetlinkMessage::DelNeighbour(message(ifindex, ip));
        let outcome = self.requests.change(message, 0, || {
            format!("delete neighbour {ip} of link {ifindex}")
        });
        unless(outcome, &[libc::ENOENT, libc::ENODEV])
    }

    /// The neighbours that we added and that are there now.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn own_neighbours(&mut self) -> Result<Vec<Neighbour>> {
        let mut found = Vec::new();
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        self.requests
            .dump(request, "list the neighbours", |message| {
                if let Some(Event::NewNeighbour(neighbour)) = decode(message)
                    && neighbour.protocol == PROTOCOL
                {
                    found.push(neighbour);
                }
            })?;
        Ok(found)
    }

    fn replace_neighbour(
        &mut self,
        message: NeighbourMessage,
        ifindex: u32,
        ip: IpAddr,
    ) -> Result<()> {
        let message = RouteNetlinkMessage::NewNeighbour(message);
        let what = || format!("add neighbour {ip} to link {ifindex}");
        self.requests
            .change(message, NLM_F_CREATE | NLM_F_REPLACE, what)
    }
}

fn message(ifindex: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(ip);
    message.header.ifindex = ifindex;
    message.header.kind = RouteType::Unicast;
    message
        .attributes
        .push(NeighbourAttribute::Destination(ip.into()));
    message
        .attributes
        .push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    message
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()
}

/// Managed entries came with Linux 5.16.
fn knows_managed(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_entries_came_with_5_16() {
        for (release, known) in [
            ("5.15.0-91-generic", false),
            ("5.16.0", true),
            ("6.1.0-18-amd64", true),
            ("4.19.0", false),
            ("", false),
        ] {
            assert_eq!(knows_managed(release), known, "{release}");
        }
    }
}
