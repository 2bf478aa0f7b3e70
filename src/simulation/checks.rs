//! What every answer is checked for.

use super::{Asking, COUNTER, SHORT_LIVED, State, Wish};
use crate::engine::{Record, Row};
use crate::store::load::Loaded;
use crate::store::{Answer, Failure, NO_VERSION, Op};

impl State {
    pub(super) fn violate(&mut self, what: String) {
        self.log(|| format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    /// A read of `key` has given `row`, and began when `asking` says. What is not cached of it, because something has overtaken it
    /// or it never was to be, says nothing of other programs to those who come after it.
    pub(super) fn check_read(&mut self, asking: &Asking, row: &Row, is_cached: bool, how: &str) {
        let history = &self.history[asking.key];
        let matches = |state: &Option<(String, u32)>| match (state, row) {
            (None, None) => true,
            (Some((value, version)), Some(got)) => **value == *got.value && *version == got.version,
            _ => false,
        };
        match history.iter().enumerate().skip(asking.floor).find(|(_, state)| matches(state)) {
            Some((at, _)) => {
                self.raise_floor(asking.key, if is_cached { at } else { at.min(self.own[asking.key]) })
            }
            None => {
                let what = format!(
                    "{how} of {} gave {row:?}, from before its beginning or from nowhere",
                    asking.key
                );
                self.violate(what);
            }
        }
    }

    /// The cache has given `row`.
    pub(super) fn check_hit(&mut self, asking: &Asking, row: &Row, how: &str) {
        if row.as_ref().is_some_and(|record| self.ended.contains(&(asking.key, record.version))) {
            self.violate(format!("{how} of {} gave {row:?}, whose time is over", asking.key));
        }
        self.check_read(asking, row, true, how);
    }

    /// A write that was acknowledged must have been committed since it began.
    pub(super) fn check_write(&mut self, asking: &Asking, version: Option<u32>) {
        let history = &self.history[asking.key];
        let committed = match version {
            Some(version) => {
                history.iter().rposition(|state| state.as_ref().is_some_and(|(_, v)| *v == version))
            }
            // Folded away by a later write of its batch: that one's commit is its own. If that one was a DELETE and
            // there was no row, nothing was left to commit.
            // What another program has left meanwhile is no commit of it.
            None if self.shared && history[asking.newest..].iter().any(Option::is_none) => return,
            None if asking.newest < self.own[asking.key] => Some(asking.newest + 1),
            None if history.last().is_some_and(Option::is_none) => return,
            None => None,
        };
        match committed {
            Some(at) if at > asking.newest => self.raise_floor(asking.key, at),
            _ => self.violate(format!("{asking:?} was acknowledged and not committed")),
        }
    }

    /// A value was acknowledged: of a plain write, a compare-and-swap, or the counter.
    pub(super) fn check_stored(&mut self, asking: &Asking, record: &Record) {
        let version = (record.version != NO_VERSION).then_some(record.version);
        match &asking.wish {
            Wish::Count => {
                self.check_counted(&record.value);
                if version.is_some() {
                    self.check_write(asking, version);
                }
            }
            Wish::Swap(_, from) => {
                self.check_swapped(asking, *from, record.version);
                self.check_write(asking, version);
            }
            Wish::Read(_) | Wish::Write(_) | Wish::Load(_) | Wish::Both(..) | Wish::Guarded(..) => {
                self.check_write(asking, version);
            }
        }
    }

    /// Of a piece of a load, the first line is the client's own; the second is none; the last is another key's.
    pub(super) fn check_loaded(&mut self, asking: &Asking, loaded: &Loaded) {
        let Wish::Load(Op::Set { value, .. }) = &asking.wish else {
            return self.violate(format!("{asking:?} is no load"));
        };
        let refused: Vec<u64> = loaded.errors.iter().map(|(line, _)| *line).collect();
        if loaded.written + loaded.failed != 3 || !refused.contains(&2) {
            self.violate(format!("{asking:?}: {loaded:?}"));
        }
        if refused.contains(&1) {
            self.refused.insert(value.to_string());
            return;
        }
        let history = &self.history[asking.key];
        let is_it = |state: &Option<(String, u32)>| state.as_ref().is_some_and(|(got, _)| **got == **value);
        match history.iter().rposition(is_it) {
            Some(at) if at > asking.newest => self.raise_floor(asking.key, at),
            _ => self.violate(format!("{asking:?} was acknowledged and not committed")),
        }
    }

    /// One row can be replaced once, and only while it is there; and made only where there is none.
    pub(super) fn check_swapped(&mut self, asking: &Asking, from: u32, to: u32) {
        let history = &self.history[asking.key];
        let version = |state: &Option<(String, u32)>| state.as_ref().map(|(_, version)| *version);
        let at = history.iter().position(|state| version(state) == Some(to));
        let before = at.and_then(|at| version(&history[at.checked_sub(1)?]));
        let made = to != NO_VERSION && from == NO_VERSION;
        if made
            && before.is_some_and(|version| !self.ended.contains(&(asking.key, version)))
            && !self.meets_others(asking)
        {
            self.violate(format!("{asking:?}: a row was made where there was one"));
        }
        if from != NO_VERSION && to != NO_VERSION && before != Some(from) {
            self.violate(format!("{asking:?}: a swap of a row that was not there any more"));
        }
        if from != NO_VERSION && !self.swapped.insert((asking.key, from)) {
            self.violate(format!("{asking:?}: a second swap of one row"));
        }
    }

    /// Another write of its batch may have been before it, and yet another one after it: no row was left of either.
    fn meets_others(&self, asking: &Asking) -> bool {
        let under_way = |other: &Asking| other.key == asking.key && !matches!(other.wish, Wish::Read(_));
        self.last_ended.get(asking.key).is_some_and(|job| *job >= asking.job)
            || self.clients.iter().flatten().any(under_way)
    }

    pub(super) fn check_not_swapped(&mut self, asking: &Asking) {
        let (Wish::Swap(_, from) | Wish::Both(_, from)) = asking.wish else {
            return self.violate(format!("{asking:?} has no condition"));
        };
        let history = &self.history[asking.key];
        let version =
            |state: &Option<(String, u32)>| state.as_ref().map_or(NO_VERSION, |(_, version)| *version);
        let other = history[asking.floor..].iter().any(|state| version(state) != from);
        if !other && !self.meets_others(asking) {
            self.violate(format!("{asking:?} failed, and the row was as it should be all the time"));
        }
        if let Wish::Swap(Op::Set { value, .. }, _) | Wish::Both(Op::Set { value, .. }, _) = &asking.wish {
            self.refused.insert(value.to_string());
        }
    }

    pub(super) fn check_counted(&mut self, number: &str) {
        let number = number.parse().expect("a counter is a number");
        if !self.counted.insert(number) {
            self.violate(format!("the counter gave {number} twice"));
        }
    }

    pub(super) fn check_many(&mut self, asking: &Asking, answers: &[Answer]) {
        match (&asking.wish, answers) {
            (_, [Answer::Failed(Failure::Unknown), ..]) => self.count_unknown(asking),
            (_, [Answer::Failed(_), ..]) if answers.iter().all(|answer| *answer == answers[0]) => {
                self.refuse(asking);
            }
            (Wish::Both(_, from), _) => self.check_both(asking, *from, answers),
            (Wish::Guarded(_, guard, version), _) => self.check_guarded(asking, guard, *version, answers),
            other => self.violate(format!("{other:?} for {asking:?}")),
        }
    }

    fn check_guarded(&mut self, asking: &Asking, guard: &'static str, version: u32, answers: &[Answer]) {
        match answers {
            [Answer::Found(Some(read)), Answer::Stored { record, .. }] if read.version == version => {
                self.check_write(asking, Some(record.version));
                // What came after the guard's row came after what was done for it. That a row ends has no number.
                let after = self.history[guard].iter().rev();
                let after = after.take_while(|state| state.as_ref().is_none_or(|(_, v)| *v != version));
                if after.flatten().any(|(_, later)| *later < record.version) {
                    self.violate(format!("{asking:?} was done for a row that was not there any more"));
                }
            }
            [Answer::PreconditionFailed, Answer::NotDone] => self.refuse(asking),
            other => self.violate(format!("{other:?} for {asking:?}")),
        }
    }

    fn check_both(&mut self, asking: &Asking, from: u32, answers: &[Answer]) {
        match answers {
            [
                Answer::Stored { record: count, .. },
                Answer::Stored { record, .. },
                Answer::Found(Some(read)),
            ] => {
                if record != read {
                    self.violate(format!("{asking:?} has read {read:?} after {record:?}"));
                }
                self.check_counted(&count.value);
                self.check_swapped(asking, from, record.version);
                self.check_write(asking, Some(record.version));
                let together =
                    self.history[COUNTER].iter().flatten().any(|(_, version)| *version == record.version);
                if !together {
                    self.violate(format!("{asking:?} was torn apart"));
                }
            }
            [Answer::NotDone, Answer::PreconditionFailed, Answer::NotDone] => self.check_not_swapped(asking),
            other => self.violate(format!("{other:?} for {asking:?}")),
        }
    }

    pub(super) fn count_unknown(&mut self, asking: &Asking) {
        self.counts_unknown += i64::from(matches!(asking.wish, Wish::Count | Wish::Both(..)));
        if let Wish::Write(Op::Delete) | Wish::Swap(Op::Delete, _) = asking.wish {
            self.count_delete(asking);
        }
    }

    /// A delete was told that it has deleted a row, or that it may have.
    pub(super) fn count_delete(&mut self, asking: &Asking) {
        self.removals.entry(asking.key).or_default().1 += 1;
    }

    /// A client was told that nothing was changed.
    pub(super) fn refuse(&mut self, asking: &Asking) {
        if let Wish::Write(Op::Set { value, .. })
        | Wish::Swap(Op::Set { value, .. }, _)
        | Wish::Load(Op::Set { value, .. })
        | Wish::Both(Op::Set { value, .. }, _)
        | Wish::Guarded(Op::Set { value, .. }, ..) = &asking.wish
        {
            self.refused.insert(value.to_string());
        }
    }

    pub(super) fn raise_floor(&mut self, key: &'static str, at: usize) {
        let floor = self.floors.get_mut(key).expect("known keys only");
        *floor = (*floor).max(at);
    }
}

/// A value that was there, was not, and was there again. No two writes have the same.
pub(super) fn happened_twice(states: &[Option<(String, u32)>]) -> Option<&String> {
    let runs: Vec<Option<&String>> =
        states.iter().map(|state| state.as_ref().map(|(value, _)| value)).collect();
    let mut runs: Vec<&String> = runs.chunk_by(|a, b| a == b).filter_map(|run| run[0]).collect();
    // One that is tried again after a lost answer has its time anew, and may have come to the end of the first.
    runs.retain(|value| !value.ends_with(SHORT_LIVED));
    runs.sort_unstable();
    runs.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}
