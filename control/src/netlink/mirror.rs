//! The kernel's links, addresses, routes of table main and neighbours, kept up to date.
//!
//! [`Mirror::new`] subscribes, then dumps. After that [`Mirror::fd`] becomes readable when there is news, and
//! [`Mirror::drain`] brings it in and says what changed. When the kernel has more news than the socket holds
//! (`ENOBUFS`), or changes something of which it does not tell all consequences, everything is dumped again and
//! compared, at most for a tenth of the time: see [`Mirror::resync_due`].
//!
//! A full Internet table (1 M IPv4 routes) takes some 35 MB, three times as much while it is dumped again, and 1 to 2 s
//! to dump; 1,000 changes among them take some 15 ms.
//!
//! What is not mirrored: other routing tables and the rules that choose them (policy routing, VRFs), routes for one
//! class of service (TOS) or one source prefix, and `ip -6 route` preferences of router advertisements.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};

use super::TABLE_MAIN;
use super::attr::Messages;
use super::decode::decode;
use super::model::{Address, Link, Neighbour, Route};
use super::socket::{Consistent, DATAGRAM_LEN, Error, Requests, Result};
use super::state::{Dirty, Follow, State};

/// How the mirror is set up.
#[derive(Clone, Copy, Debug)]
pub struct MirrorOptions {
    /// Size of the socket's receive buffer, in bytes. Beyond the system's limit if we have `CAP_NET_ADMIN`.
    pub receive_buffer: usize,
    /// Shortest time from one resynchronisation to the next.
    pub resync_interval: Duration,
}

impl Default for MirrorOptions {
    fn default() -> Self {
        Self {
            receive_buffer: 16 << 20,
            resync_interval: Duration::from_secs(1),
        }
    }
}

/// What one [`Mirror::drain`] changed. Each thing appears once, however often it changed; look up what it is now.
#[derive(Debug, Default)]
pub struct Changes {
    /// Interfaces that are new, changed or gone.
    pub links: BTreeSet<u32>,
    /// Interfaces whose addresses changed.
    pub addresses: BTreeSet<u32>,
    /// Neighbours (interface, address) that are new, changed or gone.
    pub neighbours: BTreeSet<(u32, IpAddr)>,
    /// Prefixes whose best route changed, with the best route there is now. A route whose legs' links went up or
    /// down but that is itself the same is not listed: see `links`.
    pub routes: Vec<(IpNet, Option<Route>)>,
    /// Everything was dumped again on the way.
    pub resynced: bool,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
            && self.addresses.is_empty()
            && self.neighbours.is_empty()
            && self.routes.is_empty()
    }
}

/// A copy of the kernel's state in the namespace of the thread that made it.
pub struct Mirror {
    events: Socket,
    buffer: Vec<u8>,
    options: MirrorOptions,
    state: State,
    unreported: Dirty,
    resync: Resync,
}

/// When to dump everything again.
#[derive(Debug)]
struct Resync {
    wanted: bool,
    not_before: Instant,
    overruns: u64,
    done: u64,
}

/// Datagrams read by one drain, so that a flood of news does not keep the caller from its other work.
const DATAGRAMS_PER_DRAIN: usize = 16 * 1024;

/// Dumps that may be disturbed by changes before one is taken as it is: the changes come as events all the same.
const DUMP_ATTEMPTS: usize = 5;

/// `RTNLGRP_*`: link, neigh, ipv4-ifaddr, ipv4-route, ipv6-ifaddr, ipv6-route, nexthop.
const GROUPS: [u32; 7] = [1, 3, 5, 7, 9, 11, 32];

impl Mirror {
    /// Subscribes and dumps, with default options.
    ///
    /// # Errors
    /// When a netlink socket cannot be had or the kernel refuses a dump. Needs no privileges.
    pub fn new() -> Result<Self> {
        Self::with_options(MirrorOptions::default())
    }

    /// As [`Mirror::new`], with options.
    ///
    /// # Errors
    /// As [`Mirror::new`].
    pub fn with_options(options: MirrorOptions) -> Result<Self> {
        let events = subscribe(options.receive_buffer)
            .map_err(|error| Error::new("subscribe to the kernel's network events", error))?;
        let mut mirror = Self {
            events,
            buffer: Vec::with_capacity(DATAGRAM_LEN),
            options,
            state: State::default(),
            unreported: Dirty::default(),
            resync: Resync {
                wanted: false,
                not_before: Instant::now(),
                overruns: 0,
                done: 0,
            },
        };
        mirror.state = mirror.load()?;
        Ok(mirror)
    }

