//! What nftables has, as far as a table is looked after: whether anybody changed anything, what is in the table by the
//! kernel's numbers, and what its counters say. The program `nft` would fetch all members of sets for each of these.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::attr::{Attributes, Message, Messages, aligned, string, u32_at};
use super::socket::DATAGRAM_LEN;

/// `NFNL_SUBSYS_NFTABLES`, where messages' types begin (linux/netfilter/nf_tables.h).
const SUBSYSTEM: u16 = 10 << 8;
const GET_CHAIN: u16 = SUBSYSTEM + 4;
const GET_RULE: u16 = SUBSYSTEM + 7;
const GET_MEMBERS: u16 = SUBSYSTEM + 13;
const GET_GENERATION: u16 = SUBSYSTEM + 16;
const GET_OBJECT: u16 = SUBSYSTEM + 19;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// `NFPROTO_UNSPEC`: all families.
const UNSPEC: u8 = 0;
/// Bytes of `struct nfgenmsg`.
const HEADER_LEN: usize = 4;
/// `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, `NFTA_OBJ_TABLE`.
const TABLE: u16 = 1;
/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;

/// A socket to ask by, of the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Nftables(Socket);

impl Nftables {
    /// Opens the socket.
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

    /// How many transactions there have been: another number after anybody's change.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn generation(&self) -> io::Result<u32> {
        const ID: u16 = 1;
        self.send(INET, GET_GENERATION, 0, &[])?;
        let mut answer = Vec::with_capacity(DATAGRAM_LEN);
        self.0.recv(&mut answer, 0)?;
        let message = Messages(&answer).next();
        let message = message.ok_or(io::ErrorKind::UnexpectedEof)?;
        check(&message)?;
        let id = Attributes::after(message.payload, HEADER_LEN).find(|(kind, _)| *kind == ID);
        let id = id.and_then(|(_, value)| value.try_into().ok());
        Ok(u32::from_be_bytes(id.ok_or(io::ErrorKind::InvalidData)?))
    }

    /// The numbers of a table's chains and rules, in order. Whatever is made anew has another.
    ///
    /// # Errors
    /// The kernel's. A table that is not there has none.
    pub(crate) fn handles(&self, table: &str) -> io::Result<Vec<u64>> {
        const CHAIN_HANDLE: u16 = 2;
        const RULE_HANDLE: u16 = 3;
        let mut handles = Vec::new();
        for (question, handle) in [(GET_CHAIN, CHAIN_HANDLE), (GET_RULE, RULE_HANDLE)] {
            self.dump(question, table, |attributes| {
                let value = attributes.get(&handle);
                handles.extend(value.and_then(|value| be64(value)));
            })?;
        }
        Ok(handles)
    }

    /// A number that stands for what is in a set, whatever its order. A set that is not there is as one without members.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn members(&self, table: &str, set: &str) -> io::Result<u64> {
        const SET: u16 = 2;
        const MEMBERS: u16 = 3;
        let mut sum = 0_u64;
        let asked = attribute(SET, set);
        let told = self.dump_with(GET_MEMBERS, table, &asked, |attributes| {
            let members = attributes.get(&MEMBERS).copied().unwrap_or_default();
            for (_, member) in Attributes(members) {
                let mut hasher = DefaultHasher::new();
                member.hash(&mut hasher);
                sum = sum.wrapping_add(hasher.finish());
            }
        });
        match told {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(0),
            told => told.map(|()| sum),
        }
    }

    /// The chains of all families, by the names of their tables and their own.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn chains(&self) -> io::Result<BTreeSet<(String, String)>> {
        const NAME: u16 = 3;
        let mut names = BTreeSet::new();
        self.walk(UNSPEC, GET_CHAIN, &[], |_, attributes| {
            let name = |key| attributes.get(key).map(|name| string(name));
            names.extend(name(&TABLE).zip(name(&NAME)));
        })?;
        Ok(names)
    }

    /// Packets and bytes of a table's named counters.
    ///
    /// # Errors
    /// The kernel's. A table that is not there has none.
    pub(crate) fn counters(&self, table: &str) -> io::Result<BTreeMap<String, (u64, u64)>> {
        const NAME: u16 = 2;
        const KIND: u16 = 3;
        const DATA: u16 = 4;
        const BYTES: u16 = 1;
        const PACKETS: u16 = 2;
        let mut counters = BTreeMap::new();
        self.dump(GET_OBJECT, table, |attributes| {
            let kind = attributes
                .get(&KIND)
                .and_then(|value| (*value).try_into().ok());
            if kind.map(u32::from_be_bytes) != Some(COUNTER) {
                return;
            }
            let data = attributes.get(&DATA).copied().unwrap_or_default();
            let data: BTreeMap<_, _> = Attributes(data).collect();
            let count = |key| data.get(&key).and_then(|value| be64(value));
            if let (Some(name), Some(packets), Some(bytes)) =
                (attributes.get(&NAME), count(PACKETS), count(BYTES))
            {
                counters.insert(string(name), (packets, bytes));
            }
        })?;
        Ok(counters)
    }

    /// Goes over what there is of a kind in a table of family inet.
    fn dump(
        &self,
        question: u16,
        table: &str,
        each: impl FnMut(&BTreeMap<u16, &[u8]>),
    ) -> io::Result<()> {
        self.dump_with(question, table, &[], each)
    }

    /// The same, with more in the question.
    fn dump_with(
        &self,
        question: u16,
        table: &str,
        more: &[u8],
        mut each: impl FnMut(&BTreeMap<u16, &[u8]>),
    ) -> io::Result<()> {
        let only = [&attribute(TABLE, table), more].concat();
        self.walk(INET, question, &only, |family, attributes| {
            // Older kernels answer with all tables.
            let own = attributes.get(&TABLE).map(|name| string(name));
            if family == INET && own.as_deref() == Some(table) {
                each(attributes);
            }
        })
    }

    /// Goes over what there is of a kind, each with its family.
    fn walk(
        &self,
        family: u8,
        question: u16,
        only: &[u8],
        mut each: impl FnMut(u8, &BTreeMap<u16, &[u8]>),
    ) -> io::Result<()> {
        self.send(family, question, NLM_F_DUMP, only)?;
        let mut answer = Vec::with_capacity(DATAGRAM_LEN);
        loop {
            answer.clear();
            self.0.recv(&mut answer, 0)?;
            for message in Messages(&answer) {
                if i32::from(message.kind) == libc::NLMSG_DONE {
                    return Ok(());
                }
                check(&message)?;
                let attributes = Attributes::after(message.payload, HEADER_LEN);
                let attributes: BTreeMap<_, _> = attributes.collect();
                let family = message.payload.first().copied().unwrap_or(UNSPEC);
                each(family, &attributes);
            }
        }
    }

    fn send(&self, family: u8, question: u16, flags: u16, attributes: &[u8]) -> io::Result<()> {
        let len = 20 + attributes.len() as u32;
        let mut request = len.to_ne_bytes().to_vec();
        request.extend(question.to_ne_bytes());
        request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        // Sequence and sender.
        request.extend([0; 8]);
        request.extend([family, 0, 0, 0]);
        request.extend(attributes);
        self.0.send(&request, 0).map(drop)
    }
}

