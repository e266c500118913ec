//! Bytes to lines.

/// A line is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Collects bytes until they make a line.
#[derive(Debug)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Up to where there is no newline.
    searched: usize,
    max: usize,
}

impl Lines {
    /// Lines of at most `max` bytes, newline included.
    pub(super) const fn new(max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            searched: 0,
            max,
        }
    }

    /// How many bytes may be added before a line must be taken.
    pub(super) fn room(&self) -> usize {
        self.max.saturating_sub(self.bytes.len())
    }

    /// Adds what was read: no more than there is [`room`](Self::room) for.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether [`take`](Self::take) has something to say.
    pub(super) fn is_ready(&self) -> bool {
        self.room() == 0 || self.end().is_some()
    }

    /// The next line without its newline; `None` when it is not all there.
    ///
    /// # Errors
    /// When there is no newline in as many bytes as a line may have.
    pub(super) fn take(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let Some(end) = self.end() else {
            self.searched = self.bytes.len();
            return if self.room() == 0 {
                Err(TooLong)
            } else {
                Ok(None)
            };
        };
        let rest = self.bytes.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.pop();
        self.searched = 0;
        Ok(Some(line))
    }

    /// The last line, which has no newline.
    pub(super) fn take_rest(&mut self) -> Option<Vec<u8>> {
        self.searched = 0;
        let rest = std::mem::take(&mut self.bytes);
        (!rest.is_empty()).then_some(rest)
    }

    fn end(&self) -> Option<usize> {
        let unseen = self.bytes.get(self.searched..)?;
        let at = unseen.iter().position(|&byte| byte == b'\n')?;
        Some(self.searched + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_may_have_just_as_many_bytes_as_allowed() {
        let mut lines = Lines::new(4);
        lines.push(b"abc\n");
        assert_eq!(lines.take(), Ok(Some(b"abc".to_vec())));
        lines.push(b"abc");
        assert_eq!(lines.take(), Ok(None));
        lines.push(b"d");
        assert!(lines.is_ready());
        assert_eq!(lines.take(), Err(TooLong));
    }

    #[test]
    fn the_rest_is_a_line_too() {
        let mut lines = Lines::new(64);
        lines.push(b"one\ntwo");
        assert_eq!(lines.take(), Ok(Some(b"one".to_vec())));
        assert_eq!(lines.take(), Ok(None));
        assert_eq!(lines.take_rest(), Some(b"two".to_vec()));
        assert_eq!(lines.take_rest(), None);
    }

    proptest! {
        #[test]
        fn however_bytes_arrive_the_lines_are_the_same(
            text in proptest::collection::vec(prop_oneof![3 => Just(b'x'), 1 => Just(b'\n')], 0..200),
            pieces in proptest::collection::vec(1usize..9, 200),
        ) {
            let mut lines = Lines::new(1024);
            let mut found = Vec::new();
            let mut left = &text[..];
            for piece in pieces {
                let (now, later) = left.split_at(piece.min(left.len()));
                left = later;
                lines.push(now);
                while let Some(line) = lines.take().unwrap() {
                    found.push(line);
                }
            }
            found.extend(lines.take_rest());
            let mut expected: Vec<Vec<u8>> = text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
            if expected.last().is_some_and(Vec::is_empty) {
                expected.pop();
            }
            prop_assert_eq!(found, expected);
        }
    }
}