    /// Readable when there is something to drain.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// When to call [`Mirror::drain`] although [`Mirror::fd`] may not be readable: a resynchronisation is put off
    /// until then.
    pub fn resync_due(&self) -> Option<Instant> {
        self.resync.wanted.then_some(self.resync.not_before)
    }

    /// Asks for everything to be dumped again, as soon as the limit on this allows.
    pub fn request_resync(&mut self) {
        self.resync.wanted = true;
    }

    /// How often the kernel had more news than the socket could hold.
    pub fn overruns(&self) -> u64 {
        self.resync.overruns
    }

    /// How often everything was dumped again.
    pub fn resyncs(&self) -> u64 {
        self.resync.done
    }

    /// Brings in all news there are, without waiting for any. May leave some of a flood for the next call, and then
    /// [`Mirror::fd`] stays readable.
    ///
    /// # Errors
    /// When the socket fails, or a due resynchronisation does. The mirror then stays as it was and can be drained
    /// again: a failed resynchronisation is tried again after the interval.
    pub fn drain(&mut self) -> Result<Changes> {
        // Kept here over a failure, so that nothing that was brought in is forgotten.
        let mut dirty = std::mem::take(&mut self.unreported);
        let due = |resync: &Resync| resync.wanted && Instant::now() >= resync.not_before;
        let outcome = self.read_events(&mut dirty).and_then(|()| {
            let resynced = due(&self.resync);
            if resynced {
                self.resync_now(&mut dirty)?;
            }
            Ok(resynced)
        });
        match outcome {
            Ok(resynced) => Ok(self.changes(dirty, resynced)),
            Err(error) => {
                self.unreported = dirty;
                self.resync.wanted = true;
                Err(error)
            }
        }
    }

