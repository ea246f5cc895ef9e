//! What a probe has found in each model, and the verdict that follows from it.

use serde::Serialize;

/// Which model a probe speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The worker that fetches its secrets itself is better off.
    Embedded,
    /// The one that ECS injects them into is.
    Injected,
    /// Neither is.
    Equal,
}

impl Verdict {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Embedded => "embedded better",
            Self::Injected => "injection better",
            Self::Equal => "equal",
        }
    }
}

/// What is counted. Of each less is better, so that a verdict needs no more than two amounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Of the four values, those that an attacker had.
    Values,
    /// Of the four values of the next rotation, those that an attacker had.
    NextValues,
    /// Of the four values that were rotated out, those that are still there.
    OldValues,
    /// Of the four values before the current ones, those that may still be read.
    OlderValues,
    /// Of the four values that an attacker had, those that no event of the audit trail tells of.
    SilentValues,
    /// Tracers that could attach.
    Tracers,
    /// Actions of Secrets Manager's API that the task itself calls.
    Actions,
    /// Calls to Secrets Manager a day by a task whose secrets do not rotate, with default settings.
    CallsADay,
    /// New tasks that it takes.
    NewTasks,
    /// Posts of a live feed that fell due while no stream was open.
    PostsMissed,
    /// Tasks that do not start.
    NotStarted,
    /// Tasks that stop writing rows.
    Stopped,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Values,
        Self::NextValues,
        Self::OldValues,
        Self::OlderValues,
        Self::SilentValues,
        Self::Tracers,
        Self::Actions,
        Self::CallsADay,
        Self::NewTasks,
        Self::PostsMissed,
        Self::NotStarted,
        Self::Stopped,
    ];

    /// An amount in words.
    #[must_use]
    pub fn words(self, amount: u64) -> String {
        let of_four = |what: &str| match amount {
            0 => format!("none of the 4 {what}"),
            some => format!("{some} of the 4 {what}"),
        };
        let either = |none: &str, some: &str| if amount == 0 { none } else { some }.to_owned();
        match self {
            Self::Values => of_four("values"),
            Self::NextValues => of_four("next values"),
            Self::OldValues => of_four("old values"),
            Self::OlderValues => of_four("values before the current ones"),
            Self::SilentValues => of_four("values without an event"),
            Self::Tracers => either("no tracer attaches", "a tracer attaches"),
            Self::Actions => match amount {
                0 => "no action of Secrets Manager".to_owned(),
                some => format!("{some} actions of Secrets Manager"),
            },
            Self::CallsADay => match amount {
                0 => "no calls between starts".to_owned(),
                some => format!("{some} calls a day"),
            },
            Self::NewTasks => either("no new task", "a new task"),
            // How many depends on how long a start takes.
            Self::PostsMissed => {
                either("no post is missed", "for a while no stream is open, and posts are missed")
            }
            Self::NotStarted => either("it starts", "it does not start"),
            Self::Stopped => either("rows are written", "no rows are written"),
        }
    }
}

/// What was found in one model. It never holds a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// How many, of what the [`Measure`] says.
    pub amount: u64,
    /// What else was seen: the same at every run.
    pub facts: Vec<String>,
    /// What was measured and differs from run to run, with its unit.
    pub figures: Vec<String>,
}

impl Observed {
    /// An amount.
    #[must_use]
    pub fn new(amount: usize) -> Self {
        Self { amount: amount as u64, ..Self::default() }
    }

    /// With one more fact.
    #[must_use]
    pub fn with(mut self, fact: impl Into<String>) -> Self {
        self.facts.push(fact.into());
        self
    }

    /// With one more fact where it is one.
    #[must_use]
    pub fn with_if(self, is: bool, fact: &str) -> Self {
        if is { self.with(fact) } else { self }
    }

    /// With one more figure.
    #[must_use]
    pub fn figure(mut self, figure: impl Into<String>) -> Self {
        self.figures.push(figure.into());
        self
    }
}

/// What was found in both models under the same attack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// What was counted.
    pub measure: Measure,
    /// Where the worker fetches its secrets itself.
    pub embedded: Observed,
    /// Where ECS injects them. Program, hardening and allocator are those of the worker.
    pub injected: Observed,
    /// Where ECS injects them into a program that does nothing about its process. Where there is one, it
    /// is also the control: the attack works.
    pub unhardened: Option<Observed>,
}

impl Evidence {
    /// Of both models.
    #[must_use]
    pub const fn new(measure: Measure, embedded: Observed, injected: Observed) -> Self {
        Self { measure, embedded, injected, unhardened: None }
    }

    /// Which model is better off. It follows from the two amounts alone.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.embedded.amount.cmp(&self.injected.amount) {
            std::cmp::Ordering::Less => Verdict::Embedded,
            std::cmp::Ordering::Equal => Verdict::Equal,
            std::cmp::Ordering::Greater => Verdict::Injected,
        }
    }

    /// Whether nothing was had of any, the control among them.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        let models = [&self.embedded, &self.injected].into_iter();
        models.chain(&self.unhardened).all(|observed| observed.amount == 0)
    }

    /// What was found, in words: the same at every run that finds the same.
    #[must_use]
    pub fn words(&self, observed: &Observed) -> String {
        let mut words = self.measure.words(observed.amount);
        for fact in &observed.facts {
            words.push_str("; ");
            words.push_str(fact);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_can_come_out_for_either_model_and_for_none() {
        for measure in Measure::ALL {
            let verdict = |embedded, injected| {
                let [embedded, injected] = [embedded, injected].map(Observed::new);
                Evidence::new(measure, embedded, injected).verdict()
            };
            for (less, more) in [(0, 1), (0, 4), (1, 4), (4, 5)] {
                assert_eq!(verdict(less, more), Verdict::Embedded, "{measure:?}");
                assert_eq!(verdict(more, less), Verdict::Injected, "{measure:?}");
                assert_eq!(verdict(more, more), Verdict::Equal, "{measure:?}");
            }
            assert_ne!(measure.words(0), measure.words(1));
        }
    }

    #[test]
    fn neither_a_fact_nor_a_figure_nor_the_control_moves_a_verdict() {
        let plain = Evidence::new(Measure::Values, Observed::new(0), Observed::new(4));
        let mut told = plain.clone();
        told.embedded = told.embedded.with("a fact").figure("7 s");
        told.unhardened = Some(Observed::new(0));
        assert_eq!(told.verdict(), plain.verdict());
        // What differs from run to run is in no text that is compared.
        assert_eq!(told.words(&told.embedded), "none of the 4 values; a fact");
    }

    #[test]
    fn what_either_model_gave_away_is_something_whatever_the_control_gave() {
        let evidence = |embedded, injected, control| Evidence {
            unhardened: Some(Observed::new(control)),
            ..Evidence::new(Measure::Values, Observed::new(embedded), Observed::new(injected))
        };
        assert!(evidence(0, 0, 0).is_nothing());
        for (embedded, injected, control) in [(1, 0, 0), (0, 1, 0), (0, 0, 1)] {
            assert!(!evidence(embedded, injected, control).is_nothing());
        }
    }

    #[test]
    fn a_verdict_is_written_as_one_word() {
        let written = [Verdict::Embedded, Verdict::Injected, Verdict::Equal];
        let written = written.map(|verdict| serde_json::to_string(&verdict).unwrap());
        assert_eq!(written, ["\"embedded\"", "\"injected\"", "\"equal\""]);
    }
}
