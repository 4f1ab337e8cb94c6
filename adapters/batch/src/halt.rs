//! Halting: an early end of a run, because enough tasks have failed, succeeded or ended.

use core::fmt;
use core::str::FromStr;

/// A condition under which no further task begins; calls in flight are waited for. Written as GNU parallel's `--halt`.
///
/// ```
/// use leasehold_batch::Halt;
///
/// let halt: Halt = "soon,fail=3%".parse()?;
/// assert_eq!(halt.to_string(), "soon,fail=3%");
/// assert!("now,fail=1".parse::<Halt>().unwrap_err().to_string().contains("write soon"));
/// # Ok::<(), leasehold_batch::ParseHaltError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halt {
    counted: Counted,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Failed,
    Succeeded,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Tasks(usize),
    /// Of all tasks of the run.
    Percent(u8),
}

/// A text that is no [`Halt`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseHaltError {
    /// It would end calls in flight.
    #[error("now would lose calls that are paid for; write soon, such as soon,fail=3%")]
    Now,
    /// It is written in another way.
    #[error(
        "write soon,fail=N, soon,success=N or soon,done=N, with a number of tasks or a percentage such as 3%"
    )]
    Form,
}

impl Halt {
    /// Says why a run with this number of tasks ends now; `None` if it goes on. A percentage counts from the third task on.
    pub(crate) fn reason(self, tasks: usize, ok: usize, failed: usize) -> Option<String> {
        let (count, what) = match self.counted {
            Counted::Failed => (failed, "failed"),
            Counted::Succeeded => (ok, "succeeded"),
            Counted::Ended => (ok.saturating_add(failed), "ended"),
        };
        let is_reached = match self.at {
            At::Tasks(at) => count >= at,
            At::Percent(percent) => {
                let share = tasks.saturating_mul(percent.into());
                count >= 3 && count.saturating_mul(100) >= share
            }
        };
        is_reached.then(|| format!("halted (--halt {self}): {count} of {tasks} tasks have {what}"))
    }
}

impl FromStr for Halt {
    type Err = ParseHaltError;

    fn from_str(text: &str) -> Result<Self, ParseHaltError> {
        let (when, condition) = text.split_once(',').ok_or(ParseHaltError::Form)?;
        match when {
            "soon" => {}
            "now" => return Err(ParseHaltError::Now),
            _ => return Err(ParseHaltError::Form),
        }
        let (counted, number) = condition.split_once('=').ok_or(ParseHaltError::Form)?;
        let counted = match counted {
            "fail" => Counted::Failed,
            "success" => Counted::Succeeded,
            "done" => Counted::Ended,
            _ => return Err(ParseHaltError::Form),
        };
        let at = match number.strip_suffix('%') {
            Some(percent) => percent.parse().map(At::Percent),
            None => number.parse().map(At::Tasks),
        };
        match at.map_err(|_| ParseHaltError::Form)? {
            At::Percent(101..) | At::Percent(0) | At::Tasks(0) => Err(ParseHaltError::Form),
            at @ (At::Percent(_) | At::Tasks(_)) => Ok(Self { counted, at }),
        }
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = match self.counted {
            Counted::Failed => "fail",
            Counted::Succeeded => "success",
            Counted::Ended => "done",
        };
        match self.at {
            At::Tasks(count) => write!(f, "soon,{counted}={count}"),
            At::Percent(percent) => write!(f, "soon,{counted}={percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_halts_at_a_count_or_a_share_of_its_tasks() {
        for (text, tasks, ok, failed, halts) in [
            ("soon,fail=2", 10, 5, 1, false),
            ("soon,fail=2", 10, 5, 2, true),
            ("soon,fail=3%", 100, 0, 2, false),
            ("soon,fail=3%", 100, 0, 3, true),
            ("soon,fail=50%", 4, 0, 2, false),
            ("soon,success=1", 10, 1, 0, true),
            ("soon,done=4", 10, 2, 2, true),
        ] {
            let halt: Halt = text.parse().unwrap();
            assert_eq!(halt.reason(tasks, ok, failed).is_some(), halts, "{text}");
            assert_eq!(halt.to_string(), text);
        }
        for wrong in [
            "",
            "soon",
            "soon,fail",
            "soon,fail=0",
            "soon,fail=101%",
            "later,fail=1",
        ] {
            assert_eq!(wrong.parse::<Halt>(), Err(ParseHaltError::Form), "{wrong}");
        }
    }
}
