//! The connection tracker, from outside: sequences of packets and the states they lead to.

mod model;
mod properties;
mod requirements;
mod sequences;
mod talk;
mod transitions;
