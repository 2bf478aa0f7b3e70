//! Pieces of bulk loads: lines become rows here, on the writer's thread, the last line of a key wins, and one statement
//! with one commit stores them. Keys are writes in flight from before the statement until after its end, as those of any
//! batch of many keys. Where the keys are known only here they need not be known before: nothing of a piece can be in the table
//! before it is sent from here.
//!
//! Rows that are loaded are not cached: they would push out what is read. What is cached of their keys is forgotten.

use super::super::load::{LoadJob, Loaded, Row};
use super::super::worker::Fault;
use super::super::{Answer, Blame, Connector, Error, Failure, Reply, Session};
use super::Writer;
use super::aside::Held;
use crate::engine::shard::Writes;
use crate::http::problem::{Kind, Problem};
use crate::limits::{BROKEN_OFF_RETRIES, LOAD_PARTS, LOAD_SINGLES};
use std::time::Instant;

/// Why a piece is not stored.
enum Stopped {
    Failed(Failure),
    /// Nothing is done, and nobody was told: somebody else has a row locked.
    Locked(Failure),
}

/// One key of a piece.
struct Key<'a> {
    hash: u64,
    /// What the last of its lines says.
    row: &'a Row<'a>,
    /// All its lines.
    lines: &'a [(u64, Row<'a>)],
}

/// How a piece was tried so far.
#[derive(Default)]
struct Tries {
    conflicts: usize,
    /// Something was broken off each time it was tried. What else is so may well have such a row: it is parted at once, which is another
    /// try, too.
    broken_off: bool,
    unsent: usize,
    /// Some of it is committed.
    stored: bool,
    fault: Fault,
}

/// What of a piece has no ending yet. Where rows are at fault, halves are tried, then halves of a half, and when that has gone on
/// for long enough each by itself: a piece with many of them is not to keep others waiting.
struct Rest<'a, 'k> {
    /// The next ones last; none is empty.
    left: Vec<&'a [Key<'k>]>,
    /// How often may still be halved.
    parts: usize,
}

impl<'a, 'k> Rest<'a, 'k> {
    /// Those that are next, until they are [done](Rest::done) or [halved](Rest::halve), and whether each goes by itself.
    fn next(&mut self) -> Option<(&'a [Key<'k>], bool)> {
        let mut these = *self.left.last()?;
        let each = self.parts == 0 && these.len() > 1;
        if each && these.len() > LOAD_SINGLES {
            self.split_at(LOAD_SINGLES);
            these = self.left.last()?;
        }
        Some((these, each))
    }

    /// So many of them have their ending.
    fn done(&mut self, so_many: usize) {
        if let Some(these) = self.left.pop()
            && so_many < these.len()
        {
            self.left.push(&these[so_many..]);
        }
    }

    /// They were refused, and some of them may not be.
    fn halve(&mut self) {
        self.parts = self.parts.saturating_sub(1);
        self.split_at(self.left.last().map_or(0, |these| these.len() / 2));
    }

    fn split_at(&mut self, middle: usize) {
        if let Some(these) = self.left.pop() {
            let (first, second) = these.split_at(middle);
            self.left.extend([second, first]);
        }
    }
}

impl<C: Connector> Writer<C> {
    /// Takes a piece, unless its time is over.
    pub(super) fn start_load(&mut self, job: LoadJob, now_ms: u64) -> Option<LoadJob> {
        if !job.claim.take() {
            return None;
        }
        if job.deadline_ms <= now_ms {
            self.answer_load(&job, Answer::Failed(Failure::NotStarted));
            return None;
        }
        Some(job)
    }

    pub(super) fn answer_load(&mut self, job: &LoadJob, answer: Answer) {
        self.replies.push(Reply { ticket: job.ticket, answer });
        self.shared.deliver.deliver(&mut self.replies);
    }

    /// Brings a piece to its ending, or puts it aside.
    pub(super) fn execute_load(&mut self, mut job: LoadJob) {
        self.drop_if_broken();
        if self.session.is_none() {
            // As long as that takes, its client may withdraw it.
            job.claim.give_back();
            let connected = self.connect();
            match self.start_load(job, self.shared.clock.now_ms()) {
                Some(same) if connected => job = same,
                Some(same) => return self.answer_load(&same, Answer::Failed(self.shared.down())),
                None => return,
            }
        }
        match self.piece(&job) {
            Ok(loaded) => self.answer_load(&job, Answer::Loaded(loaded)),
            Err(Stopped::Failed(failure)) => self.answer_load(&job, Answer::Failed(failure)),
            Err(Stopped::Locked(why)) => self.put_aside(Held::Load(job), why, Vec::new()),
        }
    }

