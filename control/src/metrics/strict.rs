//! A strict reader of both formats, for tests: it refuses what Prometheus would forgive. After the text formats of OpenMetrics 1.0
//! and of Prometheus 0.0.4.

use std::collections::{BTreeMap, BTreeSet};

use super::Format;

/// What is said of a name.
#[derive(Debug, Default, PartialEq)]
pub(super) struct About {
    pub(super) help: String,
    pub(super) kind: String,
    pub(super) unit: Option<String>,
}

pub(super) type Labels = BTreeMap<String, String>;

/// All of a page.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    /// By name, as `# TYPE` has it.
    pub(super) families: BTreeMap<String, About>,
    /// By the name that stands in front of it.
    pub(super) samples: BTreeMap<(String, Labels), f64>,
}

impl Exposition {
    /// Reads a page; the error names the line.
    pub(super) fn parse(text: &str, format: Format) -> Result<Self, String> {
        let body = match format {
            Format::OpenMetrics => text.strip_suffix("# EOF\n").ok_or("no # EOF at the end")?,
            Format::Prometheus => text,
        };
        if !body.ends_with('\n') || body.contains("# EOF") {
            return Err("an end that is none".to_owned());
        }
        let mut page = Self::default();
        let mut current = String::new();
        for line in body.lines() {
            page.line(line, &mut current, format)
                .map_err(|why| format!("{why}: {line}"))?;
        }
        for (name, about) in &page.families {
            page.check(name, about)
                .map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(page)
    }

    /// The value of a sample.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let key = (name.to_owned(), labels.iter().map(own).collect());
        self.samples.get(&key).copied()
    }

    fn line(&mut self, line: &str, current: &mut String, format: Format) -> Result<(), String> {
        let Some(about) = line.strip_prefix("# ") else {
            return self.sample(line, current, format);
        };
        let (what, rest) = about.split_once(' ').ok_or("a comment")?;
        let (name, text) = rest.split_once(' ').ok_or("half a line")?;
        is_name(name)?;
        if what == "HELP" {
            // It comes first here, and begins a family.
            if self.families.contains_key(name) {
                return Err("a family in two parts".to_owned());
            }
            name.clone_into(current);
            let help = text.to_owned();
            let about = About {
                help,
                ..About::default()
            };
            self.families.insert(name.to_owned(), about);
            return Ok(());
        }
        let about = self.families.get_mut(name).filter(|_| name == current);
        let about = about.ok_or("about another family")?;
        match what {
            "TYPE" if about.kind.is_empty() => text.clone_into(&mut about.kind),
            "UNIT" if about.unit.is_none() && format == Format::OpenMetrics => {
                if !name.ends_with(&format!("_{text}")) {
                    return Err("a unit that the name has not".to_owned());
                }
                about.unit = Some(text.to_owned());
            }
            _ => return Err("said twice, or unknown".to_owned()),
        }
        Ok(())
    }

