//! Tests of the module as a whole.

mod cases;
mod hosts;
mod oracle;
mod resources;
