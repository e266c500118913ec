//! Host endpoints' tables in a kernel: what passes is what the evaluator says, and a table that was changed is what a new one
//! would be.

mod lab;
mod packets;
mod random;
mod run;