    /// All links, by interface index.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.state.links.values()
    }

    /// The link of this index.
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.state.links.get(&ifindex)
    }

    /// The link of this name.
    pub fn link_by_name(&self, name: &str) -> Option<&Link> {
        self.links().find(|link| link.name == name)
    }

    /// The addresses of an interface, in the kernel's order.
    pub fn addresses(&self, ifindex: u32) -> &[Address] {
        self.state
            .addresses
            .get(&ifindex)
            .map_or(&[], Vec::as_slice)
    }

    /// The addresses of all interfaces.
    pub fn all_addresses(&self) -> impl Iterator<Item = &Address> {
        self.state.addresses.values().flatten()
    }

    /// The best route of every prefix of table main, in no order.
    pub fn routes(&self) -> impl Iterator<Item = Route> {
        self.state.routes.iter()
    }

    /// Number of prefixes that have a route in table main.
    pub fn route_count(&self) -> usize {
        self.state.routes.len()
    }

    /// The best route to exactly this prefix.
    pub fn route(&self, dst: IpNet) -> Option<Route> {
        self.state.routes.get(dst)
    }

    /// The route of the longest prefix that holds `dst`. Knows nothing of links that are down: what the kernel does
    /// with those depends on `ignore_routes_with_linkdown`.
    pub fn lookup(&self, dst: IpAddr) -> Option<Route> {
        self.state.routes.lookup(dst)
    }

    /// The neighbour entry for an address on an interface.
    pub fn neighbour(&self, ifindex: u32, ip: IpAddr) -> Option<&Neighbour> {
        self.state.neighbours.get(&(ifindex, ip))
    }

    /// All neighbour entries, in no order.
    pub fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.state.neighbours.values()
    }

    fn read_events(&mut self, dirty: &mut Dirty) -> Result<()> {
        for _ in 0..DATAGRAMS_PER_DRAIN {
            if !self.receive()? {
                break;
            }
            for event in Messages(&self.buffer).filter_map(|message| decode(&message)) {
                if self.state.apply(event, dirty) == Follow::Resync {
                    self.resync.wanted = true;
                }
            }
        }
        Ok(())
    }

    /// Reads one datagram of the kernel's into the buffer; false when there is none.
    fn receive(&mut self) -> Result<bool> {
        loop {
            self.buffer.clear();
            match self.events.recv_from(&mut self.buffer, libc::MSG_DONTWAIT) {
                // Any process may send to a netlink socket; the kernel is port 0.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok(_) => return Ok(true),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.resync.overruns += 1;
                    self.resync.wanted = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::new("read the kernel's network events", error)),
            }
        }
    }

    fn resync_now(&mut self, dirty: &mut Dirty) -> Result<()> {
        let started = Instant::now();
        self.resync.not_before = started + self.options.resync_interval;
        // What is waiting in the socket is older than the dump will be.
        for _ in 0..DATAGRAMS_PER_DRAIN {
            if !self.receive()? {
                break;
            }
        }
        self.resync.wanted = false;
        let newer = self.load()?;
        let difference = self.state.diff(&newer);
        self.state = newer;
        dirty.links.extend(difference.links);
        dirty.addresses.extend(difference.addresses);
        dirty.neighbours.extend(difference.neighbours);
        dirty.routes.extend(difference.routes);
        self.resync.done += 1;
        let interval = self.options.resync_interval.max(started.elapsed() * 10);
        self.resync.not_before = started + interval;
        // Changes during the dump are waiting as events: bring them in before anybody looks.
        self.read_events(dirty)
    }

    /// Dumps everything into a new state.
    fn load(&mut self) -> Result<State> {
        let mut requests = Requests::open()?;
        let mut attempt = 1;
        loop {
            match dump_all(&mut requests)? {
                (state, Consistent::Yes) => return Ok(state),
                (state, Consistent::No) if attempt == DUMP_ATTEMPTS => {
                    self.resync.wanted = true;
                    return Ok(state);
                }
                (_, Consistent::No) => attempt += 1,
            }
        }
    }

    fn changes(&self, dirty: Dirty, resynced: bool) -> Changes {
        Changes {
            links: dirty.links.into_iter().collect(),
            addresses: dirty.addresses.into_iter().collect(),
            neighbours: dirty.neighbours.into_iter().collect(),
            routes: dirty
                .routes
                .into_iter()
                .map(|dst| (dst, self.state.routes.get(dst)))
                .collect(),
            resynced,
        }
    }
}

fn subscribe(receive_buffer: usize) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    if setsockopt(&socket, sockopt::RcvBufForce, &receive_buffer).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &receive_buffer)?;
    }
    for group in GROUPS {
        match socket.add_membership(group) {
            // Nexthop objects came with Linux 5.3.
            Err(error) if group != 32 => return Err(error),
            _ => {}
        }
    }
    Ok(socket)
}

fn dump_all(requests: &mut Requests) -> Result<(State, Consistent)> {
    let mut state = State::default();
    let mut consistent = Consistent::Yes;
    for (what, request) in dumps() {
        let outcome = requests.dump(request, what, |message| {
            if let Some(event) = decode(message) {
                state.load(event);
            }
        });
        match outcome {
            Ok(Consistent::Yes) => {}
            Ok(Consistent::No) => consistent = Consistent::No,
            // A table that has never had a route is not there.
            Err(error) if error.is(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((state, consistent))
}

/// What is dumped, in an order in which nothing refers to what comes later.
pub(super) fn dumps() -> [(&'static str, RouteNetlinkMessage); 5] {
    let mut links = LinkMessage::default();
    links
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    [
        ("dump links", RouteNetlinkMessage::GetLink(links)),
        (
            "dump addresses",
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        ),
        (
            "dump neighbours",
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
        ),
        (
            "dump IPv4 routes",
            RouteNetlinkMessage::GetRoute(routes_of(AddressFamily::Inet, TABLE_MAIN)),
        ),
        (
            "dump IPv6 routes",
            RouteNetlinkMessage::GetRoute(routes_of(AddressFamily::Inet6, TABLE_MAIN)),
        ),
    ]
}

/// The request for all routes of a table.
pub(super) fn routes_of(family: AddressFamily, table: u32) -> RouteMessage {
    let mut routes = RouteMessage::default();
    routes.header.address_family = family;
    routes.attributes.push(RouteAttribute::Table(table));
    routes
}
