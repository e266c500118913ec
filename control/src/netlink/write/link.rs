//! Links and their addresses.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Writer, unless};
use crate::netlink::decode::{Event, decode};
use crate::netlink::model::{Link, Mac};
use crate::netlink::socket::Result;

/// One end of a veth pair to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethEnd {
    /// Name.
    pub name: String,
    /// Ethernet address.
    pub mac: Mac,
    /// Number of receive queues, and of transmit queues. The kernel attaches XDP only to an end with at least as many
    /// receive queues as the other has transmit queues.
    pub queues: u32,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
}

impl VethEnd {
    fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(self.name.clone()),
            LinkAttribute::Address(self.mac.to_vec()),
            LinkAttribute::NumTxQueues(self.queues),
            LinkAttribute::NumRxQueues(self.queues),
            LinkAttribute::Mtu(self.mtu),
        ];
        message
    }
}

impl Writer {
    /// Makes a veth pair, both ends in this namespace and down.
    ///
    /// # Errors
    /// `EEXIST` when a name is taken, by whatever; else what the kernel says.
    pub fn create_veth(&mut self, end: &VethEnd, peer: &VethEnd) -> Result<()> {
        let mut message = end.message();
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer.message()))),
        ]));
        self.requests.change(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            || format!("create the veth pair {} and {}", end.name, peer.name),
        )
    }

    /// The link of this name as the kernel has it now, if there is one.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn find_link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut found = None;
        self.requests.dump(
            RouteNetlinkMessage::GetLink(message),
            "list the links",
            |message| {
                if let Some(Event::NewLink(update)) = decode(message) {
                    let mut link = Link::default();
                    update.apply(&mut link);
                    if link.name == name {
                        found = Some(link);
                    }
                }
            },
        )?;
        Ok(found)
    }

    /// Deletes a link; with one end of a veth pair goes the other.
    ///
    /// # Errors
    /// When the kernel refuses: the link is a physical one, or we have no `CAP_NET_ADMIN`.
    pub fn delete_link(&mut self, ifindex: u32) -> Result<()> {
        let message = RouteNetlinkMessage::DelLink(of_index(ifindex));
        unless(
            self.requests
                .change(message, 0, || format!("delete link {ifindex}")),
            &[libc::ENODEV],
        )
    }

    /// Sets a link up or down.
    ///
    /// # Errors
    /// When there is no such link, or the kernel refuses.
    pub fn set_up(&mut self, ifindex: u32, up: bool) -> Result<()> {
        let what = if up { "up" } else { "down" };
        self.set_flag(ifindex, LinkFlags::Up, up, what)
    }

    /// Sets whether a link resolves neighbours (`ip link set arp on|off`).
    ///
    /// # Errors
    /// As [`Writer::set_up`].
    pub fn set_arp(&mut self, ifindex: u32, on: bool) -> Result<()> {
        let what = if on { "arp on" } else { "arp off" };
        self.set_flag(ifindex, LinkFlags::Noarp, !on, what)
    }

    /// Sets the largest IP packet of a link, in bytes.
    ///
    /// # Errors
    /// As [`Writer::set_up`].
    pub fn set_mtu(&mut self, ifindex: u32, mtu: u32) -> Result<()> {
        self.set_attribute(ifindex, LinkAttribute::Mtu(mtu), || {
            format!("set the MTU of link {ifindex} to {mtu}")
        })
    }

    /// Sets the Ethernet address of a link.
    ///
    /// # Errors
    /// As [`Writer::set_up`].
    pub fn set_mac(&mut self, ifindex: u32, mac: Mac) -> Result<()> {
        let what = || format!("set the address of link {ifindex} to {mac:02x?}");
        self.set_attribute(ifindex, LinkAttribute::Address(mac.to_vec()), what)
    }

    /// Gives a link another name. It must be down on kernels before 6.2.
    ///
    /// # Errors
    /// As [`Writer::set_up`], and when the name is taken.
    pub fn rename(&mut self, ifindex: u32, name: &str) -> Result<()> {
        let what = || format!("rename link {ifindex} to {name}");
        self.set_attribute(ifindex, LinkAttribute::IfName(name.to_owned()), what)
    }

    /// Moves a link to another namespace; it arrives down and without addresses.
    ///
    /// # Errors
    /// As [`Writer::set_up`], and when its name is taken there.
    pub fn move_link(&mut self, ifindex: u32, netns: impl AsFd) -> Result<()> {
        let fd = netns.as_fd().as_raw_fd();
        let what = || format!("move link {ifindex} to another namespace");
        self.set_attribute(ifindex, LinkAttribute::NetNsFd(fd), what)
    }

    /// Adds an address. IPv6 addresses are usable at once: no duplicate address detection.
    ///
    /// # Errors
    /// When there is no such link, or the kernel refuses.
    pub fn add_address(&mut self, ifindex: u32, address: IpNet) -> Result<()> {
        let mut message = address_message(ifindex, address);
        if address.addr().is_ipv6() {
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let message = RouteNetlinkMessage::NewAddress(message);
        self.requests
            .change(message, NLM_F_CREATE | NLM_F_REPLACE, || {
                format!("add {address} to link {ifindex}")
            })
    }

    /// Takes an address away.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_address(&mut self, ifindex: u32, address: IpNet) -> Result<()> {
        let message = RouteNetlinkMessage::DelAddress(address_message(ifindex, address));
        let outcome = self.requests.change(message, 0, || {
            format!("delete {address} from link {ifindex}")
        });
        unless(outcome, &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }

    /// The addresses of a link as the kernel has them now, with their prefix lengths.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn addresses(&mut self, ifindex: u32) -> Result<Vec<IpNet>> {
        let mut found = Vec::new();
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.requests
            .dump(message, "list the addresses", |message| {
                if let Some(Event::NewAddress(address)) = decode(message)
                    && address.ifindex == ifindex
                {
                    found.extend(IpNet::new(address.ip, address.prefix_len));
                }
            })?;
        Ok(found)
    }

    fn set_flag(&mut self, ifindex: u32, flag: LinkFlags, on: bool, what: &str) -> Result<()> {
        let mut message = of_index(ifindex);
        message.header.flags = if on { flag } else { LinkFlags::empty() };
        message.header.change_mask = flag;
        self.requests
            .change(RouteNetlinkMessage::SetLink(message), 0, || {
                format!("set link {ifindex} {what}")
            })
    }

    fn set_attribute(
        &mut self,
        ifindex: u32,
        attribute: LinkAttribute,
        what: impl FnOnce() -> String,
    ) -> Result<()> {
        let mut message = of_index(ifindex);
        message.attributes.push(attribute);
        self.requests
            .change(RouteNetlinkMessage::SetLink(message), 0, what)
    }
}

fn of_index(ifindex: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message
}

fn address_message(ifindex: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = ifindex;
    message
        .attributes
        .push(AddressAttribute::Local(address.addr()));
    message
        .attributes
        .push(AddressAttribute::Address(address.addr()));
    message
}

pub(super) fn family_of(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}
