//! What the thread does: it follows both kinds of objects, and puts what comes of them into the mailbox.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, join, select};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;

use super::access;
use super::convert::Kind as _;
use super::kept::Kept;
use super::link::{Condition, Failure, Mailbox};
use super::watch::follow;
use crate::config::Kubernetes;
use crate::desired;
use crate::services::calculate;
use crate::services::objects::{EndpointSlice, Service};

/// Services are calculated this often at most: many objects change at once.
const PACE: Duration = Duration::from_millis(100);

/// After so long without the server the credentials are read anew: they may be others by now.
const ANEW: Duration = Duration::from_mins(1);

/// Credentials that can not be read are tried again after this.
const UNREADABLE: Duration = Duration::from_secs(5);

/// The thread's part.
pub(super) struct Work {
    settings: Kubernetes,
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
    server: Option<String>,
    synced: Option<Instant>,
    /// Why there is no client.
    error: Option<String>,
    /// Since when there has been an error.
    failing: Option<Instant>,
}

impl Work {
    pub(super) fn new(settings: Kubernetes, node: String, mailbox: Arc<Mailbox>) -> Self {
        Self {
            settings,
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

    /// Follows the cluster, with another client whenever the one at hand has done nothing for long.
    async fn follow(&self) {
        loop {
            match access::client(&self.settings).await {
                Ok((client, server)) => {
                    self.note(|known| {
                        known.error = None;
                        known.server = Some(server);
                    });
                    let services = follow::<core::Service>(client.clone(), |news| {
                        self.note(|known| known.is_stale |= known.services.hear(news));
                    });
                    let slices = follow::<discovery::EndpointSlice>(client, |news| {
                        self.note(|known| known.is_stale |= known.slices.hear(news));
                    });
                    let following = std::pin::pin!(join(services, slices));
                    let useless = std::pin::pin!(self.is_useless());
                    if let Either::Left(_) = select(following, useless).await {
                        return;
                    }
                }
                Err(error) => {
                    self.note(|known| known.error = Some(error));
                    sleep(UNREADABLE).await;
                }
            }
        }
    }

    /// Comes back when the server has been away for long.
    async fn is_useless(&self) {
        let begin = Instant::now();
        loop {
            sleep(ANEW / 10).await;
            let failing = self.known.borrow().failing;
            if failing.is_some_and(|since| since.max(begin).elapsed() >= ANEW) {
                return;
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.borrow_mut();
        change(&mut known);
        let fails = known.failure().is_some();
        known.failing = match known.failing {
            Some(since) if fails => Some(since),
            _ => fails.then(Instant::now),
        };
        self.changed.notify_one();
    }

    /// Puts what has changed into the mailbox: the first at once, what follows some time later.
    async fn publish(&self) {
        loop {
            self.changed.notified().await;
            let (condition, services) = {
                let mut known = self.known.borrow_mut();
                let services = known.calculate(&self.node);
                (known.condition(), services)
            };
            self.mailbox.put(condition, services);
            sleep(PACE).await;
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

    fn condition(&self) -> Condition {
        Condition {
            server: self.server.clone(),
            synced: self.synced,
            services: self.services.objects().len(),
            endpoint_slices: self.slices.objects().len(),
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
        let services = calculate(self.services.objects(), self.slices.objects(), node);
        if self.told.as_ref().is_some_and(|told| **told == services) {
            return None;
        }
        let services = Arc::new(services);
        self.told = Some(services.clone());
        Some(services)
    }
}
