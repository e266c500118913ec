//! Requests and responses.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::VERSION;
use super::report::FlowVerdict;
use crate::trace::Ask;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's number for it; comes back with the response.
    pub id: u64,
    /// The question.
    pub method: Method,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "kebab-case")]
pub enum Method {
    /// All of [`Status`](super::report::Status).
    Status,
    /// [`Ports`](super::report::Ports).
    Ports,
    /// [`Drops`](super::report::Drops).
    Drops,
    /// [`Accounting`](super::report::Accounting).
    Accounting,
    /// [`Routes`](super::report::Routes).
    Routes(RoutesParams),
    /// [`Neighbours`](super::report::Neighbours).
    Neighbours(PageParams),
    /// [`Services`](super::report::Services).
    Services(ServicesParams),
    /// [`PolicyShown`](super::report::PolicyShown).
    Policy(EndpointParams),
    /// [`Trace`](crate::trace::Trace).
    Trace(Ask),
    /// [`Flows`](super::report::Flows).
    Flows(FlowsParams),
    /// [`Flushed`](super::report::Flushed).
    FlushFlows(FlushParams),
    /// [`Observed`](super::report::Observed).
    Observe(ObserveParams),
    /// [`Captured`](super::report::Captured).
    Capture(CaptureParams),
    /// [`Perf`](super::report::Perf).
    Perf(PerfParams),
}

/// Which endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointParams {
    /// `namespace/pod`, or less where that is enough; or the interface.
    pub endpoint: String,
}

/// Which routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutesParams {
    /// Only the one that packets to this address take.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpAddr>,
    /// Only those after this one: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<IpNet>,
    /// At most as many; default and maximum [`MAX_PAGE`](super::MAX_PAGE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Which part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageParams {
    /// Leave out as many.
    #[serde(default)]
    pub offset: usize,
    /// At most as many; default and maximum [`MAX_PAGE`](super::MAX_PAGE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Which services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicesParams {
    /// Only that at this address, called `namespace/name`, or called so in whatever namespace.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
    /// Leave out as many of their ports: `next` of the page before.
    #[serde(default)]
    pub offset: usize,
    /// At most as many of their ports; default and maximum [`MAX_PAGE`](super::MAX_PAGE). Fewer where they have many endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Which connections, and what of them. An answer is about a part of the tables; `next` of it leads to the next part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowsParams {
    /// Only those that are meant by this [`Filter`](crate::flows::Filter).
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Where to go on: `next` of the part before.
    #[serde(default)]
    pub from: usize,
    /// At most as many connections; default and maximum [`MAX_FLOWS`](super::MAX_FLOWS). With fewer the others are
    /// counted; else the part ends where no more fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The largest of the part by this, the largest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<FlowsBy>,
    /// Only those of which a packet came within the last so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<u64>,
    /// Count by state, protocol and endpoint, too.
    #[serde(default)]
    pub counts: bool,
}

/// What connections are compared by, both directions together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FlowsBy {
    /// Bytes.
    Bytes,
    /// Packets.
    Packets,
}

/// Which connections are to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlushParams {
    /// Those that are meant by this [`Filter`](crate::flows::Filter).
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// All of them. Without `match` it has to be said.
    #[serde(default)]
    pub all: bool,
    /// Where to go on: `next` of the part before.
    #[serde(default)]
    pub from: usize,
}

/// Which records of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObserveParams {
    /// Those that are newer: `next` of the answer before. Without it the last ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Without `after` at most as many; default 20, maximum [`MAX_RECORDS`](super::MAX_RECORDS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<usize>,
    /// Have connections recorded for the next seconds, until the next question. `Log` rules always are.
    #[serde(default)]
    pub follow: bool,
    /// Only those of this verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<FlowVerdict>,
    /// Only those with a pod of this name at either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Only those with this port at either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Only those of this protocol.
    #[serde(default, rename = "proto", skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Only those with an address of this network at either end.
    #[serde(default, rename = "ip", skip_serializing_if = "Option::is_none")]
    pub net: Option<IpNet>,
}

/// Which packets. They are captured for the next seconds, until the next question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureParams {
    /// Those that are newer: `next` of the answer before. Without it those from now on, and so none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only those that come in or go out by this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Only those that are dropped.
    #[serde(default)]
    pub drops: bool,
    /// Only those that are meant by this [`Filter`](crate::flows::Filter).
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

/// For how long pollers are to measure where their time goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerfParams {
    /// From now on, in milliseconds; maximum [`MAX_MEASURED`](super::MAX_MEASURED). With 0 what was measured is only read. Who asked for longer
    /// before gets it.
    #[serde(default)]
    pub milliseconds: u64,
}

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// Not a JSON object with `v`, `id` and `method`.
    BadRequest,
    /// Another version of the protocol.
    UnsupportedVersion,
    /// No such method.
    UnknownMethod,
    /// The method does not take these parameters.
    BadParams,
    /// The request is too long; the connection ends.
    TooLarge,
    /// The peer may not ask; the connection ends.
    Forbidden,
    /// The daemon could not answer.
    #[serde(other)]
    Internal,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadRequest => "bad-request",
            Self::UnsupportedVersion => "unsupported-version",
            Self::UnknownMethod => "unknown-method",
            Self::BadParams => "bad-params",
            Self::TooLarge => "too-large",
            Self::Forbidden => "forbidden",
            Self::Internal => "internal",
        })
    }
}

