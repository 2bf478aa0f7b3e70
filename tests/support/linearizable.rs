//! Is there an order of one key's operations, each at one instant between its beginning and its end, in which a plain
//! register with an absent state gives all their answers? Pure. Used by [`super::history`].
//!
//! The search goes through the beginnings and ends in the order of their times and keeps every *configuration* that the
//! register can be in: its state, which of the open operations have had their instant, and which writes of unknown
//! outcome have been used up (G. Lowe, "Testing for linearizability", 2017: the just-in-time search; after J. Wing and
//! C. Gong, "Testing and verifying concurrent objects", 1993). An operation gets its instant at the latest when it
//! ends. The history is at fault where an end leaves no configuration. Where nothing is open, a handful is left: that
//! is what makes a history of any length fast.
//!
//! Three things keep the configurations few, and lose none that matters:
//!
//! - A read that agrees with the state is given its instant at once: that changes nothing for anyone.
//! - A write of unknown outcome is used only right before an operation that needs it; otherwise it had just as well
//!   never happened.
//! - Of two configurations that differ only in what they have used up, the one that has used less can do all that the
//!   other can.

use super::history::{Operation, What};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Whether PUT's 200 proves that there was a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prior {
    /// It does.
    Exact,
    /// A commit may have been repeated after its answer was lost: the row may be the same PUT's own. A 201 still
    /// proves that there was none.
    Repeated,
}

/// A history that nothing explains.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The operation at whose end nothing was left.
    pub at: Operation,
    /// What had to be explained together, as few as were found, by their beginnings.
    pub operations: Vec<Operation>,
    /// Possible states before them.
    pub before: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no order explains this answer:\n  {}", self.at)?;
        writeln!(f, "possible states before: {}; then", self.before.join(", "))?;
        self.operations.iter().try_for_each(|operation| writeln!(f, "  {operation}"))
    }
}

/// The register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum State {
    Absent,
    Value(u64),
    /// A row that a write of unknown outcome has made, and that nobody ever reads.
    Unread,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Configuration {
    state: State,
    /// Open operations that have had their instant, by place.
    done: u64,
    /// Writes of unknown outcome that have been used up and are read by someone yet: sorted.
    used: Vec<u64>,
    /// How many of those that nobody reads have been used up.
    used_unread: u32,
    /// How many deletes of unknown outcome have been used up.
    used_deletes: u32,
    /// How many additions of unknown outcome have been used up.
    used_counts: u32,
}

/// Everything at one time of the history.
#[derive(Clone, Debug)]
struct Search {
    configurations: Vec<Configuration>,
    /// Certain operations that have begun and not ended, by place.
    open: Vec<Option<What>>,
    /// Writes of unknown outcome that have begun, and are read by someone.
    begun: HashSet<u64>,
    begun_unread: u32,
    begun_deletes: u32,
    begun_counts: u32,
    /// The key is a counter: its values are numbers, and what is done to it is read, deleted, and counted with.
    counter: bool,
    prior: Prior,
}

/// More open operations on one key than a configuration has places for.
const PLACES: usize = 64;
/// Where a search ends in failure rather than in an exhausted memory.
const CONFIGURATIONS: usize = 2_000_000;

/// Checks the operations of one key, which begins absent.
pub fn check(operations: &[Operation], prior: Prior) -> Result<(), Violation> {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| (operation.begin_ns, operation.end_ns));
    let begin = Search::new(prior);
    let Err(fault) = begin.clone().run(&operations) else { return Ok(()) };
    let Fault { at, since, before } = *fault;
    // What is told begins where nothing was open, and has no read that is not needed: a history with fewer reads has
    // more explanations, so if it has none, the whole has none.
    let cut = operations[at].end_ns;
    let mut told: Vec<Operation> =
        operations.iter().filter(|o| o.begin_ns >= since && o.begin_ns <= cut).copied().collect();
    if before.clone().run(&told).is_ok() {
        // A value that is read only later on makes its write unread here: tell it from the beginning.
        told = operations.iter().filter(|o| o.begin_ns <= cut).copied().collect();
        return Err(violation(&operations[at], &told, &begin));
    }
    let mut place = told.len();
    while place > 0 {
        place -= 1;
        let is_read = matches!(
            told[place].what,
            What::Get(_) | What::Delete { existed: false } | What::NotSwapped(_) | What::Exists
        );
        if is_read && told[place] != operations[at] {
            let removed = told.remove(place);
            if before.clone().run(&told).is_ok() {
                told.insert(place, removed);
            }
        }
    }
    Err(violation(&operations[at], &told, &before))
}

