//! Following all objects of a kind: a list, then what has changed since (Kubernetes' API concepts, "Efficient detection of changes").

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt as _};
use tokio::time::{sleep, timeout};

use super::access::{NOT_UNDERSTOOD, status_words, words};
use super::convert::Kind;
use super::kept::News;

/// Objects a page, where pages are asked for.
const PAGE: u32 = 500;

/// For a page, or the begin of a watch.
const ANSWER: Duration = Duration::from_mins(1);

/// After so many seconds the server is to end a watch. One that has lasted longer hangs, and is given up.
const WATCH: u32 = 280;

/// A watch is well when something has come by it, or nothing else has for so long.
const SETTLED: Duration = Duration::from_secs(2);

/// Between two tries, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(30)];

/// What is said of an object that changes is known up to here.
enum Version {
    /// Nothing is known. What the server has at hand will do.
    Nothing,
    /// What is known is too old for a watch, or can not be followed. Only the newest will do.
    Outdated,
    /// All, up to this version.
    Known(String),
}

/// Why a list or a watch is over, with words about it.
enum Trouble {
    /// The server has forgotten the changes since the version (410).
    Gone(String),
    /// The server could not be spoken to, or answers nothing for now. What is known is as good as before.
    Refused(String),
    /// What it says is not understood, or it finds the question wrong. Another list may help.
    Strange(String),
}

impl From<kube::Error> for Trouble {
    fn from(error: kube::Error) -> Self {
        let words = words(&error);
        match error {
            kube::Error::Api(status) => match status.code {
                410 => Self::Gone(words),
                401 | 403 | 408 | 429 | 500..=599 => Self::Refused(words),
                _ => Self::Strange(words),
            },
            kube::Error::SerdeError(_) => Self::Strange(words),
            _ => Self::Refused(words),
        }
    }
}

/// Tells of all objects of a kind, for ever. After `patience` without the server it goes on with what `renew` gives.
pub(super) async fn follow<K: Kind>(
    client: Client,
    patience: Duration,
    renew: impl AsyncFn() -> Result<Client, String>,
    tell: impl Fn(News<K::Object>),
) {
    let mut follower = Follower {
        api: Api::<K>::all(client),
        tell,
        version: Version::Nothing,
        watch_failed: false,
        has_worked: false,
        was_gone: false,
        failing: None,
        unreadable: None,
    };
    let mut pause = PAUSES[0];
    loop {
        follower.has_worked = false;
        let outcome = match &follower.version {
            Version::Known(version) => follower.watch(version.clone()).await,
            Version::Nothing | Version::Outdated => follower.list().await,
        };
        follower.settle(outcome);
        if follower.has_worked {
            pause = PAUSES[0];
        }
        // All nodes lose the server at the same moment; they are not to come back like that.
        sleep(pause / 2 + (pause / 2).mul_f64(random())).await;
        pause = (pause * 2).min(PAUSES[1]);
        if follower.failing.is_some_and(|it| it.elapsed() >= patience) {
            follower.renewed(renew().await);
        }
    }
}

struct Follower<K: Kind, F> {
    api: Api<K>,
    tell: F,
    version: Version,
    /// The last watch brought an error and nothing else.
    watch_failed: bool,
    /// A watch has been well since the last pause.
    has_worked: bool,
    /// The server has said 410, and no watch has been well since.
    was_gone: bool,
    /// Since when there has been an error, or a client that has done nothing yet.
    failing: Option<Instant>,
    /// Why there is no other client.
    unreadable: Option<String>,
}

impl<K: Kind, F: Fn(News<K::Object>)> Follower<K, F> {
    /// Says what has become of a try, and how to go on.
    fn settle(&mut self, outcome: Result<(), Trouble>) {
        let is_watch = matches!(self.version, Version::Known(_));
        let error = match outcome {
            Ok(()) => return,
            Err(Trouble::Gone(error)) => {
                self.version = Version::Outdated;
                // Once is in the order of things.
                if !std::mem::replace(&mut self.was_gone, true) {
                    return;
                }
                error
            }
            // A watch that has worked may end in any way: the next says whether that matters.
            Err(_) if self.has_worked => return,
            Err(Trouble::Refused(error)) => error,
            Err(Trouble::Strange(error)) => {
                if is_watch {
                    self.version = Version::Outdated;
                }
                error
            }
        };
        self.watch_failed = is_watch;
        self.failing.get_or_insert_with(Instant::now);
        (self.tell)(News::Failing(match &self.unreadable {
            Some(why) => format!("{error}; and there are no other credentials: {why}"),
            None => error,
        }));
    }

