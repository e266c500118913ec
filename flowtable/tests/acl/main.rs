//! Chains and IP sets against a linear scan that is written from the semantics.

mod generate;
mod limits;
mod naive;
mod properties;
mod semantics;
mod sets;
