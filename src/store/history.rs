//! Whether a server goes on with what was read and written before it was met. What is cached is of one history, and so is every
//! session; where another one begins, the cache is emptied, and the sessions of the old one are given up.
//!
//! ```text
//!  the server that is met                    what it is
//!  of another cluster                        another history: it was made anew, or upgraded
//!  on a newer timeline                       another history: it was promoted, perhaps without the last commits
//!  on an older timeline                      left behind by a failover: not used
//!  on the same, and its log is shorter       another history: an older copy of its data was brought back
//!  the same, in another life                 it has crashed, and may have lost commits: the cache is emptied
//! ```
//!
//! What a server does not tell is not compared. Used by [`super::postgres`], which asks.

use super::{Deliver, Reply};
use crate::engine::Engine;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What is said of a session whose server is no longer the one that counts.
pub const OVER: &str = "another server has taken the place of this session's";

/// What a server tells of itself, as far as it does.
#[derive(Debug, Default)]
pub struct Told {
    /// Which cluster it is, by the number that was made with it.
    pub cluster: Option<i64>,
    /// Where it writes.
    pub place: Option<Place>,
    /// How long it has lived without a crash.
    pub life: Option<Life>,
}

/// Where a server writes its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Every promotion begins another one.
    pub timeline: u32,
    /// How far it has come.
    pub position: i64,
}

/// How long a server has lived without a crash.
#[derive(Debug)]
pub struct Life {
    /// Each has another one.
    pub name: String,
    /// It may lose what it has acknowledged.
    pub may_lose: bool,
}

/// The history that counts, for all sessions of a process. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Histories(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The number of the history that counts.
    current: AtomicU32,
    /// Held while it is found out what a server is, so that no session is used before.
    known: Mutex<Known>,
}

/// What is known of the history that counts, and what is void when another one begins.
#[derive(Debug, Default)]
struct Known {
    cluster: Option<i64>,
    /// The farthest that any session has seen.
    place: Option<Place>,
    life: Option<Life>,
    cache: Option<Cache>,
}

/// Where rows are cached, and how whoever waits for a change of one is told.
struct Cache {
    engine: Arc<Engine>,
    deliver: Arc<dyn Deliver>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

/// A history that was begun.
#[derive(Clone, Debug)]
pub struct History {
    number: u32,
    all: Histories,
}

/// How far the log had come, at least, before a server was asked: another session may see more of it meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    number: u32,
    place: Option<Place>,
}

/// What a server is.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    Same,
    /// The same, but what was read of it before may be void, for this reason.
    Lossy(String),
    /// Another history, for this reason.
    Another(String),
    /// The newest timeline is this one.
    LeftBehind(u32),
}

impl Histories {
    /// What sessions of it read and write is cached there.
    pub fn cached_in(&self, engine: Arc<Engine>, deliver: Arc<dyn Deliver>) {
        self.0.known.lock().cache = Some(Cache { engine, deliver });
    }

    /// To be asked for before a server is asked.
    pub fn before(&self) -> Before {
        let known = self.0.known.lock();
        Before { number: self.0.current.load(Ordering::Relaxed), place: known.place }
    }

    /// A server has told this: the history that it is of. `Err`: it may not be used, and why.
    pub fn meet(&self, told: Told, before: Before) -> Result<History, String> {
        let mut known = self.0.known.lock();
        let own = told.place.map_or(0, |place| place.timeline);
        let is_compared = before.number == self.0.current.load(Ordering::Relaxed);
        let why = match known.meet(told, before.place.filter(|_| is_compared)) {
            Met::Same => None,
            Met::Lossy(why) => Some(why),
            Met::Another(why) => {
                // First this, so that no session of the old one begins anything any more; then what they have left.
                self.0.current.fetch_add(1, Ordering::Relaxed);
                Some(why)
            }
            Met::LeftBehind(newest) => {
                return Err(format!(
                    "this server was left behind by a failover (it is on timeline {own}, another one on {newest}): make it a \
                     standby of that one; if the newer one is gone for good, restart hotrow"
                ));
            }
        };
        if let Some(why) = why {
            log::warn!("{why}: what was cached before is forgotten");
            known.forget();
        }
        Ok(History { number: self.0.current.load(Ordering::Relaxed), all: self.clone() })
    }
}

impl History {
    /// Another one has begun.
    pub fn is_over(&self) -> bool {
        self.number != self.all.0.current.load(Ordering::Relaxed)
    }

    /// Its server has come so far.
    pub fn reaches(&self, at: Place) {
        let mut known = self.all.0.known.lock();
        if !self.is_over() {
            known.reach(at);
        }
    }
}

impl Known {
    /// Sees what a server has told, and remembers it if it may be used.
    fn meet(&mut self, told: Told, before: Option<Place>) -> Met {
        let another_cluster =
            matches!((self.cluster, told.cluster), (Some(known), Some(told)) if known != told);
        let (known, place) = (self.place, told.place);
        let another = match (known, place) {
            _ if another_cluster => Some("another cluster is there than before".to_owned()),
            (Some(known), Some(place)) if place.timeline < known.timeline => {
                return Met::LeftBehind(known.timeline);
            }
            (Some(known), Some(place)) if place.timeline > known.timeline => Some(format!(
                "another server was promoted (timeline {} after {})",
                place.timeline, known.timeline
            )),
            (Some(_), Some(place)) if before.is_some_and(|before| place.position < before.position) => {
                Some("an older copy of the data was brought back".to_owned())
            }
            _ => None,
        };
        self.cluster = told.cluster.or(self.cluster);
        if let Some(why) = another {
            (self.place, self.life) = (place, told.life);
            return Met::Another(why);
        }
        if let Some(place) = place {
            self.reach(place);
        }
        if told.life.is_some_and(|life| self.is_lossy(life)) {
            return Met::Lossy(
                "PostgreSQL has crashed and may have lost commits (synchronous_commit is off, or the table is UNLOGGED)"
                    .into(),
            );
        }
        Met::Same
    }

