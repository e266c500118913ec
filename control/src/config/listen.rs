//! Addresses that the daemon serves HTTP on: `metrics` and `health` of `caracal.yaml`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::decode::{self, Context, Fields};
use super::yaml::Node;

/// Where the daemon listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `metrics`: where `/metrics` is served; `None`: nowhere. Default: `127.0.0.1:9191`. Felix has 9091.
    pub metrics: Option<SocketAddr>,
    /// `health`: where `/liveness` and `/readiness` are served. Default: `127.0.0.1:9199`. Felix has 9099.
    pub health: Option<SocketAddr>,
}

impl Default for Listen {
    fn default() -> Self {
        let local = |port| Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        Self {
            metrics: local(9191),
            health: local(9199),
        }
    }
}

impl Listen {
    /// Reads both settings of the file.
    pub(super) fn decode(&mut self, fields: &mut Fields<'_>, cx: &mut Context<'_>) {
        let mut at = None;
        for (name, address) in [("metrics", &mut self.metrics), ("health", &mut self.health)] {
            if let Some(given) = fields.get(name, cx, address_or_off) {
                *address = given.value.0;
                at = Some(given.at);
            }
        }
        if let Some(at) = at.filter(|_| self.metrics.is_some() && self.metrics == self.health) {
            let label = "another port is needed, or `off`";
            cx.error(&at, "metrics and health on one address", label);
        }
    }
}

/// What a setting says; none: `off`.
struct Given(Option<SocketAddr>);

/// `off`, or an address and a port.
fn address_or_off(node: &Node, cx: &mut Context<'_>) -> Option<Given> {
    let given = decode::text(node, cx)?;
    if given == "off" {
        return Some(Given(None));
    }
    let address = given.parse().ok();
    let address = address.filter(|address: &SocketAddr| address.port() != 0);
    if address.is_none() {
        let label = "an address and a port, such as `127.0.0.1:9191` or `\"[::1]:9191\"`, or `off`";
        cx.error(
            &node.at,
            format!("no address to listen at: `{given}`"),
            label,
        );
    }
    address.map(|address| Given(Some(address)))
}

#[cfg(test)]
mod tests {
    use super::super::{DaemonConfig, source::Source};
    use super::*;

    fn parse(text: &str) -> Result<Listen, String> {
        let config = DaemonConfig::parse(&Source::new("/etc/caracal/caracal.yaml", text));
        config
            .map(|config| config.listen)
            .map_err(|errors| errors.render(false))
    }

    #[test]
    fn both_are_on_unless_told_otherwise() {
        assert_eq!(parse(""), Ok(Listen::default()));
        let off = Listen {
            metrics: None,
            health: None,
        };
        assert_eq!(parse("metrics: off\nhealth: off\n"), Ok(off));
        let other = parse("metrics: 0.0.0.0:9000\nhealth: \"[::1]:9001\"\n").unwrap();
        assert_eq!(other.metrics, Some(([0, 0, 0, 0], 9000).into()));
        assert_eq!(other.health.unwrap().to_string(), "[::1]:9001");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "9191",
            "localhost:9191",
            "127.0.0.1",
            "127.0.0.1:0",
            "on",
            "\"[::1]\"",
        ] {
            let said = parse(&format!("health: {bad}\n")).unwrap_err();
            assert!(said.contains("caracal.yaml:1:9"), "{said}");
        }
        let said = parse("metrics: 127.0.0.1:9199\n").unwrap_err();
        assert!(said.contains("metrics and health on one address"), "{said}");
        let said = parse("health: 10.0.0.1:80\nmetrics: 10.0.0.1:80\n").unwrap_err();
        assert!(said.contains("caracal.yaml:1:9"), "{said}");
    }
}
