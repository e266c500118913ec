//! Numbers that nobody outside can foresee.

use core::hash::Hasher;

use siphasher::sip::SipHasher24;

/// A keyed generator: SipHash-2-4, which is a pseudo-random function, of a counter.
///
/// Who sees any number of its outputs learns nothing of the others without the key (RFC 6056 section 3.3.1 wants ports that an
/// attacker off the path cannot guess). One a poller; the key is drawn at random when the process starts and never shown.
#[derive(Clone)]
pub struct PortRng {
    keyed: SipHasher24,
    counter: u64,
}

impl PortRng {
    /// A generator keyed with `key`, of which every bit must be random.
    #[must_use]
    pub fn new(key: [u64; 2]) -> Self {
        let [key0, key1] = key;
        Self {
            keyed: SipHasher24::new_with_keys(key0, key1),
            counter: 0,
        }
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let mut hasher = self.keyed;
        hasher.write_u64(self.counter);
        self.counter = self.counter.wrapping_add(1);
        hasher.finish()
    }
}

impl core::fmt::Debug for PortRng {
    /// Without the key: logs are read by many.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PortRng").finish_non_exhaustive()
    }
}