/// Why there is no result, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl ApiError {
    /// An error.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// The request's; `None` when it could not be read.
    pub id: Option<u64>,
    /// The result, as the method says.
    pub outcome: Result<Value, ApiError>,
}

/// The members that every request has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    v: u32,
    id: u64,
    method: String,
    #[serde(default)]
    params: Option<Value>,
}

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it, with the request's id where it could be read.
    pub fn parse(line: &[u8]) -> Result<Self, (Option<u64>, ApiError)> {
        let bad = |code, error: &dyn fmt::Display| ApiError::new(code, error.to_string());
        let value: Value = serde_json::from_slice(line)
            .map_err(|error| (None, bad(ErrorCode::BadRequest, &error)))?;
        let id = value.get("id").and_then(Value::as_u64);
        // The version first: others may look different.
        if let Some(version) = value.get("v").filter(|v| **v != json!(VERSION)) {
            let message =
                format!("version {version} of the protocol; this daemon speaks {VERSION}");
            return Err((id, ApiError::new(ErrorCode::UnsupportedVersion, message)));
        }
        let envelope: Envelope = serde_json::from_value(value)
            .map_err(|error| (id, bad(ErrorCode::BadRequest, &error)))?;
        debug_assert_eq!(envelope.v, VERSION, "looked at above");
        let method = Method::parse(&envelope.method, envelope.params)
            .map_err(|error| (Some(envelope.id), error))?;
        Ok(Self {
            id: envelope.id,
            method,
        })
    }

    /// The request as a line, with its newline.
    pub fn to_line(&self) -> String {
        let mut value = serde_json::to_value(&self.method).unwrap_or_default();
        if let Some(members) = value.as_object_mut() {
            members.insert("v".to_owned(), json!(VERSION));
            members.insert("id".to_owned(), json!(self.id));
        }
        format!("{value}\n")
    }
}

impl Method {
    fn parse(name: &str, params: Option<Value>) -> Result<Self, ApiError> {
        let bad = |error: serde_json::Error| {
            ApiError::new(ErrorCode::BadParams, format!("{name}: {error}"))
        };
        let given = params.clone().unwrap_or_else(|| json!({}));
        let plain = match name {
            "status" => Self::Status,
            "ports" => Self::Ports,
            "drops" => Self::Drops,
            "accounting" => Self::Accounting,
            "routes" => return serde_json::from_value(given).map(Self::Routes).map_err(bad),
            "policy" => return serde_json::from_value(given).map(Self::Policy).map_err(bad),
            "trace" => return serde_json::from_value(given).map(Self::Trace).map_err(bad),
            "neighbours" => {
                return serde_json::from_value(given)
                    .map(Self::Neighbours)
                    .map_err(bad);
            }
            "services" => {
                return serde_json::from_value(given)
                    .map(Self::Services)
                    .map_err(bad);
            }
            "flows" => return serde_json::from_value(given).map(Self::Flows).map_err(bad),
            "flush-flows" => {
                return serde_json::from_value(given)
                    .map(Self::FlushFlows)
                    .map_err(bad);
            }
            "observe" => {
                return serde_json::from_value(given)
                    .map(Self::Observe)
                    .map_err(bad);
            }
            "capture" => {
                return serde_json::from_value(given)
                    .map(Self::Capture)
                    .map_err(bad);
            }
            "perf" => return serde_json::from_value(given).map(Self::Perf).map_err(bad),
            _ => {
                let known = "status, ports, drops, accounting, routes, neighbours, services, policy, trace, flows, flush-flows, observe, capture, perf";
                let message = format!("no method {name:?}; there are {known}");
                return Err(ApiError::new(ErrorCode::UnknownMethod, message));
            }
        };
        if params.is_some_and(|params| params != json!({}) && !params.is_null()) {
            let message = format!("{name} takes no parameters");
            return Err(ApiError::new(ErrorCode::BadParams, message));
        }
        Ok(plain)
    }
}

