//! Requests over a netlink socket: a change and its acknowledgement, or a dump.

use std::fmt;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::attr::{Attributes, Message, Messages, string, u32_at};

/// The result of a request to the kernel.
pub type Result<T> = std::result::Result<T, Error>;

/// A request that failed.
#[derive(Debug)]
pub struct Error {
    /// What was to be done, on what.
    pub what: String,
    /// The kernel's answer, or what went wrong on the way.
    pub source: io::Error,
    /// The kernel's own words (extended acknowledgement), if it gave any.
    pub detail: Option<String>,
}

impl Error {
    /// Names what failed.
    pub fn new(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            what: what.into(),
            source: source.into(),
            detail: None,
        }
    }

    /// Whether the kernel answered with this `errno`.
    pub fn is(&self, errno: i32) -> bool {
        self.source.raw_os_error() == Some(errno)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)?;
        self.detail
            .as_ref()
            .map_or(Ok(()), |detail| write!(f, " ({detail})"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Room for any datagram: the kernel builds dumps in pieces of at most 32 KiB.
pub(super) const DATAGRAM_LEN: usize = 128 * 1024;

/// A netlink socket for requests. One at a time: a request ends with its answer.
pub(super) struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Whether a dump shows one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consistent {
    Yes,
    /// The state changed while it was dumped (`NLM_F_DUMP_INTR`).
    No,
}

impl Requests {
    pub(super) fn open() -> Result<Self> {
        Self::try_open().map_err(|error| Error::new("open a netlink socket", error))
    }

    fn try_open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel always answers; the limit is there so that a lost answer is an error, not a hang.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10))?;
        // Filters by table in dumps, and errors in words: older kernels do without.
        let _ = socket.set_netlink_get_strict_chk(true);
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(DATAGRAM_LEN),
        })
    }

    /// Asks for a change and waits for the acknowledgement.
    pub(super) fn change(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: impl FnOnce() -> String,
    ) -> Result<()> {
        self.send(message, flags | NLM_F_ACK)
            .and_then(|()| self.acknowledgement())
            .map_err(|failure| failure.of(what()))
    }

    /// Reads a dump, message by message.
    pub(super) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        what: &str,
        each: impl FnMut(&Message<'_>),
    ) -> Result<Consistent> {
        self.send(message, NLM_F_DUMP)
            .and_then(|()| self.parts(each))
            .map_err(|failure| failure.of(what))
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> Answer<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    fn acknowledgement(&mut self) -> Answer<()> {
        loop {
            self.receive()?;
            for message in Messages(&self.buffer).filter(|m| m.sequence == self.sequence) {
                if message.kind == libc::NLMSG_ERROR as u16 {
                    return verdict(&message);
                }
            }
        }
    }

    fn parts(&mut self, mut each: impl FnMut(&Message<'_>)) -> Answer<Consistent> {
        let mut consistent = Consistent::Yes;
        loop {
            self.receive()?;
            for message in Messages(&self.buffer).filter(|m| m.sequence == self.sequence) {
                if message.flags & libc::NLM_F_DUMP_INTR as u16 != 0 {
                    consistent = Consistent::No;
                }
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR => verdict(&message)?,
                    // The end, with an error code of its own.
                    libc::NLMSG_DONE => return verdict(&message).map(|()| consistent),
                    _ => each(&message),
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        self.buffer.clear();
        loop {
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

type Answer<T> = std::result::Result<T, Failure>;

/// An error, and the kernel's words about it.
struct Failure(io::Error, Option<String>);

impl Failure {
    fn of(self, what: impl Into<String>) -> Error {
        Error {
            what: what.into(),
            source: self.0,
            detail: self.1,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(error, None)
    }
}

/// The error code and the words of NLMSG_ERROR or NLMSG_DONE.
fn verdict(message: &Message<'_>) -> Answer<()> {
    const ECHOED_HEADER_LEN: usize = 20;
    const CODE_LEN: usize = 4;
    const NLM_F_ACK_TLVS: u16 = 0x200;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let code = u32_at(message.payload, 0).map_or(0, u32::cast_signed);
    if code == 0 {
        return Ok(());
    }
    let done = i32::from(message.kind) == libc::NLMSG_DONE;
    let detail = (message.flags & NLM_F_ACK_TLVS != 0)
        .then(|| {
            Attributes::after(
                message.payload,
                if done { CODE_LEN } else { ECHOED_HEADER_LEN },
            )
        })
        .and_then(|mut attributes| attributes.find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG))
        .map(|(_, words)| string(words));
    Err(Failure(io::Error::from_raw_os_error(-code), detail))
}
