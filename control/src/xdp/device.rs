//! What the kernel says of one network interface, as far as attaching XDP needs it.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage, LinkXdp};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

/// `IFNAMSIZ` less the NUL; the kernel refuses longer names in a way of its own.
const MAX_NAME_LEN: usize = 15;

/// One interface of the calling thread's network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub name: String,
    pub index: u32,
    pub mtu: u32,
    /// Whether it is a VLAN of another interface.
    pub is_vlan: bool,
    /// Programs on it, in whatever mode.
    pub xdp_programs: Vec<u32>,
}

impl Device {
    /// Looks `name` up; `None` when there is no such interface.
    pub(super) fn find(name: &str) -> io::Result<Option<Self>> {
        if name.is_empty() || name.len() > MAX_NAME_LEN {
            return Ok(None);
        }
        let mut query = LinkMessage::default();
        query.attributes.push(LinkAttribute::IfName(name.into()));
        match request(RouteNetlinkMessage::GetLink(query)) {
            Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Some(Self::of(name, &link))),
            Ok(_) => Err(io::Error::from(io::ErrorKind::InvalidData)),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn of(name: &str, link: &LinkMessage) -> Self {
        let mut device = Self {
            name: name.into(),
            index: link.header.index,
            mtu: 0,
            is_vlan: false,
            xdp_programs: Vec::new(),
        };
        for attribute in &link.attributes {
            if let LinkAttribute::Mtu(mtu) = attribute {
                device.mtu = *mtu;
            }
            if let LinkAttribute::LinkInfo(info) = attribute {
                device.is_vlan = info.contains(&LinkInfo::Kind(InfoKind::Vlan));
            }
            if let LinkAttribute::Xdp(xdp) = attribute {
                device.xdp_programs = xdp.iter().filter_map(program_id).collect();
            }
        }
        device.xdp_programs.sort_unstable();
        device.xdp_programs.dedup();
        device
    }
}

fn program_id(attribute: &LinkXdp) -> Option<u32> {
    if let LinkXdp::ProgId(id)
    | LinkXdp::DrvProgId(id)
    | LinkXdp::SkbProgId(id)
    | LinkXdp::HwProgId(id) = attribute
    {
        return Some(*id);
    }
    None
}

/// One request, one answer.
fn request(message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
    let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
    packet.header.flags = NLM_F_REQUEST;
    packet.header.sequence_number = 1;
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    match NetlinkMessage::deserialize(&answer)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?
        .payload
    {
        NetlinkPayload::InnerMessage(message) => Ok(message),
        NetlinkPayload::Error(e) => Err(e.to_io()),
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}