fn violation(at: &Operation, told: &[Operation], before: &Search) -> Violation {
    let mut states: Vec<State> = before.configurations.iter().map(|c| c.state).collect();
    states.sort_unstable();
    states.dedup();
    let name = |state: &State| match state {
        State::Absent => "absent".to_owned(),
        State::Value(value) => format!("{value:x}"),
        State::Unread => "a row that nobody has read".to_owned(),
    };
    Violation { at: *at, operations: told.to_vec(), before: states.iter().map(name).collect() }
}

/// Where a search has ended.
struct Fault {
    /// The operation whose end left nothing.
    at: usize,
    /// When, before that, nothing was open for the last time.
    since: u64,
    /// The search as it was then.
    before: Search,
}

impl Search {
    fn new(prior: Prior) -> Search {
        let first = Configuration {
            state: State::Absent,
            done: 0,
            used: Vec::new(),
            used_unread: 0,
            used_deletes: 0,
            used_counts: 0,
        };
        Search {
            configurations: vec![first],
            open: Vec::new(),
            begun: HashSet::new(),
            begun_unread: 0,
            begun_deletes: 0,
            begun_counts: 0,
            counter: false,
            prior,
        }
    }

    /// Goes through operations sorted by their beginnings.
    fn run(mut self, operations: &[Operation]) -> Result<(), Box<Fault>> {
        let counts = |what: &What| matches!(what, What::Count(_) | What::MaybeCount);
        self.counter |= operations.iter().any(|operation| counts(&operation.what));
        let of_counters = |what: &What| {
            counts(what) || matches!(what, What::Get(_) | What::Delete { .. } | What::MaybeDelete)
        };
        assert!(
            !self.counter || operations.iter().all(|o| of_counters(&o.what)),
            "a counter is only counted with"
        );
        // Who is the last to read a value: behind its end nobody needs to know any more whether that value was used.
        let mut last_reads: HashMap<u64, u64> = HashMap::new();
        for operation in operations {
            if let What::Get(Some(value)) | What::Swap { from: value, .. } = operation.what {
                let last = last_reads.entry(value).or_default();
                *last = operation.end_ns.max(*last);
            }
        }
        // At equal times beginnings come first: such operations count as concurrent.
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (at, operation) in operations.iter().enumerate() {
            events.push((operation.begin_ns, false, at));
            if operation.what.is_certain() {
                events.push((operation.end_ns, true, at));
            }
        }
        events.sort_unstable();
        let mut places: HashMap<usize, usize> = HashMap::new();
        let (mut since, mut before) = (0, self.clone());
        for (time, is_end, at) in events {
            let what = operations[at].what;
            if is_end {
                let place = places.remove(&at).expect("what ends has begun");
                if !self.end(place) {
                    return Err(Box::new(Fault { at, since, before }));
                }
                if let What::Get(Some(value)) | What::Swap { from: value, .. } = what
                    && last_reads[&value] == time
                {
                    self.forget(value);
                }
                continue;
            }
            if places.is_empty() {
                (since, before) = (time, self.clone());
            }
            match what {
                What::MaybePut(value) if last_reads.contains_key(&value) => {
                    self.begun.insert(value);
                }
                What::MaybePut(_) => self.begun_unread += 1,
                What::MaybeDelete => self.begun_deletes += 1,
                What::MaybeCount => self.begun_counts += 1,
                What::Get(_)
                | What::Put { .. }
                | What::Loaded(_)
                | What::Delete { .. }
                | What::Swap { .. }
                | What::NotSwapped(_)
                | What::Count(_)
                | What::Exists => {
                    places.insert(at, self.begin(what));
                }
            }
        }
        Ok(())
    }

