//! One field of a packet against all rules: the values between two neighbouring borders satisfy the same
//! rules, so a rule list cuts the field into intervals, each with a bit vector over the rules.

/// A value of a field.
pub trait Key: Copy + Ord {
    /// The lowest value.
    const FIRST: Self;

    /// The next higher value, unless this is the highest.
    fn after(self) -> Option<Self>;

    /// The next lower value, unless this is the lowest.
    fn before(self) -> Option<Self>;
}

macro_rules! key {
    ($($int:ty),*) => {$(
        impl Key for $int {
            const FIRST: Self = 0;

            #[inline(always)]
            fn after(self) -> Option<Self> {
                self.checked_add(1)
            }

            #[inline(always)]
            fn before(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )*};
}

key!(u8, u16, u32, u128);

/// Values from `first` to `last` that a rule asks for, or asks not to be.
struct Span<K> {
    first: K,
    last: K,
    bit: u32,
    negated: bool,
}

/// What the rules ask of one field; rules are bits.
pub(super) struct Criteria<K> {
    spans: Vec<Span<K>>,
    /// Rules that need one of their spans to hold the value. All others need none of theirs to be wrong.
    required: Vec<u64>,
    bits: usize,
}

/// Sets bit `bit` of a bit vector.
pub(super) fn set_bit(words: &mut [u64], bit: usize) {
    if let Some(word) = words.get_mut(bit / 64) {
        *word |= 1 << (bit % 64);
    }
}

impl<K: Key> Criteria<K> {
    /// Nothing asked by any of `bits` rules.
    pub(super) fn new(bits: usize) -> Self {
        Self {
            spans: Vec::new(),
            required: vec![0; bits.div_ceil(64)],
            bits,
        }
    }

    /// The rule holds only in the spans that are added for it.
    pub(super) fn require(&mut self, bit: usize) {
        set_bit(&mut self.required, bit);
    }

    /// The rule holds from `first` to `last`; or, negated, not there.
    pub(super) fn add(&mut self, bit: usize, first: K, last: K, negated: bool) {
        if first <= last {
            self.spans.push(Span {
                first,
                last,
                bit: bit as u32,
                negated,
            });
        }
    }

    /// Calls `each` with the first value of each interval and the rules that hold in it.
    pub(super) fn sweep<E>(
        &self,
        mut each: impl FnMut(K, &[u64]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut words: Vec<u64> = self.required.iter().map(|word| !word).collect();
        if let (Some(last), rest @ 1..) = (words.last_mut(), self.bits % 64) {
            *last &= (1 << rest) - 1;
        }
        if self.spans.is_empty() {
            return each(K::FIRST, &words);
        }
        // Where a span begins, and behind its end: how many of a rule's spans hold changes by one.
        let mut events: Vec<(K, u32, bool, i32)> = Vec::with_capacity(self.spans.len() * 2);
        for span in &self.spans {
            events.push((span.first, span.bit, span.negated, 1));
            if let Some(behind) = span.last.after() {
                events.push((behind, span.bit, span.negated, -1));
            }
        }
        events.sort_unstable_by_key(|event| event.0);
        let mut held = vec![[0_i32; 2]; self.bits];
        let mut events = events.into_iter().peekable();
        let mut at = K::FIRST;
        loop {
            while let Some((_, bit, negated, change)) = events.next_if(|event| event.0 == at) {
                let (word, mask) = (bit as usize / 64, 1 << (bit % 64));
                let [positive, negative] = &mut held[bit as usize];
                *(if negated {
                    &mut *negative
                } else {
                    &mut *positive
                }) += change;
                let holds = (*positive > 0 || self.required[word] & mask == 0) && *negative == 0;
                words[word] = words[word] & !mask | if holds { mask } else { 0 };
            }
            each(at, &words)?;
            match events.peek() {
                Some(event) => at = event.0,
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_says_of_every_value_what_the_spans_say() {
        let mut criteria = Criteria::<u8>::new(67);
        criteria.require(0);
        criteria.add(0, 10, 20, false);
        criteria.add(0, 15, 255, false);
        criteria.add(1, 0, 5, true);
        criteria.require(66);
        criteria.add(66, 0, 255, false);
        criteria.add(66, 16, 16, true);
        criteria.require(2);
        let mut bounds = Vec::new();
        let mut rows = Vec::new();
        criteria
            .sweep(|first, words| {
                bounds.push(first);
                rows.push(words.to_vec());
                Ok::<_, ()>(())
            })
            .unwrap();
        for value in 0..=255_u8 {
            let row = &rows[bounds.partition_point(|&bound| bound <= value) - 1];
            let bit = |bit: usize| row[bit / 64] >> (bit % 64) & 1 == 1;
            assert_eq!(bit(0), value >= 10, "{value}");
            assert_eq!(bit(1), value > 5, "{value}");
            assert!(!bit(2) && bit(3) && bit(65));
            assert_eq!(bit(66), value != 16, "{value}");
            assert_eq!(row[1] >> 3, 0, "bits behind the last rule");
        }
    }
}
