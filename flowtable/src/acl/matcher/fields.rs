//! From a packet to the numbers of its rows, one for each field.

use fearless_simd::Simd;

use super::criteria::Asked;
use crate::acl::check::{BATCH, Subjects};
use crate::acl::intervals::Criteria;
use crate::acl::tree::{Column, Line, Node, Tree};
use crate::acl::{Address, Tuple};

/// Both addresses and the protocol.
pub(super) const ADDRESSES: usize = 3;

/// And both ports.
pub(super) const FIELDS: usize = 5;

/// The rows of all packets of a batch, field by field.
pub(super) struct Columns<const N: usize>([Column<u32>; N]);

impl<const N: usize> Columns<N> {
    /// The rows of packet `at`.
    #[inline(always)]
    pub(super) fn rows(&self, at: usize) -> [usize; N] {
        std::array::from_fn(|field| self.0[field].0[at % BATCH] as usize)
    }
}

/// The intervals of addresses and protocols.
#[derive(Clone, Debug)]
pub(super) struct Addresses<A: Address> {
    source: Tree<A>,
    destination: Tree<A>,
    protocol: Tree<u8>,
}

/// The intervals of all fields.
#[derive(Clone, Debug)]
pub(super) struct Fields<A: Address> {
    addresses: Addresses<A>,
    source_port: Tree<u16>,
    destination_port: Tree<u16>,
    /// The rows of packets without ports.
    without_ports: [usize; 2],
}

impl<A: Address> Addresses<A> {
    /// Makes rows of the bit vectors of source, destination and protocol. Neighbours that are the same are
    /// one.
    #[expect(
        clippy::type_complexity,
        reason = "three lists of rows beside the fields"
    )]
    pub(super) fn new<R: PartialEq, P: PartialEq, E>(
        asked: &Asked<A>,
        mut source_row: impl FnMut(&[u64]) -> Result<R, E>,
        mut destination_row: impl FnMut(&[u64]) -> Result<R, E>,
        mut protocol_row: impl FnMut(&[u64]) -> Result<P, E>,
    ) -> Result<(Self, Vec<R>, Vec<R>, Vec<P>), E> {
        let (source, sources) = field(&asked.source, &mut source_row)?;
        let (destination, destinations) = field(&asked.destination, &mut destination_row)?;
        let (protocol, protocols) = field(&asked.protocol, &mut protocol_row)?;
        let addresses = Self {
            source,
            destination,
            protocol,
        };
        Ok((addresses, sources, destinations, protocols))
    }

    /// The rows of a packet: source, destination, protocol.
    #[inline(always)]
    pub(super) fn rows<S: Simd>(&self, simd: S, tuple: &Tuple<A>) -> [usize; ADDRESSES] {
        [
            self.source.rank(simd, tuple.source),
            self.destination.rank(simd, tuple.destination),
            self.protocol.rank(simd, tuple.protocol),
        ]
    }

    /// [`Addresses::rows`] of all packets.
    #[inline(always)]
    pub(super) fn columns<S: Simd>(
        &self,
        simd: S,
        subjects: &Subjects<'_, A>,
    ) -> Columns<ADDRESSES> {
        let mut source = Line([A::FIRST; BATCH]);
        let mut destination = Line([A::FIRST; BATCH]);
        let mut protocol = Line([0; BATCH]);
        for (at, subject) in subjects.iter().enumerate().take(BATCH) {
            source.0[at] = subject.tuple.source;
            destination.0[at] = subject.tuple.destination;
            protocol.0[at] = subject.tuple.protocol;
        }
        let mut columns = Columns([Line([0; BATCH]); ADDRESSES]);
        let [sources, destinations, protocols] = &mut columns.0;
        self.source.ranks(simd, &source, sources);
        self.destination.ranks(simd, &destination, destinations);
        self.protocol.ranks(simd, &protocol, protocols);
        columns
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.source.memory_bytes() + self.destination.memory_bytes() + self.protocol.memory_bytes()
    }
}

impl<A: Address> Fields<A> {
    /// Makes rows of bit vectors: of source, destination, protocol, source port and destination port. The
    /// row of packets without ports is the last of both ports.
    pub(super) fn new<R: PartialEq, E>(
        asked: &Asked<A>,
        row: impl Fn(&[u64]) -> Result<R, E>,
    ) -> Result<(Self, [Vec<R>; FIELDS]), E> {
        let (addresses, source, destination, protocol) = Addresses::new(asked, &row, &row, &row)?;
        let (source_port, mut source_ports) = field(&asked.source_port, &mut &row)?;
        let (destination_port, mut destination_ports) = field(&asked.destination_port, &mut &row)?;
        let without_ports = [source_ports.len(), destination_ports.len()];
        source_ports.push(row(&asked.without_ports)?);
        destination_ports.push(row(&asked.without_ports)?);
        let fields = Self {
            addresses,
            source_port,
            destination_port,
            without_ports,
        };
        let rows = [
            source,
            destination,
            protocol,
            source_ports,
            destination_ports,
        ];
        Ok((fields, rows))
    }

    /// The rows of a packet: source, destination, protocol, source port, destination port.
    #[inline(always)]
    pub(super) fn rows<S: Simd>(&self, simd: S, tuple: &Tuple<A>) -> [usize; FIELDS] {
        let [source_port, destination_port] = match tuple.ports() {
            Some((source, destination)) => [
                self.source_port.rank(simd, source),
                self.destination_port.rank(simd, destination),
            ],
            None => self.without_ports,
        };
        let [source, destination, protocol] = self.addresses.rows(simd, tuple);
        [source, destination, protocol, source_port, destination_port]
    }

    /// [`Fields::rows`] of all packets.
    #[inline(always)]
    pub(super) fn columns<S: Simd>(&self, simd: S, subjects: &Subjects<'_, A>) -> Columns<FIELDS> {
        let Columns([source, destination, protocol]) = self.addresses.columns(simd, subjects);
        let mut source_port = Line([0; BATCH]);
        let mut destination_port = Line([0; BATCH]);
        let mut without_ports = 0_u64;
        for (at, subject) in subjects.iter().enumerate().take(BATCH) {
            match subject.tuple.ports() {
                Some(ports) => (source_port.0[at], destination_port.0[at]) = ports,
                None => without_ports |= 1 << at,
            }
        }
        let mut source_ports = Line([0; BATCH]);
        let mut destination_ports = Line([0; BATCH]);
        self.source_port
            .ranks(simd, &source_port, &mut source_ports);
        self.destination_port
            .ranks(simd, &destination_port, &mut destination_ports);
        while without_ports != 0 {
            let at = without_ports.trailing_zeros() as usize;
            without_ports &= without_ports - 1;
            source_ports.0[at] = self.without_ports[0] as u32;
            destination_ports.0[at] = self.without_ports[1] as u32;
        }
        Columns([
            source,
            destination,
            protocol,
            source_ports,
            destination_ports,
        ])
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.addresses.memory_bytes()
            + self.source_port.memory_bytes()
            + self.destination_port.memory_bytes()
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
