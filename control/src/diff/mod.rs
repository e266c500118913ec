//! What would change if other resources were the configuration, before they are.
//!
//! Resources are compared as they are written ([`resources`], [`mod@compare`]), without what nobody reads. What that means for
//! connections is asked of the classifier that pollers ask, with the policy that follows from either side ([`effect`]).

pub mod compare;
pub mod effect;
pub mod places;
pub mod resources;
pub mod tree;

pub use compare::{Change, FieldChange, compare};
pub use effect::{Comparison, Effect, Judge, Turned};
pub use places::Places;
pub use resources::Written;
