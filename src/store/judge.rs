//! Operations that depend on the row that they find: conditions, additions, reads between writes. Several of one key
//! are judged one after the other, on the row as the database has it: pure. Used by [`super::writer`], which has the
//! database change the row only if it is still the one that was judged.
//!
//! ```text
//!  row found   "7", version 40
//!  steps       Add 1          If-Match "40" Set x    If-Match "41" Set y    Read
//!  judged      7 + 1 = 8      row is being written:  the same: 412          8
//!                             no one can know: 412
//!  change      from version 40 to "8", one row, one commit
//! ```

use super::{Answer, NO_VERSION, Op, Step};
use crate::engine::{NEVER, Record, Value};
use crate::http::conditional::Current;

/// A row as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// The row.
    pub record: Record,
    /// Its time is over: it is as good as none, but it is in its place.
    pub expired: bool,
}

/// What is to become of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// The key.
    pub key: &'a str,
    /// The version that the row must still have, or that there must still be none.
    pub from: Option<u32>,
    /// The time of that row was over, and must still be; or was not, and must not be now.
    pub expired: bool,
    /// What it becomes; `None`: it only must be the same until the commit of the others.
    pub to: Option<To>,
}

/// What a row becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// This value.
    Value(Value, Expiry),
    /// It is deleted.
    Nothing,
}

/// When a row expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// After so many seconds.
    After(u32),
    /// When it did before.
    Kept,
}

/// The judgement on one key's steps.
#[derive(Debug)]
pub struct Judged {
    /// What is to become of the row; `None`: nothing.
    pub to: Option<To>,
    /// When the row that is left expires, in seconds of the process's clock.
    pub expires_s: u32,
    /// The version of the row that was found, if there was one whose time was not over.
    pub found: Option<u32>,
    /// Its batch does nothing, because some step of it could not.
    undone: bool,
    /// The answer to every step, as if they had run one after the other.
    answers: Vec<Answer>,
    /// From here on answers speak of the row that the change leaves.
    last: usize,
}

impl Judged {
    /// Judges the steps of one key on the row that was found. `now_s` is the time before it was looked for.
    pub fn new<'a>(before: Option<&Before>, steps: impl Iterator<Item = &'a Step>, now_s: u32) -> Judged {
        let mut row = before.filter(|before| !before.expired).map(|before| before.record.clone());
        let found = row.as_ref().map(|record| record.version);
        // Nobody has seen a row that this batch writes.
        let mut expiry = Expiry::Kept;
        let mut judged =
            Judged { to: None, expires_s: NEVER, found, undone: false, answers: Vec::new(), last: 0 };
        for step in steps {
            let current = match &row {
                None => Current::Absent,
                Some(Record { version: NO_VERSION, .. }) => Current::Unversioned,
                Some(record) => Current::Version(record.version),
            };
            if step.conditions.as_ref().is_some_and(|conditions| !conditions.allow(current)) {
                judged.answers.push(Answer::PreconditionFailed);
                continue;
            }
            let (value, new_expiry, expires_s) = match &step.op {
                Op::Read => {
                    judged.answers.push(Answer::Found(row.clone()));
                    continue;
                }
                Op::Delete => {
                    // An expired row may stay in its place: nobody can tell the two apart.
                    judged.wrote(row.is_some().then_some(To::Nothing));
                    judged.answers.push(Answer::Deleted { existed: row.take().is_some() });
                    continue;
                }
                Op::Set { value, ttl_s: None } => (value.clone(), Expiry::Never, NEVER),
                Op::Set { value, ttl_s: Some(ttl_s) } => {
                    (value.clone(), Expiry::After(*ttl_s), now_s.saturating_add(*ttl_s))
                }
                Op::Add(by) => match add(row.as_ref().map(|record| &*record.value), *by) {
                    Some(sum) if row.is_some() => {
                        (sum, expiry, row.as_ref().map_or(NEVER, |record| record.expires_s))
                    }
                    Some(sum) => (sum, Expiry::Never, NEVER),
                    None => {
                        judged.answers.push(Answer::NotANumber);
                        continue;
                    }
                },
            };
            let created = row.is_none();
            (expiry, judged.expires_s) = (new_expiry, expires_s);
            judged.wrote(Some(To::Value(value.clone(), expiry)));
            let record = Record { value, version: NO_VERSION, expires_s };
            judged.answers.push(Answer::Stored { key: step.key.clone(), record: record.clone(), created });
            row = Some(record);
        }
        judged
    }

    /// The step whose answer comes next has changed the row to this; `None`: it has left it as it is.
    fn wrote(&mut self, to: Option<To>) {
        if to.is_some() {
            self.to = to;
            self.last = self.answers.len();
        }
    }

    /// True where some step could not do what it is for: an all-or-nothing batch then does nothing.
    pub fn has_failed(&self) -> bool {
        self.answers.iter().any(|answer| matches!(answer, Answer::PreconditionFailed | Answer::NotANumber))
    }

    /// The answers, given the version of the row that the change has left.
    pub fn answers(mut self, version: u32) -> Vec<Answer> {
        for answer in &mut self.answers[self.last..] {
            match answer {
                Answer::Stored { record, .. } | Answer::Found(Some(record))
                    if record.version == NO_VERSION =>
                {
                    record.version = version;
                }
                _ => {}
            }
        }
        self.answers
    }

    /// Takes the change back: the batch does nothing.
    pub fn undo(&mut self) {
        (self.to, self.undone) = (None, true);
    }

    /// True after [`Judged::undo`].
    pub fn is_undone(&self) -> bool {
        self.undone
    }

    /// The answers of a batch that does nothing because some step could not.
    pub fn not_done(self) -> Vec<Answer> {
        let keep = |answer| match answer {
            failed @ (Answer::PreconditionFailed | Answer::NotANumber) => failed,
            _ => Answer::NotDone,
        };
        self.answers.into_iter().map(keep).collect()
    }
}

