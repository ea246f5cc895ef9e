//! What a figure is, and how its sides take turns.

use std::fmt::Write as _;

use serde::Serialize;

/// Something measured, beside what it is compared with.
#[derive(Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    pub measured: f64,
    pub compared_with: &'static str,
    pub comparison: f64,
    /// Of what was measured to the comparison.
    pub ratio: f64,
    pub goal: Option<Goal>,
    /// Whether the goal is met.
    pub holds: bool,
    /// The name under which the report has it at its top, and the number there.
    #[serde(skip)]
    pub key: Option<(&'static str, f64)>,
}

/// What a figure must be.
#[derive(Clone, Copy, Serialize)]
pub enum Goal {
    /// The ratio, at most.
    RatioUpTo(f64),
    /// The ratio, at least.
    RatioFrom(f64),
    /// What is measured, at most.
    UpTo(f64),
}

impl Figure {
    pub fn new(
        (name, unit): (&'static str, &'static str),
        measured: f64,
        (compared_with, comparison): (&'static str, f64),
        goal: Option<Goal>,
    ) -> Self {
        let ratio = measured / comparison;
        let holds = goal.is_none_or(|goal| match goal {
            Goal::RatioUpTo(limit) => ratio <= limit,
            Goal::RatioFrom(limit) => ratio >= limit,
            Goal::UpTo(limit) => measured <= limit,
        });
        Self { name, unit, measured, compared_with, comparison, ratio, goal, holds, key: None }
    }

    pub fn keyed(self, key: &'static str, number: f64) -> Self {
        Self { key: Some((key, number)), ..self }
    }

    pub fn ratio_as(self, key: &'static str) -> Self {
        let ratio = self.ratio;
        self.keyed(key, ratio)
    }

    pub fn measured_as(self, key: &'static str) -> Self {
        let measured = self.measured;
        self.keyed(key, measured)
    }
}

/// Says on standard error what is being measured: all of it takes minutes.
#[expect(clippy::print_stderr, reason = "the table alone goes to standard output")]
pub fn progress(what: &str) {
    eprintln!("figures: {what}");
}

/// The figures, one a line.
pub fn table(figures: &[Figure]) -> String {
    let mut table =
        format!("{:<48}{:>10}{:>10}{:>8}   goal", "figure", "measured", "beside", "ratio");
    for Figure { name, unit, measured, compared_with, comparison, ratio, goal, holds, .. } in
        figures
    {
        let goal = match goal {
            Some(Goal::RatioUpTo(limit)) => format!("ratio up to {limit}"),
            Some(Goal::RatioFrom(limit)) => format!("ratio {limit} or more"),
            Some(Goal::UpTo(limit)) => format!("up to {limit} {unit}"),
            None => "none".to_owned(),
        };
        let missed = if *holds { "" } else { " MISSED" };
        let _ = write!(
            table,
            "\n{name:<48}{measured:>10.2}{comparison:>10.2}{ratio:>8.3}   \
             {goal}{missed}   ({unit}; beside: {compared_with})",
        );
    }
    table
}

/// The median of an odd number of rounds.
pub fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds.get(rounds.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The seconds of processor that each side takes on this thread: the medians of so many rounds.
pub fn cpu_seconds<const SIDES: usize>(
    rounds: usize,
    mut sides: [&mut dyn FnMut(); SIDES],
) -> [f64; SIDES] {
    let mut seconds = [const { Vec::new() }; SIDES];
    for _ in 0..rounds {
        for (side, seconds) in sides.iter_mut().zip(&mut seconds) {
            let before = thread_seconds();
            side();
            seconds.push(thread_seconds() - before);
        }
    }
    seconds.map(median)
}

#[expect(clippy::cast_precision_loss, reason = "a round takes far less than 2^52 ns")]
fn thread_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
