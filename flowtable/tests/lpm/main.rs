//! The lookup tables against a linear scan, under any sequence of changes.

mod family;
mod limits;
mod properties;
mod threads;
