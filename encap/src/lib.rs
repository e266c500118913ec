#![forbid(unsafe_code)]
//! Bytes and headers: parsing, checking, building and rewriting. No I/O, no clock, no threads.
