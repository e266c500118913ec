//! What tests and benches need.
