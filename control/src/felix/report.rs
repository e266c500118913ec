//! What Felix is told: that we are alive, and how its endpoints are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::proto::{
    EndpointStatus, FromPayload, HostEndpointId, HostEndpointStatusRemove,
    HostEndpointStatusUpdate, ProcessStatusUpdate, WorkloadEndpointStatusRemove,
    WorkloadEndpointStatusUpdate,
};
use super::state::State;
use super::workload::wire_id;
use crate::observe::utc;
use crate::policy::model::WorkloadId;

/// Felix hears of us for the first time after this.
const FIRST: Duration = Duration::from_secs(10);

/// How an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is served.
    Up,
    /// It is not.
    Down,
    /// No interface is its.
    Error,
}

impl Health {
    fn on_the_wire(self) -> EndpointStatus {
        let status = match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Error => "error",
        };
        EndpointStatus {
            status: status.to_owned(),
        }
    }
}

/// How the daemon sees the endpoints of a state.
pub trait Eyes {
    /// How a pod's interface is; `active`: Felix wants it to be up.
    fn pod(&self, interface: &str, active: bool) -> Health;
    /// How a host endpoint is.
    fn host(&self, id: &str) -> Health;
}

/// What one Felix has been told.
#[derive(Debug)]
pub struct Reporter {
    started: Instant,
    /// Felix hears that we are alive then.
    due: Option<Instant>,
    pods: BTreeMap<WorkloadId, (Health, Arc<[u8]>)>,
    hosts: BTreeMap<String, Health>,
}

impl Reporter {
    /// For a Felix that connects now; `started`: when the daemon did.
    pub fn new(started: Instant, now: Instant) -> Self {
        Self {
            started,
            due: Some(now + FIRST),
            pods: BTreeMap::new(),
            hosts: BTreeMap::new(),
        }
    }

    /// How long it may be until Felix has to hear of us.
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// That we are alive, if it is time to say so.
    pub fn alive(&mut self, interval: Option<f64>, now: Instant) -> Option<FromPayload> {
        self.due.filter(|due| *due <= now)?;
        let interval =
            interval.map(|seconds| Duration::from_secs_f64(seconds.clamp(1.0, 86_400.0)));
        self.due = interval.map(|interval| now + interval);
        interval.map(|_| {
            FromPayload::Process(ProcessStatusUpdate {
                iso_timestamp: utc(SystemTime::now()),
                uptime: now.duration_since(self.started).as_secs_f64(),
            })
        })
    }