    fn piece(&mut self, job: &LoadJob) -> Result<Loaded, Stopped> {
        let mut loaded = Loaded::default();
        let mut rows = job.rows(&mut loaded);
        // Stable: lines of a key stay in their order.
        rows.sort_by(|a, b| a.1.key.cmp(&b.1.key));
        let key = |lines| -> Key<'_> {
            let lines: &[(u64, Row<'_>)] = lines;
            let row = &lines[lines.len() - 1].1;
            Key { hash: self.shared.engine.hash(&row.key), row, lines }
        };
        let keys: Vec<Key<'_>> = rows.chunk_by(|a, b| a.1.key == b.1.key).map(key).collect();
        let engine = &self.shared.engine;
        let may = |key: &Key<'_>| engine.shard(key.hash).may_send_foreign(key.hash, &key.row.key);
        if let Some(marked) = keys.iter().position(|key| !may(key)) {
            self.not_loaded(&keys[..marked]);
            return Err(Stopped::Failed(Failure::InDoubt));
        }
        self.load(&keys, job, &mut loaded)?;
        loaded.keep_first();
        Ok(loaded)
    }

    /// Stores rows until all have their ending. An error ends those that have none yet.
    fn load(&mut self, keys: &[Key<'_>], job: &LoadJob, loaded: &mut Loaded) -> Result<(), Stopped> {
        let left = if keys.is_empty() { Vec::new() } else { vec![keys] };
        let mut rest = Rest { left, parts: LOAD_PARTS };
        let mut tries = Tries::default();
        let failure = loop {
            let Some((these, each)) = rest.next() else { return Ok(()) };
            if self.session.is_none() && !self.connect() {
                break self.shared.down();
            }
            // To connect may have taken a while, or what was done of it so far. Whoever has gone may have sent the same lines again,
            // and what somebody has written behind those is not to be overtaken.
            if job.claim.is_left() || job.deadline_ms <= self.shared.clock.now_ms() {
                break Failure::NotStarted;
            }
            let session = self.session.as_mut().expect("connected above");
            let rows: Vec<&Row<'_>> = these.iter().map(|key| key.row).collect();
            let result = session.timed(these.len(), |session| match each {
                true => session.load_each(&rows),
                false => session.load(&rows).map(|()| vec![None; rows.len()]),
            });
            self.last_used = Instant::now();
            self.lock_waits.count(&result);
            let stopped = match result {
                Ok(refused) => {
                    rest.done(refused.len());
                    self.these_loaded(these, &refused, &mut rest, &mut tries, loaded)
                }
                // Somebody else has a row locked: that passes. But nobody is to wait for it who need not, and its client not until
                // it is told that nobody knows what became of the piece.
                Err(Error::Refused { blame: Blame::Held, message }) => {
                    let why = Failure::Refused(message.into());
                    if these.len() == keys.len() {
                        self.not_loaded(keys);
                        return Err(Stopped::Locked(why));
                    }
                    (!self.has_time(job.deadline_ms) || !self.lock_waits.are_few()).then_some(why)
                }
                Err(error) => self.these_failed(error, &mut rest, (these, each), &mut tries, loaded),
            };
            if let Some(failure) = stopped {
                break failure;
            }
        };
        for these in rest.left {
            self.not_loaded(these);
        }
        // Some of a piece, and nobody can say which: the client sends all of it again, and does no harm by it.
        Err(Stopped::Failed(if tries.stored { Failure::Unknown } else { failure }))
    }

    /// These are committed, but for those that were refused one by one; or the first of them are, as far as it is told. What stops the
    /// rest, if anything does.
    fn these_loaded<'a, 'k>(
        &mut self,
        these: &'a [Key<'k>],
        refused: &[Option<(String, Blame)>],
        rest: &mut Rest<'a, 'k>,
        tries: &mut Tries,
        loaded: &mut Loaded,
    ) -> Option<Failure> {
        for (key, refused) in these.iter().zip(refused) {
            match refused {
                None => self.loaded(key, loaded),
                // In a transaction of its own it may be done.
                Some((_, Blame::Conflict)) if !tries.broken_off => rest.left.push(std::slice::from_ref(key)),
                Some((message, _)) => self.row_refused(key, message, loaded),
            }
        }
        // Whoever watches these does not wait for the rest of the piece.
        self.shared.deliver.deliver(&mut self.replies);
        tries.stored |= refused.contains(&None);
        tries.conflicts = 0;
        if let Some(Some((message, Blame::Server))) = refused.last()
            && refused.iter().all(|refused| matches!(refused, Some((_, Blame::Server))))
        {
            self.refusals.refused("writes", message);
            // A few may be what a trigger refuses, in the midst of others that are taken; where those take their time, two are a group.
            if !tries.fault.is_a_rows() || refused.len() >= LOAD_SINGLES {
                return Some(Failure::Refused(message.as_str().into()));
            }
            return None;
        }
        self.refusals.done("writes");
        tries.fault.note(false);
        None
    }

    /// These are not, for this error, and for no lock. What stops the rest, if anything does: else what is left of it is tried again.
    fn these_failed<'a, 'k>(
        &mut self,
        error: Error,
        rest: &mut Rest<'a, 'k>,
        (these, each): (&'a [Key<'k>], bool),
        tries: &mut Tries,
        loaded: &mut Loaded,
    ) -> Option<Failure> {
        match error {
            Error::NotSent(_) => {
                self.lose_session();
                tries.unsent += 1;
                // A server that takes connections and drops them at once is as good as none.
                (tries.unsent > 1).then(|| self.shared.down())
            }
            Error::Lost(message) => {
                log::warn!("a commit of {} keys was lost: {message}", these.len());
                rest.done(these.len());
                self.settle_load(these);
                Some(Failure::Unknown)
            }
            Error::Refused { blame: Blame::Conflict, .. }
                if tries.conflicts < BROKEN_OFF_RETRIES && (these.len() == 1 || !tries.broken_off) =>
            {
                tries.conflicts += 1;
                None
            }
            // What is broken off each time may be so for one row, and ends those that go one by one, too, at their end: they are
            // parted until that row is alone.
            Error::Refused { blame: Blame::Conflict, .. } if these.len() > 1 => {
                (tries.conflicts, tries.broken_off) = (0, true);
                rest.halve();
                None
            }
            // A policy, a bug in a trigger or a page that cannot be read is the server's to mend, and yet one row's.
            Error::Refused { blame: Blame::Row | Blame::Server, .. } if !each && these.len() > 1 => {
                rest.halve();
                None
            }
            Error::Refused { blame: blame @ (Blame::Row | Blame::Server | Blame::Conflict), message } => {
                tries.conflicts = 0;
                tries.broken_off |= blame == Blame::Conflict;
                rest.done(these.len());
                for key in these {
                    self.row_refused(key, &message, loaded);
                }
                if blame == Blame::Server {
                    self.refusals.refused("writes", &message);
                }
                tries.fault.note(blame == Blame::Server);
                tries.fault.is_the_servers().then(|| Failure::Refused(message.into()))
            }
            Error::Refused { blame, message } => {
                if blame == Blame::ReadOnly {
                    self.leave_read_only();
                }
                self.refusals.refused("writes", &message);
                Some(Failure::Refused(message.into()))
            }
        }
    }

