//! Micro benches: our own figures over time, by criterion. Claims against others come from the benches
//! beside this one, where the peers take turns with us.
//!
//! `cargo bench -p benches --bench micro`

mod fragments;
mod lpm;
mod nat;

criterion::criterion_main!(fragments::benches, lpm::benches, nat::benches);