    fn reach(&mut self, at: Place) {
        let farther = self.place.is_none_or(|known| known.position < at.position);
        if farther {
            self.place = Some(at);
        }
    }

    /// Sees this life. True: it is another one than before, and commits of that one may be lost.
    fn is_lossy(&mut self, life: Life) -> bool {
        // Each session has its own setting, and may have had another one before.
        let (is_same, may_lose) = match &self.life {
            Some(before) => (before.name == life.name, before.may_lose || life.may_lose),
            None => (true, life.may_lose),
        };
        self.life = Some(Life { may_lose: if is_same { may_lose } else { life.may_lose }, ..life });
        !is_same && may_lose
    }

    fn forget(&self) {
        if let Some(Cache { engine, deliver }) = &self.cache {
            deliver.deliver(&mut engine.forget_all().into_iter().map(Reply::changed).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(cluster: i64, timeline: u32, position: i64) -> Told {
        Told { cluster: Some(cluster), place: Some(Place { timeline, position }), life: None }
    }

    /// Meets servers one after the other: `=` the same history, `*` another one, `-` left behind.
    fn meet_all(servers: impl IntoIterator<Item = Told>) -> String {
        let histories = Histories::default();
        let mut now = histories.meet(Told::default(), histories.before()).unwrap();
        let kind = |told| match histories.meet(told, histories.before()) {
            Err(_) => '-',
            Ok(history) => {
                let kind = if now.is_over() { '*' } else { '=' };
                assert!(!history.is_over());
                now = history;
                kind
            }
        };
        servers.into_iter().map(kind).collect()
    }

    #[test]
    fn a_server_that_does_not_go_on_begins_another_history() {
        type Server = (i64, u32, i64);
        let cases: [(&[Server], &str); 5] = [
            (&[(1, 1, 10), (1, 1, 10), (1, 1, 20)], "==="),
            // Promoted without the last commits, and the old one comes back.
            (&[(1, 1, 20), (1, 2, 15), (1, 1, 30), (1, 2, 16)], "=*-="),
            (&[(1, 1, 20), (1, 1, 15), (1, 1, 16)], "=*="),
            // Another cluster begins with what it has, and the old one is another one again.
            (&[(1, 7, 20), (2, 1, 15), (2, 1, 14), (1, 7, 20)], "=***"),
            (&[(1, 1, 20), (2, 1, 30)], "=*"),
        ];
        for (servers, expected) in cases {
            let servers_told = servers.iter().map(|(cluster, timeline, at)| told(*cluster, *timeline, *at));
            assert_eq!(meet_all(servers_told), expected, "{servers:?}");
        }
    }

    #[test]
    fn what_a_server_does_not_tell_is_not_compared() {
        let nothing = Told::default;
        let nameless = |timeline, position| Told { cluster: None, ..told(0, timeline, position) };
        assert_eq!(meet_all([told(1, 2, 20), nothing(), told(1, 2, 20)]), "===");
        assert_eq!(meet_all([told(1, 2, 20), nameless(2, 30), nameless(1, 40), told(2, 2, 30)]), "==-*");
        assert_eq!(meet_all([nameless(1, 10), nameless(1, 5), nameless(2, 5)]), "=**");
    }

    /// Two sessions that are opened at the same time are asked in one order, and heard in another.
    #[test]
    fn what_another_session_has_seen_meanwhile_is_no_measure() {
        let histories = Histories::default();
        let first = histories.meet(told(1, 1, 10), histories.before()).unwrap();
        let (early, late) = (histories.before(), histories.before());
        histories.meet(told(1, 1, 30), late).unwrap();
        histories.meet(told(1, 1, 20), early).unwrap();
        assert!(!first.is_over());
        // What is seen of a session that goes on counts as well, and not of one that is over.
        first.reaches(Place { timeline: 1, position: 50 });
        let early = histories.before();
        let second = histories.meet(told(1, 1, 40), histories.before()).unwrap();
        assert!(first.is_over());
        histories.meet(told(1, 1, 41), early).unwrap();
        first.reaches(Place { timeline: 1, position: 90 });
        histories.meet(told(1, 1, 42), histories.before()).unwrap();
        assert!(!second.is_over());
    }

    #[test]
    fn a_crash_counts_where_commits_may_be_lost() {
        let mut known = Known::default();
        let mut lives = |name: &str, may_lose| {
            let life = Some(Life { name: name.into(), may_lose });
            match known.meet(Told { life, ..told(1, 1, 10) }, None) {
                // Nobody has asked which of the two it is.
                Met::Lossy(why) => why.contains("synchronous_commit is off, or the table is UNLOGGED"),
                _ => false,
            }
        };
        assert!(!lives("first", false) && !lives("second", false));
        assert!(!lives("second", true) && !lives("second", false));
        assert!(lives("third", false), "some session's commits may be lost");
        assert!(!lives("fourth", false));
    }
}