    /// A row is committed.
    fn loaded(&mut self, key: &Key<'_>, loaded: &mut Loaded) {
        let watching = self.shared.engine.shard(key.hash).replaced(key.hash, &key.row.key, Writes::Foreign);
        self.tell(watching);
        loaded.written += key.lines.len() as u64;
    }

    /// A row cannot be: its lines are told so.
    fn row_refused(&self, key: &Key<'_>, message: &str, loaded: &mut Loaded) {
        log::debug!("PostgreSQL refused a row: {message}");
        for (line, _) in key.lines {
            let detail = format!("PostgreSQL refused the row: {message}");
            loaded.refuse_row(*line, Problem::new(Kind::DatabaseRefused, detail));
        }
        self.not_loaded(std::slice::from_ref(key));
    }

    /// Nothing was done to these.
    fn not_loaded(&self, keys: &[Key<'_>]) {
        for key in keys {
            self.shared.engine.shard(key.hash).refused(key.hash, &key.row.key, Writes::Foreign);
        }
    }

    /// A statement was lost: nobody may be told anything before its backend is gone, however long it takes. Then it can no
    /// longer happen, and whether it has, nobody knows.
    fn settle_load(&mut self, keys: &[Key<'_>]) {
        self.lose_session();
        for key in keys {
            self.shared.engine.shard(key.hash).doubt(key.hash, &key.row.key);
        }
        self.connect_at_last();
        for key in keys {
            let watching =
                self.shared.engine.shard(key.hash).unknown(key.hash, &key.row.key, Writes::Foreign);
            self.tell(watching);
        }
    }
}
