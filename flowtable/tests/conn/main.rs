//! The connection tracker, from outside: sequences of packets and the states they lead to.

mod captures;
mod model;
mod properties;
mod requirements;
mod sctp;
mod sequences;
mod talk;
mod transitions;
mod unseen;
