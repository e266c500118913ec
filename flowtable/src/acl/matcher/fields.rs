//! From a packet to the numbers of its rows, one for each field.

use fearless_simd::Simd;

use super::criteria::Asked;
use crate::acl::intervals::Criteria;
use crate::acl::tree::{Node, Tree};
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
