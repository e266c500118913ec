//! Felix's state into force, and what Felix is told of it.
//!
//! Nothing is done before Felix says that its snapshot is complete. Until then, and while Felix is away, what it said before
//! stays in force; then what is new and what is gone takes effect at once.

use std::time::{Duration, Instant};

use super::host_policy::HostPolicy;
use super::{CompileError, Node, Source, Store, log_remarks};
use crate::api::Bound;
use crate::api::report::{self, Part, Problem};
use crate::compile::Compiler;
use crate::felix::link::{self, Event};
use crate::felix::mtu;
use crate::felix::report::{Eyes, Health, Reporter};
use crate::felix::{Calculated, Surroundings};
use crate::netlink::host_port::{DATAPLANE_END, HOST_END};
use crate::netlink::{Link, Mirror};

/// Felix is told of changes of endpoints this often at most, unless it has changed something itself.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The way to Felix, and what became of what it said.
pub(super) struct Felix {
    pub(super) link: link::Link,
    /// What the Felix that is connected was told.
    reporter: Option<Reporter>,
    tell_at: Instant,
    /// Whether any state of Felix's is in force.
    pub(super) in_force: bool,
    /// Since when it has been away.
    gone: Option<Instant>,
    connections: u64,
    /// Why the last connection ended that did not end in order.
    last_error: Option<String>,
    /// What is not done as Felix says.
    problems: Vec<String>,
}

impl Felix {
    pub(super) fn new(bound: Bound, node: &str) -> Self {
        Self {
            link: link::Link::new(bound, node),
            reporter: None,
            tell_at: Instant::now(),
            in_force: false,
            gone: None,
            connections: 0,
            last_error: None,
            problems: Vec::new(),
        }
    }

    pub(super) fn timeout(&self, now: Instant) -> Option<Duration> {
        let reporter = self.reporter.as_ref();
        let dues = [
            self.link.timeout(now),
            reporter.and_then(|reporter| reporter.timeout(now)),
        ];
        dues.into_iter().flatten().min()
    }

    fn heard(&mut self, event: Event, started: Instant, now: Instant) {
        match event {
            Event::Connected { replaced } => {
                self.connections += 1;
                self.reporter = Some(Reporter::new(started, now));
                self.gone = None;
                if replaced {
                    tracing::warn!("another Felix connected; the one before is let go");
                } else {
                    tracing::info!("Felix connected");
                }
            }
            Event::InSync(messages) => tracing::info!(messages, "Felix is in sync"),
            Event::Ended(why) => {
                self.reporter = None;
                self.gone = Some(now);
                let after = "what it said before stays in force";
                match &why {
                    None => tracing::warn!("Felix is gone; {after}"),
                    Some(why) => tracing::error!("the connection to Felix is over: {why}; {after}"),
                }
                self.last_error = why.or(self.last_error.take());
            }
        }
    }
}

impl Node {
    /// Takes in what Felix says, has it done, and tells Felix.
    pub(super) fn follow_felix(&mut self, now: Instant) {
        let Source::Felix(felix) = &mut self.source else {
            return;
        };
        for event in felix.link.turn(now) {
            felix.heard(event, self.started, now);
        }
        let uplinks = self.config.uplinks.iter();
        let uplinks = uplinks.map(|uplink| uplink.interface.value.as_str());
        let taken: Vec<_> = uplinks.chain([HOST_END, DATAPLANE_END]).collect();
        let before = self.compiler.policy().model();
        let calculated = felix.link.batch(now).map(|state| {
            let around = Surroundings {
                taken: &taken,
                host_endpoints: self.config.host_endpoints,
                before,
            };
            (state.len(), state.desired(&around))
        });
        if let Some((len, calculated)) = calculated {
            felix.tell_at = now;
            let taken = match calculated {
                Ok(calculated) => self.take_calculated(len, calculated),
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                if self.store.error.as_ref() != Some(&error) {
                    tracing::error!(
                        "Felix's state refused; the state before stays in force\n{error}"
                    );
                }
                self.store.error = Some(error);
                self.telemetry.refusals += 1;
            }
        }
        self.tell_felix(now);
    }

    fn take_calculated(&mut self, len: usize, calculated: Calculated) -> Result<(), String> {
        let Calculated {
            mut desired,
            problems,
            remarks,
        } = calculated;
        self.services.add_to(&mut desired);
        let (endpoints, routes) = (desired.endpoints.len(), desired.routes.len());
        if desired != *self.compiler.desired() {
            self.put_in_force(desired)
                .map_err(|error: CompileError| error.to_string())?;
            tracing::info!(endpoints, routes, "Felix's state taken");
        }
        if remarks.render(false) != self.store.said {
            log_remarks(&remarks);
        }
        self.store = Store::new(len, &remarks);
        let Source::Felix(felix) = &mut self.source else {
            return Ok(());
        };
        if problems != felix.problems {
            for problem in problems.iter().filter(|it| !felix.problems.contains(it)) {
                tracing::error!("not done as Felix says: {problem}");
            }
            felix.problems = problems;
        }
        if !std::mem::replace(&mut felix.in_force, true) {
            self.release_strangers();
        }
        self.tell_cni();
        Ok(())
    }

