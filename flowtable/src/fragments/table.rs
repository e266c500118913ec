//! The table.

use super::held::{Held, Queue};
use super::index::Index;
use super::links::{Links, List};
use super::origins::Origins;
use super::pieces::Pieces;
use super::{DropReason, Key, Limits, Piece, Released, Upper, Verdict};
use crate::Tick;

/// The lists that a datagram can be in, oldest first in each.
const WAITING: usize = 0;
const SETTLED: usize = 1;

/// The datagrams of which fragments have come, and the tokens of held fragments.
///
/// `T` stands for a fragment that is held, which the caller keeps. Each token comes back once, through the `back` of
/// whichever call frees it, together with what to do: never twice, never lost. Call [`Fragments::expire`] before each batch.
/// Allocates when made, never afterwards; every call takes constant time for each datagram and each token that it frees.
pub struct Fragments<T> {
    limits: Limits,
    index: Index,
    datagrams: Box<[Datagram]>,
    free: Vec<u32>,
    held: Held<T>,
    /// Waiting and settled datagrams by the time they became that, which is the order they expire in.
    by_age: [List; 2],
    age_links: Links,
    origins: Origins,
    origin_links: Links,
}

#[derive(Clone, Debug)]
struct Datagram {
    state: State,
    /// Since when it is waiting or settled.
    since: Tick,
    pieces: Pieces,
    held: Queue,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Only later fragments have come, and at least one of them is held.
    Waiting,
    Known(Upper),
    /// Whatever comes is dropped.
    Condemned(DropReason),
}

impl State {
    const fn list(self) -> usize {
        match self {
            Self::Waiting => WAITING,
            Self::Known(_) | Self::Condemned(_) => SETTLED,
        }
    }
}

impl<T> Fragments<T> {
    /// An empty table. `hash_key` must be random: who knows it makes the table slow.
    #[must_use]
    pub fn new(limits: Limits, hash_key: [u64; 2]) -> Self {
        let limits = Limits {
            datagrams: limits.datagrams.max(1),
            held: limits.held.max(1),
            share: limits.share.max(1),
            ..limits
        };
        let len = usize::from(limits.datagrams);
        let datagram = Datagram {
            state: State::Waiting,
            since: Tick(0),
            pieces: Pieces::NONE,
            held: Queue::EMPTY,
        };
        Self {
            limits,
            index: Index::new(len, hash_key),
            datagrams: vec![datagram; len].into(),
            free: (0..u32::from(limits.datagrams)).rev().collect(),
            held: Held::new(limits.held),
            by_age: [List::EMPTY; 2],
            age_links: Links::new(len),
            origins: Origins::new(limits.datagrams),
            origin_links: Links::new(len),
        }
    }

