//! Connections: two entries that come and go together.

use super::action::{Action, flag};
use super::clock::seen_at;
use super::key::FlowKey;
use super::table::{FlowTable, Found, LOOKS};
use super::tags::Home;
use super::view::FlowRef;
use crate::Tick;

/// Why a connection was not inserted. The table is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// There is an entry of the reply's key: a SNAT port that is in use, or the connection itself.
    #[error("the key of the replies is taken")]
    ReplyTaken,
    /// There is an entry of the forward key, or the two keys are the same.
    #[error("the forward key is taken")]
    ForwardTaken,
    /// All slots in the line of one of the keys are taken.
    #[error("no room where one of the keys belongs")]
    Full,
    /// Another poller is at work where one of the keys belongs.
    #[error("another poller is at work where one of the keys belongs")]
    Busy,
}

/// A slot for a key, its home word locked.
struct Place {
    home: Home,
    slot: usize,
}

/// Why there is no [`Place`] for a key.
enum NoPlace {
    Taken,
    Full,
    Busy,
}

impl NoPlace {
    const fn with(self, taken: InsertError) -> InsertError {
        match self {
            Self::Taken => taken,
            Self::Full => InsertError::Full,
            Self::Busy => InsertError::Busy,
        }
    }
}

impl<K: FlowKey> FlowTable<K> {
    /// Inserts both directions of a connection, or neither. Last seen `now`, with no packet yet.
    ///
    /// The reply's key is claimed first: with SNAT it is what makes a port the connection's own. The
    /// table sets [`flag::IS_REPLY`] as it should be. `dirs` are the tracker's words, the forward one first.
    ///
    /// # Errors
    /// A key is in the table already, has no room, or is where another poller is at work.
    pub fn insert_pair(
        &self,
        forward: (K, Action<K::Addr>),
        reply: (K, Action<K::Addr>),
        now: Tick,
        dirs: (u64, u64),
    ) -> Result<(FlowRef, FlowRef), InsertError> {
        let ((forward, mut there), (reply, mut back)) = (forward, reply);
        if forward == reply {
            return Err(InsertError::ForwardTaken);
        }
        there.flags &= !flag::IS_REPLY;
        back.flags |= flag::IS_REPLY;
        let (forward_blocks, reply_blocks) = (forward.blocks(), reply.blocks());
        let forward_home = self.tags.home(self.hasher.hash(forward_blocks));
        let reply_home = self.tags.home(self.hasher.hash(reply_blocks));
        self.tags.prefetch(reply_home);
        self.tags.prefetch(forward_home);
        let reply_place = self
            .claim(reply_home, &reply_blocks, None)
            .map_err(|why| why.with(InsertError::ReplyTaken))?;
        let forward_place = match self.claim(forward_home, &forward_blocks, Some(&reply_place)) {
            Ok(place) => place,
            Err(why) => {
                self.tags.free(reply_place.slot);
                self.tags.unlock(reply_place.home.word);
                return Err(why.with(InsertError::ForwardTaken));
            }
        };
        let seen = seen_at(now);
        let fill = |place: &Place, partner: &Place, words, dir| {
            let head = self
                .entry(place.slot)
                .publish(partner.slot as u32, &words, dir, seen);
            FlowRef::new(place.slot, head)
        };
        let flows = (
            fill(&forward_place, &reply_place, forward.words(&there), dirs.0),
            fill(&reply_place, &forward_place, reply.words(&back), dirs.1),
        );
        self.tags.unlock(forward_place.home.word);
        if reply_place.home.word != forward_place.home.word {
            self.tags.unlock(reply_place.home.word);
        }
        Ok(flows)
    }

