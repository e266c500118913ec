//! `BlockAffinity`: which node owns which block of a pool.

use ipnet::IpNet;

use crate::config::decode::{self, Context, Fields};
use crate::config::resource::Meta;
use crate::config::source::Located;
use crate::config::yaml::{Node, Value};

/// A block and its owner.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockAffinity {
    /// Its name, in Calico `<node>-<cidr with dashes>`.
    pub meta: Meta,
    /// `node`: the owner.
    pub node: Located<String>,
    /// `cidr`: the block.
    pub cidr: Located<IpNet>,
    /// False while the claim is pending or the block was given up: such a block has no route.
    pub confirmed: bool,
}

impl BlockAffinity {
    pub(crate) fn decode(meta: Meta, spec: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let states = [
            ("confirmed", true),
            ("pending", false),
            ("pendingDeletion", true),
        ];
        let state = spec.get("state", cx, decode::choice(&states, true));
        let node = spec.require("node", cx, decode::name);
        let cidr = spec.require("cidr", cx, decode::cidr);
        let deleted = spec.get("deleted", cx, boolean_or_text);
        let kinds = [("host", ()), ("virtual", ())];
        let _ = spec.get("type", cx, decode::choice(&kinds, true));
        Some(Self {
            meta,
            node: node?,
            cidr: cidr?,
            confirmed: state.is_none_or(|state| state.value)
                && !deleted.is_some_and(|gone| gone.value),
        })
    }
}

/// `deleted` was text in older versions of Calico.
fn boolean_or_text(node: &Node, cx: &mut Context<'_>) -> Option<bool> {
    match &node.value {
        Value::Text(text) if text == "true" => Some(true),
        Value::Text(text) if text == "false" => Some(false),
        _ => decode::boolean(node, cx),
    }
}
