//! What people and programs write: resources, selectors, filters of connections, the control socket's lines, HTTP requests.

use control::api::{Request, Response};
use control::config::{DaemonConfig, Source, compute, load_sources};
use control::flows::Filter;
use control::http;
use control::policy::testing::Suite;
use control::policy::{calculate, resource, selector as selectors};

fn utf8(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// A file in each role that a file can have: it is taken, or refused with findings that can be shown.
pub(super) fn resources(data: &[u8]) {
    let Some(text) = utf8(data) else { return };
    let source = Source::new("a.yaml", text);
    match load_sources(std::slice::from_ref(&source)) {
        Ok(resources) => {
            assert!(!resources.base.remarks.has_errors());
            for node in ["node1", "worker1"] {
                if let Err(errors) = compute(&resources, node) {
                    assert!(!errors.is_empty());
                }
            }
        }
        Err(findings) => {
            assert!(findings.has_errors());
            assert!(!findings.render(true).is_empty());
            let _ = findings.to_json();
        }
    }
    if let Err(findings) = DaemonConfig::parse(&source) {
        assert!(findings.has_errors());
    }
    let policy = resource::load_sources(std::slice::from_ref(&source));
    if let Err(findings) = policy.and_then(|resources| calculate(&resources)) {
        assert!(findings.has_errors());
    }
    match Suite::parse(&source) {
        Ok(suite) => {
            for group in &suite.groups {
                for check in &group.checks {
                    let _ = check.run(&group.model);
                }
            }
        }
        Err(findings) => assert!(findings.has_errors()),
    }
}

/// A selector that is taken says the same when it is written out.
pub(super) fn selector(data: &[u8]) {
    let Some(text) = utf8(data) else { return };
    match selectors::parse(text) {
        Ok(expr) => {
            let written = expr.to_string();
            assert_eq!(selectors::parse(&written).as_ref(), Ok(&expr), "{written}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A filter of connections: taken, or refused with a reason.
pub(super) fn flow_filter(data: &[u8]) {
    let Some(text) = utf8(data) else { return };
    if let Err(error) = Filter::parse(text) {
        assert!(!error.to_string().is_empty());
    }
}

/// A line of the control socket's protocol, from either end: what is taken means the same when it is sent on.
pub(super) fn protocol(data: &[u8]) {
    if let Ok(request) = Request::parse(data) {
        let line = request.to_line();
        let again = Request::parse(line.trim_end().as_bytes());
        assert_eq!(again.map(|again| again.to_line()).ok(), Some(line));
    }
    if let Ok(response) = Response::parse(data) {
        let line = response.to_line();
        let again = Response::parse(line.trim_end().as_bytes());
        assert_eq!(again.map(|again| again.to_line()).ok(), Some(line));
    }
}

/// The beginning of an HTTP connection: a request that is taken is the same with more behind it, and was not there before its end.
pub(super) fn http(data: &[u8]) {
    let Ok(Some(request)) = http::Request::parse(data) else {
        return;
    };
    assert!(!request.path.contains(['?', '#', ' ', '\n']), "{request:?}");
    let _ = request.names("application/openmetrics-text");
    let more = [data, b"GET / HTTP/1.1\r\n\r\n"].concat();
    assert_eq!(http::Request::parse(&more), Ok(Some(request.clone())));
    let whole = (0..=data.len()).find(|end| {
        let part = data.get(..*end).unwrap_or_default();
        http::Request::parse(part) != Ok(None)
    });
    let whole = whole.and_then(|end| data.get(..end)).unwrap_or_default();
    assert_eq!(http::Request::parse(whole), Ok(Some(request)));
}
