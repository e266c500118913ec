//! Changes to inputs at random, for where there is no fuzzer.

/// Changes inputs; the same number makes the same changes.
#[derive(Clone, Debug)]
pub struct Mutator(u64);

impl Mutator {
    /// One that makes the changes of this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`, or 0 (xorshift64*, Vigna 2016).
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        (number >> 32) as usize % end.max(1)
    }

    /// A few changes: bits, bytes, pieces that go, come twice or from another place, an end that is cut.
    pub fn change(&mut self, data: &mut Vec<u8>) {
        for _ in 0..=self.below(6) {
            let at = self.below(data.len());
            let len = 1 + self.below(16);
            let end = (at + len).min(data.len());
            match self.below(7) {
                0 => {
                    let bit = 1 << self.below(8);
                    if let Some(byte) = data.get_mut(at) {
                        *byte ^= bit;
                    }
                }
                1 => {
                    let value = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'"', self.below(256) as u8];
                    let value = value[self.below(value.len())];
                    if let Some(byte) = data.get_mut(at) {
                        *byte = value;
                    }
                }
                2 => {
                    data.drain(at..end);
                }
                3 => {
                    let piece = data[at..end].to_vec();
                    data.splice(at..at, piece);
                }
                4 => {
                    let piece = data[at..end].to_vec();
                    let to = self.below(data.len());
                    data.splice(to..to, piece);
                }
                5 => {
                    let byte = self.below(256) as u8;
                    data.insert(at, byte);
                }
                _ => data.truncate(self.below(data.len() + 1)),
            }
        }
    }
}
