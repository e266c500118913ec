//! What the thread does: it follows both kinds of objects, and puts what comes of them into the mailbox.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join, select};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::Client;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use super::access;
use super::convert::Kind as _;
use super::kept::Kept;
use super::link::{Condition, Failure, Mailbox, Timing};
use super::watch::follow;
use crate::config::Kubernetes;
use crate::desired;
use crate::services::calculate;
use crate::services::objects::{EndpointSlice, Service};

/// How it stands is said so often at most: many objects change at once.
const SAID: Duration = Duration::from_millis(100);

/// Credentials that can not be read are tried again after this.
const UNREADABLE: Duration = Duration::from_secs(5);

/// The thread's part.
pub(super) struct Work {
    settings: Kubernetes,
    timing: Timing,
    node: String,
    mailbox: Arc<Mailbox>,
    known: RefCell<Known>,
    /// Something is to be put into the mailbox.
    changed: Notify,
}

/// What is known of the cluster.
#[derive(Default)]
struct Known {
    services: Kept<Service>,
    slices: Kept<EndpointSlice>,
    /// Objects have changed since services were calculated.
    is_stale: bool,
    /// As the mailbox has got them last.
    told: Option<Arc<Vec<desired::Service>>>,
    /// Services and slices that were calculated with.
    counted: Option<(usize, usize)>,
    server: Option<String>,
    synced: Option<Instant>,
    /// Why there is no client.
    error: Option<String>,
}

impl Work {
    pub(super) fn new(
        settings: Kubernetes,
        timing: Timing,
        node: String,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        Self {
            settings,
            timing,
            node,
            mailbox,
            known: RefCell::default(),
            changed: Notify::new(),
        }
    }

    /// Works until the other end of `stopped` is gone.
    pub(super) async fn until(self, stopped: oneshot::Receiver<()>) {
        let work = std::pin::pin!(join(self.follow(), self.publish()));
        select(work, stopped).await;
    }

    /// Follows the cluster. Each kind goes on by itself, whatever becomes of the other.
    async fn follow(&self) {
        let client = loop {
            match self.client().await {
                Ok(client) => break client,
                Err(error) => {
                    self.note(|known| known.error = Some(error));
                    sleep(UNREADABLE).await;
                }
            }
        };
        let patience = self.timing.anew;
        let services = follow::<core::Service>(
            client.clone(),
            patience,
            || self.client(),
            |news| self.note(|known| known.is_stale |= known.services.hear(news)),
        );
        let slices = follow::<discovery::EndpointSlice>(
            client,
            patience,
            || self.client(),
            |news| self.note(|known| known.is_stale |= known.slices.hear(news)),
        );
        join(services, slices).await;
    }

    /// A client by what the files say now.
    async fn client(&self) -> Result<Client, String> {
        let (client, server) = access::client(&self.settings).await?;
        self.note(|known| {
            known.error = None;
            known.server = Some(server);
        });
        Ok(client)
    }

    fn note(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.borrow_mut());
        self.changed.notify_one();
    }

    /// Puts what has changed into the mailbox: services as soon as all are known, and what follows not before its time.
    async fn publish(&self) {
        // Before this no services are given. None: none were yet.
        let mut due: Option<Instant> = None;
        loop {
            let waiting = due.filter(|_| self.known.borrow().is_stale);
            if let Some(due) = waiting {
                let left = due.saturating_duration_since(Instant::now());
                // Either way there is something to say.
                let _ = timeout(left, self.changed.notified()).await;
            } else {
                self.changed.notified().await;
            }
            let now = Instant::now();
            let (condition, services) = {
                let mut known = self.known.borrow_mut();
                let is_due = due.is_none_or(|due| due <= now);
                let services = is_due.then(|| known.calculate(&self.node)).flatten();
                (known.condition(), services)
            };
            if services.is_some() {
                due = Some(now + self.timing.pace);
            }
            self.mailbox.put(condition, services);
            sleep(SAID.min(self.timing.pace)).await;
        }
    }
}

impl Known {
    /// Why what is known may be old.
    fn failure(&self) -> Option<Failure> {
        let all = [
            (None, &self.error),
            (Some(core::Service::WORD), &self.services.error),
            (Some(discovery::EndpointSlice::WORD), &self.slices.error),
        ];
        all.into_iter().find_map(|(kind, error)| {
            let why = error.clone()?;
            Some(Failure { kind, why })
        })
    }

    fn counts(&self) -> (usize, usize) {
        (self.services.objects().len(), self.slices.objects().len())
    }

    fn condition(&self) -> Condition {
        // As many as are in force, once any are.
        let (services, endpoint_slices) = self.counted.unwrap_or_else(|| self.counts());
        Condition {
            server: self.server.clone(),
            synced: self.synced,
            services,
            endpoint_slices,
            error: self.failure(),
        }
    }

    /// The services, once all objects are known, if they are others than the last time.
    fn calculate(&mut self, node: &str) -> Option<Arc<Vec<desired::Service>>> {
        let is_known = self.services.is_known && self.slices.is_known;
        if !is_known || !std::mem::take(&mut self.is_stale) {
            return None;
        }
        self.synced.get_or_insert_with(Instant::now);
        self.counted = Some(self.counts());
        let services = calculate(self.services.objects(), self.slices.objects(), node);
        if self.told.as_ref().is_some_and(|told| **told == services) {
            return None;
        }
        let services = Arc::new(services);
        self.told = Some(services.clone());
        Some(services)
    }
}
