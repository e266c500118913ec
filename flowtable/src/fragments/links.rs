//! Lists of numbered things that are in one list each at most.

/// No number.
pub(super) const NONE: u32 = u32::MAX;

/// The ends of a list, oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: u32,
    last: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
    };

    /// The oldest.
    pub(super) fn first(self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }
}

/// The neighbours of each number in its list.
#[derive(Clone, Debug)]
pub(super) struct Links(Box<[Link]>);

#[derive(Clone, Copy, Debug)]
struct Link {
    before: u32,
    behind: u32,
}

impl Links {
    /// Links of the numbers below `len`, none of which is in a list.
    pub(super) fn new(len: usize) -> Self {
        let link = Link {
            before: NONE,
            behind: NONE,
        };
        Self(vec![link; len].into())
    }

    /// Puts `number`, which is in no list, at the end of `list`.
    pub(super) fn push(&mut self, list: &mut List, number: u32) {
        self.0[number as usize] = Link {
            before: list.last,
            behind: NONE,
        };
        match list.last {
            NONE => list.first = number,
            last => self.0[last as usize].behind = number,
        }
        list.last = number;
    }

    /// Takes `number` out of `list`, which it is in.
    pub(super) fn remove(&mut self, list: &mut List, number: u32) {
        let Link { before, behind } = self.0[number as usize];
        match before {
            NONE => list.first = behind,
            before => self.0[before as usize].behind = behind,
        }
        match behind {
            NONE => list.last = before,
            behind => self.0[behind as usize].before = before,
        }
    }
}