    /// A certain operation begins; returns its place.
    fn begin(&mut self, what: What) -> usize {
        let place = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        assert!(place < PLACES, "too many operations at once on one key");
        if place == self.open.len() {
            self.open.push(None);
        }
        self.open[place] = Some(what);
        for configuration in &mut self.configurations {
            configuration.read_all(&self.open);
        }
        place
    }

    /// A certain operation ends: it must have had its instant. False: in no configuration it can have.
    fn end(&mut self, place: usize) -> bool {
        let bit = 1 << place;
        let mut seen: HashSet<Configuration> = HashSet::new();
        let mut left: Vec<Configuration> = std::mem::take(&mut self.configurations);
        let mut ended: HashSet<Configuration> = HashSet::new();
        while let Some(configuration) = left.pop() {
            if configuration.done & bit != 0 {
                ended.insert(Configuration { done: configuration.done & !bit, ..configuration });
                continue;
            }
            for (other, what) in self.open.iter().enumerate() {
                if let Some(what) = what
                    && configuration.done & (1 << other) == 0
                {
                    for mut next in self.apply(&configuration, *what) {
                        next.done |= 1 << other;
                        next.read_all(&self.open);
                        if seen.insert(next.clone()) {
                            left.push(next);
                        }
                    }
                }
            }
            assert!(seen.len() < CONFIGURATIONS, "too many possibilities");
        }
        self.open[place] = None;
        self.configurations = undominated(ended);
        !self.configurations.is_empty()
    }

    /// An operation has its instant now, right behind a write of unknown outcome if it needs one. What that may lead
    /// to; nothing: it cannot have it now.
    fn apply(&self, from: &Configuration, what: What) -> Vec<Configuration> {
        let to = |state: State, before: Option<Configuration>| {
            before.map(|before| Configuration { state, ..before }).into_iter().collect()
        };
        match what {
            What::Get(Some(number)) if self.counter => self.with_number(from, number),
            What::Count(0) => Vec::new(),
            What::Count(1) => to(State::Value(1), self.with_none(from)),
            What::Count(number) => {
                let mut all = self.with_number(from, number - 1);
                all.iter_mut().for_each(|to| to.state = State::Value(number));
                all
            }
            What::Get(Some(value)) => self.with_value(from, value).into_iter().collect(),
            What::Swap { from: old, value } => to(State::Value(value), self.with_value(from, old)),
            What::Get(None) | What::Delete { existed: false } => to(State::Absent, self.with_none(from)),
            What::Put { value, existed } => {
                let before = match (existed, self.prior) {
                    (true, Prior::Repeated) => Some(from.clone()),
                    (true, Prior::Exact) => self.with_row(from),
                    (false, _) => self.with_none(from),
                };
                to(State::Value(value), before)
            }
            What::Loaded(value) => to(State::Value(value), Some(from.clone())),
            What::Delete { existed: true } => to(State::Absent, self.with_row(from)),
            // A commit that was repeated has given the same value another version.
            What::NotSwapped(_) if self.prior == Prior::Repeated => vec![from.clone()],
            What::Exists if from.state != State::Absent => vec![from.clone()],
            What::Exists => self.with_any_row(from, None),
            What::NotSwapped(old) if from.state != State::Value(old) => vec![from.clone()],
            What::NotSwapped(old) => {
                let mut all = self.with_any_row(from, Some(old));
                all.extend(self.with_none(from));
                all
            }
            What::MaybePut(_) | What::MaybeDelete | What::MaybeCount => unreachable!("they are never open"),
        }
    }

    /// The state is this value: it is already, or a write of unknown outcome has put it there, once.
    fn with_value(&self, from: &Configuration, value: u64) -> Option<Configuration> {
        let mut to = from.clone();
        if to.state != State::Value(value) {
            let at = to.used.binary_search(&value).err().filter(|_| self.begun.contains(&value))?;
            to.used.insert(at, value);
            to.state = State::Value(value);
        }
        Some(to)
    }

