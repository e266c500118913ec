//! What a device's driver can do with XDP, as it says itself: family `netdev` of generic netlink
//! (Documentation/netlink/specs/netdev.yaml), since Linux 6.3. To ask disturbs nothing.

use std::io;

use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::attr::{Attributes, Messages, aligned, u16_at, u32_at};
use super::socket::DATAGRAM_LEN;

/// `GENL_ID_CTRL` (linux/genetlink.h), which knows the others.
const CONTROLLER: u16 = 0x10;
/// `CTRL_CMD_GETFAMILY`.
const GET_FAMILY: u8 = 3;
/// `NETDEV_CMD_DEV_GET` (linux/netdev.h).
const GET_DEVICE: u8 = 1;
/// Bytes of `struct genlmsghdr`.
const HEADER_LEN: usize = 4;

/// What a driver offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct XdpFeatures(u64);

impl XdpFeatures {
    /// `NETDEV_XDP_ACT_BASIC` and `NETDEV_XDP_ACT_REDIRECT`.
    const NATIVE: u64 = 1 | 1 << 1;
    /// `NETDEV_XDP_ACT_XSK_ZEROCOPY`.
    const ZERO_COPY: u64 = 1 << 3;

    /// As the kernel has them.
    #[cfg(test)]
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether it runs programs natively, which hand packets to sockets.
    pub(crate) const fn has_native(self) -> bool {
        self.0 & Self::NATIVE == Self::NATIVE
    }

    /// Whether sockets may have packets in place.
    pub(crate) const fn has_zero_copy(self) -> bool {
        self.0 & Self::ZERO_COPY != 0
    }
}

/// Asks about a device of the calling thread's network namespace. `None`: the kernel does not say, being older.
///
/// # Errors
/// The kernel's: `ENODEV` where there is no such device.
pub(crate) fn xdp_features(ifindex: u32) -> io::Result<Option<XdpFeatures>> {
    const FAMILY_ID: u16 = 1;
    const FAMILY_NAME: u16 = 2;
    const IFINDEX: u16 = 1;
    const XDP_FEATURES: u16 = 3;
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10))?;
    let family = ask(
        &socket,
        CONTROLLER,
        GET_FAMILY,
        &attribute(FAMILY_NAME, b"netdev\0"),
        FAMILY_ID,
    );
    let family = match family {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        family => family?.and_then(|id| u16_at(&id, 0)),
    };
    let family = family.ok_or(io::ErrorKind::InvalidData)?;
    let index = attribute(IFINDEX, &ifindex.to_ne_bytes());
    let features = ask(&socket, family, GET_DEVICE, &index, XDP_FEATURES)?;
    let features = features.and_then(|bits| Some(*bits.first_chunk()?));
    Ok(features.map(|bits| XdpFeatures(u64::from_ne_bytes(bits))))
}

/// One question, and one attribute of its answer.
fn ask(
    socket: &Socket,
    family: u16,
    command: u8,
    attributes: &[u8],
    wanted: u16,
) -> io::Result<Option<Vec<u8>>> {
    let len = (16 + HEADER_LEN + attributes.len()) as u32;
    let mut request = len.to_ne_bytes().to_vec();
    request.extend(family.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence and sender.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    socket.send(&request, 0)?;
    let mut answer = Vec::with_capacity(DATAGRAM_LEN);
    socket.recv(&mut answer, 0)?;
    let message = Messages(&answer).next();
    let message = message.ok_or(io::ErrorKind::UnexpectedEof)?;
    if i32::from(message.kind) == libc::NLMSG_ERROR {
        let code = u32_at(message.payload, 0).map_or(0, u32::cast_signed);
        return Err(io::Error::from_raw_os_error(-code));
    }
    let mut all = Attributes::after(message.payload, HEADER_LEN);
    let found = all.find(|(kind, _)| *kind == wanted);
    Ok(found.map(|(_, value)| value.to_vec()))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = 4 + value.len();
    let mut bytes = (len as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(aligned(len), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_no_native_xdp_and_what_is_not_there_has_no_features() {
        // Its index is 1 in every namespace.
        match xdp_features(1).expect("the kernel answers") {
            Some(features) => assert!(!features.has_native() && !features.has_zero_copy()),
            None => return,
        }
        let error = xdp_features(0x7fff_fff0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn native_takes_both_verdicts() {
        assert!(XdpFeatures::from_bits(0b11).has_native());
        assert!(!XdpFeatures::from_bits(0b01).has_native());
        assert!(XdpFeatures::from_bits(0b1011).has_zero_copy());
    }
}
