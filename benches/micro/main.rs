//! Micro benches: our own figures over time, by criterion. Claims against others come from the benches
//! beside this one, where the peers take turns with us.
//!
//! `cargo bench -p benches --bench micro`

mod lpm;

criterion::criterion_main!(lpm::benches);
