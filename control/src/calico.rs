//! Constants and derivations that Calico's parts agree on.

mod sha1;

use crate::desired::MacAddr;
use sha1::sha1;

/// MAC address of the host's end of every pod's veth.
pub const HOST_VETH_MAC: MacAddr = MacAddr([0xee; 6]);

/// MAC address of a node's VXLAN device: `66` and the first five bytes of SHA-1 of the node's name
/// (`felix/calc/vxlan_resolver.go`).
pub fn vtep_mac(node: &str) -> MacAddr {
    let mut mac = [b'f'; 6];
    for (byte, digest) in mac.iter_mut().skip(1).zip(sha1(node.as_bytes())) {
        *byte = digest;
    }
    MacAddr(mac)
}

/// MAC address of a node's IPv6 VXLAN device.
pub fn vtep_mac_v6(node: &str) -> MacAddr {
    vtep_mac(&format!("{node}-v6"))
}

/// Name of the host's end of a pod's veth: the prefix and 11 hexadecimal digits of SHA-1 of `namespace.pod`.
pub fn veth_name(prefix: &str, namespace: &str, pod: &str) -> String {
    use std::fmt::Write as _;
    let mut digits = String::new();
    for byte in sha1(format!("{namespace}.{pod}").as_bytes()) {
        let _ = write!(digits, "{byte:02x}");
    }
    digits.truncate(11);
    format!("{prefix}{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vtep_mac_starts_with_f_and_differs_by_family() {
        // By sha1sum.
        assert_eq!(vtep_mac("node1").to_string(), NODE1_MAC);
        assert_ne!(vtep_mac("node1"), vtep_mac_v6("node1"));
    }

    #[test]
    fn a_veth_name_fits_linux() {
        let name = veth_name("cali", "default", "web");
        assert_eq!(name.len(), 15);
        assert_eq!(name, DEFAULT_WEB);
    }

    const NODE1_MAC: &str = "66:f9:37:c3:7e:94";
    const DEFAULT_WEB: &str = "cali68caf03a5f4";
}
