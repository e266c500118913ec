//! From a packet to the numbers of its rows, one for each field.

use fearless_simd::Simd;

use super::criteria::Asked;
use crate::acl::check::{BATCH, Subjects};
use crate::acl::intervals::Criteria;
use crate::acl::tree::{Column, Line, Node, Tree};
use crate::acl::{Address, Tuple};

/// How many there are.
pub(super) const FIELDS: usize = 5;

/// The intervals of all fields.
#[derive(Clone, Debug)]
pub(super) struct Fields<A: Address> {
    source: Tree<A>,
    destination: Tree<A>,
    source_port: Tree<u16>,
    destination_port: Tree<u16>,
    protocol: Tree<u8>,
    /// The rows of packets without ports.
    without_ports: [usize; 2],
}

/// The rows of each field; the row of what has no ports is the last of both ports.
pub(super) struct Rows<R> {
    pub(super) source: Vec<R>,
    pub(super) destination: Vec<R>,
    pub(super) source_port: Vec<R>,
    pub(super) destination_port: Vec<R>,
    pub(super) protocol: Vec<R>,
}

/// The rows of all packets of a batch, field by field.
pub(super) struct Columns([Column<u32>; FIELDS]);

impl Columns {
    /// The rows of packet `at`, in the order of [`Fields::rows`].
    #[inline(always)]
    pub(super) fn rows(&self, at: usize) -> [usize; FIELDS] {
        std::array::from_fn(|field| self.0[field].0[at % BATCH] as usize)
    }
}

impl<A: Address> Fields<A> {
    /// Makes rows of bit vectors; neighbours that are the same are one.
    pub(super) fn new<R: PartialEq, E>(
        asked: &Asked<A>,
        mut row: impl FnMut(&[u64]) -> Result<R, E>,
    ) -> Result<(Self, Rows<R>), E> {
        let (source, sources) = field(&asked.source, &mut row)?;
        let (destination, destinations) = field(&asked.destination, &mut row)?;
        let (source_port, mut source_ports) = field(&asked.source_port, &mut row)?;
        let (destination_port, mut destination_ports) = field(&asked.destination_port, &mut row)?;
        let (protocol, protocols) = field(&asked.protocol, &mut row)?;
        let without_ports = [source_ports.len(), destination_ports.len()];
        source_ports.push(row(&asked.without_ports)?);
        destination_ports.push(row(&asked.without_ports)?);
        let fields = Self {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
            without_ports,
        };
        let rows = Rows {
            source: sources,
            destination: destinations,
            source_port: source_ports,
            destination_port: destination_ports,
            protocol: protocols,
        };
        Ok((fields, rows))
    }

    /// The rows of a packet: source, destination, source port, destination port, protocol.
    #[inline(always)]
    pub(super) fn rows<S: Simd>(&self, simd: S, tuple: &Tuple<A>) -> [usize; FIELDS] {
        let [source_port, destination_port] = match tuple.ports() {
            Some((source, destination)) => [
                self.source_port.rank(simd, source),
                self.destination_port.rank(simd, destination),
            ],
            None => self.without_ports,
        };
        [
            self.source.rank(simd, tuple.source),
            self.destination.rank(simd, tuple.destination),
            source_port,
            destination_port,
            self.protocol.rank(simd, tuple.protocol),
        ]
    }

    /// [`Fields::rows`] of all packets.
    #[inline(always)]
    pub(super) fn columns<S: Simd>(&self, simd: S, subjects: &Subjects<'_, A>) -> Columns {
        let mut source = Line([A::FIRST; BATCH]);
        let mut destination = Line([A::FIRST; BATCH]);
        let mut source_port = Line([0_u16; BATCH]);
        let mut destination_port = Line([0_u16; BATCH]);
        let mut protocol = Line([0_u8; BATCH]);
        let mut without_ports = 0_u64;
        for (at, subject) in subjects.iter().enumerate().take(BATCH) {
            let tuple = subject.tuple;
            source.0[at] = tuple.source;
            destination.0[at] = tuple.destination;
            protocol.0[at] = tuple.protocol;
            match tuple.ports() {
                Some(ports) => (source_port.0[at], destination_port.0[at]) = ports,
                None => without_ports |= 1 << at,
            }
        }
        let mut columns = Columns([Line([0; BATCH]); FIELDS]);
        let [
            sources,
            destinations,
            source_ports,
            destination_ports,
            protocols,
        ] = &mut columns.0;
        self.source.ranks(simd, &source, sources);
        self.destination.ranks(simd, &destination, destinations);
        self.source_port.ranks(simd, &source_port, source_ports);
        self.destination_port
            .ranks(simd, &destination_port, destination_ports);
        self.protocol.ranks(simd, &protocol, protocols);
        while without_ports != 0 {
            let at = without_ports.trailing_zeros() as usize;
            without_ports &= without_ports - 1;
            source_ports.0[at] = self.without_ports[0] as u32;
            destination_ports.0[at] = self.without_ports[1] as u32;
        }
        columns
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.source.memory_bytes()
            + self.destination.memory_bytes()
            + self.source_port.memory_bytes()
            + self.destination_port.memory_bytes()
            + self.protocol.memory_bytes()
    }
}

fn field<K: Node, R: PartialEq, E>(
    criteria: &Criteria<K>,
    row: &mut impl FnMut(&[u64]) -> Result<R, E>,
) -> Result<(Tree<K>, Vec<R>), E> {
    let (mut bounds, mut rows) = (Vec::new(), Vec::new());
    criteria.sweep(|first, dense| {
        let row = row(dense)?;
        if rows.last() != Some(&row) {
            bounds.push(first);
            rows.push(row);
        }
        Ok(())
    })?;
    Ok((Tree::new(&bounds), rows))
}