/// A string as an attribute.
fn attribute(kind: u16, text: &str) -> Vec<u8> {
    let len = 4 + text.len() + 1;
    let mut bytes = (len as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(text.as_bytes());
    bytes.resize(aligned(len), 0);
    bytes
}

/// The kernel's refusal, if it is one.
fn check(message: &Message<'_>) -> io::Result<()> {
    if i32::from(message.kind) != libc::NLMSG_ERROR {
        return Ok(());
    }
    let code = u32_at(message.payload, 0).map_or(0, u32::cast_signed);
    Err(io::Error::from_raw_os_error(-code))
}

fn be64(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use fastpath::io::xsk::test_support::{skip, skipped_without_root};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn a_table_is_looked_at() {
        let test = "a_table_is_looked_at";
        if skipped_without_root(test) {
            return;
        }
        let alone = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of its own");
            let nft = |words: &str| {
                let done = Command::new("nft").args(words.split(' ')).output();
                done.is_ok_and(|output| output.status.success())
            };
            if !nft("add table inet one") {
                return skip(test, "no nftables here");
            }
            let nftables = Nftables::open().expect("a socket");
            let before = nftables.generation().expect("a number");
            assert_eq!(nftables.generation().expect("a number"), before);
            assert!(nftables.handles("one").expect("an answer").is_empty());
            // Others of the same name in another family, and of the same family.
            for table in ["inet one", "ip one", "inet other"] {
                assert!(nft(&format!("add table {table}")));
                assert!(nft(&format!("add chain {table} c")));
                assert!(nft(&format!(
                    "add counter {table} n {{ packets 3 bytes 4000000000000 }}"
                )));
                assert!(nft(&format!("add rule {table} c counter name n")));
            }
            assert_ne!(nftables.generation().expect("a number"), before);
            let handles = nftables.handles("one").expect("an answer");
            assert_eq!(handles.len(), 2);
            let counters = nftables.counters("one").expect("an answer");
            let expected = BTreeMap::from([("n".to_owned(), (3, 4_000_000_000_000))]);
            assert_eq!(counters, expected);
            assert!(nft("flush chain inet one c"));
            assert_eq!(nftables.handles("one").expect("an answer").len(), 1);
            assert!(nft("add rule inet one c counter name n"));
            let again = nftables.handles("one").expect("an answer");
            assert!(again.len() == 2 && again != handles, "{again:?}");
            assert_eq!(nftables.members("one", "s").expect("an answer"), 0);
            assert!(nft("add set inet one s { type ipv4_addr; }"));
            assert_eq!(nftables.members("one", "s").expect("an answer"), 0);
            assert!(nft("add element inet one s { 10.0.0.1, 10.0.0.2 }"));
            let both = nftables.members("one", "s").expect("an answer");
            assert!(nft("delete element inet one s { 10.0.0.1 }"));
            assert_ne!(nftables.members("one", "s").expect("an answer"), both);
            assert!(nft("add element inet one s { 10.0.0.1 }"));
            assert_eq!(nftables.members("one", "s").expect("an answer"), both);
            assert!(nft("delete table inet one"));
            assert!(nftables.handles("one").expect("an answer").is_empty());
            assert!(nftables.counters("one").expect("an answer").is_empty());
        };
        std::thread::spawn(alone).join().expect("the test");
    }
}
