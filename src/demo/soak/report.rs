//! What a soak came to.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

use crate::demo::to_f64;

/// How much resident memory may grow over a run: this share of it.
const GROWTH: f64 = 0.02;

/// What a soak came to. All was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// What the troubles were drawn from.
    pub seed: u64,
    /// How long it lasted.
    pub seconds: f64,
    /// Troubles, rotations and hand-overs among them.
    pub faults: u64,
    /// Rotations, torn ones among them.
    pub rotations: u64,
    /// Posts that the feed handed over.
    pub posts_sent: u64,
    /// Posts that fell due while there was no stream. No feed of v1.1 sends them again.
    pub posts_missed: u64,
    /// Rows read back from the table at the end.
    pub rows_in_table: u64,
    /// Posts that were sent and that the table does not hold, without those that were unread at a
    /// hand-over.
    pub rows_lost: u64,
    /// Rows whose user, date or text is not what the feed sent.
    pub rows_differing: u64,
    /// Rows with an id that another has, too.
    pub duplicate_ids: u64,
    /// By which share of it resident memory has grown from the first quarter to the end, by the line
    /// that fits best; none where it was measured too seldom to say.
    pub rss_slope: Option<f64>,
    /// Resident memory at the end.
    pub rss_bytes: u64,
    /// Copies and fragments of credentials that were rotated out; none where it was not searched.
    pub old_secrets_found: Option<u64>,
    /// Searches of the memory.
    pub scans: u64,
    /// Why there were no more.
    pub scan_skipped: Option<String>,
    /// Workers that ended by a bug.
    pub panics: u64,
    /// Workers that were asked to stop and did not end with 0.
    pub stops_failed: u64,
    /// How often the worker's health was not what the trouble makes it.
    pub health_mismatches: u64,
    /// How often it was asked.
    pub health_checks: u64,
    /// At the end, one after the other.
    pub hand_overs: Vec<HandOver>,
    /// What was not right, in words.
    pub complaints: Vec<String>,
}

/// What a hand-over from one worker to the next has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct HandOver {
    /// From the end of the old worker's stream to the beginning of the new one's.
    pub gap_seconds: f64,
    /// Posts that fell due meanwhile.
    pub posts_missed: u64,
    /// Posts that the feed had sent on the old stream when it was closed, and that the old worker says
    /// it has not read.
    pub posts_unread: u64,
    /// Posts that had been sent by then.
    #[serde(skip)]
    pub(super) sent: u64,
}

impl HandOver {
    /// Which of the posts sent were unread: the last ones.
    pub(super) const fn unread(&self) -> Range<u64> {
        self.sent - self.posts_unread..self.sent
    }
}

impl Report {
    /// Notes how a worker has ended that was asked to stop. Whether it ended well.
    pub(super) fn stopped(&mut self, status: &str) -> bool {
        let is_clean = status == "exit status: 0";
        if !is_clean {
            self.stops_failed += 1;
            self.panics += u64::from(status == "exit status: 70");
            self.complaints.push(format!("a worker that was stopped ended with {status}"));
        }
        is_clean
    }

