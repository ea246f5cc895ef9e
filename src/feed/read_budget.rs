//! How many posts may be read, of a feed that is paid for by the post.
//!
//! It counts what this process has read, in days and months of UTC. Another task, and the one before
//! this, are not known here, and X may count what is not a post here, such as a record that is
//! malformed: X's own spending cap is what limits the bill.

use std::time::{Duration, SystemTime};

use time::{Date, OffsetDateTime};

/// The limits: `READ_BUDGET`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Posts a day.
    pub day: Option<u64>,
    /// Posts a month.
    pub month: Option<u64>,
}

impl Limits {
    /// Reads `10000`, `10000/day`, `200000/month`, or both with a comma between.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut limits = Self::default();
        for limit in text.split(',') {
            let (count, period) = limit.split_once('/').unwrap_or((limit, "day"));
            let count = count.trim().parse().ok().filter(|count| *count > 0)?;
            let place = match period.trim() {
                "day" => &mut limits.day,
                "month" => &mut limits.month,
                _ => return None,
            };
            if place.replace(count).is_some() {
                return None;
            }
        }
        Some(limits)
    }
}

/// What a post that was read means for the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// Nothing worth saying.
    Little,
    /// Four fifths of this period's posts are read. It is said once a period.
    Most(Period),
    /// All of them are.
    All(Period),
}

/// What is counted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// From midnight UTC to midnight UTC.
    Day,
    /// From the first of a month, UTC.
    Month,
}

impl Period {
    /// The word for it in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The first day of the period that follows the one that `date` is in.
    fn after(self, date: Date) -> Option<Date> {
        match self {
            Self::Day => date.next_day(),
            Self::Month => {
                let (year, next) = (date.year(), date.month().next());
                let year = if next == time::Month::January { year + 1 } else { year };
                Date::from_calendar_date(year, next, 1).ok()
            }
        }
    }
}

/// The posts read so far.
#[derive(Debug)]
pub struct ReadBudget {
    counters: Vec<Counter>,
}

#[derive(Debug)]
struct Counter {
    period: Period,
    limit: u64,
    read: u64,
    warned: bool,
    /// The first day that does not count any more.
    until: Option<Date>,
}

impl ReadBudget {
    /// A budget of which nothing is spent.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let counter = |(period, limit): (Period, Option<u64>)| {
            Some(Counter { period, limit: limit?, read: 0, warned: false, until: None })
        };
        let periods = [(Period::Day, limits.day), (Period::Month, limits.month)];
        Self { counters: periods.into_iter().filter_map(counter).collect() }
    }

    /// Whether there is any limit.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        !self.counters.is_empty()
    }

    /// One more post was read.
    pub fn read(&mut self, now: SystemTime) -> Spent {
        let mut spent = Spent::Little;
        let today = OffsetDateTime::from(now).date();
        for counter in &mut self.counters {
            counter.turn(today);
            counter.read += 1;
            if counter.read >= counter.limit {
                spent = Spent::All(counter.period);
            } else if counter.read >= counter.limit - counter.limit / 5 && !counter.warned {
                counter.warned = true;
                if spent == Spent::Little {
                    spent = Spent::Most(counter.period);
                }
            }
        }
        spent
    }

    /// How much is read, in percent: of the period of which the most is.
    #[must_use]
    pub fn percent(&self) -> u64 {
        let percents = self.counters.iter().map(|counter| counter.read * 100 / counter.limit);
        percents.max().unwrap_or_default()
    }

    /// How long it is until a post may be read again; `None` where one may now.
    pub fn closed_for(&mut self, now: SystemTime) -> Option<Duration> {
        let now = OffsetDateTime::from(now);
        let today = now.date();
        let waits = self.counters.iter_mut().filter_map(|counter| {
            counter.turn(today);
            let until = counter.until.filter(|_| counter.read >= counter.limit)?;
            Duration::try_from(until.midnight().assume_utc() - now).ok()
        });
        waits.max()
    }
}

impl Counter {
    /// Begins anew where the period has turned.
    fn turn(&mut self, today: Date) {
        if self.until.is_none_or(|until| today >= until) {
            self.until = self.period.after(today);
            self.read = 0;
            self.warned = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-12-31 at this hour, and so many days after.
    fn at(hour: u64, days: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(1_798_675_200 / 3600 + hour + days * 24)
    }

    #[test]
    fn limits_are_read_as_documented_and_nothing_else() {
        let limits = |day, month| Some(Limits { day, month });
        assert_eq!(Limits::parse("10000"), limits(Some(10_000), None));
        assert_eq!(Limits::parse("10000/day, 5/month"), limits(Some(10_000), Some(5)));
        assert_eq!(Limits::parse("200000/month"), limits(None, Some(200_000)));
        for text in ["", "0", "-1", "1/week", "1,2", "1/day,2/day", "many", "1/"] {
            assert_eq!(Limits::parse(text), None, "{text}");
        }
    }

    #[test]
    fn it_warns_once_at_four_fifths_closes_at_all_and_opens_when_the_day_turns() {
        let mut budget = ReadBudget::new(Limits { day: Some(10), month: None });
        let spent: Vec<_> = (0..11).map(|_| budget.read(at(23, 0))).collect();
        assert!(spent[..7].iter().all(|spent| *spent == Spent::Little));
        assert_eq!(spent[7], Spent::Most(Period::Day));
        assert_eq!(spent[8], Spent::Little);
        assert_eq!(spent[9..], [Spent::All(Period::Day); 2]);
        assert_eq!(budget.percent(), 110);
        assert_eq!(budget.closed_for(at(23, 0)), Some(Duration::from_hours(1)));
        assert_eq!(budget.closed_for(at(0, 1)), None);
        assert_eq!(budget.read(at(0, 1)), Spent::Little);
        assert_eq!(budget.percent(), 10);
    }

    #[test]
    fn a_month_turns_at_its_end_also_at_that_of_the_year() {
        let mut budget = ReadBudget::new(Limits { day: Some(5), month: Some(6) });
        let days: Vec<_> = (0..5).map(|_| budget.read(at(1, 0))).collect();
        assert_eq!(days[4], Spent::All(Period::Day));
        assert_eq!(budget.closed_for(at(1, 0)), Some(Duration::from_hours(23)));
        // The month of the day after is another one.
        assert_eq!(budget.closed_for(at(0, 1)), None);
        for _ in 0..6 {
            let _ = budget.read(at(0, 1));
        }
        let january = Duration::from_hours(31 * 24);
        assert_eq!(budget.closed_for(at(0, 1)), Some(january));
    }

    #[test]
    fn without_limits_nothing_is_counted() {
        let mut budget = ReadBudget::new(Limits::default());
        assert_eq!(budget.read(at(0, 0)), Spent::Little);
        assert_eq!(budget.closed_for(at(0, 0)), None);
    }
}
