//! Tests that stand beside the crates: golden captures, models, the kernel as judge.
