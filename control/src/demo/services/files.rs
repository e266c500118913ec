//! Services and what is behind them, as the API server would print them.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::checks::Bench;
use super::super::error::{DemoError, Result};
use super::super::peer::Servers;
use super::super::plan::{CLIENT, DB, End, Node, POD_NAMESPACE, WEB};
use super::super::scenario::{Family, Scenario};
use super::super::{ask, live, resources};
use crate::api::report::Services;
use crate::api::{Method, ServicesParams};

/// A service with two ports at a cluster IP of each family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service {
    pub(super) name: &'static str,
    /// The last number of its cluster IPs.
    host: u8,
    /// What is behind it at first.
    pub(super) behind: &'static [End],
}

/// The TCP port of services, and that of their endpoints.
pub(super) const HTTP: (u16, u16) = (80, 8080);
/// The UDP port of services, and that of their endpoints.
pub(super) const DNS: (u16, u16) = (53, 5353);

/// A local and a remote pod.
pub(super) static BOTH: Service = Service::new("both", 10, &[End::Pod(WEB), End::Pod(DB)]);
/// No pod, but a server outside, as `kubernetes` has it.
pub(super) static OUTSIDE: Service = Service::new("outside", 20, &[End::Outside]);
/// The client itself.
pub(super) static OWN: Service = Service::new("own", 30, &[End::Pod(CLIENT)]);
/// Nobody.
pub(super) static EMPTY: Service = Service::new("empty", 40, &[]);

impl Service {
    const fn new(name: &'static str, host: u8, behind: &'static [End]) -> Self {
        Self { name, host, behind }
    }

    fn cluster_ip(&self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => Ipv4Addr::new(10, 96, 0, self.host).into(),
            Family::Ipv6 => Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, u16::from(self.host)).into(),
        }
    }

    /// The servers that are behind a port of it at first.
    pub(super) fn servers(&self, bench: &Bench<'_>, family: Family, port: (u16, u16)) -> Servers {
        let server = |end: &End| {
            let address = end.address(family, bench.scenario);
            (bench.lab.netns(*end), SocketAddr::new(address, port.1))
        };
        Servers {
            address: SocketAddr::new(self.cluster_ip(family), port.0),
            each: self.behind.iter().map(server).collect(),
        }
    }

    /// The Service, and an EndpointSlice of each family.
    fn text(&self, behind: &[End], scenario: Scenario) -> String {
        let name = self.name;
        let ports = |http: u16, dns: u16| {
            format!(
                "ports: [{{name: http, protocol: TCP, port: {http}}}, {{name: dns, protocol: UDP, port: {dns}}}]\n"
            )
        };
        let slice = |family: Family, kind: &str| {
            let endpoint =
                |end: &End| format!("{{addresses: ['{}']}}", end.address(family, scenario));
            let endpoints: Vec<String> = behind.iter().map(endpoint).collect();
            format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{name: {name}-{family}, namespace: {POD_NAMESPACE}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
                 addressType: {kind}\nendpoints: [{}]\n{}",
                endpoints.join(", "),
                ports(HTTP.1, DNS.1)
            )
        };
        let [v4, v6] = Family::ALL.map(|family| self.cluster_ip(family));
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {POD_NAMESPACE}}}\n\
             spec:\n  clusterIP: {v4}\n  clusterIPs: ['{v4}', '{v6}']\n  {}{}{}",
            ports(HTTP.0, DNS.0),
            slice(Family::Ipv4, "IPv4"),
            slice(Family::Ipv6, "IPv6")
        )
    }
}

/// All services, with this behind [`BOTH`].
fn text(both: &[End], scenario: Scenario) -> String {
    let others = [&OUTSIDE, &OWN, &EMPTY].map(|it| it.text(it.behind, scenario));
    BOTH.text(both, scenario) + &others.concat()
}

/// Writes the services to both nodes, with this behind [`BOTH`], and waits until they are in force.
///
/// # Errors
/// When a daemon does not take them.
pub(super) fn apply(bench: &Bench<'_>, both: &[End]) -> Result<()> {
    let text = text(both, bench.scenario);
    let of_both = |end: &End| Family::ALL.map(|family| end.address(family, bench.scenario));
    let wanted: BTreeSet<IpAddr> = both.iter().flat_map(of_both).collect();
    for node in Node::ALL {
        let dir = resources::directory(bench.lab, node);
        let [file, new] = ["services.yaml", "services.yaml.new"].map(|it| dir.join(it));
        // Whole or not at all, as users are told to.
        fs::write(&new, &text)
            .and_then(|()| fs::rename(&new, &file))
            .map_err(DemoError::io(format!("writing {}", file.display())))?;
        live::wait(
            bench.lab,
            node,
            bench.cancel,
            "a change of services",
            || {
                let params = ServicesParams {
                    only: Some(format!("{POD_NAMESPACE}/{}", BOTH.name)),
                    ..ServicesParams::default()
                };
                let told: Services = ask::call(bench.lab, node, Method::Services(params))?;
                let endpoints = told.services.iter().flat_map(|port| &port.endpoints);
                Ok(endpoints.map(SocketAddr::ip).collect::<BTreeSet<_>>() == wanted)
            },
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, load_sources};
    use crate::demo::scenario::Mode;

    #[test]
    fn the_daemons_read_what_we_write_without_remark() {
        let scenario = Scenario::of(Mode::Vxlan)[0];
        let source = Source::new("services.yaml", text(BOTH.behind, scenario));
        let resources = load_sources(&[source]).unwrap_or_else(|it| panic!("{}", it.render(false)));
        assert_eq!(resources.base.remarks.render(false), "");
    }
}