    /// Whether every check held. Where memory cannot be searched, as without root, that one is left out: the
    /// report says so.
    #[must_use]
    pub fn is_right(&self) -> bool {
        let none = [
            self.rows_lost,
            self.rows_differing,
            self.duplicate_ids,
            self.old_secrets_found.unwrap_or_default(),
            self.panics,
            self.stops_failed,
            self.health_mismatches,
        ];
        self.faults > 0
            && none.iter().all(|count| *count == 0)
            && self.rss_slope.is_some_and(|slope| slope <= GROWTH)
            && (self.scans > 0 || self.scan_skipped.is_some())
            && self.complaints.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "  {name:<28}{value}");
        line("seed", self.seed.to_string())?;
        line("lasted", format!("{:.0} s", self.seconds))?;
        line("troubles", self.faults.to_string())?;
        line("rotations among them", self.rotations.to_string())?;
        line("posts sent", self.posts_sent.to_string())?;
        line("posts missed without stream", self.posts_missed.to_string())?;
        line("rows in the table", self.rows_in_table.to_string())?;
        line("rows lost", self.rows_lost.to_string())?;
        line("rows not as sent", self.rows_differing.to_string())?;
        line("duplicate ids", self.duplicate_ids.to_string())?;
        let found = self.old_secrets_found.map_or_else(
            || format!("not searched: {}", self.scan_skipped.as_deref().unwrap_or_default()),
            |found| format!("{found} in {} searches", self.scans),
        );
        line("old credentials in memory", found)?;
        let grew = self.rss_slope.map(|slope| format!("{:+.2} %", slope * 100.0));
        line("memory grew by", grew.unwrap_or_else(|| "measured too seldom".to_owned()))?;
        let megabytes = self.rss_bytes / 100_000;
        line("resident memory", format!("{}.{} MB", megabytes / 10, megabytes % 10))?;
        let wrong = format!("{} of {}", self.health_mismatches, self.health_checks);
        line("health was wrong", wrong)?;
        line("panics", self.panics.to_string())?;
        line("stops that failed", self.stops_failed.to_string())?;
        for HandOver { gap_seconds, posts_missed, posts_unread, .. } in &self.hand_overs {
            let cost = format!("{gap_seconds:.2} s, {posts_missed} missed, {posts_unread} unread");
            line("gap of a hand-over, posts", cost)?;
        }
        self.complaints.iter().try_for_each(|complaint| writeln!(f, "  {complaint}"))?;
        match &self.scan_skipped {
            Some(why) => writeln!(
                f,
                "\n  LEFT OUT after {} searches: whether memory holds old credentials. {why}",
                self.scans
            ),
            None => Ok(()),
        }
    }
}

/// By which share the second coordinate grows over the last three quarters of the samples, by least
/// squares. None where there are too few.
pub(super) fn growth(samples: &[(f64, f64)]) -> Option<f64> {
    let samples = samples.get(samples.len() / 4..).unwrap_or_default();
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return None };
    let count = to_f64(samples.len() as u64);
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let deviation = |(x, _): &(f64, f64)| x - mean_x;
    let variance: f64 = samples.iter().map(|sample| deviation(sample).powi(2)).sum();
    let covariance: f64 =
        samples.iter().map(|sample| deviation(sample) * (sample.1 - mean_y)).sum();
    if variance == 0.0 || mean_y == 0.0 {
        return None;
    }
    Some(covariance / variance * (last.0 - first.0) / mean_y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_last_three_quarters() {
        let flat: Vec<_> =
            (0..100).map(|n| (f64::from(n), if n < 20 { 1.0 } else { 10.0 })).collect();
        assert!(growth(&flat).unwrap().abs() < 1e-9);
        let rising: Vec<_> =
            (0..100).map(|n| (f64::from(n), 100.0 + f64::from(n) / 10.0)).collect();
        let grown = growth(&rising).unwrap();
        assert!((grown - 0.07).abs() < 0.01, "{grown}");
        assert_eq!((growth(&[]), growth(&[(1.0, 2.0)])), (None, None));
    }

    #[test]
    fn one_thing_that_is_not_right_fails_a_soak() {
        let right = Report { faults: 1, rss_slope: Some(0.0), scans: 1, ..Report::default() };
        assert!(right.is_right());
        // Without root the rest counts, and what does not is said.
        let why = Some("no root".to_owned());
        let unsearched = Report { scans: 0, scan_skipped: why, ..right.clone() };
        assert!(unsearched.is_right() && unsearched.to_string().contains("LEFT OUT"));
        assert!(!right.to_string().contains("LEFT OUT"));
        for wrong in [
            Report { rows_lost: 1, ..right.clone() },
            Report { old_secrets_found: Some(1), ..right.clone() },
            Report { panics: 1, ..right.clone() },
            Report { stops_failed: 1, ..right.clone() },
            Report { health_mismatches: 1, ..right.clone() },
            Report { rss_slope: Some(0.021), ..right.clone() },
            Report { rss_slope: None, ..right.clone() },
            Report { scans: 0, ..right.clone() },
            Report { complaints: vec!["a worker that hangs".to_owned()], ..right.clone() },
            Report { faults: 0, ..right.clone() },
        ] {
            assert!(!wrong.is_right(), "{wrong:?}");
        }
    }
}
