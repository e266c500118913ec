//! The frames on Felix's pipes: eight bytes of length, little endian, and so many bytes of a message.

use prost::Message;

use super::proto::ToDataplane;

/// The longest message that is taken, in bytes: a set of a million members has some thirty million.
pub const MAX_MESSAGE: u64 = 256 << 20;
/// Bytes of a length.
const HEADER: usize = 8;

/// Why what came is no message. Nothing that follows can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is too long, or not the length of a message at all.
    #[error(
        "message {number} of the connection says that it is {length} bytes long, and {MAX_MESSAGE} is the most: is that Felix?"
    )]
    TooLong {
        /// The message, from 0.
        number: u64,
        /// Its length.
        length: u64,
    },
    /// It is no protobuf, or a known field has another type.
    #[error("message {number} of the connection is none of Felix's: {source}")]
    Malformed {
        /// The message, from 0.
        number: u64,
        /// Where and why.
        source: prost::DecodeError,
    },
    /// The connection ended within it.
    #[error("the connection ended within message {number}")]
    Truncated {
        /// The message, from 0.
        number: u64,
    },
}

/// Puts messages together of what comes in pieces. Holds what came of the message that is not whole yet, and no more:
/// a length is believed only as far as bytes follow it.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    /// Bytes at the front that were taken.
    taken: usize,
    /// Messages so far.
    number: u64,
}

impl Frames {
    /// Adds what came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        if self.buffer.is_empty() {
            // What a large message took is given back.
            self.buffer.shrink_to(bytes.len());
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// [`FrameError`], again and again: the place of the next message is not known.
    pub fn take(&mut self) -> Result<Option<ToDataplane>, FrameError> {
        let number = self.number;
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_MESSAGE {
            return Err(FrameError::TooLong { number, length });
        }
        let length = length as usize;
        let Some(message) = rest.get(..length) else {
            return Ok(None);
        };
        let message = ToDataplane::decode(message)
            .map_err(|source| FrameError::Malformed { number, source })?;
        self.taken += HEADER + length;
        self.number += 1;
        Ok(Some(message))
    }

    /// To be asked when nothing more comes.
    ///
    /// # Errors
    /// A message is not whole.
    pub fn end(&self) -> Result<(), FrameError> {
        if self.taken < self.buffer.len() {
            return Err(FrameError::Truncated {
                number: self.number,
            });
        }
        Ok(())
    }

    /// How many messages were taken.
    pub const fn count(&self) -> u64 {
        self.number
    }
}

/// A message of either direction as it goes on the wire.
pub fn encode(message: &impl Message) -> Vec<u8> {
    framed(&message.encode_to_vec())
}

/// Bytes with their length in front.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + message.len());
    frame.extend_from_slice(&(message.len() as u64).to_le_bytes());
    frame.extend_from_slice(message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::felix::proto::{InSync, IpSetUpdate, Payload};
    use proptest::prelude::*;

    fn message(number: u64, payload: Payload) -> ToDataplane {
        ToDataplane {
            sequence_number: number,
            payload: Some(payload),
        }
    }

    fn some() -> Vec<ToDataplane> {
        let set = |id: &str, count: u32| {
            Payload::IpSetUpdate(IpSetUpdate {
                id: id.to_owned(),
                members: (0..count).map(|n| format!("10.0.{n}.0/24")).collect(),
                kind: 2,
            })
        };
        let unknown = ToDataplane {
            sequence_number: 3,
            payload: None,
        };
        vec![
            message(0, set("a", 0)),
            message(1, set("b", 200)),
            message(2, Payload::InSync(InSync {})),
            unknown,
        ]
    }

    fn wire(messages: &[ToDataplane]) -> Vec<u8> {
        messages.iter().flat_map(encode).collect()
    }

    fn all(frames: &mut Frames) -> Result<Vec<ToDataplane>, FrameError> {
        std::iter::from_fn(|| frames.take().transpose()).collect()
    }

    #[test]
    fn messages_come_in_pieces_of_any_size() {
        let (messages, bytes) = (some(), wire(&some()));
        for size in 1..bytes.len() {
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(size) {
                frames.push(piece);
                got.extend(all(&mut frames).unwrap());
            }
            assert_eq!(got, messages, "pieces of {size}");
            assert_eq!(frames.end(), Ok(()));
            assert_eq!(frames.count(), 4);
        }
    }

    #[test]
    fn an_end_within_a_message_is_told() {
        let bytes = wire(&some());
        let borders: Vec<usize> = (1..=4).map(|count| wire(&some()[..count]).len()).collect();
        for len in 1..bytes.len() {
            let mut frames = Frames::default();
            frames.push(&bytes[..len]);
            let whole = all(&mut frames).unwrap().len() as u64;
            let expected = if borders.contains(&len) {
                Ok(())
            } else {
                Err(FrameError::Truncated { number: whole })
            };
            assert_eq!(frames.end(), expected, "{len}");
        }
    }

    #[test]
    fn a_length_is_refused_before_anything_is_set_aside_for_it() {
        for length in [MAX_MESSAGE + 1, u64::MAX, 0x4745_5420_2f20_4854] {
            let mut frames = Frames::default();
            frames.push(&length.to_le_bytes());
            let error = FrameError::TooLong { number: 0, length };
            assert_eq!(frames.take(), Err(error.clone()));
            assert_eq!(frames.take(), Err(error));
        }
        let mut frames = Frames::default();
        frames.push(&MAX_MESSAGE.to_le_bytes());
        assert_eq!(frames.take(), Ok(None));
        assert!(frames.buffer.capacity() < 4096);
    }

    #[test]
    fn what_is_no_message_is_told_with_its_number() {
        let mut frames = Frames::default();
        frames.push(&wire(&some()[..1]));
        frames.push(&framed(b"\xff\xff\xff\xff"));
        assert!(frames.take().unwrap().is_some());
        let error = frames.take().unwrap_err();
        assert!(
            matches!(error, FrameError::Malformed { number: 1, .. }),
            "{error}"
        );
    }

    #[test]
    fn memory_of_a_large_message_is_given_back() {
        let large = framed(&vec![0x7a; 1 << 20]);
        let mut frames = Frames::default();
        frames.push(&large);
        let _ = frames.take();
        frames.taken = frames.buffer.len();
        frames.push(&wire(&some()));
        assert!(frames.buffer.capacity() < 1 << 16);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            length in 0_u64..64,
        ) {
            let mut frames = Frames::default();
            frames.push(&length.to_le_bytes());
            frames.push(&bytes);
            while let Ok(Some(_)) = frames.take() {}
            let _ = frames.end();
        }
    }
}
