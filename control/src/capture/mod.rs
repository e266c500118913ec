//! Packets that pollers copied, for who captures: put into words, kept for a moment, and which of them are meant.

mod head;
mod kept;

pub(crate) use head::Head;
pub(crate) use kept::{Kept, Meant, Packet};
