//! Where pollers' time goes, for those who measure.

use std::sync::Arc;
use std::time::Duration;

use fastpath::counters::{Counters, StageCounters};
use fastpath::stopwatch::Stage;
use flowtable::Tick;

use super::Node;
use crate::api::report::{Perf, PollerPerf, StagePerf};
use crate::api::{ApiError, ErrorCode, MAX_MEASURED, PerfParams};

impl Node {
    /// What was counted until now; has pollers measure for as long as is asked for.
    pub(super) fn perf(&self, params: &PerfParams) -> Result<Perf, ApiError> {
        let lasts = Duration::from_millis(params.milliseconds);
        if lasts > MAX_MEASURED {
            let most = MAX_MEASURED.as_millis();
            let message = format!("milliseconds: {most} at most; who measures longer asks again");
            return Err(ApiError::new(ErrorCode::BadParams, message));
        }
        let now = self.pollers.now().unwrap_or(Tick(0));
        let perf = Perf {
            nanoseconds: now.0,
            pollers: self
                .pollers
                .own_counters()
                .zip(self.cores())
                .map(poller)
                .collect(),
        };
        if !lasts.is_zero() {
            self.pollers.measure_until(now + lasts);
        }
        Ok(perf)
    }
}

fn poller((counters, core): (&Arc<Counters>, Option<u16>)) -> PollerPerf {
    let measured = &counters.measured;
    let stages = Stage::ALL.iter().zip(&measured.stages);
    let stage = |(stage, counters): (&Stage, &StageCounters)| StagePerf {
        stage: stage.name().to_owned(),
        calls: counters.calls.get(),
        packets: counters.packets.get(),
        nanoseconds: counters.nanoseconds.get(),
    };
    PollerPerf {
        core,
        clock_nanoseconds: measured.clock.get(),
        empty_nanoseconds: measured.empty.get(),
        stages: stages.map(stage).collect(),
    }
}
