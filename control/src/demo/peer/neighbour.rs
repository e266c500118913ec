//! A pod's neighbour entry for its gateway: who answered the pod's ARP request or neighbour solicitation.

use serde::Deserialize;

use super::Failure;
use crate::demo::ip::Shell;
use crate::demo::plan::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6};
use crate::demo::scenario::Family;
use crate::demo::topology::ETH;

/// Makes the pod forget its gateway, so that it must ask.
///
/// # Errors
/// What `ip` said.
pub fn forget(shell: Shell, netns: &str, family: Family) -> Result<(), Failure> {
    let option = match family {
        Family::Ipv4 => "-4",
        Family::Ipv6 => "-6",
    };
    let args = [option, "neigh", "flush", "dev", ETH, "nud", "all"];
    let flushed = shell.ip_output(netns, &args);
    flushed.map(drop).map_err(|error| error.to_string())
}

/// Looks the gateway up after traffic; it must have the MAC address that Calico gives to it.
///
/// # Errors
/// What the entry is instead.
pub fn verify(shell: Shell, netns: &str, family: Family) -> Result<(), Failure> {
    let gateway = match family {
        Family::Ipv4 => GATEWAY_V4.to_string(),
        Family::Ipv6 => GATEWAY_V6.to_string(),
    };
    let json = shell
        .ip_output(netns, &["-j", "neigh", "show", "to", &gateway, "dev", ETH])
        .map_err(|error| error.to_string())?;
    judge(&json, &gateway)
}

#[derive(Deserialize)]
struct Entry {
    dst: String,
    lladdr: Option<String>,
    #[serde(default)]
    state: Vec<String>,
}

fn judge(json: &str, gateway: &str) -> Result<(), Failure> {
    let entries: Vec<Entry> = if json.trim().is_empty() {
        Vec::new()
    } else {
        serde_json::from_str(json).map_err(|error| format!("`ip -j neigh`: {error}"))?
    };
    let Some(entry) = entries.iter().find(|entry| entry.dst == gateway) else {
        return Err(format!("the pod has no neighbour entry for {gateway}"));
    };
    match entry.lladdr.as_deref() {
        Some(GATEWAY_MAC) => Ok(()),
        Some(other) => Err(format!("{gateway} is at {other}, not at {GATEWAY_MAC}")),
        None => Err(format!(
            "nobody answered for {gateway} ({})",
            entry.state.join(",")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_gateways_own_mac_passes() {
        let entry = |rest: &str| format!(r#"[{{"dst":"169.254.1.1",{rest}}}]"#);
        let good = entry(r#""lladdr":"ee:ee:ee:ee:ee:ee","state":["REACHABLE"]"#);
        assert_eq!(judge(&good, "169.254.1.1"), Ok(()));
        let other = entry(r#""lladdr":"02:00:00:00:00:01","state":["STALE"]"#);
        assert!(judge(&other, "169.254.1.1").is_err());
        let failed = entry(r#""state":["FAILED"]"#);
        assert_eq!(
            judge(&failed, "169.254.1.1"),
            Err("nobody answered for 169.254.1.1 (FAILED)".to_owned())
        );
        assert!(judge("[]", "169.254.1.1").is_err());
    }
}