    /// Goes on with another client where the one before was, or with that if there is none.
    fn renewed(&mut self, client: Result<Client, String>) {
        match client {
            Ok(client) => {
                self.api = Api::all(client);
                self.failing = Some(Instant::now());
                self.unreadable = None;
            }
            Err(error) => self.unreadable = Some(error),
        }
    }

    fn well(&mut self) {
        self.failing = None;
        self.unreadable = None;
        (self.tell)(News::Well);
    }

    /// Lists all, and then watches.
    async fn list(&mut self) -> Result<(), Trouble> {
        let labels = ListParams::default().labels(K::LABELS);
        let mut params = match self.version {
            Version::Nothing => labels.match_any(),
            _ => labels.limit(PAGE),
        };
        let mut objects = Vec::new();
        let version = loop {
            let page = answer(self.api.list(&params)).await?;
            objects.extend(page.items.into_iter().filter_map(K::convert));
            match page.metadata.continue_.filter(|it| !it.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break page.metadata.resource_version,
            }
        };
        let version = version.filter(|it| !it.is_empty()).ok_or_else(|| {
            Trouble::Strange(format!("{NOT_UNDERSTOOD}: a list without a version"))
        })?;
        (self.tell)(News::All(objects));
        if !self.watch_failed {
            self.well();
        }
        self.version = Version::Known(version.clone());
        self.watch(version).await
    }

    /// Follows what changes from this version on, until the watch ends.
    async fn watch(&mut self, version: String) -> Result<(), Trouble> {
        let params = WatchParams::default().labels(K::LABELS).timeout(WATCH);
        let stream = answer(self.api.watch(&params, &version)).await?;
        let longest = Duration::from_secs(u64::from(WATCH) + 20);
        let following = async {
            let mut stream = std::pin::pin!(stream);
            let mut is_well = false;
            loop {
                let next = stream.try_next();
                let next = if is_well {
                    next.await
                } else if let Ok(next) = timeout(SETTLED, next).await {
                    next
                } else {
                    is_well = true;
                    self.works();
                    continue;
                };
                let Some(event) = next? else {
                    return Ok(());
                };
                self.hear(event)?;
                if !std::mem::replace(&mut is_well, true) {
                    self.works();
                }
            }
        };
        match timeout(longest, following).await {
            Ok(outcome) => outcome,
            Err(_) => Ok(()),
        }
    }

    fn works(&mut self) {
        self.has_worked = true;
        self.watch_failed = false;
        self.was_gone = false;
        self.well();
    }

    fn hear(&mut self, event: WatchEvent<K>) -> Result<(), Trouble> {
        let version = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = object.resource_version();
                let key = key(&object);
                (self.tell)(match object.convert() {
                    Some(object) => News::Put(object),
                    None => News::Gone(key.0, key.1),
                });
                version
            }
            WatchEvent::Deleted(object) => {
                let (namespace, name) = key(&object);
                (self.tell)(News::Gone(namespace, name));
                object.resource_version()
            }
            WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version),
            WatchEvent::Error(status) => {
                let words = status_words(&status);
                // Others may be about a change, and come again whenever it does.
                return Err(match status.code {
                    410 => Trouble::Gone(words),
                    _ => Trouble::Strange(words),
                });
            }
        };
        if let Some(version) = version {
            self.version = Version::Known(version);
        }
        Ok(())
    }
}

fn key<K: Kind>(object: &K) -> (String, String) {
    let namespace = object.namespace().unwrap_or_default();
    (namespace, object.name_any())
}

/// Waits for an answer, but not for ever.
async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Trouble> {
    match timeout(ANSWER, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Trouble::Refused(format!(
            "no answer in {} seconds",
            ANSWER.as_secs()
        ))),
    }
}

/// A number from 0 to 1.
fn random() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    random as f64 / u64::MAX as f64
}
