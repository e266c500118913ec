//! How many transactions nftables has seen: cheap to ask, and another number after anybody's change.

use std::io;

use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::attr::{Attributes, Messages};

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETGEN` (linux/netfilter/nf_tables.h).
const GET_GENERATION: u16 = 10 << 8 | 16;
/// `NFTA_GEN_ID`.
const ID: u16 = 1;

/// The number, of the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Generation(Socket);

impl Generation {
    /// Opens a socket to ask by.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10))?;
        Ok(Self(socket))
    }

    /// The number now.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn get(&self) -> io::Result<u32> {
        const LEN: u32 = 20;
        let mut request = LEN.to_ne_bytes().to_vec();
        request.extend(GET_GENERATION.to_ne_bytes());
        request.extend(NLM_F_REQUEST.to_ne_bytes());
        // Sequence, sender, and a family that means nothing.
        request.extend([0; 12]);
        self.0.send(&request, 0)?;
        let mut answer = Vec::with_capacity(4096);
        self.0.recv(&mut answer, 0)?;
        let message = Messages(&answer).next();
        let message = message.ok_or(io::ErrorKind::UnexpectedEof)?;
        let id = Attributes::after(message.payload, 4).find(|(kind, _)| *kind == ID);
        let id = id.and_then(|(_, value)| value.try_into().ok());
        Ok(u32::from_be_bytes(id.ok_or(io::ErrorKind::InvalidData)?))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use fastpath::io::xsk::test_support::{skip, skipped_without_root};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn a_change_makes_another_number() {
        let test = "a_change_makes_another_number";
        if skipped_without_root(test) {
            return;
        }
        let alone = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of its own");
            let change = |words: &str| {
                let done = Command::new("nft").args(words.split(' ')).output();
                done.is_ok_and(|output| output.status.success())
            };
            if !change("add table inet one") {
                return skip(test, "no nftables here");
            }
            let generation = Generation::open().expect("a socket");
            let before = generation.get().expect("a number");
            assert_eq!(generation.get().expect("a number"), before);
            assert!(change("add table inet other"));
            assert_ne!(generation.get().expect("a number"), before);
        };
        std::thread::spawn(alone).join().expect("the test");
    }
}
