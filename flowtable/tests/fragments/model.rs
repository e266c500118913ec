//! The same rules over a list of everything, searched from end to end.

use flowtable::Tick;
use flowtable::fragments::{DropReason, Key, Limits, MAX_PIECES, Piece, Released, Upper, Verdict};

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Waiting,
    Known(Upper),
    Condemned(DropReason),
}

#[derive(Debug)]
struct Datagram {
    key: Key,
    state: State,
    since: Tick,
    /// Counts up with each change of state, so that equal times have an order.
    turn: u64,
    pieces: Vec<Piece>,
    held: Vec<u32>,
}

/// A table of fragments that takes its time.
pub(crate) struct Model {
    limits: Limits,
    all: Vec<Datagram>,
    turn: u64,
    pub(crate) back: Vec<(u32, Released)>,
}

fn end(piece: Piece) -> u32 {
    u32::from(piece.offset) + u32::from(piece.len)
}

fn check(pieces: &[Piece], piece: Piece) -> Option<DropReason> {
    if piece.len == 0 {
        return Some(DropReason::Overlap);
    }
    if end(piece) > 65535 {
        return Some(DropReason::TooLong);
    }
    if pieces.contains(&piece) {
        return Some(DropReason::Duplicate);
    }
    // Byte by byte.
    let covered = |byte: u32| {
        pieces
            .iter()
            .any(|p| (p.offset.into()..end(*p)).contains(&byte))
    };
    let last = pieces.iter().find(|p| !p.more).map(|p| end(*p));
    let highest = pieces.iter().map(|p| end(*p)).max().unwrap_or(0);
    if (piece.offset.into()..end(piece)).any(covered)
        || last.is_some_and(|last| end(piece) > last || !piece.more)
        || (!piece.more && highest > end(piece))
    {
        return Some(DropReason::Overlap);
    }
    (pieces.len() == MAX_PIECES).then_some(DropReason::TooMany)
}