    /// What has changed of the endpoints since the last time.
    pub fn changes(&mut self, state: &State, eyes: &dyn Eyes) -> Vec<FromPayload> {
        let mut said = Vec::new();
        for (id, pod) in &state.pods {
            let health = eyes.pod(&pod.endpoint.interface, pod.workload.active);
            let now = (health, Arc::clone(&pod.sent));
            if self.pods.get(id) != Some(&now) {
                said.push(FromPayload::WorkloadEndpoint(
                    WorkloadEndpointStatusUpdate {
                        id: Some(wire_id(id)),
                        status: Some(health.on_the_wire()),
                        endpoint: pod.sent.to_vec(),
                    },
                ));
                self.pods.insert(id.clone(), now);
            }
        }
        let gone = self
            .pods
            .extract_if(.., |id, _| !state.pods.contains_key(id));
        said.extend(gone.map(|(id, _)| {
            FromPayload::WorkloadEndpointGone(WorkloadEndpointStatusRemove {
                id: Some(wire_id(&id)),
            })
        }));
        let wire = |id: &str| {
            Some(HostEndpointId {
                endpoint_id: id.to_owned(),
            })
        };
        for id in state.hosts.keys() {
            let health = eyes.host(id);
            if self.hosts.get(id) != Some(&health) {
                said.push(FromPayload::HostEndpoint(HostEndpointStatusUpdate {
                    id: wire(id),
                    status: Some(health.on_the_wire()),
                }));
                self.hosts.insert(id.clone(), health);
            }
        }
        let gone = self
            .hosts
            .extract_if(.., |id, _| !state.hosts.contains_key(id));
        said.extend(gone.map(|(id, _)| {
            FromPayload::HostEndpointGone(HostEndpointStatusRemove { id: wire(&id) })
        }));
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::felix::proto::{
        HostEndpointUpdate, Payload, ToDataplane, WorkloadEndpoint, WorkloadEndpointId,
        WorkloadEndpointRemove, WorkloadEndpointUpdate,
    };
    use prost::Message as _;

    /// Pods are as this says, hosts are in error.
    struct All(Health);

    impl Eyes for All {
        fn pod(&self, _: &str, active: bool) -> Health {
            if active { self.0 } else { Health::Down }
        }

        fn host(&self, _: &str) -> Health {
            Health::Error
        }
    }

    fn say(state: &mut State, payload: Payload) {
        state.take(ToDataplane {
            sequence_number: 0,
            payload: Some(payload),
        });
    }

    fn words(said: &[FromPayload]) -> Vec<String> {
        let status = |it: &Option<EndpointStatus>| it.clone().unwrap_or_default().status;
        let word = |it: &FromPayload| match it {
            FromPayload::Process(_) => "alive".to_owned(),
            FromPayload::HostEndpoint(it) => format!("host {}", status(&it.status)),
            FromPayload::HostEndpointGone(_) => "host gone".to_owned(),
            FromPayload::WorkloadEndpoint(it) => format!("pod {}", status(&it.status)),
            FromPayload::WorkloadEndpointGone(_) => "pod gone".to_owned(),
        };
        said.iter().map(word).collect()
    }

    #[test]
    fn what_changed_is_said_once() {
        let now = Instant::now();
        let (mut state, mut reporter) = (State::new("n"), Reporter::new(now, now));
        let id = Some(WorkloadEndpointId {
            orchestrator_id: "k8s".to_owned(),
            workload_id: "ns/p".to_owned(),
            endpoint_id: "eth0".to_owned(),
        });
        let mut endpoint = WorkloadEndpoint {
            state: "active".to_owned(),
            name: "cali1".to_owned(),
            ..WorkloadEndpoint::default()
        };
        let update = |endpoint: &WorkloadEndpoint| {
            Payload::WorkloadEndpointUpdate(WorkloadEndpointUpdate {
                id: id.clone(),
                endpoint: endpoint.encode_to_vec(),
            })
        };
        say(&mut state, update(&endpoint));
        let host = HostEndpointUpdate {
            id: Some(HostEndpointId {
                endpoint_id: "h".to_owned(),
            }),
            endpoint: None,
        };
        say(&mut state, Payload::HostEndpointUpdate(host));
        let said = reporter.changes(&state, &All(Health::Down));
        assert_eq!(words(&said), ["pod down", "host error"]);
        assert!(reporter.changes(&state, &All(Health::Down)).is_empty());
        let said = reporter.changes(&state, &All(Health::Up));
        assert_eq!(words(&said), ["pod up"]);
        let FromPayload::WorkloadEndpoint(it) = &said[0] else {
            unreachable!("looked at above");
        };
        assert_eq!((&it.id, &it.endpoint), (&id, &endpoint.encode_to_vec()));
        // Felix takes it out of service.
        endpoint.state = "inactive".to_owned();
        say(&mut state, update(&endpoint));
        let said = reporter.changes(&state, &All(Health::Up));
        assert_eq!(words(&said), ["pod down"]);
        say(
            &mut state,
            Payload::WorkloadEndpointRemove(WorkloadEndpointRemove { id }),
        );
        let said = reporter.changes(&state, &All(Health::Up));
        assert_eq!(words(&said), ["pod gone"]);
        let said = reporter.changes(&State::new("n"), &All(Health::Up));
        assert_eq!(words(&said), ["host gone"]);
    }

    #[test]
    fn alive_after_ten_seconds_and_then_as_felix_wants() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut reporter = Reporter::new(start, at(5));
        assert!(reporter.alive(Some(30.0), at(14)).is_none());
        let Some(FromPayload::Process(said)) = reporter.alive(Some(30.0), at(15)) else {
            panic!("not told");
        };
        assert!((said.uptime - 15.0).abs() < 1e-6, "{said:?}");
        assert_eq!(reporter.timeout(at(15)), Some(Duration::from_secs(30)));
        assert!(reporter.alive(Some(30.0), at(44)).is_none());
        assert!(reporter.alive(Some(0.1), at(45)).is_some());
        assert_eq!(reporter.timeout(at(45)), Some(Duration::from_secs(1)));
        // It does not want to know any more.
        assert!(reporter.alive(None, at(50)).is_none());
        assert_eq!(reporter.timeout(at(50)), None);
    }
}
