//! Keeps the kernel's table what it should be, in a thread of its own: nft may take its time.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::program::{Nft, NftError};
use super::ruleset::{NAME, Ruleset, TABLE};
use crate::netlink::nftables::Nftables;

/// The table is looked at this often: what somebody took away is back within a second or so.
const LOOK: Duration = Duration::from_secs(1);
/// Members of all sets together that are still looked at: to fetch so many takes the kernel a millisecond or so.
const LOOKED_AT: usize = 10_000;
/// What was refused is tried again after so many looks.
const RETRY: u32 = 10;
/// nft that takes so long is told.
const LONG: Duration = Duration::from_secs(10);

/// The table in force, and whoever keeps it. When it is dropped the table stays.
#[derive(Debug)]
pub struct Keeper {
    nftables: Option<Nftables>,
    wishes: Option<Sender<(u64, Ruleset)>>,
    /// The number of the last wish.
    wished: u64,
    progress: Arc<Mutex<Progress>>,
    thread: Option<JoinHandle<()>>,
}

/// How far the thread is, for whoever asks for the status. Written by the thread, but for `stops`.
#[derive(Debug)]
struct Progress {
    /// The number of the last wish that was tried.
    tried: u64,
    /// Since when nft is at work.
    at_work: Option<Instant>,
    /// Why the last try failed.
    refused: Option<String>,
    /// A table of ours is in the kernel, as far as we know.
    has_table: bool,
    /// Nothing new is begun.
    stops: bool,
}

/// How it stands with the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// The kernel is still to be given the table that was wished for last, or another one in the place of what somebody changed.
    pub is_pending: bool,
    /// Some table of ours is in force; if not, host endpoints guard nothing of the host's own traffic.
    pub has_table: bool,
    /// Why it is not the one that was wished for. `None`: it is, or will be in a moment.
    pub problem: Option<String>,
}

impl Keeper {
    /// Puts a table in force, in the place of any that is there, and keeps it.
    ///
    /// # Errors
    /// It is refused: what was there is still there.
    pub fn start(nft: Nft, ruleset: Ruleset) -> Result<Self, NftError> {
        nft.apply(&ruleset.replace())?;
        Self::keep(nft, ruleset, false)
    }

    /// The same, soon: nobody waits for it, and what refuses it is a problem of its [`condition`](Self::condition).
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start_soon(nft: Nft, ruleset: Ruleset) -> Result<Self, NftError> {
        Self::keep(nft, ruleset, true)
    }

    /// `is_new`: it is yet to be put in force.
    fn keep(nft: Nft, ruleset: Ruleset, is_new: bool) -> Result<Self, NftError> {
        let progress = Arc::new(Mutex::new(Progress {
            tried: 0,
            at_work: None,
            refused: None,
            has_table: !is_new,
            stops: false,
        }));
        let (wishes, wished) = mpsc::channel();
        let mut work = Work {
            handles: None,
            // Without it nobody's changes are noticed.
            nftables: Nftables::open().ok(),
            generation: None,
            progress: Arc::clone(&progress),
            is_new,
            broken: is_new,
            nft,
            in_force: ruleset.clone(),
            wish: ruleset,
        };
        if !is_new {
            work.remember();
        }
        let thread = thread::Builder::new().name("nft".to_owned());
        let thread = thread.spawn(move || work.run(&wished));
        let thread = thread.map_err(|source| NftError::Thread { source })?;
        Ok(Self {
            nftables: Nftables::open().ok(),
            wishes: Some(wishes),
            wished: u64::from(is_new),
            progress,
            thread: Some(thread),
        })
    }

    /// Has another table put in force, soon. Of several only the last is.
    pub fn wish(&mut self, ruleset: Ruleset) {
        self.wished += 1;
        if let Some(wishes) = &self.wishes {
            // The thread lives as long as we do.
            let _ = wishes.send((self.wished, ruleset));
        }
    }

    /// Packets and bytes by counter of the table in force; none if the kernel does not say.
    pub fn counters(&self) -> BTreeMap<String, (u64, u64)> {
        let counters = self.nftables.as_ref();
        let counters = counters.and_then(|nftables| nftables.counters(NAME).ok());
        counters.unwrap_or_default()
    }

    /// How it stands with the table.
    pub fn condition(&self) -> Condition {
        let progress = lock(&self.progress);
        let took = progress.at_work.map(|since| since.elapsed());
        let is_long = |took: Duration| format!("nft is at work since {} s", took.as_secs());
        let long = took.filter(|took| *took >= LONG).map(is_long);
        Condition {
            is_pending: progress.tried < self.wished || took.is_some(),
            has_table: progress.has_table,
            problem: progress.refused.clone().or(long),
        }
    }
}

impl Drop for Keeper {
    /// Waits for nothing that nft does now: the table stays, and whoever comes next makes it anew.
    fn drop(&mut self) {
        self.wishes = None;
        let is_at_work = {
            let mut progress = lock(&self.progress);
            progress.stops = true;
            progress.at_work.is_some()
        };
        if let Some(thread) = self.thread.take().filter(|_| !is_at_work) {
            let _ = thread.join();
        }
    }
}

