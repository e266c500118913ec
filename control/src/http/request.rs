//! What a client asks.

/// The most header lines of a request; Prometheus sends six.
const HEADERS: usize = 64;

/// A request: what of it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD` …
    pub method: String,
    /// The path, without a query.
    pub path: String,
    /// What the client accepts: its `Accept` headers, with commas between; empty when it says nothing.
    pub accept: String,
}

/// What was sent is no HTTP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Request {
    /// The request that these bytes begin with; `None` while its head is not all there. A body is not looked at.
    ///
    /// # Errors
    /// More bytes will not make a request of them.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let whole = request.parse(bytes).map_err(|_| Malformed)?.is_complete();
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return Ok(None);
        };
        if !whole {
            return Ok(None);
        }
        let accept: Vec<_> = request
            .headers
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case("accept"))
            .map(|header| String::from_utf8_lossy(header.value))
            .collect();
        Ok(Some(Self {
            method: method.to_owned(),
            path: target
                .split(['?', '#'])
                .next()
                .unwrap_or_default()
                .to_owned(),
            accept: accept.join(","),
        }))
    }

    /// Whether only the head of the answer is wanted.
    pub(super) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Whether it reads, as all that is served here does.
    pub(super) fn reads(&self) -> bool {
        matches!(&*self.method, "GET" | "HEAD")
    }

    /// Whether a media type is among those that the client names, with a weight above zero (RFC 9110 section 12.5.1).
    /// Ranges such as `*/*` name none.
    pub fn names(&self, media_type: &str) -> bool {
        self.accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case(media_type));
            let refused = parts.any(|parameter| {
                let (name, weight) = parameter.split_once('=').unwrap_or((parameter, ""));
                name.eq_ignore_ascii_case("q") && weight.parse().is_ok_and(|q: f32| q == 0.0)
            });
            named && !refused
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Option<Request>, Malformed> {
        Request::parse(text.as_bytes())
    }

    #[test]
    fn a_scrape_is_understood() {
        let text = "GET /metrics?x=1 HTTP/1.1\r\nHost: localhost:9191\r\naccept: text/plain\r\nAccept: */*;q=0.1\r\n\r\nmore";
        let request = parse(text).unwrap().unwrap();
        assert_eq!((&*request.method, &*request.path), ("GET", "/metrics"));
        assert_eq!(request.accept, "text/plain,*/*;q=0.1");
        for end in 0..text.len() - 4 {
            assert_eq!(parse(&text[..end]), Ok(None), "{:?}", &text[..end]);
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for text in [
            "\u{16}\u{3}\u{1}",
            "GET / HTTP/9.9\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/1.1\r\nno header\r\n\r\n",
        ] {
            assert_eq!(parse(text), Err(Malformed), "{text:?}");
        }
        let many = "x: y\r\n".repeat(HEADERS + 1);
        assert_eq!(
            parse(&format!("GET / HTTP/1.1\r\n{many}\r\n")),
            Err(Malformed)
        );
    }

    #[test]
    fn media_types_are_negotiated() {
        // What Prometheus 3 sends.
        let accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                      text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
        let mut request = parse("GET / HTTP/1.1\r\n\r\n").unwrap().unwrap();
        assert!(
            !request.names("application/openmetrics-text"),
            "says nothing"
        );
        for (accept, named) in [
            (accept, true),
            ("APPLICATION/OpenMetrics-text", true),
            ("text/plain, application/openmetrics-text; q=0", false),
            ("*/*", false),
            ("application/openmetrics-text2", false),
        ] {
            accept.clone_into(&mut request.accept);
            assert_eq!(
                request.names("application/openmetrics-text"),
                named,
                "{accept}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::parse(&bytes).map(|request| request.map(|request| request.names("a/b")));
        }
    }
}
