//! What each endpoint has in the table.

use super::links::List;

/// An endpoint's datagrams and held fragments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// Datagrams, oldest first: those that wait for their first fragment, and the others.
    pub(super) lists: [List; 2],
    pub(super) datagrams: u16,
    pub(super) held: u16,
}

impl Origin {
    const EMPTY: Self = Self {
        lists: [List::EMPTY; 2],
        datagrams: 0,
        held: 0,
    };
}

/// The endpoints that have anything in the table: no more than there are datagrams.
#[derive(Clone, Debug)]
pub(super) struct Origins {
    /// By origin: its place among `all`. Zero is that of all who have nothing.
    places: Box<[u16]>,
    all: Box<[Origin]>,
    free: Vec<u16>,
}

impl Origins {
    pub(super) fn new(datagrams: u16) -> Self {
        Self {
            places: vec![0; 1 << 16].into(),
            all: vec![Origin::EMPTY; usize::from(datagrams) + 1].into(),
            free: (1..=datagrams).rev().collect(),
        }
    }

    pub(super) fn get(&self, origin: u16) -> &Origin {
        &self.all[usize::from(self.places[usize::from(origin)])]
    }

    /// That of an endpoint which has something.
    pub(super) fn get_mut(&mut self, origin: u16) -> &mut Origin {
        &mut self.all[usize::from(self.places[usize::from(origin)])]
    }

    /// That of an endpoint which is about to have another datagram.
    pub(super) fn enter(&mut self, origin: u16) -> &mut Origin {
        let place = &mut self.places[usize::from(origin)];
        if *place == 0
            && let Some(free) = self.free.pop()
        {
            *place = free;
        }
        let origin = &mut self.all[usize::from(*place)];
        origin.datagrams += 1;
        origin
    }

    /// Counts one datagram less.
    pub(super) fn leave(&mut self, origin: u16) {
        let place = &mut self.places[usize::from(origin)];
        let state = &mut self.all[usize::from(*place)];
        state.datagrams -= 1;
        if state.datagrams == 0 {
            self.free.push(*place);
            *place = 0;
        }
    }
}
