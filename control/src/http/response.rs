//! What a client is told.

/// The type of answers for people.
const PLAIN: &str = "text/plain; charset=utf-8";

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    status: Status,
    content_type: &'static str,
    body: String,
}

/// The status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    HeaderFieldsTooLarge,
    ServiceUnavailable,
}

impl Status {
    /// Code and reason (RFC 9110 section 15, RFC 6585 section 5).
    const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::HeaderFieldsTooLarge => "431 Request Header Fields Too Large",
            Self::ServiceUnavailable => "503 Service Unavailable",
        }
    }
}

impl Response {
    const fn new(status: Status, body: String) -> Self {
        Self {
            status,
            content_type: PLAIN,
            body,
        }
    }

    /// What was asked for.
    pub(crate) const fn ok(content_type: &'static str, body: String) -> Self {
        Self {
            status: Status::Ok,
            content_type,
            body,
        }
    }

    /// It is so, in words.
    pub(crate) const fn well(body: String) -> Self {
        Self::new(Status::Ok, body)
    }

    /// It is not so at present, and why.
    pub(crate) const fn unavailable(body: String) -> Self {
        Self::new(Status::ServiceUnavailable, body)
    }

    /// There is no such path; `there` says which there are.
    pub(crate) fn not_found(there: &str) -> Self {
        Self::new(Status::NotFound, format!("not here; try {there}\n"))
    }

    pub(super) fn bad_request() -> Self {
        Self::new(Status::BadRequest, "no HTTP request\n".to_owned())
    }

    pub(super) fn too_large() -> Self {
        let message = "the request is too long\n".to_owned();
        Self::new(Status::HeaderFieldsTooLarge, message)
    }

    pub(super) fn only_reads() -> Self {
        Self::new(Status::MethodNotAllowed, "only GET and HEAD\n".to_owned())
    }

    /// As it is sent, without its body for `HEAD`.
    pub(super) fn to_bytes(&self, head_only: bool) -> Vec<u8> {
        let allow = if self.status == Status::MethodNotAllowed {
            "Allow: GET, HEAD\r\n"
        } else {
            ""
        };
        let body = if head_only { "" } else { &self.body };
        format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Cache-Control: no-store\r\n\
             Connection: close\r\n\r\n{body}",
            self.status.line(),
            self.content_type,
            self.body.len(),
        )
        .into_bytes()
    }
}
