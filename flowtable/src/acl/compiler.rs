//! From what endpoints apply to chains that share what they have in common.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use hashbrown::HashMap;

use super::chain::ChainTier;
use super::segment::{Piece, Segment};
use super::{Chain, ChainSpec, Policy};

/// Why rules were refused. What was compiled before is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// They need more memory than there is for them.
    #[error(
        "{rules} rules compiled together need at least {needed} bytes, of which {limit} are left"
    )]
    TooLarge {
        /// Rules that were to be compiled together.
        rules: usize,
        /// What they need, as far as it was found out, in bytes.
        needed: usize,
        /// What there was for them, in bytes.
        limit: usize,
    },
    /// A few of them tell too many ranges of addresses apart.
    #[error("64 of {rules} rules tell more than 65,535 ranges of addresses apart: use IP sets")]
    TooManyNets {
        /// Rules that were to be compiled together.
        rules: usize,
    },
    /// A tier's number does not fit into a verdict.
    #[error("a chain of {0} tiers, there can be at most 65,535")]
    TooManyTiers(usize),
}

/// Rules of a segment after which it may end: a quarter of the tier's, but as many at least and at most. Fewer segments are
/// searched sooner, and smaller ones compiled sooner after a change.
const FEW_RULES: (usize, usize) = (256, 4096);

/// How many times as many rules there are when a segment does end.
const MANY: usize = 4;

/// Rules of one policy that are compiled together. A longer policy is cut, so that memory grows with
/// its length and not with its square.
const MOST_RULES: usize = 16_384;

/// Which pieces a segment is made of: addresses of policies and first rules.
type SegmentKey = Box<[(usize, usize)]>;

/// What a list of policies was compiled to; both are gone when nobody uses them.
type Known = (Weak<[Arc<Policy>]>, Weak<[Arc<Segment>]>);

/// Makes chains. Keeps nothing alive, but finds again what is still in use.
#[derive(Debug)]
pub struct Compiler {
    segments: HashMap<SegmentKey, Weak<Segment>>,
    /// By the address of a list.
    lists: HashMap<usize, Known>,
    /// How many segments and lists there may be before those that are gone are forgotten.
    next_sweep: usize,
    /// Bytes of all segments in use.
    total: Arc<AtomicUsize>,
    limit_bytes: usize,
}

impl Default for Compiler {
    fn default() -> Self {
        Self::with_limit(Self::DEFAULT_LIMIT_BYTES)
    }
}

impl Compiler {
    /// What all chains in use may take together unless said otherwise: 1 GiB.
    pub const DEFAULT_LIMIT_BYTES: usize = 1 << 30;

    /// A compiler whose chains, with those of earlier generations that are still in use, take up to
    /// `limit_bytes` together.
    #[must_use]
    pub fn with_limit(limit_bytes: usize) -> Self {
        Self {
            segments: HashMap::new(),
            lists: HashMap::new(),
            next_sweep: 1024,
            total: Arc::default(),
            limit_bytes,
        }
    }

    /// Compiles `spec`. What it has in common with chains in use is shared with them.
    ///
    /// # Errors
    /// The limit would be exceeded, or there are too many tiers. Chains in use are as they were.
    pub fn chain(&mut self, spec: &ChainSpec) -> Result<Chain, AclError> {
        let mut tiers = Vec::with_capacity(spec.tiers.len());
        for (number, tier) in spec.tiers.iter().enumerate() {
            if tier.policies.is_empty() {
                continue;
            }
            tiers.push(ChainTier {
                segments: self.segments(&tier.policies)?,
                default: tier.default,
                number: u16::try_from(number)
                    .map_err(|_| AclError::TooManyTiers(spec.tiers.len()))?,
            });
        }
        let profiles = self.segments(&spec.profiles)?;
        Ok(Chain::new(tiers, profiles, spec.allow_at_end))
    }

    /// Bytes of all segments in use, those of earlier generations too.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.total.load(Relaxed)
    }

    fn segments(&mut self, policies: &Arc<[Arc<Policy>]>) -> Result<Arc<[Arc<Segment>]>, AclError> {
        let address = Arc::as_ptr(policies).cast::<Arc<Policy>>() as usize;
        if let Some((list, segments)) = self.lists.get(&address)
            && let (Some(list), Some(segments)) = (list.upgrade(), segments.upgrade())
            && Arc::ptr_eq(&list, policies)
        {
            return Ok(segments);
        }
        let segments: Arc<[Arc<Segment>]> = runs(policies)
            .into_iter()
            .map(|run| self.segment(&run))
            .collect::<Result<_, _>>()?;
        let known = (Arc::downgrade(policies), Arc::downgrade(&segments));
        self.lists.insert(address, known);
        Ok(segments)
    }

    fn segment(&mut self, run: &[Piece]) -> Result<Arc<Segment>, AclError> {
        let key: SegmentKey = run
            .iter()
            .map(|piece| (Arc::as_ptr(&piece.policy) as usize, piece.first))
            .collect();
        if let Some(segment) = self.segments.get(&key).and_then(Weak::upgrade) {
            return Ok(segment);
        }
        let left = self.limit_bytes.saturating_sub(self.memory_bytes());
        let segment = Arc::new(Segment::new(run, left, &self.total)?);
        if self.segments.len() >= self.next_sweep {
            self.segments
                .retain(|_, segment| segment.strong_count() > 0);
            self.next_sweep = (self.segments.len() * 2).max(1024);
        }
        self.segments.insert(key, Arc::downgrade(&segment));
        Ok(segment)
    }
}

/// Cuts a tier's policies into runs. Where a run ends depends on the policies near its end only, and on how many rules there are to a
/// power of two, so that lists that differ in one policy have most runs in common.
fn runs(policies: &[Arc<Policy>]) -> Vec<Vec<Piece>> {
    let total: usize = policies.iter().map(|policy| policy.rules.len()).sum();
    let few = (total / 4).next_power_of_two();
    let few = few.clamp(FEW_RULES.0, FEW_RULES.1);
    let mut runs = Vec::new();
    let (mut run, mut rules) = (Vec::new(), 0);
    for policy in policies.iter().filter(|policy| !policy.rules.is_empty()) {
        let len = policy.rules.len();
        let may_end = rules >= few && starts_a_run(policy);
        if rules > 0 && (may_end || rules + len > MANY * few) {
            runs.push(std::mem::take(&mut run));
            rules = 0;
        }
        for first in (0..len).step_by(MOST_RULES) {
            if rules >= MOST_RULES {
                runs.push(std::mem::take(&mut run));
                rules = 0;
            }
            let len = (len - first).min(MOST_RULES);
            run.push(Piece {
                policy: Arc::clone(policy),
                first,
                len,
            });
            rules += len;
        }
    }
    if !run.is_empty() {
        runs.push(run);
    }
    runs
}

/// One policy in sixteen, the same whatever stands around it.
fn starts_a_run(policy: &Policy) -> bool {
    let id = policy.rules.first().map_or(0, |rule| rule.id.0);
    id.wrapping_mul(0x9e37_79b1) >> 28 == 0
}