    /// The counter is at this number: it is already, or additions of unknown outcome have brought it there; all of it, or
    /// what has come since a delete of unknown outcome.
    fn with_number(&self, from: &Configuration, number: u64) -> Vec<Configuration> {
        let at = match from.state {
            State::Absent => 0,
            State::Value(at) => at,
            State::Unread => unreachable!("every write of a counter tells its number"),
        };
        if from.state == State::Value(number) {
            return vec![from.clone()];
        }
        let counted = |before: &Configuration, from: u64| {
            let counts = u32::try_from(number.checked_sub(from)?).ok()?;
            let used_counts = before.used_counts.checked_add(counts)?;
            let state = State::Value(number);
            (used_counts <= self.begun_counts).then(|| Configuration { state, used_counts, ..before.clone() })
        };
        let anew = self.with_none(from).filter(|_| from.state != State::Absent);
        [counted(from, at), anew.and_then(|none| counted(&none, 0))].into_iter().flatten().collect()
    }

    /// There is a row: there is already, or a write of unknown outcome that nobody reads has made one.
    fn with_row(&self, from: &Configuration) -> Option<Configuration> {
        if self.counter && from.state == State::Absent {
            return self.with_number(from, 1).pop();
        }
        let mut to = from.clone();
        if to.state == State::Absent {
            to.used_unread += 1;
            to.state = State::Unread;
        }
        (to.used_unread <= self.begun_unread).then_some(to)
    }

    /// A write of unknown outcome has made a row now: any of those that are left, but not the one of this value.
    fn with_any_row(&self, from: &Configuration, but: Option<u64>) -> Vec<Configuration> {
        let unread =
            Configuration { used_unread: from.used_unread + 1, state: State::Unread, ..from.clone() };
        let mut all: Vec<Configuration> = self
            .begun
            .iter()
            .filter(|value| Some(**value) != but)
            .filter_map(|value| self.with_value(from, *value))
            .collect();
        all.extend((unread.used_unread <= self.begun_unread).then_some(unread));
        all
    }

    /// There is no row: there is none already, or a delete of unknown outcome has taken it away.
    fn with_none(&self, from: &Configuration) -> Option<Configuration> {
        let mut to = from.clone();
        if to.state != State::Absent {
            to.used_deletes += 1;
            to.state = State::Absent;
        }
        (to.used_deletes <= self.begun_deletes).then_some(to)
    }

    /// Nobody will read this value any more: whether a write of unknown outcome was used for it makes no difference.
    fn forget(&mut self, value: u64) {
        if !self.begun.remove(&value) {
            return;
        }
        for configuration in &mut self.configurations {
            configuration.used.retain(|used| *used != value);
        }
        self.configurations = undominated(self.configurations.drain(..).collect());
    }
}

impl Configuration {
    /// Gives every open read that agrees with the state its instant.
    fn read_all(&mut self, open: &[Option<What>]) {
        for (place, what) in open.iter().enumerate() {
            let agrees = match what {
                Some(What::Get(Some(value))) => self.state == State::Value(*value),
                Some(What::Get(None) | What::Delete { existed: false }) => self.state == State::Absent,
                Some(What::NotSwapped(from)) => self.state != State::Value(*from),
                Some(What::Exists) => self.state != State::Absent,
                _ => false,
            };
            if agrees {
                self.done |= 1 << place;
            }
        }
    }

    /// It can do all that `other` can: it is the same and has used no more.
    fn dominates(&self, other: &Configuration) -> bool {
        self.used_unread <= other.used_unread
            && self.used_deletes <= other.used_deletes
            && self.used_counts <= other.used_counts
            && self.used.iter().all(|value| other.used.binary_search(value).is_ok())
    }
}

/// Leaves out configurations that another can stand for.
fn undominated(configurations: HashSet<Configuration>) -> Vec<Configuration> {
    let mut groups: HashMap<(State, u64), Vec<Configuration>> = HashMap::new();
    for configuration in configurations {
        let group = groups.entry((configuration.state, configuration.done)).or_default();
        if group.iter().all(|other| !other.dominates(&configuration)) {
            group.retain(|other| !configuration.dominates(other));
            group.push(configuration);
        }
    }
    groups.into_values().flatten().collect()
}
