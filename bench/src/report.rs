//! Medians, ratios and tables.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

/// Everything that one run measured.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    pub(crate) tenants: usize,
    pub(crate) repeats: usize,
    pub(crate) seconds: f64,
    pub(crate) start: Option<Start>,
    #[serde(serialize_with = "sync_figures")]
    pub(crate) syncs: Vec<Duration>,
    pub(crate) targets: Vec<TargetInfo>,
    pub(crate) rounds: Vec<Round>,
}

/// How long the gateway took from its start to its first answer.
#[derive(Serialize)]
pub(crate) struct Start {
    pub(crate) milliseconds: f64,
}

#[derive(Serialize)]
pub(crate) struct TargetInfo {
    pub(crate) name: &'static str,
    pub(crate) idle_kib: Option<u64>,
    pub(crate) peak_kib: Option<u64>,
}

/// One round of one scenario on one target. Figures that do not apply are absent.
#[derive(Serialize)]
pub(crate) struct Round {
    pub(crate) scenario: &'static str,
    pub(crate) target: &'static str,
    /// Somebody else's server: its faults are shown and are not ours.
    pub(crate) is_peer: bool,
    pub(crate) requests: u64,
    pub(crate) chunks: u64,
    pub(crate) faults: u64,
    pub(crate) first_fault: Option<String>,
    pub(crate) per_second: f64,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) cpu_us_per_request: Option<f64>,
    pub(crate) cpu_us_per_chunk: Option<f64>,
    pub(crate) first_byte_p50_us: Option<f64>,
    pub(crate) first_byte_p99_us: Option<f64>,
    pub(crate) chunk_lag_p50_us: Option<f64>,
    pub(crate) chunk_lag_p99_us: Option<f64>,
    pub(crate) upstream_connections: u64,
}

type Figure = fn(&Round) -> Option<f64>;

/// The columns of the tables.
const COLUMNS: [(&str, Figure); 11] = [
    ("per s", |round| Some(round.per_second)),
    ("p50 us", |round| round.p50_us),
    ("p99 us", |round| round.p99_us),
    ("CPU us/request", |round| round.cpu_us_per_request),
    ("CPU us/chunk", |round| round.cpu_us_per_chunk),
    ("first byte p50 us", |round| round.first_byte_p50_us),
    ("first byte p99 us", |round| round.first_byte_p99_us),
    ("chunk lag p50 us", |round| round.chunk_lag_p50_us),
    ("chunk lag p99 us", |round| round.chunk_lag_p99_us),
    ("upstream connections", |round| {
        Some(round.upstream_connections as f64)
    }),
    ("faults", |round| {
        (round.faults > 0).then_some(round.faults as f64)
    }),
];

impl Report {
    /// The tables, plain or as Markdown.
    pub(crate) fn table(&self, markdown: bool) -> String {
        let mut text = format!(
            "\n{}; {} tenant(s); {} round(s) of {} s each, medians.\n",
            self.machine, self.tenants, self.repeats, self.seconds
        );
        let (p50, p99) = self.sync_percentiles();
        // Writing to a string does not fail, here and below.
        let _ = writeln!(
            text,
            "fdatasync of 4 KiB: p50 {p50:.0} us, p99 {p99:.0} us."
        );
        if let Some(start) = &self.start {
            let _ = writeln!(
                text,
                "Gateway, start to first answer: {:.0} ms.",
                start.milliseconds
            );
        }
        text.push('\n');
        text.push_str(&layout(&self.medians(), markdown));
        text.push_str("\nGateway / floor\n\n");
        text.push_str(&layout(&self.ratios(), markdown));
        text.push('\n');
        text.push_str(&layout(&self.memory(), markdown));
        text
    }

    /// Every round, for later comparison.
    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// An error when any answer was wrong or the upstream's connections leaked.
    pub(crate) fn verdict(&self) -> Result<()> {
        let ours = || self.rounds.iter().filter(|round| !round.is_peer);
        let faults: u64 = ours().map(|round| round.faults).sum();
        if faults == 0 {
            return Ok(());
        }
        let first = ours().find_map(|round| {
            let fault = round.first_fault.as_ref()?;
            Some(format!("{} on {}: {fault}", round.scenario, round.target))
        });
        bail!("{faults} faults; the first: {}", first.unwrap_or_default());
    }

    fn medians(&self) -> Vec<Vec<String>> {
        let head = ["scenario", "target"]
            .into_iter()
            .chain(COLUMNS.map(|(name, _)| name));
        let mut rows = vec![head.map(str::to_owned).collect::<Vec<_>>()];
        for scenario in self.scenarios() {
            for target in &self.targets {
                let mut row = vec![scenario.to_owned(), target.name.to_owned()];
                row.extend(
                    COLUMNS.map(|(_, figure)| cell(self.median(scenario, target.name, figure))),
                );
                rows.push(row);
            }
        }
        rows
    }