    /// Tells the CNI plugin what MTU pods get, where it is Felix that says what tunnels there are.
    pub(super) fn tell_cni(&self) {
        if !matches!(&self.source, Source::Felix(felix) if felix.in_force) {
            return;
        }
        let uplinks = self.config.uplinks.iter();
        let mtus = uplinks.filter_map(|uplink| {
            let link = self.mirror.link_by_name(&uplink.interface.value)?;
            Some(link.mtu)
        });
        let narrowest = mtus.min().unwrap_or(super::start::DEFAULT_MTU);
        let mtu = mtu::pod_mtu(self.compiler.desired(), narrowest);
        let path = &self.config.mtu_file;
        match mtu::write(path, mtu) {
            Ok(true) => tracing::info!(mtu, "{}: pods get this MTU", path.display()),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "{}: the MTU of pods", path.display()),
        }
    }

    fn tell_felix(&mut self, now: Instant) {
        let Source::Felix(felix) = &mut self.source else {
            return;
        };
        let (Some(connection), Some(reporter)) = (felix.link.connection_mut(), &mut felix.reporter)
        else {
            return;
        };
        if connection.is_writing() {
            return;
        }
        let alive = reporter.alive(connection.state().reporting_interval(), now);
        let mut say: Vec<_> = alive.into_iter().collect();
        if connection.state().is_in_sync() && felix.tell_at <= now {
            felix.tell_at = now + TELL_EVERY;
            let eyes = Sight {
                compiler: &self.compiler,
                mirror: &self.mirror,
                host_policy: &self.host_policy,
            };
            say.extend(reporter.changes(connection.state(), &eyes));
        }
        for payload in say {
            connection.say(payload);
        }
    }

    /// The way to Felix, for those who ask.
    pub(super) fn felix_report(&self, now: Instant) -> Option<report::Felix> {
        let Source::Felix(felix) = &self.source else {
            return None;
        };
        let connection = felix.link.connection();
        let since = connection.map(|it| it.since).or(felix.gone);
        Some(report::Felix {
            connected: connection.is_some(),
            since_seconds: since.map(|since| now.duration_since(since).as_secs()),
            in_sync: connection.is_some_and(|it| it.state().is_in_sync()),
            sequence: connection.map_or(0, |it| it.sequence),
            messages: connection.map_or(0, link::Connection::messages),
            ignored: connection.map_or(0, |it| it.ignored),
            connections: felix.connections,
            last_error: felix.last_error.clone(),
        })
    }

    /// What is wrong between Felix and us.
    pub(super) fn felix_problems(&self) -> Vec<Problem> {
        let Source::Felix(felix) = &self.source else {
            return Vec::new();
        };
        let problem = |message: String| Problem {
            part: Part::Datastore,
            interface: None,
            message,
        };
        let away = match (felix.link.connection().is_some(), felix.in_force) {
            (true, true) => None,
            (false, true) => Some("Felix is not connected; what it said before is in force"),
            (_, false) => Some("Felix has not said what to do yet: every pod is closed"),
        };
        let done = felix.problems.iter();
        let done = done.map(|it| problem(format!("not done as Felix says: {it}")));
        let away = away.map(|message| problem(message.to_owned()));
        away.into_iter().chain(done).collect()
    }
}

/// How endpoints are.
struct Sight<'n> {
    compiler: &'n Compiler,
    mirror: &'n Mirror,
    host_policy: &'n HostPolicy,
}

impl Eyes for Sight<'_> {
    fn pod(&self, interface: &str, active: bool) -> Health {
        let ports = self.compiler.ports();
        let port = ports.by_name(interface).and_then(|id| ports.get(id));
        let link = port.and_then(|port| self.mirror.link(port.ifindex));
        let known = self.compiler.policy().endpoint(interface).is_some();
        if active && known && link.is_some_and(Link::is_up) {
            Health::Up
        } else {
            Health::Down
        }
    }

    fn host(&self, id: &str) -> Health {
        let policy = self.compiler.policy();
        // By pollers, and by the kernel.
        let mut interfaces = policy.uplinks_of(id, self.compiler.ports(), self.mirror);
        interfaces.extend(self.host_policy.interfaces_of(id));
        let is_there = |name: &&String| self.mirror.link_by_name(name).is_some();
        let is_up = |name: &String| self.mirror.link_by_name(name).is_some_and(Link::is_up);
        if !interfaces.iter().any(|name| is_there(&name)) {
            Health::Error
        } else if interfaces.iter().any(is_up) {
            Health::Up
        } else {
            Health::Down
        }
    }
}
