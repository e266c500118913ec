//! What others watch the daemon by: metrics, probes, systemd.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::PollFd;

use super::health::Health;
use super::systemd::Systemd;
use super::vitals::Vitals;
use super::{Node, RunError};
use crate::api::report::{Changes, Part, Problem};
use crate::config::Listen;
use crate::http::{Limits, Request, Response, Server};
use crate::metrics::{Dropped, Figures, Format, Page};

/// Those who watch, and what is counted only for them.
///
/// An address that is taken is a warning and makes the node degraded, and nothing else: pods are closed without the daemon, and that
/// somebody cannot look is no reason for it.
pub(super) struct Telemetry {
    /// Served by the control thread: what it tells is the control thread's.
    metrics: Option<Server>,
    _health: Option<Health>,
    vitals: Arc<Vitals>,
    systemd: Systemd,
    /// Addresses that are not served.
    problems: Vec<Problem>,
    /// Times that files or routes were refused.
    pub(super) refusals: u64,
    /// How long changes took.
    pub(super) changes: Changes,
    /// When the control thread woke last.
    woke: Instant,
}

impl Telemetry {
    /// Listens. Probes are answered from now on.
    pub(super) fn start(listen: Listen) -> Result<Self, RunError> {
        let now = Instant::now();
        let vitals = Arc::new(Vitals::new(now));
        let mut problems = Vec::new();
        let mut refused = |what, address, error| problems.push(problem(what, address, &error));
        let health = match listen.health {
            Some(address) => Health::start(address, Arc::clone(&vitals))?
                .map_err(|error| refused("health", address, error))
                .ok(),
            None => None,
        };
        let metrics = listen.metrics.and_then(|address| {
            let server = Server::bind(address, Limits::default());
            server
                .map_err(|error| refused("metrics", address, error))
                .ok()
        });
        for problem in &problems {
            tracing::warn!("{}", problem.message);
        }
        Ok(Self {
            metrics,
            _health: health,
            vitals,
            systemd: Systemd::from_environment(now),
            problems,
            refusals: 0,
            changes: Changes::default(),
            woke: now,
        })
    }

    /// What the control thread waits for.
    pub(super) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.metrics.iter().flat_map(Server::poll_fds)
    }

    /// How long it may be until [`Node::serve_metrics`] is called again.
    pub(super) fn timeout(&self, now: Instant) -> Option<Duration> {
        self.metrics.as_ref()?.timeout(now)
    }

    /// What is not as it should be.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.problems.iter().cloned()
    }

    /// Pollers have tables of what the control thread woke for.
    pub(super) fn published(&mut self, now: Instant) {
        self.changes.took(now.saturating_duration_since(self.woke));
    }

    /// What is taken now was known before the control thread woke.
    pub(super) fn known_since(&mut self, since: Instant) {
        self.woke = since;
    }

    /// The daemon ends.
    pub(super) fn stopping(&self) {
        self.systemd.stopping();
    }
}

fn problem(what: &str, address: SocketAddr, error: &std::io::Error) -> Problem {
    Problem {
        part: Part::Daemon,
        interface: None,
        message: format!(
            "{what} are not served at {address}: {error}; set `{what}` in caracal.yaml to a free address or `off`, and start again"
        ),
    }
}

impl Node {
    /// Says to those who wait that pods are served.
    pub(super) fn tell_ready(&mut self) {
        let pollers = self.pollers.own_counters().cloned().collect();
        self.telemetry.vitals.waits(self.source.is_waiting());
        self.telemetry.vitals.started(Instant::now(), pollers);
        self.telemetry.systemd.ready();
    }

    /// The control thread has turned: it lives, and the watchdog is fed if pollers do, too.
    pub(super) fn beat(&mut self, now: Instant) {
        let behind = self.mirror.resync_due().is_some();
        let Telemetry {
            vitals,
            systemd,
            woke,
            ..
        } = &mut self.telemetry;
        *woke = now;
        vitals.turned(now, behind);
        vitals.waits(self.source.is_waiting());
        systemd.feed(now, || vitals.standing(now).next().is_none());
    }

    /// Answers scrapes.
    pub(super) fn serve_metrics(&mut self, now: Instant) {
        let Some(server) = &mut self.telemetry.metrics else {
            return;
        };
        let requests = server.requests(now);
        let answers: Vec<_> = requests
            .into_iter()
            .map(|(ticket, request)| (ticket, self.scraped(&request)))
            .collect();
        if let Some(server) = &mut self.telemetry.metrics {
            for (ticket, answer) in answers {
                server.respond(ticket, &answer, now);
            }
        }
    }

    fn scraped(&self, request: &Request) -> Response {
        if request.path != "/metrics" {
            return Response::not_found("/metrics");
        }
        let format = if request.names(Format::OPEN_METRICS) {
            Format::OpenMetrics
        } else {
            Format::Prometheus
        };
        let text = Page::new(&self.figures()).into_text(format);
        Response::ok(format.content_type(), text)
    }

    fn figures(&self) -> Figures {
        let (_, drops, _) = self.drop_counts();
        Figures {
            status: self.status(),
            drops: Dropped { drops },
            rules: if self.config.rule_metrics {
                self.rule_uses()
            } else {
                Vec::new()
            },
        }
    }
}
