//! What is sent, by theme.

pub(crate) mod forward4;
pub(crate) mod forward6;
pub(crate) mod icmp4;
pub(crate) mod ipip;
pub(crate) mod masquerade;
pub(crate) mod services;
pub(crate) mod vxlan4;
pub(crate) mod vxlan6;