/// The lock is held for a few assignments, which do not panic.
fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread has.
struct Work {
    nft: Nft,
    /// What the kernel was given last.
    in_force: Ruleset,
    wish: Ruleset,
    /// The kernel's numbers of what is in the table, and ours of the members of its sets.
    handles: Option<Vec<u64>>,
    /// Where the kernel is asked.
    nftables: Option<Nftables>,
    /// Its count of everybody's transactions when the table was looked at last.
    generation: Option<u32>,
    progress: Arc<Mutex<Progress>>,
    /// There was no table yet.
    is_new: bool,
    /// The table is made anew: it was never made, or somebody else changed it.
    broken: bool,
}

impl Work {
    fn run(&mut self, wished: &Receiver<(u64, Ruleset)>) {
        let (mut looks, mut number) = (0, 0);
        if self.broken {
            number = 1;
            self.work();
        }
        loop {
            lock(&self.progress).tried = number;
            let is_due = match wished.recv_timeout(LOOK) {
                Ok(wish) => {
                    // Only the last counts.
                    (number, self.wish) = wished.try_iter().last().unwrap_or(wish);
                    looks = 0;
                    true
                }
                Err(RecvTimeoutError::Timeout) => {
                    looks += 1;
                    self.look() || self.refused().is_some() && looks % RETRY == 0
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if is_due {
                self.work();
            }
        }
    }

    /// Whether somebody else changed our table.
    fn look(&mut self) -> bool {
        if self.broken || !self.has_new_generation() {
            return false;
        }
        let handles = self.handles_now();
        if handles.is_none() {
            // Another time.
            self.generation = None;
            return false;
        }
        // What was there could not be told when the table was made; now it can.
        if self.handles.is_none() {
            self.handles = handles;
            return false;
        }
        if handles == self.handles {
            return false;
        }
        tracing::warn!("somebody changed table {TABLE} of nftables; it is made anew");
        self.broken = true;
        true
    }

    /// Makes the kernel's table what is wished for, unless nobody waits for it any more.
    fn work(&mut self) {
        {
            let mut progress = lock(&self.progress);
            if progress.stops {
                return;
            }
            progress.at_work = Some(Instant::now());
            progress.has_table = !self.broken;
        }
        let was_new = self.is_new;
        let refused = self.apply().err().map(|error| error.to_string());
        let mut progress = lock(&self.progress);
        progress.at_work = None;
        progress.has_table = !self.broken;
        let before = std::mem::replace(&mut progress.refused, refused);
        match &progress.refused {
            None if before.is_some() && !was_new => {
                tracing::info!("host endpoints' policy is in force again");
            }
            Some(error) if before.as_ref() != Some(error) => {
                let rules = what_holds(progress.has_table);
                tracing::error!(%error, "host endpoints' policy for the host's own traffic is refused; {rules}");
            }
            _ => {}
        }
    }

    fn apply(&mut self) -> Result<(), NftError> {
        let script = if self.broken {
            self.wish.replace()
        } else {
            self.wish.change(&self.in_force)
        };
        if script.is_empty() {
            return Ok(());
        }
        self.nft.apply(&script).or_else(|error| {
            if self.broken || lock(&self.progress).stops {
                return Err(error);
            }
            // Somebody may have changed the table since we looked, or nft can not do this in steps.
            tracing::debug!(%error, "the table of nftables is made anew");
            self.nft.apply(&self.wish.replace())
        })?;
        self.in_force = self.wish.clone();
        self.broken = false;
        self.remember();
        if std::mem::take(&mut self.is_new) {
            tracing::info!("{ENFORCED}");
        }
        Ok(())
    }

    /// Notes what the kernel has now.
    fn remember(&mut self) {
        self.has_new_generation();
        self.handles = self.handles_now();
    }

    /// Whether anybody has changed anything since this was asked last.
    fn has_new_generation(&mut self) -> bool {
        let now = self.nftables.as_ref();
        let now = now.and_then(|nftables| nftables.generation().ok());
        let before = std::mem::replace(&mut self.generation, now);
        now != before
    }

    /// None where the kernel does not say.
    fn handles_now(&self) -> Option<Vec<u64>> {
        let nftables = self.nftables.as_ref()?;
        let mut all = nftables.handles(NAME).ok()?;
        if self.in_force.members() <= LOOKED_AT {
            for set in self.in_force.sets.keys() {
                all.push(nftables.members(NAME, set).ok()?);
            }
        }
        Some(all)
    }

    fn refused(&self) -> Option<String> {
        lock(&self.progress).refused.clone()
    }
}

/// What is said once the first table is in force.
pub const ENFORCED: &str = "host endpoints are enforced on the host's own traffic";

/// What judges the host's own traffic while a table is refused.
pub const fn what_holds(has_table: bool) -> &'static str {
    if has_table {
        "the rules before are in force"
    } else {
        "there are no rules, and everything passes"
    }
}
