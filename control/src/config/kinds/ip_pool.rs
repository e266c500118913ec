//! `IPPool`: a range of pods' addresses and how traffic to it travels.

use ipnet::IpNet;

use crate::config::decode::{self, Context, Fields};
use crate::config::resource::Meta;
use crate::config::source::Located;
use crate::desired::{AllowedUse, EncapMode};

/// An address pool.
#[derive(Clone, Debug, PartialEq)]
pub struct IpPool {
    /// Its name.
    pub meta: Meta,
    /// `cidr`.
    pub cidr: Located<IpNet>,
    /// `ipipMode`, default `Never`.
    pub ipip_mode: EncapMode,
    /// `vxlanMode`, default `Never`.
    pub vxlan_mode: EncapMode,
    /// `natOutgoing`, default false.
    pub nat_outgoing: bool,
    /// `disabled`, default false.
    pub disabled: bool,
    /// `blockSize`, default 26 and 122.
    pub block_size: u8,
    /// `allowedUses`, default workloads and tunnels. Sorted.
    pub allowed_uses: Vec<AllowedUse>,
}

const MODES: [(&str, EncapMode); 3] = [
    ("Always", EncapMode::Always),
    ("CrossSubnet", EncapMode::CrossSubnet),
    ("Never", EncapMode::Never),
];

const USES: [(&str, AllowedUse); 3] = [
    ("Workload", AllowedUse::Workload),
    ("Tunnel", AllowedUse::Tunnel),
    ("LoadBalancer", AllowedUse::LoadBalancer),
];

impl IpPool {
    pub(crate) fn decode(meta: Meta, spec: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let cidr = spec.require("cidr", cx, decode::cidr);
        let ipip = spec.get("ipipMode", cx, decode::choice(&MODES, true));
        let vxlan = spec.get("vxlanMode", cx, decode::choice(&MODES, true));
        let nat_outgoing = spec.get("natOutgoing", cx, decode::boolean);
        let disabled = spec.get("disabled", cx, decode::boolean);
        let _ = spec.get("disableBGPExport", cx, decode::boolean);
        let _ = spec.get("nodeSelector", cx, decode::text);
        let _ = spec.get("namespaceSelector", cx, decode::text);
        let modes = [("Automatic", ()), ("Manual", ())];
        let _ = spec.get("assignmentMode", cx, decode::choice(&modes, true));
        let uses = spec.get("allowedUses", cx, decode::list(decode::choice(&USES, true)));
        let block_size = spec.get("blockSize", cx, decode::number(0..=128u8));

        let on = |mode: &Option<Located<EncapMode>>| {
            mode.as_ref()
                .filter(|mode| mode.value != EncapMode::Never)
                .map(|mode| mode.at.clone())
        };
        if let (Some(_), Some(second)) = (on(&ipip), on(&vxlan)) {
            let label = "one of ipipMode and vxlanMode must be `Never`";
            cx.error(&second, "both IPIP and VXLAN in one pool", label);
        }
        let cidr = cidr?;
        let v6 = matches!(cidr.value, IpNet::V6(_));
        if let Some(at) = on(&ipip).filter(|_| v6) {
            cx.error(
                &at,
                "IPIP carries IPv4 only",
                "use vxlanMode in an IPv6 pool",
            );
        }
        Some(Self {
            block_size: block_size_of(&cidr, block_size.as_ref(), cx),
            meta,
            cidr,
            ipip_mode: ipip.map_or(EncapMode::Never, |mode| mode.value),
            vxlan_mode: vxlan.map_or(EncapMode::Never, |mode| mode.value),
            nat_outgoing: nat_outgoing.is_some_and(|on| on.value),
            disabled: disabled.is_some_and(|on| on.value),
            allowed_uses: allowed_uses(uses),
        })
    }
}

fn allowed_uses(given: Option<Located<Vec<Located<AllowedUse>>>>) -> Vec<AllowedUse> {
    let mut uses: Vec<AllowedUse> = given
        .into_iter()
        .flat_map(|list| list.value)
        .map(|item| item.value)
        .collect();
    if uses.is_empty() {
        uses = vec![AllowedUse::Workload, AllowedUse::Tunnel];
    }
    uses.sort_unstable();
    uses.dedup();
    uses
}

/// The block size in force; 20 to 32 for IPv4, 116 to 128 for IPv6, and no bigger than the pool.
fn block_size_of(cidr: &Located<IpNet>, given: Option<&Located<u8>>, cx: &mut Context<'_>) -> u8 {
    let (default, shortest, longest) = match cidr.value {
        IpNet::V4(_) => (26, 20, 32),
        IpNet::V6(_) => (122, 116, 128),
    };
    let at = given.map_or(&cidr.at, |size| &size.at);
    let size = given.map_or(default, |size| size.value);
    if !(shortest..=longest).contains(&size) {
        cx.error(
            at,
            "block size out of range",
            format!("must be {shortest} to {longest}"),
        );
    } else if size < cidr.value.prefix_len() {
        let label = format!(
            "a /{} pool cannot hold a /{size} block",
            cidr.value.prefix_len()
        );
        cx.error(at, "the pool is smaller than one block", label);
    }
    size
}
