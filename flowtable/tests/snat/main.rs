//! Which connections are masqueraded, and which ports they get.

mod pools;
mod ports;
