//! Records of connections, for those who observe.

use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::Node;
use crate::api::{ApiError, ErrorCode, ObserveParams};
use crate::observe::{History, Names, Wanted};

/// Who follows asks again within this time.
const FOLLOWED: Duration = Duration::from_secs(3);

/// What is known of connections that were judged.
#[derive(Debug, Default)]
pub(super) struct Observation {
    history: History,
    names: Names,
    /// Somebody follows until then.
    until: Option<Instant>,
}

impl Node {
    /// Takes what pollers told, while its numbers mean what they meant.
    pub(super) fn take_records(&mut self, now: Instant) {
        if self.observation.until.is_some_and(|until| until <= now) {
            self.observation.until = None;
            self.pollers.set_observed(false);
        }
        let records = self.pollers.records();
        let Some(tick) = self.pollers.now().filter(|_| !records.is_empty()) else {
            return;
        };
        let now = (tick, SystemTime::now());
        let Observation { history, names, .. } = &mut self.observation;
        for record in records {
            history.push(names.record(&record, &self.compiler, now));
        }
    }

    /// The records that are asked for.
    pub(super) fn observed(&mut self, params: &ObserveParams) -> Result<Value, ApiError> {
        let bad = |message| ApiError::new(ErrorCode::BadParams, message);
        let wanted = Wanted::new(params).map_err(bad)?;
        let now = Instant::now();
        if params.follow {
            self.observation.until = Some(now + FOLLOWED);
            self.pollers.set_observed(true);
        }
        self.take_records(now);
        let mut answer = self.observation.history.answer(params, &wanted);
        for counters in self.pollers.counters() {
            answer.lost += counters.records_lost.get();
            answer.limited += counters.logs_limited.get();
        }
        super::answer::value(&answer)
    }
}
