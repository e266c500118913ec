//! Keeps the kernel's table what it should be, in a thread of its own: nft may take its time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::program::{Nft, NftError};
use super::ruleset::{NAME, Ruleset, TABLE};
use crate::netlink::nftables::Nftables;

/// The table is looked at this often: what somebody took away is back within a second or so.
const LOOK: Duration = Duration::from_secs(1);
/// Members of all sets together that are still looked at: to fetch so many takes the kernel a millisecond or so.
const LOOKED_AT: usize = 10_000;
/// What was refused is tried again after so many looks.
const RETRY: u32 = 10;

/// The table in force, and whoever keeps it. When it is dropped the table stays.
#[derive(Debug)]
pub struct Keeper {
    nftables: Option<Nftables>,
    wishes: Option<Sender<(u64, Ruleset)>>,
    /// The number of the last wish.
    wished: u64,
    /// The number of the last that was tried. Written by the thread.
    tried: Arc<AtomicU64>,
    /// Why the table is not as wished. Written by the thread, read by whoever asks for the status.
    problem: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
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

    /// The same, soon: nobody waits for it, and what refuses it is a [`problem`](Self::problem).
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start_soon(nft: Nft, ruleset: Ruleset) -> Result<Self, NftError> {
        Self::keep(nft, ruleset, true)
    }

    /// `is_new`: it is yet to be put in force.
    fn keep(nft: Nft, ruleset: Ruleset, is_new: bool) -> Result<Self, NftError> {
        let problem = Arc::new(Mutex::new(None));
        let tried = Arc::new(AtomicU64::new(0));
        let (wishes, wished) = mpsc::channel();
        let mut work = Work {
            handles: None,
            // Without it nobody's changes are noticed.
            nftables: Nftables::open().ok(),
            generation: None,
            problem: Arc::clone(&problem),
            tried: Arc::clone(&tried),
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
            tried,
            problem,
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

    /// Whether the table that was wished for last is still to be tried.
    pub fn is_pending(&self) -> bool {
        self.tried.load(Ordering::Acquire) < self.wished
    }

    /// Packets and bytes by counter of the table in force; none if the kernel does not say.
    pub fn counters(&self) -> BTreeMap<String, (u64, u64)> {
        let counters = self.nftables.as_ref();
        let counters = counters.and_then(|nftables| nftables.counters(NAME).ok());
        counters.unwrap_or_default()
    }

    /// Why the table in force is not the one that was wished for last. `None`: it is, or will be in a moment.
    pub fn problem(&self) -> Option<String> {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        problem.clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.wishes = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
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
    problem: Arc<Mutex<Option<String>>>,
    tried: Arc<AtomicU64>,
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
            self.tried.store(number, Ordering::Release);
            let is_due = match wished.recv_timeout(LOOK) {
                Ok(wish) => {
                    // Only the last counts.
                    (number, self.wish) = wished.try_iter().last().unwrap_or(wish);
                    looks = 0;
                    true
                }
                Err(RecvTimeoutError::Timeout) => {
                    looks += 1;
                    self.look() || self.said().is_some() && looks % RETRY == 0
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
        if handles == self.handles {
            return false;
        }
        tracing::warn!("somebody changed table {TABLE} of nftables; it is made anew");
        self.broken = true;
        true
    }

    /// Makes the kernel's table what is wished for.
    fn work(&mut self) {
        let script = if self.broken {
            self.wish.replace()
        } else {
            self.wish.change(&self.in_force)
        };
        if script.is_empty() {
            self.say(None);
            return;
        }
        let changed = self.nft.apply(&script).or_else(|error| {
            if self.broken {
                return Err(error);
            }
            // Somebody may have changed the table since we looked, or nft can not do this in steps.
            tracing::debug!(%error, "the table of nftables is made anew");
            self.nft.apply(&self.wish.replace())
        });
        match changed {
            Ok(()) => {
                self.in_force = self.wish.clone();
                self.broken = false;
                self.remember();
                if self.said().is_some() {
                    tracing::info!("host endpoints' policy is in force again");
                }
                self.say(None);
            }
            Err(error) => {
                let error = error.to_string();
                if self.said().as_ref() != Some(&error) {
                    tracing::error!(
                        %error,
                        "host endpoints' policy for the host's own traffic is refused; the rules before stay in force"
                    );
                }
                self.say(Some(error));
            }
        }
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

    fn said(&self) -> Option<String> {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        problem.clone()
    }

    fn say(&self, problem: Option<String>) {
        let mut said = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        *said = problem;
    }
}