impl Response {
    /// The response as a line, with its newline.
    pub fn to_line(&self) -> String {
        let value = match &self.outcome {
            Ok(result) => json!({ "v": VERSION, "id": self.id, "result": result }),
            Err(error) => json!({ "v": VERSION, "id": self.id, "error": error }),
        };
        format!("{value}\n")
    }

    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let mut value: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let id = value.get("id").and_then(Value::as_u64);
        let mut take = |name| {
            value
                .as_object_mut()
                .and_then(|members| members.remove(name))
        };
        let outcome = match (take("result"), take("error")) {
            (Some(result), None) => Ok(result),
            (None, Some(error)) => {
                Err(serde_json::from_value(error).map_err(|error| error.to_string())?)
            }
            _ => return Err("neither a result nor an error".to_owned()),
        };
        Ok(Self { id, outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> (Option<u64>, ErrorCode) {
        let (id, error) = Request::parse(line.as_bytes()).unwrap_err();
        (id, error.code)
    }

    #[test]
    fn requests_survive_the_wire() {
        let routes = RoutesParams {
            dst: Some("10.0.0.1".parse().unwrap()),
            limit: Some(3),
            ..RoutesParams::default()
        };
        for method in [
            Method::Status,
            Method::Ports,
            Method::Drops,
            Method::Accounting,
            Method::Routes(routes),
            Method::Neighbours(PageParams {
                offset: 2,
                limit: None,
            }),
            Method::Services(ServicesParams {
                only: Some("prod/web".to_owned()),
                offset: 2,
                limit: None,
            }),
            Method::Flows(FlowsParams {
                filter: Some("udp and port 53".to_owned()),
                from: 7,
                limit: Some(3),
                top: Some(FlowsBy::Packets),
                active: Some(2),
                counts: true,
            }),
            Method::FlushFlows(FlushParams {
                all: true,
                ..FlushParams::default()
            }),
            Method::Observe(ObserveParams {
                after: Some(3),
                follow: true,
                verdict: Some(FlowVerdict::Denied),
                net: Some("10.0.0.0/8".parse().unwrap()),
                ..ObserveParams::default()
            }),
            Method::Capture(CaptureParams {
                after: Some(3),
                interface: Some("cali0".to_owned()),
                drops: true,
                filter: Some("udp".to_owned()),
            }),
            Method::Perf(PerfParams { milliseconds: 500 }),
        ] {
            let request = Request { id: 9, method };
            let line = request.to_line();
            assert_eq!(Request::parse(line.trim_end().as_bytes()), Ok(request));
        }
    }

    #[test]
    fn bad_requests_are_told_apart() {
        use ErrorCode::{BadParams, BadRequest, UnknownMethod, UnsupportedVersion};
        assert_eq!(refused(""), (None, BadRequest));
        assert_eq!(refused("{\"v\":1"), (None, BadRequest));
        assert_eq!(refused("[]"), (None, BadRequest));
        assert_eq!(refused("{\"v\":1,\"id\":3}"), (Some(3), BadRequest));
        assert_eq!(
            refused(r#"{"v":1,"id":-3,"method":"status"}"#),
            (None, BadRequest)
        );
        assert_eq!(
            refused(r#"{"v":1,"id":3,"method":"status","x":1}"#),
            (Some(3), BadRequest)
        );
        assert_eq!(refused(r#"{"v":2,"id":3}"#), (Some(3), UnsupportedVersion));
        assert_eq!(
            refused(r#"{"v":"1","id":3,"method":"status"}"#),
            (Some(3), UnsupportedVersion)
        );
        assert_eq!(
            refused(r#"{"v":1,"id":3,"method":"reboot"}"#),
            (Some(3), UnknownMethod)
        );
        for params in [r#"{"for":"10.0.0"}"#, r#"{"x":1}"#, r#"{"limit":-1}"#, "7"] {
            let line = format!(r#"{{"v":1,"id":3,"method":"routes","params":{params}}}"#);
            assert_eq!(refused(&line), (Some(3), BadParams), "{line}");
        }
        let line = r#"{"v":1,"id":3,"method":"status","params":{"a":1}}"#;
        assert_eq!(refused(line), (Some(3), BadParams));
        let (_, error) = Request::parse(b"\xff\xfe").unwrap_err();
        assert_eq!(error.code, BadRequest);
        let deep = "[".repeat(100_000);
        assert_eq!(refused(&deep), (None, BadRequest), "nesting is bounded");
    }

    #[test]
    fn parameters_may_be_left_out() {
        for text in [
            r#"{"v":1,"id":1,"method":"routes"}"#,
            r#"{"v":1,"id":1,"method":"routes","params":{}}"#,
        ] {
            let request = Request::parse(text.as_bytes()).unwrap();
            assert_eq!(request.method, Method::Routes(RoutesParams::default()));
        }
        assert!(Request::parse(br#"{"v":1,"id":1,"method":"status","params":{}}"#).is_ok());
    }

    #[test]
    fn responses_survive_the_wire() {
        for outcome in [
            Ok(json!({ "a": [1, 2] })),
            Ok(Value::Null),
            Err(ApiError::new(ErrorCode::BadParams, "no\nsuch")),
        ] {
            let response = Response {
                id: Some(7),
                outcome,
            };
            let line = response.to_line();
            assert_eq!(line.matches('\n').count(), 1, "one line: {line}");
            assert_eq!(Response::parse(line.as_bytes()), Ok(response));
        }
        assert!(Response::parse(b"{}").is_err());
    }
}