    /// Datagrams in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.datagrams.len() - self.free.len()
    }

    /// Whether no datagram is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fragments that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// A first fragment with `len` bytes of data came: it passes with `upper`, or is dropped. `back` gets the tokens that this frees, those of
    /// its own datagram in the order they came in; forward the first fragment before them.
    pub fn first(
        &mut self,
        now: Tick,
        key: &Key,
        len: u16,
        upper: Upper,
        mut back: impl FnMut(T, Released),
    ) -> Verdict {
        let piece = Piece {
            offset: 0,
            len,
            more: true,
        };
        let Some(number) = self.index.find(key) else {
            return match Pieces::NONE.check(piece) {
                Err(reason) => Verdict::Drop(reason),
                Ok(end) => {
                    self.make_room(key.origin, &mut back);
                    self.insert(now, key, State::Known(upper), piece, end);
                    Verdict::Pass(upper)
                }
            };
        };
        let end = match self.accept(now, number, piece, &mut back) {
            Ok(end) => end,
            Err(reason) => return Verdict::Drop(reason),
        };
        // A known datagram has its first fragment, which this one would have overlapped: so it waits.
        self.datagrams[number as usize].pieces.add(piece, end);
        self.settle(now, number, State::Known(upper));
        self.give_back(number, Ok(upper), &mut back);
        self.remove_if_complete(number, &mut back);
        Verdict::Pass(upper)
    }

    /// A later fragment came: it passes with what the first one said, is held, or is dropped. `hold` is called only to hold it, and
    /// makes the token; `back` gets the tokens that this frees, of other fragments.
    pub fn later(
        &mut self,
        now: Tick,
        key: &Key,
        piece: Piece,
        hold: impl FnOnce() -> T,
        mut back: impl FnMut(T, Released),
    ) -> Verdict {
        let done = match self.index.find(key) {
            None => self.hold_first_to_come(now, key, piece, hold, &mut back),
            Some(number) => self.add_later(now, number, piece, hold, &mut back),
        };
        done.unwrap_or_else(Verdict::Drop)
    }

    /// Forgets what is too old at `now`; tokens come back with [`DropReason::NoFirst`].
    pub fn expire(&mut self, now: Tick, mut back: impl FnMut(T, Released)) {
        for list in [WAITING, SETTLED] {
            while let Some(number) = self.by_age[list].first() {
                if self.expiry(number) > now {
                    break;
                }
                self.remove(number, DropReason::NoFirst, &mut back);
            }
        }
    }

    /// When [`Self::expire`] has something to do next.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Tick> {
        let oldest = self.by_age.iter().filter_map(|list| list.first());
        oldest.map(|number| self.expiry(number)).min()
    }

    /// Forgets everything of an endpoint that goes away; tokens come back with [`DropReason::OriginGone`].
    pub fn remove_origin(&mut self, origin: u16, mut back: impl FnMut(T, Released)) {
        while let Some(number) = self.oldest_of(&self.origins.get(origin).lists) {
            self.remove(number, DropReason::OriginGone, &mut back);
        }
    }

    /// Forgets everything; tokens come back with [`DropReason::OriginGone`].
    pub fn clear(&mut self, mut back: impl FnMut(T, Released)) {
        while let Some(number) = self.oldest_of(&self.by_age) {
            self.remove(number, DropReason::OriginGone, &mut back);
        }
    }

    /// Of a datagram that has not been seen yet: it starts with a fragment to be held.
    fn hold_first_to_come(
        &mut self,
        now: Tick,
        key: &Key,
        piece: Piece,
        hold: impl FnOnce() -> T,
        back: &mut impl FnMut(T, Released),
    ) -> Result<Verdict, DropReason> {
        let end = Pieces::NONE.check(piece)?;
        if self.limits.held_a_datagram == 0 {
            return Err(DropReason::Quota);
        }
        self.make_room_to_hold(key.origin, None, back)?;
        self.make_room(key.origin, back);
        let number = self.insert(now, key, State::Waiting, piece, end);
        self.hold(number, key.origin, hold);
        Ok(Verdict::Hold)
    }

    /// Of a datagram that has been seen.
    fn add_later(
        &mut self,
        now: Tick,
        number: u32,
        piece: Piece,
        hold: impl FnOnce() -> T,
        back: &mut impl FnMut(T, Released),
    ) -> Result<Verdict, DropReason> {
        let end = self.accept(now, number, piece, back)?;
        let datagram = &self.datagrams[number as usize];
        if let State::Known(upper) = datagram.state {
            self.datagrams[number as usize].pieces.add(piece, end);
            self.remove_if_complete(number, back);
            return Ok(Verdict::Pass(upper));
        }
        if datagram.held.len() >= self.limits.held_a_datagram {
            return Err(DropReason::Quota);
        }
        let origin = self.index.key(number).origin;
        self.make_room_to_hold(origin, Some(number), back)?;
        self.datagrams[number as usize].pieces.add(piece, end);
        self.hold(number, origin, hold);
        Ok(Verdict::Hold)
    }

    /// Whether `piece` fits what has come already, and where it ends. Condemns the datagram if it must not.
    fn accept(
        &mut self,
        now: Tick,
        number: u32,
        piece: Piece,
        back: &mut impl FnMut(T, Released),
    ) -> Result<u16, DropReason> {
        let datagram = &self.datagrams[number as usize];
        if let State::Condemned(reason) = datagram.state {
            return Err(reason);
        }
        let checked = datagram.pieces.check(piece);
        if let Err(reason) = checked
            && reason != DropReason::Duplicate
        {
            self.settle(now, number, State::Condemned(reason));
            self.give_back(number, Err(reason), back);
        }
        checked
    }

    /// Makes sure that one more datagram of `origin` has room: its own oldest gives way if it has its share, else that of all.
    fn make_room(&mut self, origin: u16, back: &mut impl FnMut(T, Released)) {
        let state = self.origins.get(origin);
        let (victim, reason) = if state.datagrams >= self.share_of(self.limits.datagrams) {
            (self.oldest_of(&state.lists), DropReason::Quota)
        } else if self.free.is_empty() {
            (self.oldest_of(&self.by_age), DropReason::Full)
        } else {
            return;
        };
        if let Some(victim) = victim {
            self.remove(victim, reason, back);
        }
    }

    /// Makes sure that one more fragment of `origin` can be held: its oldest datagram that waits gives way, or that of all. If that is
    /// `own`, the fragment's own datagram, nothing is changed.
    fn make_room_to_hold(
        &mut self,
        origin: u16,
        own: Option<u32>,
        back: &mut impl FnMut(T, Released),
    ) -> Result<(), DropReason> {
        let state = self.origins.get(origin);
        let (list, reason) = if state.held >= self.share_of(self.limits.held) {
            (state.lists[WAITING], DropReason::Quota)
        } else if self.held.is_full() {
            (self.by_age[WAITING], DropReason::Full)
        } else {
            return Ok(());
        };
        match list.first() {
            Some(victim) if Some(victim) != own => {
                self.remove(victim, reason, back);
                Ok(())
            }
            _ => Err(reason),
        }
    }

    fn share_of(&self, all: u16) -> u16 {
        (all / self.limits.share).max(1)
    }

    fn oldest_of(&self, lists: &[List; 2]) -> Option<u32> {
        let oldest = lists.iter().filter_map(|list| list.first());
        oldest.min_by_key(|number| self.datagrams[*number as usize].since)
    }

    fn expiry(&self, number: u32) -> Tick {
        let datagram = &self.datagrams[number as usize];
        let lasts = match datagram.state {
            State::Waiting => self.limits.patience,
            State::Known(_) | State::Condemned(_) => self.limits.lifetime,
        };
        datagram.since + lasts
    }

    /// Adds a datagram, for which there is room.
    fn insert(&mut self, now: Tick, key: &Key, state: State, piece: Piece, end: u16) -> u32 {
        let number = self.free.pop().unwrap_or_default();
        self.index.insert(key, number);
        let datagram = &mut self.datagrams[number as usize];
        datagram.state = state;
        datagram.since = now;
        datagram.held = Queue::EMPTY;
        datagram.pieces = Pieces::NONE;
        datagram.pieces.add(piece, end);
        self.origins.enter(key.origin);
        self.link(number);
        number
    }

    fn link(&mut self, number: u32) {
        let list = self.datagrams[number as usize].state.list();
        let origin = self.origins.get_mut(self.index.key(number).origin);
        self.age_links.push(&mut self.by_age[list], number);
        self.origin_links.push(&mut origin.lists[list], number);
    }

    fn unlink(&mut self, number: u32) {
        let list = self.datagrams[number as usize].state.list();
        let origin = self.origins.get_mut(self.index.key(number).origin);
        self.age_links.remove(&mut self.by_age[list], number);
        self.origin_links.remove(&mut origin.lists[list], number);
    }

    /// Gives a datagram its state, which is not [`State::Waiting`], from `now` on.
    fn settle(&mut self, now: Tick, number: u32, state: State) {
        self.unlink(number);
        let datagram = &mut self.datagrams[number as usize];
        datagram.state = state;
        datagram.since = now;
        self.link(number);
    }

    /// Holds a fragment, for which there is room.
    fn hold(&mut self, number: u32, origin: u16, token: impl FnOnce() -> T) {
        let queue = &mut self.datagrams[number as usize].held;
        if self.held.push(queue, token) {
            self.origins.get_mut(origin).held += 1;
        }
    }

    fn give_back(&mut self, number: u32, what: Released, back: &mut impl FnMut(T, Released)) {
        let queue = &mut self.datagrams[number as usize].held;
        if queue.len() == 0 {
            return;
        }
        self.origins.get_mut(self.index.key(number).origin).held -= queue.len();
        self.held.drain(queue, |token| back(token, what));
    }

    fn remove_if_complete(&mut self, number: u32, back: &mut impl FnMut(T, Released)) {
        if self.datagrams[number as usize].pieces.are_complete() {
            // It holds nothing any more.
            self.remove(number, DropReason::NoFirst, back);
        }
    }

    fn remove(&mut self, number: u32, reason: DropReason, back: &mut impl FnMut(T, Released)) {
        self.give_back(number, Err(reason), back);
        self.unlink(number);
        self.origins.leave(self.index.key(number).origin);
        self.index.remove(number);
        self.free.push(number);
    }
}

impl<T> core::fmt::Debug for Fragments<T> {
    /// Without the hash key, and without a page of datagrams.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Fragments")
            .field("datagrams", &self.len())
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}
