//! Which connections are meant.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use fastpath::connections::{Connection, Origin};
use fastpath::port::PortId;
use flowtable::conn::State;
use ipnet::IpNet;

use super::has_ports;

/// A condition on connections. `E` is what endpoints are named by: text as it was written, or the ports that the name
/// stands for, which is what can be [evaluated](Filter::matches).
///
/// Written as in `src 10.0.0.0/8 and (dst port 53 or not proto udp)`: see [`parse`](Filter::parse).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter<E = String> {
    /// One condition.
    Test(Test<E>),
    /// It does not hold.
    Not(Box<Self>),
    /// All of them hold.
    All(Vec<Self>),
    /// At least one of them holds.
    Any(Vec<Self>),
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test<E> {
    /// An address is of this network: `src`, `dst`, `host`, `net`.
    Address(Which, IpNet),
    /// A port is one of these: `port`. Protocols without ports have none.
    Port(Which, RangeInclusive<u16>),
    /// It is of this protocol: `proto`, or the protocol's name.
    Protocol(u8),
    /// It is IPv6: `ip6`; or it is not: `ip`.
    Ipv6(bool),
    /// The tracker has it in this state: `state`.
    State(State),
    /// It is of this endpoint, or passes through this port: `endpoint`.
    Endpoint(E),
    /// Its source is translated: `snat`.
    Snat,
    /// Its destination is: `dnat`.
    Dnat,
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Where the first packet came from, before it was translated.
    Source,
    /// Where it went to.
    Destination,
    /// Any of them, what they are translated to included: whatever its packets show somewhere.
    Either,
}

impl<E> Filter<E> {
    /// The same with endpoints named in another way.
    ///
    /// # Errors
    /// That of `resolve`.
    pub fn resolve<R, Error>(
        &self,
        resolve: &impl Fn(&E) -> Result<R, Error>,
    ) -> Result<Filter<R>, Error> {
        let all = |parts: &[Self]| -> Result<Vec<_>, Error> {
            parts.iter().map(|part| part.resolve(resolve)).collect()
        };
        Ok(match self {
            Self::Test(test) => Filter::Test(test.resolve(resolve)?),
            Self::Not(inner) => Filter::Not(Box::new(inner.resolve(resolve)?)),
            Self::All(parts) => Filter::All(all(parts)?),
            Self::Any(parts) => Filter::Any(all(parts)?),
        })
    }
}

impl<E> Test<E> {
    fn resolve<R, Error>(
        &self,
        resolve: &impl Fn(&E) -> Result<R, Error>,
    ) -> Result<Test<R>, Error> {
        Ok(match self {
            Self::Address(which, net) => Test::Address(*which, *net),
            Self::Port(which, ports) => Test::Port(*which, ports.clone()),
            Self::Protocol(protocol) => Test::Protocol(*protocol),
            Self::Ipv6(is) => Test::Ipv6(*is),
            Self::State(state) => Test::State(*state),
            Self::Endpoint(name) => Test::Endpoint(resolve(name)?),
            Self::Snat => Test::Snat,
            Self::Dnat => Test::Dnat,
        })
    }
}

impl<E> Filter<E> {
    /// Whether it holds, where `test` says which conditions do.
    pub(crate) fn holds(&self, test: &impl Fn(&Test<E>) -> bool) -> bool {
        match self {
            Self::Test(condition) => test(condition),
            Self::Not(inner) => !inner.holds(test),
            Self::All(parts) => parts.iter().all(|part| part.holds(test)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(test)),
        }
    }

    /// Whether any of its conditions is such a one.
    pub(crate) fn has(&self, is: &impl Fn(&Test<E>) -> bool) -> bool {
        match self {
            Self::Test(condition) => is(condition),
            Self::Not(inner) => inner.has(is),
            Self::All(parts) | Self::Any(parts) => parts.iter().any(|part| part.has(is)),
        }
    }
}

impl Filter<Vec<PortId>> {
    /// Whether a connection is meant.
    pub fn matches(&self, connection: &Connection) -> bool {
        self.holds(&|test| test.holds(connection))
    }
}

impl Test<Vec<PortId>> {
    fn holds(&self, connection: &Connection) -> bool {
        let Connection {
            src,
            dst,
            sport,
            dport,
            snat,
            dnat,
            ..
        } = *connection;
        let translated = [snat, dnat];
        match self {
            Self::Address(which, net) => {
                let is_in = |addr: IpAddr| net.contains(&addr);
                let translated = translated.map(|it| it.map(|(addr, _)| addr));
                which.holds(is_in, src, dst, translated)
            }
            Self::Port(which, ports) => {
                let is_in = |port: u16| ports.contains(&port);
                let translated = translated.map(|it| it.map(|(_, port)| port));
                has_ports(connection.protocol) && which.holds(is_in, sport, dport, translated)
            }
            Self::Protocol(protocol) => connection.protocol == *protocol,
            Self::Ipv6(is) => src.is_ipv6() == *is,
            Self::State(state) => connection.state == *state,
            Self::Endpoint(ports) => {
                let came_by = |origin| match origin {
                    Origin::Port(port) => Some(port),
                    Origin::Node(_) | Origin::Unknown => None,
                };
                let its = [
                    connection.owner,
                    came_by(connection.original.origin),
                    came_by(connection.reply.origin),
                ];
                its.iter().flatten().any(|port| ports.contains(port))
            }
            Self::Snat => snat.is_some(),
            Self::Dnat => dnat.is_some(),
        }
    }
}

impl Which {
    fn holds<T>(
        self,
        is_in: impl Fn(T) -> bool,
        source: T,
        destination: T,
        translated: [Option<T>; 2],
    ) -> bool {
        match self {
            Self::Source => is_in(source),
            Self::Destination => is_in(destination),
            Self::Either => {
                is_in(source) || is_in(destination) || translated.into_iter().flatten().any(is_in)
            }
        }
    }
}
