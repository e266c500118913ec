//! Tokens of held fragments, in one queue for each datagram.

use super::links::NONE;

/// A datagram's held fragments, in the order they came in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    first: u32,
    last: u32,
    len: u16,
}

impl Queue {
    pub(super) const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
        len: 0,
    };

    pub(super) const fn len(&self) -> u16 {
        self.len
    }
}

/// The room for all tokens.
#[derive(Debug)]
pub(super) struct Held<T> {
    nodes: Box<[Node<T>]>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Node<T> {
    token: Option<T>,
    behind: u32,
}

impl<T> Held<T> {
    pub(super) fn new(len: u16) -> Self {
        let node = || Node {
            token: None,
            behind: NONE,
        };
        Self {
            nodes: (0..len).map(|_| node()).collect(),
            free: (0..u32::from(len)).rev().collect(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Puts a token, which is not made if there is no room, at the end of `queue`. Whether there was.
    pub(super) fn push(&mut self, queue: &mut Queue, token: impl FnOnce() -> T) -> bool {
        let Some(number) = self.free.pop() else {
            return false;
        };
        self.nodes[number as usize] = Node {
            token: Some(token()),
            behind: NONE,
        };
        match queue.last {
            NONE => queue.first = number,
            last => self.nodes[last as usize].behind = number,
        }
        queue.last = number;
        queue.len += 1;
        true
    }

    /// Takes all tokens out of `queue`.
    pub(super) fn drain(&mut self, queue: &mut Queue, mut each: impl FnMut(T)) {
        let mut number = queue.first;
        *queue = Queue::EMPTY;
        while number != NONE {
            let node = &mut self.nodes[number as usize];
            self.free.push(number);
            number = node.behind;
            if let Some(token) = node.token.take() {
                each(token);
            }
        }
    }
}
