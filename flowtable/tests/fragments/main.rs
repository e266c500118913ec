//! Fragments: what passes, what waits, what is dropped, and that every token comes back.

mod bounds;
mod datagrams;
mod model;
mod properties;

use std::time::Duration;

use flowtable::Tick;
use flowtable::fragments::{Fragments, Key, Limits, Piece, Released, Upper, Verdict};

const UPPER: Upper = Upper {
    ports: (40000, 53),
    protocol: 17,
};

fn piece(offset: u16, len: u16, more: bool) -> Piece {
    Piece { offset, len, more }
}

fn key(id: u16, origin: u16) -> Key {
    Key::v4(0x0a41_0002, 0x0a41_0103, 17, id, origin)
}

fn seconds(seconds: u64) -> Tick {
    Tick(0) + Duration::from_secs(seconds)
}

/// A table and what came back from it.
struct Bench {
    table: Fragments<u32>,
    now: Tick,
    back: Vec<(u32, Released)>,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Self {
            table: Fragments::new(limits, [1, 2]),
            now: Tick(0),
            back: vec![],
        }
    }

    fn first(&mut self, key: Key, len: u16) -> Verdict {
        let back = &mut self.back;
        self.table.first(self.now, &key, len, UPPER, |token, what| {
            back.push((token, what));
        })
    }

    fn later(&mut self, key: Key, piece: Piece, token: u32) -> Verdict {
        let back = &mut self.back;
        self.table.later(
            self.now,
            &key,
            piece,
            || token,
            |token, what| {
                back.push((token, what));
            },
        )
    }

    fn expire_at(&mut self, now: Tick) {
        self.now = now;
        let back = &mut self.back;
        self.table
            .expire(now, |token, what| back.push((token, what)));
    }

    /// What came back since last asked.
    fn back(&mut self) -> Vec<(u32, Released)> {
        std::mem::take(&mut self.back)
    }
}