    /// Locks a key's home word and claims a slot for it, unless there is an entry of it.
    ///
    /// `first` is the place of the other direction, whose home word stays locked in any case.
    fn claim(
        &self,
        home: Home,
        blocks: &K::Blocks,
        first: Option<&Place>,
    ) -> Result<Place, NoPlace> {
        let held = first.map(|place| place.home.word);
        let claim = self.tags.lock_and_claim(home, held).ok_or(NoPlace::Busy)?;
        // What is in them was left by others.
        let except = [claim.slot, first.map(|place| place.slot)];
        let why = match (self.find(home, claim.before, blocks, except), claim.slot) {
            (Found::At(_), _) => NoPlace::Taken,
            (Found::Unsettled, _) => NoPlace::Busy,
            (Found::Nowhere, Some(slot)) => {
                self.prefetch_entry(slot);
                return Ok(Place { home, slot });
            }
            (Found::Nowhere, None) => NoPlace::Full,
        };
        if let Some(slot) = claim.slot {
            self.tags.free(slot);
        }
        if held != Some(home.word) {
            self.tags.unlock(home.word);
        }
        Err(why)
    }

    /// The entry of the other direction; `None` if the connection is gone or being removed.
    #[inline]
    pub fn partner(&self, flow: FlowRef) -> Option<FlowRef> {
        let head = self.head(flow)?;
        let slot = head.partner() as usize;
        let partner = self.entry(slot).head();
        // What names us as its partner was inserted with us, unless it came after us: then we are gone.
        let is_ours = partner.is_stable() && partner.partner() == flow.slot;
        (is_ours && self.head(flow).is_some()).then(|| FlowRef::new(slot, partner))
    }

    /// The key of the other direction; `None` if the connection is gone, or another poller changes that entry all the time.
    #[inline]
    pub fn partner_key(&self, flow: FlowRef) -> Option<K> {
        for _ in 0..LOOKS {
            if let Some(view) = self.partner(flow).and_then(|it| self.view(it)) {
                return Some(view.key);
            }
            if self.head(flow).is_none() {
                break;
            }
        }
        None
    }

    /// Removes both directions. `true` if this call did it; `false` if the connection is gone, or another
    /// poller is changing it: then a later sweep finds it again.
    pub fn remove_pair(&self, flow: FlowRef) -> bool {
        let Some(head) = self.head(flow) else {
            return false;
        };
        let (slot, partner_slot) = (flow.slot as usize, head.partner() as usize);
        self.prefetch_slot(partner_slot);
        let partner = self.entry(partner_slot).head();
        if !head.is_stable() || !partner.is_stable() || partner.partner() != flow.slot {
            return false;
        }
        // The lower slot first: of two who remove the same pair from its two ends one comes through.
        let mut both = [(slot, head), (partner_slot, partner)];
        both.sort_unstable_by_key(|&(slot, _)| slot);
        let [(first, first_head), (second, second_head)] = both;
        if !self.entry(first).try_lock(first_head) {
            return false;
        }
        if !self.entry(second).try_lock(second_head) {
            self.entry(first).unlock(first_head);
            return false;
        }
        for (slot, head) in both {
            self.entry(slot).remove(head);
            self.tags.free(slot);
        }
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{Capacity, FlowTable4, Key4, Seed};
    use super::*;

    fn key(n: u32) -> Key4 {
        Key4 {
            src: n,
            dst: !n,
            sport: 1,
            dport: 2,
            protocol: 6,
        }
    }

    #[test]
    fn a_pair_is_found_from_both_ends_and_removed_from_either() {
        let table = FlowTable4::new(Capacity::MIN, Seed([1, 2]));
        let action = Action {
            generation: 7,
            rule: 0x00ab_cdef,
            nat_port: 9,
            ..Action::default()
        };
        let insert = || {
            let reply = (key(1).reversed(), action);
            table.insert_pair((key(1), action), reply, Tick(0), (11, 12))
        };
        let (there, back) = insert().unwrap();
        assert_eq!(insert(), Err(InsertError::ReplyTaken));
        assert_eq!(table.lookup(&key(1)), Some((there, action)));
        let (found, reply) = table.lookup(&key(1).reversed()).unwrap();
        assert_eq!((found, reply.flags), (back, flag::IS_REPLY));
        assert_eq!(table.partner(there), Some(back));
        assert_eq!(table.partner(back), Some(there));
        assert_eq!((table.dir(there), table.dir(back)), (11, 12));
        assert_eq!(table.len(), 2);
        assert!(table.remove_pair(back));
        assert!(!table.remove_pair(there));
        assert_eq!(table.lookup(&key(1)), None);
        assert_eq!(table.view(there), None);
        assert!(table.is_empty());
    }
}
