//! Samples as text.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{self, DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{self, Registry};
use serde_json::Value;

use super::Figures;
use super::gather::{Family, Samples, gather};
use super::list::{Kind, METRICS, Unit};
use crate::api::report::Changes;

/// In front of each name.
pub(super) const PREFIX: &str = "caracal";

/// What text the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0, for who names it.
    OpenMetrics,
    /// Prometheus' older format, which everybody reads.
    Prometheus,
}

impl Format {
    /// Its media type, without parameters.
    pub(crate) const OPEN_METRICS: &'static str = "application/openmetrics-text";

    /// The value of `Content-Type`.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => encoding::prometheus_text::CONTENT_TYPE,
        }
    }
}

/// All samples of one moment.
#[derive(Debug)]
pub(crate) struct Page(Vec<Family>);

impl Page {
    /// What these figures come to.
    pub(crate) fn new(figures: &Figures) -> Self {
        // A report that is no JSON would be a fault of its type; then nothing is found.
        let figures = serde_json::to_value(figures).unwrap_or(Value::Null);
        Self(gather(METRICS, &figures))
    }

    /// The text.
    pub(crate) fn into_text(self, format: Format) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        let written = match format {
            Format::OpenMetrics => encoding::text::encode(&mut text, &registry),
            Format::Prometheus => encoding::prometheus_text::encode(&mut text, &registry),
        };
        // Writing into a string does not fail.
        debug_assert!(written.is_ok());
        text
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let unit = match family.unit {
                Unit::None => None,
                Unit::Bytes => Some(registry::Unit::Bytes),
                Unit::Seconds(_) => Some(registry::Unit::Seconds),
            };
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Info => MetricType::Info,
                Kind::Histogram => MetricType::Histogram,
            };
            let metric =
                encoder.encode_descriptor(family.name, family.help, unit.as_ref(), kind)?;
            samples(family, metric)?;
        }
        Ok(())
    }
}

fn samples(family: &Family, mut metric: MetricEncoder<'_>) -> fmt::Result {
    let samples = match &family.samples {
        Samples::Histogram(changes) => return histogram(changes, family.unit, metric),
        Samples::Numbers(samples) => samples,
    };
    for (labels, &number) in samples {
        match (family.kind, family.unit) {
            (Kind::Info, _) => metric.encode_info(labels)?,
            (Kind::Gauge, Unit::Seconds(parts)) => {
                let seconds = number as f64 / f64::from(parts);
                metric.encode_family(labels)?.encode_gauge(&seconds)?;
            }
            (Kind::Gauge, _) => metric.encode_family(labels)?.encode_gauge(&number)?,
            (_, Unit::Seconds(parts)) => {
                let seconds = number as f64 / f64::from(parts);
                let mut sample = metric.encode_family(labels)?;
                sample.encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
            }
            _ => {
                let mut sample = metric.encode_family(labels)?;
                sample.encode_counter::<NoLabelSet, _, u64>(&number, None)?;
            }
        }
    }
    Ok(())
}

fn histogram(changes: &Changes, unit: Unit, mut metric: MetricEncoder<'_>) -> fmt::Result {
    let parts = match unit {
        Unit::Seconds(parts) => f64::from(parts),
        _ => 1.0,
    };
    let limits = Changes::LIMITS.iter().map(|limit| *limit as f64 / parts);
    let counts = changes.buckets.iter().copied().chain(std::iter::repeat(0));
    let buckets: Vec<_> = limits.chain([f64::INFINITY]).zip(counts).collect();
    let sum = changes.sum_microseconds as f64 / parts;
    metric.encode_histogram::<NoLabelSet>(sum, changes.count, &buckets, None)
}