    fn ratios(&self) -> Vec<Vec<String>> {
        let shown = &COLUMNS[..COLUMNS.len() - 1];
        let head = std::iter::once("scenario").chain(shown.iter().map(|(name, _)| *name));
        let mut rows = vec![head.map(str::to_owned).collect::<Vec<_>>()];
        for scenario in self.scenarios() {
            let mut row = vec![scenario.to_owned()];
            for (_, figure) in shown {
                let gateway = self.median(scenario, "gateway", *figure);
                let floor = self
                    .median(scenario, "floor", *figure)
                    .filter(|floor| *floor > 0.0);
                let ratio = gateway.zip(floor).map(|(gateway, floor)| gateway / floor);
                row.push(ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
            }
            rows.push(row);
        }
        rows
    }

    fn memory(&self) -> Vec<Vec<String>> {
        let mut rows = vec![
            ["target", "RSS idle MiB", "RSS peak MiB"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for target in self
            .targets
            .iter()
            .filter(|target| target.idle_kib.is_some())
        {
            let mib = |kib: Option<u64>| {
                kib.map_or_else(
                    || "-".to_owned(),
                    |kib| format!("{:.1}", kib as f64 / 1024.0),
                )
            };
            rows.push(vec![
                target.name.to_owned(),
                mib(target.idle_kib),
                mib(target.peak_kib),
            ]);
        }
        rows
    }

    fn scenarios(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = Vec::new();
        for round in &self.rounds {
            if !names.contains(&round.scenario) {
                names.push(round.scenario);
            }
        }
        names
    }

    fn median(&self, scenario: &str, target: &str, figure: Figure) -> Option<f64> {
        let rounds = self
            .rounds
            .iter()
            .filter(|round| round.scenario == scenario && round.target == target);
        let mut values: Vec<f64> = rounds.filter_map(figure).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(values[middle]),
            _ => Some(f64::midpoint(values[middle - 1], values[middle])),
        }
    }

    fn sync_percentiles(&self) -> (f64, f64) {
        percentiles(&self.syncs)
    }
}

/// Prints one text and a line end.
pub(crate) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

fn percentiles(sorted: &[Duration]) -> (f64, f64) {
    let at = |share: f64| {
        let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
        sorted
            .get(index)
            .map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    (at(0.5), at(0.99))
}

fn sync_figures<S: serde::Serializer>(
    times: &[Duration],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Syncs {
        count: usize,
        p50_us: f64,
        p99_us: f64,
    }
    let (p50_us, p99_us) = percentiles(times);
    Syncs {
        count: times.len(),
        p50_us,
        p99_us,
    }
    .serialize(serializer)
}

fn cell(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 100.0 || value == value.trunc() => format!("{value:.0}"),
        Some(value) => format!("{value:.1}"),
    }
}

fn layout(rows: &[Vec<String>], markdown: bool) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let (left, between, right) = if markdown {
        ("| ", " | ", " |")
    } else {
        ("", "  ", "")
    };
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:>width$}"))
            .collect();
        let _ = writeln!(text, "{left}{}{right}", cells.join(between));
        if markdown && index == 0 {
            let _ = writeln!(text, "|{}", "---:|".repeat(columns));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(target: &'static str, per_second: f64, faults: u64) -> Round {
        Round {
            scenario: "chat",
            target,
            is_peer: false,
            requests: 1,
            chunks: 0,
            faults,
            first_fault: (faults > 0).then(|| "status 500".to_owned()),
            per_second,
            p50_us: Some(10.0),
            p99_us: None,
            cpu_us_per_request: None,
            cpu_us_per_chunk: None,
            first_byte_p50_us: None,
            first_byte_p99_us: None,
            chunk_lag_p50_us: None,
            chunk_lag_p99_us: None,
            upstream_connections: 1,
        }
    }

    fn report(rounds: Vec<Round>) -> Report {
        let targets = ["floor", "gateway"].map(|name| TargetInfo {
            name,
            idle_kib: None,
            peak_kib: None,
        });
        Report {
            machine: "machine".to_owned(),
            tenants: 1,
            repeats: 3,
            seconds: 1.0,
            start: None,
            syncs: vec![Duration::from_micros(100); 4],
            targets: targets.into(),
            rounds,
        }
    }

    #[test]
    fn ratios_are_of_medians() {
        let rounds = [(30.0, 15.0), (10.0, 5.0), (20.0, 100.0)];
        let rounds = rounds
            .iter()
            .flat_map(|(a, b)| [round("floor", *a, 0), round("gateway", *b, 0)]);
        let report = report(rounds.collect());
        assert_eq!(report.ratios()[1][..3], ["chat", "0.75", "1.00"]);
        assert!(report.verdict().is_ok());
        assert!(report.table(true).contains("|---:|"));
    }

    #[test]
    fn one_fault_fails_the_run() {
        let error = report(vec![round("gateway", 1.0, 1)])
            .verdict()
            .unwrap_err()
            .to_string();
        assert!(error.contains("chat on gateway: status 500"), "{error}");
    }
}
