//! Selectors as fields of resources.

use super::expr::Expr;
use super::parser::parse;
use crate::config::decode::{self, Context};
use crate::config::source::Span;
use crate::config::yaml::Node;

/// A selector that may not speak of `global()`. One without a word is none at all, as is one that is refused.
pub(crate) fn selector(node: &Node, cx: &mut Context<'_>) -> Option<Expr> {
    let expr = any(node, cx)?;
    if expr.has_global() {
        let label = "it stands alone in a rule's namespaceSelector";
        cx.error(&node.at, "`global()` has no meaning here", label);
        return None;
    }
    Some(expr)
}

/// A rule's `namespaceSelector`: `global()` may be all of it, not a part.
pub(crate) fn named_selector(node: &Node, cx: &mut Context<'_>) -> Option<Expr> {
    let expr = any(node, cx)?;
    if expr.has_global() && expr != Expr::Global {
        cx.error(&node.at, "`global()` can not be combined", "use it alone");
        return None;
    }
    Some(expr)
}

fn any(node: &Node, cx: &mut Context<'_>) -> Option<Expr> {
    let text = decode::text(node, cx)?;
    if text.trim().is_empty() {
        return None;
    }
    match parse(&text) {
        Ok(expr) => Some(expr),
        Err(error) => {
            let at = within(&node.at, &text, error.at, error.len);
            cx.error(&at, format!("bad selector: {}", error.message), error.label);
            None
        }
    }
}

/// A part of a text, where the file has it as it is; all of it, where it is folded or escaped.
fn within(whole: &Span, text: &str, at: usize, len: usize) -> Span {
    let written = whole.text();
    let quotes = usize::from(written.starts_with(['\'', '"']));
    let as_it_is = written
        .get(quotes..)
        .is_some_and(|rest| rest.starts_with(text));
    if !as_it_is {
        return whole.clone();
    }
    Span {
        source: whole.source.clone(),
        start: whole.start + quotes + at,
        len,
    }
}
