//! Connections for operators: which ones are meant ([`Filter`]), and going over them a page at a time.

mod filter;
pub(crate) mod page;
mod parse;
mod protocol;

pub use filter::{Filter, Test, Which};
pub(crate) use page::DENIED;
pub use parse::FilterError;
pub(crate) use protocol::{
    has_identifier, has_ports, name as protocol_name, number as protocol_number,
};
