//! Connections for those who ask at the control socket.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use fastpath::batch::PeerId;
use fastpath::port::PortId;
use fastpath::tables::{Tables, Way};

use super::Node;
use crate::api::report::{Flows, Flushed};
use crate::api::{ApiError, ErrorCode, FlowsParams, FlushParams};
use crate::compile::{Compiler, PortRole};
use crate::flows::Filter;
use crate::flows::page::{Names, Pages};

impl Node {
    /// Lists connections.
    pub(super) fn flows(&self, params: &FlowsParams) -> Result<Flows, ApiError> {
        let filter = self.filter(params.filter.as_deref())?;
        let names = NodeNames::new(&self.compiler, self.publisher.latest());
        self.pages(filter.as_ref(), |pages| pages.list(params, &names))
    }

    /// Removes connections.
    pub(super) fn flush_flows(&self, params: &FlushParams) -> Result<Flushed, ApiError> {
        if params.all == params.filter.is_some() {
            let message =
                "flush-flows: either `match` or `all` says which connections are to be removed";
            return Err(ApiError::new(ErrorCode::BadParams, message));
        }
        let filter = self.filter(params.filter.as_deref())?;
        let flushed = self.pages(filter.as_ref(), |pages| pages.flush(params.from))?;
        if let Some(offload) = &self.offload {
            offload.orders.flush();
        }
        if flushed.matched > 0 {
            tracing::info!(
                filter = params.filter.as_deref().unwrap_or("(all)"),
                removed = flushed.removed,
                busy = flushed.busy,
                "connections were removed on demand"
            );
        }
        Ok(flushed)
    }

    fn pages<T>(
        &self,
        filter: Option<&Filter<Vec<PortId>>>,
        work: impl FnOnce(&Pages<'_>) -> T,
    ) -> Result<T, ApiError> {
        let now = self.pollers.now();
        let now = now.ok_or_else(|| ApiError::new(ErrorCode::Internal, "no poller runs"))?;
        Ok(work(&Pages {
            connections: &self.connections,
            timeouts: &self.compiler.desired().felix.conntrack,
            rules: self.compiler.policy().counters(),
            now,
            filter,
        }))
    }

    /// Reads a filter, with the ports that its endpoints' names stand for.
    pub(super) fn filter(
        &self,
        text: Option<&str>,
    ) -> Result<Option<Filter<Vec<PortId>>>, ApiError> {
        let bad = |message: String| ApiError::new(ErrorCode::BadParams, message);
        let Some(text) = text else { return Ok(None) };
        let filter = Filter::parse(text).map_err(|error| bad(format!("match: {error}")))?;
        let resolve = |name: &String| {
            self.ports_of(name).ok_or_else(|| {
                bad(format!(
                    "match: no endpoint and no interface is called {name:?}"
                ))
            })
        };
        filter.resolve(&resolve).map(Some)
    }

    /// The ports of an endpoint (`namespace/pod` or `namespace/resource`) or of an interface. None while it has none;
    /// no answer if there is nothing of that name.
    fn ports_of(&self, name: &str) -> Option<Vec<PortId>> {
        let ports = self.compiler.ports();
        let mut is_known = false;
        let mut found: Vec<_> = ports.by_name(name).into_iter().collect();
        for endpoint in &self.compiler.desired().endpoints {
            let namespace = &endpoint.id.namespace;
            let is_it = name.split_once('/').is_some_and(|(space, name)| {
                space == namespace && (name == endpoint.workload || name == endpoint.id.name)
            });
            if is_it || endpoint.interface == name {
                is_known = true;
                found.extend(ports.by_name(&endpoint.interface));
            }
        }
        (is_known || !found.is_empty()).then_some(found)
    }
}

/// The names that the node's numbers stand for.
struct NodeNames<'a> {
    compiler: &'a Compiler,
    tables: &'a Tables,
    /// Endpoints by interface.
    endpoints: BTreeMap<&'a str, String>,
}

impl<'a> NodeNames<'a> {
    fn new(compiler: &'a Compiler, tables: &'a Tables) -> Self {
        let endpoints = compiler.desired().endpoints.iter();
        let named = endpoints.map(|endpoint| {
            let name = format!("{}/{}", endpoint.id.namespace, endpoint.workload);
            (endpoint.interface.as_str(), name)
        });
        Self {
            compiler,
            tables,
            endpoints: named.collect(),
        }
    }
}

impl Names for NodeNames<'_> {
    fn port(&self, id: PortId) -> Option<Cow<'_, str>> {
        self.compiler
            .ports()
            .get(id)
            .map(|spec| spec.name.as_str().into())
    }

    fn endpoint(&self, id: PortId) -> Option<Cow<'_, str>> {
        let spec = self.compiler.ports().get(id)?;
        self.endpoints
            .get(spec.name.as_str())
            .map(|name| name.as_str().into())
    }

    fn is_hosts(&self, id: PortId, address: IpAddr) -> bool {
        let spec = self.compiler.ports().get(id);
        let hop = self.tables.next_hop(match address {
            IpAddr::V4(address) => self.tables.fib4.lookup(address.into()),
            IpAddr::V6(address) => self.tables.fib6.lookup(address.into()),
        });
        spec.is_some_and(|spec| matches!(spec.role, PortRole::Host(_)))
            && matches!(hop.origin(), Some((Way::Host, ..)))
    }

    fn node(&self, id: PeerId) -> Option<Cow<'_, str>> {
        self.compiler.node_of(id).map(Cow::from)
    }
}