impl Model {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            all: vec![],
            turn: 0,
            back: vec![],
        }
    }

    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.all.len(), self.all.iter().map(|d| d.held.len()).sum())
    }

    pub(crate) fn first(&mut self, now: Tick, key: Key, len: u16, upper: Upper) -> Verdict {
        let piece = Piece {
            offset: 0,
            len,
            more: true,
        };
        let at = match self.accept(now, key, piece) {
            Err(reason) => return Verdict::Drop(reason),
            Ok(Some(at)) => at,
            Ok(None) => {
                self.make_room(key.origin());
                self.add(now, key)
            }
        };
        self.all[at].pieces.push(piece);
        self.settle(now, at, State::Known(upper), Ok(upper));
        self.remove_if_complete(at);
        Verdict::Pass(upper)
    }

    pub(crate) fn later(&mut self, now: Tick, key: Key, piece: Piece, token: u32) -> Verdict {
        let at = match self.accept(now, key, piece) {
            Err(reason) => return Verdict::Drop(reason),
            Ok(at) => at,
        };
        if let Some(at) = at
            && let State::Known(upper) = self.all[at].state
        {
            self.all[at].pieces.push(piece);
            self.remove_if_complete(at);
            return Verdict::Pass(upper);
        }
        let own = at.map_or(0, |at| self.all[at].held.len());
        if own >= self.limits.held_a_datagram.into() {
            return Verdict::Drop(DropReason::Quota);
        }
        let origin = key.origin();
        let of_origin = |d: &&Datagram| d.key.origin() == origin;
        let held: usize = self
            .all
            .iter()
            .filter(of_origin)
            .map(|d| d.held.len())
            .sum();
        let waiting = |d: &Datagram| d.state == State::Waiting;
        let (victim, reason) = if held >= self.share(self.limits.held) {
            (
                self.oldest(|d| waiting(d) && d.key.origin() == origin),
                DropReason::Quota,
            )
        } else if self.sizes().1 >= self.limits.held.into() {
            (self.oldest(waiting), DropReason::Full)
        } else {
            (None, DropReason::Full)
        };
        if let Some(victim) = victim {
            if Some(victim) == at {
                return Verdict::Drop(reason);
            }
            self.remove(victim, reason);
        }
        let at = self
            .all
            .iter()
            .position(|d| d.key == key)
            .unwrap_or_else(|| {
                self.make_room(origin);
                self.add(now, key)
            });
        self.all[at].pieces.push(piece);
        self.all[at].held.push(token);
        Verdict::Hold
    }

    pub(crate) fn expire(&mut self, now: Tick) {
        let lasts = |d: &Datagram, limits: &Limits| match d.state {
            State::Waiting => limits.patience,
            _ => limits.lifetime,
        };
        for waiting in [true, false] {
            let limits = self.limits;
            let is_old = |d: &Datagram| {
                (d.state == State::Waiting) == waiting && d.since + lasts(d, &limits) <= now
            };
            while let Some(at) = self.oldest(is_old) {
                self.remove(at, DropReason::NoFirst);
            }
        }
    }

    pub(crate) fn remove_origin(&mut self, origin: u16) {
        while let Some(at) = self.oldest(|d| d.key.origin() == origin) {
            self.remove(at, DropReason::OriginGone);
        }
    }

    fn share(&self, all: u16) -> usize {
        usize::from(all / self.limits.share).max(1)
    }

    /// The oldest of those that `of` says; among equals one that waits.
    fn oldest(&self, of: impl Fn(&Datagram) -> bool) -> Option<usize> {
        let all = self.all.iter().enumerate().filter(|(_, d)| of(d));
        all.min_by_key(|(_, d)| (d.since, d.state != State::Waiting, d.turn))
            .map(|(at, _)| at)
    }

    fn accept(&mut self, now: Tick, key: Key, piece: Piece) -> Result<Option<usize>, DropReason> {
        let Some(at) = self.all.iter().position(|d| d.key == key) else {
            return check(&[], piece).map_or(Ok(None), Err);
        };
        if let State::Condemned(reason) = self.all[at].state {
            return Err(reason);
        }
        match check(&self.all[at].pieces, piece) {
            None => Ok(Some(at)),
            Some(DropReason::Duplicate) => Err(DropReason::Duplicate),
            Some(reason) => {
                self.settle(now, at, State::Condemned(reason), Err(reason));
                Err(reason)
            }
        }
    }

    fn make_room(&mut self, origin: u16) {
        let of_origin = |d: &Datagram| d.key.origin() == origin;
        let count = self.all.iter().filter(|d| of_origin(d)).count();
        if count >= self.share(self.limits.datagrams) {
            let victim = self.oldest(of_origin).unwrap();
            self.remove(victim, DropReason::Quota);
        } else if self.all.len() >= self.limits.datagrams.into() {
            let victim = self.oldest(|_| true).unwrap();
            self.remove(victim, DropReason::Full);
        }
    }

    fn add(&mut self, now: Tick, key: Key) -> usize {
        self.turn += 1;
        self.all.push(Datagram {
            key,
            state: State::Waiting,
            since: now,
            turn: self.turn,
            pieces: vec![],
            held: vec![],
        });
        self.all.len() - 1
    }

    fn settle(&mut self, now: Tick, at: usize, state: State, what: Released) {
        self.turn += 1;
        let datagram = &mut self.all[at];
        datagram.state = state;
        datagram.since = now;
        datagram.turn = self.turn;
        self.back
            .extend(datagram.held.drain(..).map(|token| (token, what)));
    }

    fn remove_if_complete(&mut self, at: usize) {
        let pieces = &self.all[at].pieces;
        let Some(last) = pieces.iter().find(|p| !p.more) else {
            return;
        };
        let bytes: u32 = pieces.iter().map(|p| u32::from(p.len)).sum();
        if bytes == end(*last) {
            self.remove(at, DropReason::NoFirst);
        }
    }

    fn remove(&mut self, at: usize, reason: DropReason) {
        let datagram = self.all.remove(at);
        self.back
            .extend(datagram.held.iter().map(|token| (*token, Err(reason))));
    }
}