    fn sample(&mut self, line: &str, current: &str, format: Format) -> Result<(), String> {
        let end = line.find(['{', ' ']).ok_or("no value")?;
        let (name, rest) = line.split_at(end);
        is_name(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Labels::new(), rest),
        };
        let value = value.strip_prefix(' ').ok_or("no blank")?;
        let value: f64 = value.parse().map_err(|_| "no number")?;
        let kind = self.families.get(current).map_or("", |about| &about.kind);
        let suffixes: &[&str] = match (kind, format) {
            ("counter", Format::OpenMetrics) => &["_total"],
            ("info", Format::OpenMetrics) => &["_info"],
            ("gauge", _) | ("counter", Format::Prometheus) => &[""],
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            _ => return Err(format!("of type {kind:?}")),
        };
        if !suffixes
            .iter()
            .any(|suffix| format!("{current}{suffix}") == name)
        {
            return Err(format!("does not belong to {current}"));
        }
        if kind != "gauge" && !(value >= 0.0 && value.is_finite()) {
            return Err("counts down".to_owned());
        }
        if self
            .samples
            .insert((name.to_owned(), labels), value)
            .is_some()
        {
            return Err("said twice".to_owned());
        }
        Ok(())
    }

    /// What concerns a family as a whole.
    fn check(&self, name: &str, about: &About) -> Result<(), String> {
        if !about.help.ends_with('.') {
            return Err(format!("a help that is no sentence: {:?}", about.help));
        }
        if about.kind == "counter" && !name.ends_with("_total") && about.help.is_empty() {
            return Err("a counter without words".to_owned());
        }
        if about.kind == "histogram" {
            self.check_histogram(name)?;
        }
        Ok(())
    }

    fn check_histogram(&self, name: &str) -> Result<(), String> {
        let bucket = format!("{name}_bucket");
        let mut buckets = Vec::new();
        for ((sample, labels), count) in &self.samples {
            if *sample == bucket {
                let le = labels.get("le").ok_or("a bucket without a limit")?;
                let le: f64 = le.parse().map_err(|_| "a limit that is no number")?;
                buckets.push((le, *count));
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        if !buckets.is_sorted_by(|a, b| a.1 <= b.1) {
            return Err("buckets that count down".to_owned());
        }
        let last = buckets.last().copied();
        let count = self.value(&format!("{name}_count"), &[]);
        let is_whole = last.map(|(le, count)| (le, Some(count))) == Some((f64::INFINITY, count));
        let has_sum = self.value(&format!("{name}_sum"), &[]).is_some();
        (is_whole && has_sum)
            .then_some(())
            .ok_or_else(|| "a part is missing".to_owned())
    }
}

fn is_name(name: &str) -> Result<(), String> {
    let mut bytes = name.bytes();
    let is_ok = bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    is_ok
        .then_some(())
        .ok_or_else(|| format!("no name: {name:?}"))
}

/// Labels up to the brace, and what is behind it.
fn labels(mut rest: &str) -> Result<(Labels, &str), String> {
    let mut labels = Labels::new();
    let mut names = BTreeSet::new();
    loop {
        let (name, value) = rest.split_once("=\"").ok_or("no label")?;
        is_name(name)?;
        let (value, behind) = quoted(value)?;
        if !names.insert(name.to_owned()) {
            return Err(format!("label {name} twice"));
        }
        labels.insert(name.to_owned(), value);
        match behind.split_at_checked(1) {
            Some((",", more)) => rest = more,
            Some(("}", behind)) => return Ok((labels, behind)),
            _ => return Err("labels without an end".to_owned()),
        }
    }
}

/// A value up to its quote, without escapes, and what is behind it.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok((value, chars.as_str())),
            '\\' => value.push(match chars.next() {
                Some('n') => '\n',
                Some(c @ ('\\' | '"')) => c,
                _ => return Err("an unknown escape".to_owned()),
            }),
            c => value.push(c),
        }
    }
    Err("no quote".to_owned())
}

#[test]
fn what_is_not_right_is_refused() {
    let whole = "# HELP a_seconds Words.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
                 a_seconds_total{x=\"\\\"\\n\\\\\"} 1.5\n# EOF\n";
    let page = Exposition::parse(whole, Format::OpenMetrics).unwrap();
    assert_eq!(page.value("a_seconds_total", &[("x", "\"\n\\")]), Some(1.5));
    for (from, to) in [
        ("# EOF\n", ""),
        ("# EOF\n", "# EOF"),
        ("# EOF\n", "# EOF\n# EOF\n"),
        ("# UNIT a_seconds seconds", "# UNIT a_seconds bytes"),
        ("# TYPE a_seconds counter\n", ""),
        ("# TYPE a_seconds counter\n", "# TYPE b counter\n"),
        (" counter", " summary"),
        ("_total", ""),
        ("_total{", "_total {"),
        ("1.5", "-1"),
        ("1.5", "x"),
        ("1.5", " 1.5"),
        ("\\n", "\\t"),
        ("\"} ", "\",x=\"y\"} "),
        ("\"} ", "\",} "),
        ("Words.", "Words"),
        ("# EOF", "a_seconds_total{x=\"\\\"\\n\\\\\"} 2\n# EOF"),
        (
            "# EOF",
            "# HELP b B.\n# TYPE b gauge\nb 1\n# HELP a_seconds Words.\n# EOF",
        ),
        ("# EOF", "\n# EOF"),
    ] {
        let broken = whole.replacen(from, to, 1);
        assert_ne!(broken, whole);
        assert!(
            Exposition::parse(&broken, Format::OpenMetrics).is_err(),
            "{broken}"
        );
    }
    let histogram = "# HELP h Words.\n# TYPE h histogram\nh_bucket{le=\"0.1\"} 1\nh_bucket{le=\"+Inf\"} 3\nh_sum 2.5\nh_count 3\n";
    assert!(Exposition::parse(histogram, Format::Prometheus).is_ok());
    for (from, to) in [
        ("} 1", "} 4"),
        ("count 3", "count 4"),
        ("h_sum 2.5\n", ""),
        ("+Inf", "9"),
    ] {
        let broken = histogram.replacen(from, to, 1);
        assert!(
            Exposition::parse(&broken, Format::Prometheus).is_err(),
            "{broken}"
        );
    }
}
