//! The file by which Calico's CNI plugin knows what MTU pods get. Felix leaves it to its dataplane.

use std::fs;
use std::io;
use std::path::Path;

use ipnet::IpNet;

use crate::desired::{Desired, PoolType};

/// Bytes that VXLAN over IPv4 puts in front of a packet.
const VXLAN: u32 = 50;
/// The same over IPv6.
const VXLAN_V6: u32 = 70;
/// Bytes that IPIP puts in front of a packet.
const IPIP: u32 = 20;

/// The MTU of pods, in bytes, where the narrowest uplink has `uplink`: what fits every tunnel in use.
pub fn pod_mtu(desired: &Desired, uplink: u32) -> u32 {
    let felix = &desired.felix;
    let has = |kind, v4| {
        let mut pools = desired.pools.iter();
        pools.any(|pool| pool.kind() == kind && matches!(pool.cidr, IpNet::V4(_)) == v4)
    };
    let tunnels = [
        (has(PoolType::Vxlan, true), felix.vxlan_mtu, VXLAN),
        (has(PoolType::Vxlan, false), felix.vxlan_mtu_v6, VXLAN_V6),
        (has(PoolType::Ipip, true), felix.ipip_mtu, IPIP),
    ];
    let in_use = tunnels.into_iter().filter(|(is_used, ..)| *is_used);
    let mtus =
        in_use.map(|(_, given, more)| given.map_or_else(|| uplink.saturating_sub(more), u32::from));
    mtus.fold(uplink, u32::min)
}

/// Writes the file in one step, unless it says so already. Whether it had to be written.
///
/// # Errors
/// The system's.
pub fn write(path: &Path, mtu: u32) -> io::Result<bool> {
    let text = mtu.to_string();
    if fs::read_to_string(path).is_ok_and(|before| before == text) {
        return Ok(false);
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let fresh = dir.join(format!(".mtu-{}", std::process::id()));
    fs::write(&fresh, text)?;
    let placed = fs::rename(&fresh, path);
    if placed.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    placed.map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{EncapMode, Pool};

    fn pool(cidr: &str, vxlan: bool, ipip: bool) -> Pool {
        let mode = |on| {
            if on {
                EncapMode::CrossSubnet
            } else {
                EncapMode::Never
            }
        };
        Pool {
            name: String::new(),
            cidr: cidr.parse().unwrap(),
            masquerade: false,
            ipip_mode: mode(ipip),
            vxlan_mode: mode(vxlan),
            disabled: false,
            allowed_uses: Vec::new(),
        }
    }

    #[test]
    fn the_narrowest_tunnel_in_use_counts() {
        let mut desired = Desired::default();
        assert_eq!(pod_mtu(&desired, 1500), 1500);
        desired.pools.push(pool("10.0.0.0/8", false, false));
        assert_eq!(pod_mtu(&desired, 9000), 9000);
        desired.pools.push(pool("11.0.0.0/8", false, true));
        assert_eq!(pod_mtu(&desired, 1500), 1480);
        desired.pools.push(pool("12.0.0.0/8", true, false));
        assert_eq!(pod_mtu(&desired, 1500), 1450);
        desired.pools.push(pool("fd00::/16", true, false));
        assert_eq!(pod_mtu(&desired, 1500), 1430);
        desired.felix.vxlan_mtu_v6 = Some(1400);
        assert_eq!(pod_mtu(&desired, 1500), 1400);
        assert_eq!(pod_mtu(&desired, 1300), 1250);
    }
}