/// The sum as text, if both are whole numbers of 64 bits, and the sum too.
fn add(value: Option<&str>, by: i64) -> Option<Value> {
    let number = match value {
        None => 0,
        // What Rust reads and an integer's text is not: a plus sign.
        Some(text) if text.starts_with('+') => return None,
        Some(text) => text.parse::<i64>().ok()?,
    };
    Some(number.checked_add(by)?.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::conditional::Preconditions;

    fn set(value: &str, ttl_s: Option<u32>) -> Op {
        Op::Set { value: value.into(), ttl_s }
    }

    fn step(op: Op, if_match: Option<&str>, if_none_match: Option<&str>) -> Step {
        let conditions = Preconditions::from_text(if_match, if_none_match).unwrap();
        Step { key: "k".into(), hash: 0, op, conditions }
    }

    fn found(value: &str, expired: bool) -> Before {
        Before { record: Record { value: value.into(), version: 40, expires_s: 100 }, expired }
    }

    /// What the steps lead to, in short: the value they leave, and a letter and a version for every answer.
    fn judge(before: Option<&Before>, steps: &[Step]) -> (Option<To>, String) {
        let judged = Judged::new(before, steps.iter(), 10);
        let to = judged.to.clone();
        let short = |answer: Answer| match answer {
            Answer::Found(None) => "absent ".to_owned(),
            Answer::Found(Some(record)) => format!("{}@{} ", record.value, record.version),
            Answer::Stored { record, created, .. } => {
                format!("{}{}@{} ", if created { "+" } else { "" }, record.value, record.version)
            }
            Answer::Deleted { existed } => format!("deleted:{existed} "),
            Answer::PreconditionFailed => "412 ".into(),
            Answer::NotANumber => "409 ".into(),
            other => panic!("{other:?}"),
        };
        (to, judged.answers(50).into_iter().map(short).collect::<String>().trim_end().to_owned())
    }

    #[test]
    fn steps_are_judged_as_if_they_ran_one_after_the_other() {
        let value = |value: &str, expiry| Some(To::Value(value.into(), expiry));
        let plain = |op| step(op, None, None);
        let row = found("7", false);
        let expired = found("7", true);
        for (before, steps, to, answers) in [
            (Some(&row), vec![plain(Op::Add(1))], value("8", Expiry::Kept), "8@50"),
            (None, vec![plain(Op::Add(-3))], value("-3", Expiry::Never), "+-3@50"),
            (Some(&expired), vec![plain(Op::Add(1))], value("1", Expiry::Never), "+1@50"),
            (Some(&row), vec![plain(Op::Add(1)), plain(Op::Add(1))], value("9", Expiry::Kept), "8@0 9@50"),
            (Some(&row), vec![step(set("x", None), Some("\"40\""), None)], value("x", Expiry::Never), "x@50"),
            (Some(&row), vec![step(set("x", None), Some("\"41\""), None)], None, "412"),
            (None, vec![step(set("x", None), Some("*"), None)], None, "412"),
            (Some(&expired), vec![step(set("x", None), Some("*"), None)], None, "412"),
            (Some(&row), vec![step(set("x", None), None, Some("*"))], None, "412"),
            (None, vec![step(set("x", Some(5)), None, Some("*"))], value("x", Expiry::After(5)), "+x@50"),
            (Some(&expired), vec![step(set("x", None), None, Some("*"))], value("x", Expiry::Never), "+x@50"),
            // Two compare-and-swaps from one version: the first wins.
            (
                Some(&row),
                vec![step(set("x", None), Some("\"40\""), None), step(set("y", None), Some("\"40\""), None)],
                value("x", Expiry::Never),
                "x@50 412",
            ),
            (Some(&row), vec![step(Op::Delete, Some("\"40\""), None)], Some(To::Nothing), "deleted:true"),
            (None, vec![plain(Op::Delete)], None, "deleted:false"),
            (
                Some(&row),
                vec![plain(Op::Read), plain(set("a", None)), plain(Op::Read), plain(Op::Add(1))],
                value("a", Expiry::Never),
                "7@40 a@50 a@50 409",
            ),
            (
                Some(&row),
                vec![plain(Op::Delete), plain(Op::Read), plain(set("b", None)), plain(Op::Delete)],
                Some(To::Nothing),
                "deleted:true absent +b@0 deleted:true",
            ),
            (
                Some(&row),
                vec![plain(set("9", Some(3))), plain(Op::Add(1))],
                value("10", Expiry::After(3)),
                "9@0 10@50",
            ),
        ] {
            let got = judge(before, &steps);
            assert_eq!((got.0, got.1.as_str()), (to, answers), "{steps:?}");
        }
    }

    #[test]
    fn only_whole_numbers_of_64_bits_are_added_to() {
        for (value, by, expected) in [
            (Some("9223372036854775806"), 1, Some("9223372036854775807")),
            (Some("9223372036854775807"), 1, None),
            (Some("-9223372036854775808"), -1, None),
            (Some("-0"), 0, Some("0")),
            (Some("007"), 1, Some("8")),
            (Some("+1"), 1, None),
            (Some(" 1"), 1, None),
            (Some("1.0"), 1, None),
            (Some(""), 1, None),
            (None, i64::MIN, Some("-9223372036854775808")),
        ] {
            assert_eq!(add(value, by).as_deref(), expected, "{value:?} {by}");
        }
    }
}
