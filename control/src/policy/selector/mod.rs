//! Calico's selectors: expressions over labels.
//!
//! Grammar: `label == 'v'`, `label != 'v'`, `label in {'a', 'b'}`, `label not in {…}`, `label contains 'v'`,
//! `label starts with 'v'`, `label ends with 'v'`, `has(label)`, `all()`, `global()`, joined by `&&` and `||`
//! (`&&` binds closer), negated by `!`, grouped by parentheses. Values are quoted with `'` or `"`.

mod expr;
mod field;
pub mod index;
mod parser;

pub use expr::{Expr, Labels};
pub(crate) use field::{named_selector, selector};
pub use parser::{SelectorError, parse};

#[cfg(test)]
mod tests;
