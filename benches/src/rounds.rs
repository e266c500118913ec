//! Contenders that take turns: A B C A B C, so that what disturbs the machine disturbs all of them.

use std::error::Error;
use std::time::Duration;

/// Anything that can fail, with the reason.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Something to time.
pub struct Contender<'a> {
    name: String,
    pass: Box<dyn FnMut() -> Result<Duration> + 'a>,
}

impl std::fmt::Debug for Contender<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contender")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<'a> Contender<'a> {
    /// A contender whose `pass` does the whole work once and says how long it ran.
    pub fn new(name: impl Into<String>, pass: impl FnMut() -> Result<Duration> + 'a) -> Self {
        Self {
            name: name.into(),
            pass: Box::new(pass),
        }
    }

    /// A contender in this thread, timed by the thread's own clock.
    pub fn here(name: impl Into<String>, mut pass: impl FnMut() + 'a) -> Self {
        Self::new(name, move || Ok(crate::cpu::time(&mut pass).1))
    }
}

/// What a contender took, round by round.
#[derive(Clone, Debug)]
pub struct Series {
    /// The contender's name.
    pub name: String,
    /// Nanoseconds an operation in each round.
    pub rounds: Vec<f64>,
}

impl Series {
    /// The fastest round.
    #[must_use]
    pub fn best(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The middle round.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(self.rounds.clone())
    }

    /// How many times as long as `other` it took: in the best rounds of both, and in the middle of the
    /// ratios round by round.
    #[must_use]
    pub fn ratio_to(&self, other: &Self) -> (f64, f64) {
        let by_round = self
            .rounds
            .iter()
            .zip(&other.rounds)
            .map(|(own, other)| own / other);
        (self.best() / other.best(), median(by_round.collect()))
    }
}

/// Has the contenders take turns for `rounds` rounds; each pass is `operations` long.
///
/// A turn is two passes, and the second counts: the first fetches into the caches what the others'
/// turns have thrown out, so that nobody pays for who went before.
///
/// # Errors
/// The first failure of a contender.
pub fn interleave(
    rounds: usize,
    operations: usize,
    contenders: &mut [Contender<'_>],
) -> Result<Vec<Series>> {
    let mut all: Vec<_> = contenders
        .iter()
        .map(|it| Series {
            name: it.name.clone(),
            rounds: Vec::new(),
        })
        .collect();
    for _ in 0..rounds {
        for (contender, series) in contenders.iter_mut().zip(&mut all) {
            (contender.pass)()?;
            let took = (contender.pass)()?;
            let nanos = took.as_nanos() as f64 / operations as f64;
            series.rounds.push(nanos);
        }
    }
    Ok(all)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn contenders_take_turns_and_the_second_pass_of_a_turn_counts() {
        let turns = RefCell::new(String::new());
        let contender = |name: char, micros: u64| {
            let turns = &turns;
            Contender::new(name, move || {
                turns.borrow_mut().push(name);
                Ok(Duration::from_micros(micros * turns.borrow().len() as u64))
            })
        };
        let all = interleave(2, 1000, &mut [contender('a', 1), contender('b', 2)]).unwrap();
        assert_eq!(*turns.borrow(), "aabbaabb");
        assert_eq!(all[0].rounds, [2.0, 6.0]);
        assert_eq!((all[1].best(), all[1].median()), (8.0, 12.0));
        assert!((all[1].ratio_to(&all[0]).0 - 4.0).abs() < 1e-9);
    }

    #[test]
    fn a_failure_ends_the_rounds() {
        let mut all = [Contender::new("a", || Err("gone".into()))];
        assert_eq!(interleave(1, 1, &mut all).unwrap_err().to_string(), "gone");
    }
}
