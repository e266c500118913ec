//! The host's port: its addresses and routes, and that it stays.

use std::time::{Duration, Instant};

use fastpath::io::xsk::ethtool;
use ipnet::IpNet;

use super::Node;
use crate::netlink::host_port::HOST_END;
use crate::netlink::{self, HostPort, HostPortConfig, HostRoute};

/// The host's port is repaired at most this often: a repair changes links, too.
const REPAIR: Duration = Duration::from_secs(1);

impl Node {
    /// The host's port changed or is gone: it is looked after soon.
    pub(super) fn host_changed(&mut self) {
        let due = self.host_looked + REPAIR;
        self.host_due.get_or_insert(due);
    }

    /// Makes the host's port what it should be, if it is time to.
    pub(super) fn look_after_host(&mut self, now: Instant) {
        if self.host_due.is_none_or(|due| due > now) {
            return;
        }
        self.host_looked = now;
        let config = HostPortConfig {
            addresses: super::start::tunnel_addresses(self.compiler.desired()),
            ..self.host_config.clone()
        };
        match HostPort::ensure(&config) {
            Ok(host) => {
                if host.dataplane_ifindex != self.host.dataplane_ifindex {
                    tracing::warn!("the host's port was gone and is made anew");
                }
                self.host = host;
                self.host_due = None;
                self.host_error = None;
                let _ = ethtool::set_tx_checksum(HOST_END, false);
                self.sync_host();
            }
            Err(error) => {
                self.host_fails(&error);
                self.host_due = Some(now + REPAIR);
            }
        }
    }

    /// Puts back the rules and routes of the host's port that somebody deleted, if it is time to look.
    pub(super) fn guard_host(&mut self, now: Instant) {
        if now < self.host_guard_at {
            return;
        }
        self.host_guard_at = now + REPAIR;
        // Then all of it is looked after.
        if self.host_due.is_some() {
            return;
        }
        let routes = self.host_routes();
        let put_back = self
            .host
            .ensure_rules()
            .and_then(|rules| Ok((rules, self.host.sync_routes(&routes)?)));
        match put_back {
            Ok(put_back) => {
                self.host_error = None;
                if let (1.., _) | (_, 1..) = put_back {
                    let (rules, routes) = put_back;
                    tracing::warn!(
                        rules,
                        routes,
                        "somebody changed rules or routes of the host's port (`ip rule`, table 4242); they are put back"
                    );
                }
            }
            Err(error) => self.host_fails(&error),
        }
    }

    /// Says once what is the matter with the host's port.
    fn host_fails(&mut self, error: &netlink::Error) {
        let error = format!("not as it should be, and tried again every second: {error}");
        if self.host_error.as_ref() != Some(&error) {
            tracing::error!("the host's port is {error}");
        }
        self.host_error = Some(error);
    }

    /// The host's addresses and routes on its port: tunnel addresses, and every pool and pod.
    pub(super) fn sync_host(&mut self) {
        // Whatever else is wanted of the host may be another, too.
        self.host_policy.is_stale = true;
        let desired = self.compiler.desired();
        if let Err(error) = self
            .host
            .set_addresses(&super::start::tunnel_addresses(desired))
        {
            tracing::warn!(%error, "tunnel addresses of the host's port");
        }
        let routes: Vec<HostRoute> = self.host_routes();
        if let Err(error) = self.host.sync_routes(&routes) {
            tracing::warn!(%error, "routes of the host's port");
        }
    }

    fn host_routes(&self) -> Vec<HostRoute> {
        let desired = self.compiler.desired();
        let node = desired.local_node();
        let mut routes: Vec<_> = desired
            .pools
            .iter()
            .map(|pool| {
                let direct = pool.kind() == crate::desired::PoolType::NoEncap;
                // Into a tunnel the host speaks from its tunnel address, which is the port's own.
                let pref_src = node
                    .filter(|_| direct)
                    .and_then(|node| node.address_like(pool.cidr.addr()));
                HostRoute {
                    dst: pool.cidr,
                    pref_src,
                }
            })
            .collect();
        let pooled = |net: &IpNet| desired.pools.iter().any(|pool| pool.cidr.contains(net));
        let loose = self
            .compiler
            .taken_prefixes()
            .into_iter()
            .filter(|net| !pooled(net));
        routes.extend(loose.map(|dst| HostRoute {
            dst,
            pref_src: None,
        }));
        routes
    }
}
