//! Tests of the module as a whole.

mod cases;
mod hosts;
pub(crate) mod oracle;
mod reload;
mod resources;
