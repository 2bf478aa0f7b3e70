//! A reader: takes misses from the shared queue, as many as are there, and reads them with one statement. One thread
//! each, blocking. Started by [`super::pool`].

use super::list::PageJob;
use super::worker::{Asked, Counted, Fault, Pause, Refusals, Shared, while_asking};
use super::{Answer, Blame, Connector, Error, Failure, ReadJob, ReadWork, Reply, Session};
use crate::clock::seconds;
use crate::engine::Row;
use crate::limits::{READ_BATCH, READ_PARTS};
use crate::metrics::Work;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

/// What PostgreSQL said, and what it lies with.
type Refused = (String, Blame);

/// How rows that were refused together are told apart.
struct Parts {
    /// So many statements more, at most.
    left: usize,
    fault: Fault,
}

/// One reader thread's state.
pub struct Reader<C: Connector> {
    shared: Arc<Shared<C>>,
    queue: Receiver<ReadWork>,
    /// Nothing comes from here; it closes when the server ends.
    end: Receiver<Infallible>,
    session: Option<Counted<C::Session>>,
    work: Arc<Work>,
    pause: Pause,
    down: bool,
    /// It has had a session before.
    had_session: bool,
    refusals: Refusals,
    replies: Vec<Reply>,
}

impl<C: Connector> Reader<C> {
    /// The reader of this queue with this number, not connected yet. Where it may not look whether the queue is closed, `end` tells.
    pub fn new(
        shared: Arc<Shared<C>>,
        queue: Receiver<ReadWork>,
        end: Receiver<Infallible>,
        number: usize,
    ) -> Reader<C> {
        let pause = Pause::new(shared.reconnect_ms, number as u64);
        let work = Arc::clone(&shared.workers.readers[number]);
        Reader {
            shared,
            queue,
            end,
            session: None,
            work,
            pause,
            down: false,
            had_session: false,
            refusals: Refusals::default(),
            replies: Vec::new(),
        }
    }

    /// Runs until the queue is closed.
    pub fn run(mut self) {
        loop {
            if self.session.is_none() && !self.connect() {
                if !self.wait_while_down() {
                    return;
                }
                continue;
            }
            // Nothing waits to fill a batch: the first is taken as soon as it is there, with whatever else is.
            let Ok(first) = self.queue.recv() else { return };
            self.execute_with(first);
        }
    }

    /// Executes what is queued, once: the simulation's way to run a reader.
    #[cfg(test)]
    pub fn run_queued(&mut self) {
        if let Ok(first) = self.queue.try_recv() {
            self.execute_with(first);
        }
    }

    fn execute_with(&mut self, first: ReadWork) {
        let (mut jobs, mut page) = (Vec::new(), None);
        let mut next = Some(first);
        while let Some(work) = next {
            page = self.taken(work, &mut jobs);
            // One page at a time, and behind the rows that were asked for before it: a long list is no reason to wait.
            let full = jobs.len() >= READ_BATCH || page.is_some();
            next = if full { None } else { self.queue.try_recv().ok() };
        }
        let started = Instant::now();
        for job in &jobs {
            self.work.queue_wait.observe_duration(started.saturating_duration_since(job.queued));
        }
        if !jobs.is_empty() {
            self.execute(&jobs);
            self.shared.health.reads.rows.observe(jobs.len(), READ_BATCH, started.elapsed());
        }
        if let Some(page) = page {
            let started = Instant::now();
            self.work.queue_wait.observe_duration(started.saturating_duration_since(page.queued));
            self.execute_page(&page);
            self.shared.health.reads.large.observe(1, 1, started.elapsed());
        }
    }

    /// What was taken from the queue, and stands there no more: rows are added, a page is returned.
    fn taken(&self, work: ReadWork, jobs: &mut Vec<ReadJob>) -> Option<PageJob> {
        let line = &self.shared.health.reads;
        match work {
            ReadWork::Row(job) => jobs.push(job),
            ReadWork::Rows(list) => {
                let mut rows = list.lock();
                line.rows_leave(rows.len());
                jobs.append(&mut rows);
            }
            ReadWork::Page(page) => {
                line.large_leaves();
                return Some(page);
            }
        }
        None
    }

    fn connect(&mut self) -> bool {
        let connect = || self.shared.connector.connect();
        let connected =
            if self.down { connect() } else { while_asking(&self.work, self.shared.clock, connect) };
        match connected {
            Ok(mut session) => {
                session.tells(Asked::of(&self.work, self.shared.clock));
                self.session = Some(Counted::new(session, &self.work, self.shared.clock));
                self.pause.reset();
                if std::mem::take(&mut self.down) {
                    self.shared.health.set_reader(false);
                    self.shared.count_reconnect("reader");
                } else if self.had_session {
                    self.shared.report_another("reader");
                }
                self.had_session = true;
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.down, true) {
                    self.shared.health.set_reader(true);
                    self.shared.report_down("reader", &error);
                }
                false
            }
        }
    }

    /// Waits until the next attempt. While some reader still has a connection the queue is left to it; when none
    /// has, whatever is or gets into the queue is refused at once. False: the server ends.
    fn wait_while_down(&mut self) -> bool {
        let until = self.pause.next(&self.shared.health);
        while let Some(left) = until.left() {
            if !self.shared.health.reads_down() {
                match self.end.recv_timeout(left.min(Pause::STEP)) {
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return false,
                }
            }
            match self.queue.recv_timeout(left.min(Pause::STEP)) {
                Ok(work) => {
                    let mut jobs = Vec::new();
                    if let Some(page) = self.taken(work, &mut jobs) {
                        self.answer_page(&page, Answer::Failed(self.shared.down()));
                    }
                    self.fail(&jobs, &self.shared.down());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }

    /// Reads rows. Where one cannot be read, the others do not suffer for it.
    fn execute(&mut self, jobs: &[ReadJob]) {
        let mut parts = Parts { left: READ_PARTS, fault: Fault::default() };
        if let Err(refusal) = self.read(jobs) {
            self.narrow(jobs, refusal, &mut parts);
        }
    }

    /// Rows that were refused together: halves are read, then halves of the half that has the row at fault. A lock, or a statement that
    /// takes too long, is not looked for: each part would wait as long. Nor is what two rows are refused for because of the server,
    /// each by itself, and none was read.
    fn narrow(&mut self, jobs: &[ReadJob], (message, blame): Refused, parts: &mut Parts) {
        if self.session.is_none() && self.down {
            // It has gone meanwhile, and need not be looked for by every part.
            return self.fail(jobs, &self.shared.down());
        }
        let may_be_one = matches!(blame, Blame::Row | Blame::Server);
        if jobs.len() == 1 || parts.left < 2 || !may_be_one || parts.fault.is_the_servers() {
            // Where others are read, it lies with this row, whatever it is.
            let is_a_rows = jobs.len() == 1 && blame == Blame::Server && parts.fault.is_a_rows();
            let failure = self.refused(message, if is_a_rows { Blame::Row } else { blame });
            return self.fail(jobs, &failure);
        }
        parts.left -= 2;
        let (first, second) = jobs.split_at(jobs.len() / 2);
        let halves = [first, second].map(|half| (half, self.read(half)));
        for (half, read) in &halves {
            match read {
                Ok(()) => parts.fault.note(false),
                Err((_, blame)) if half.len() == 1 => parts.fault.note(*blame == Blame::Server),
                Err(_) => {}
            }
        }
        for (half, read) in halves {
            if let Err(refusal) = read {
                self.narrow(half, refusal, parts);
            }
        }
    }

    /// Reads rows by one statement, and answers; what is refused is not answered yet.
    fn read(&mut self, jobs: &[ReadJob]) -> Result<(), Refused> {
        let keys: Vec<&str> = jobs.iter().map(|job| &*job.key).collect();
        // Reading twice does no harm: a connection that broke while it was idle, or a conflict, costs a second try, not an error.
        for try_number in 0..2 {
            if self.session.is_none() && !self.connect() {
                break;
            }
            let session = self.session.as_mut().expect("connected above");
            let now_ms = self.shared.clock.now_ms();
            match session.timed(jobs.len(), |session| session.read(&keys, now_ms)) {
                Ok(rows) => {
                    self.refusals.done("reads");
                    self.done(jobs, &rows, seconds(now_ms));
                    return Ok(());
                }
                Err(Error::Refused { blame: Blame::Conflict, .. }) if try_number == 0 => {}
                Err(Error::Refused { message, blame }) => return Err((message, blame)),
                Err(Error::NotSent(_) | Error::Lost(_)) => self.session = None,
            }
        }
        self.fail(jobs, &self.shared.down());
        Ok(())
    }

    fn execute_page(&mut self, page: &PageJob) {
        for try_number in 0..2 {
            if self.session.is_none() && !self.connect() {
                break;
            }
            let session = self.session.as_mut().expect("connected above");
            match session.timed(1, |session| session.page(&page.range)) {
                Ok(found) => {
                    self.refusals.done("reads");
                    return self.answer_page(page, Answer::Page(found));
                }
                Err(Error::Refused { blame: Blame::Conflict, .. }) if try_number == 0 => {}
                Err(Error::Refused { message, blame }) => {
                    let failure = self.refused(message, blame);
                    return self.answer_page(page, Answer::Failed(failure));
                }
                Err(Error::NotSent(_) | Error::Lost(_)) => self.session = None,
            }
        }
        self.answer_page(page, Answer::Failed(self.shared.down()));
    }

    /// Logs a refusal. One row that cannot be read says nothing of the next.
    fn refused(&mut self, message: String, blame: Blame) -> Failure {
        match blame {
            Blame::Row => self.refusals.row(&message),
            Blame::Conflict | Blame::Held | Blame::Server | Blame::ReadOnly => {
                self.refusals.refused("reads", &message);
            }
        }
        Failure::Refused(message.into())
    }

    fn answer_page(&mut self, page: &PageJob, answer: Answer) {
        self.replies.push(Reply { ticket: page.ticket, answer });
        self.shared.deliver.deliver(&mut self.replies);
    }

    fn done(&mut self, jobs: &[ReadJob], rows: &[Row], now_s: u32) {
        for (job, row) in jobs.iter().zip(rows) {
            let mut shard = self.shared.engine.shard(job.hash);
            let done = shard.read_done(job.hash, &job.key, job.id, Some(row), now_s);
            drop(shard);
            let reply = |ticket| Reply { ticket, answer: Answer::Found(row.clone()) };
            self.replies.extend(done.waiters.into_iter().map(reply));
            self.replies.extend(done.watching.into_iter().map(Reply::changed));
        }
        self.shared.deliver.deliver(&mut self.replies);
    }

    fn fail(&mut self, jobs: &[ReadJob], failure: &Failure) {
        for job in jobs {
            let done = self.shared.engine.shard(job.hash).read_done(job.hash, &job.key, job.id, None, 0);
            let reply = |ticket| Reply { ticket, answer: Answer::Failed(failure.clone()) };
            self.replies.extend(done.waiters.into_iter().map(reply));
        }
        self.shared.deliver.deliver(&mut self.replies);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::engine::Engine;
    use crate::limits::{KEYS_A_REQUEST, RECONNECT_MS};
    use crate::metrics::Workers;
    use crate::store::health::Health;
    use crate::store::judge::{Before, Change};
    use crate::store::list::{Page, Range};
    use crate::store::postgres::PostgresSession;
    use crate::store::sweeper::Expired;
    use crate::store::{Deliver, Set, Written, load};
    use crate::token::{Id, Ticket};
    use parking_lot::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Nowhere;

    impl Connector for Nowhere {
        type Session = PostgresSession;

        fn connect(&self) -> Result<PostgresSession, Error> {
            Err(Error::NotSent("there is no database".into()))
        }
    }

    impl Deliver for Nowhere {
        fn deliver(&self, _: &mut Vec<Reply>) {
            panic!("nobody has asked anything");
        }
    }

    pub(crate) fn shared<C: Connector>(connector: C, deliver: impl Deliver) -> Arc<Shared<C>> {
        let (readers, writers) = (2, 1);
        Arc::new(Shared {
            connector,
            engine: Arc::new(Engine::new(1 << 20, 1 << 10)),
            deliver: Arc::new(deliver),
            health: Arc::new(Health::new(readers, writers)),
            workers: Arc::new(Workers::new(readers, writers)),
            clock: Clock::start(),
            reconnect_ms: RECONNECT_MS,
        })
    }

    /// Refuses what has one of these keys in it, for the reason that stands beside it, and counts its statements.
    #[derive(Clone, Default)]
    pub(crate) struct Faulty {
        faults: Vec<(usize, Blame)>,
        statements: Arc<AtomicUsize>,
    }

    impl Connector for Faulty {
        type Session = Faulty;

        fn connect(&self) -> Result<Faulty, Error> {
            Ok(self.clone())
        }
    }

    impl Faulty {
        pub(crate) fn with(faults: Vec<(usize, Blame)>) -> Faulty {
            Faulty { faults, ..Faulty::default() }
        }

        fn takes(&self, keys: &[&str]) -> Result<(), Error> {
            self.statements.fetch_add(1, Ordering::Relaxed);
            let fault = self.faults.iter().find(|(key, _)| keys.contains(&&*key.to_string()));
            match fault {
                Some((_, blame)) => Err(Error::Refused { message: "no".into(), blame: *blame }),
                None => Ok(()),
            }
        }
    }

    const ONLY_READS: &str = "a reader reads rows here, a sweeper deletes them, and nothing else";

    impl Session for Faulty {
        type Backend = ();

        fn read(&mut self, keys: &[&str], _: u64) -> Result<Vec<Row>, Error> {
            self.takes(keys).map(|()| vec![None; keys.len()])
        }

        fn limit_lock_waits(&mut self) -> Result<u64, Error> {
            unreachable!("{ONLY_READS}")
        }

        fn page(&mut self, _: &Range) -> Result<Page, Error> {
            unreachable!("{ONLY_READS}")
        }

        fn write(&mut self, _: &[Set<'_>], _: &[&str]) -> Result<Written, Error> {
            unreachable!("{ONLY_READS}")
        }

        fn load(&mut self, _: &[&load::Row<'_>]) -> Result<(), Error> {
            unreachable!("{ONLY_READS}")
        }

        fn load_each(&mut self, _: &[&load::Row<'_>]) -> Result<Vec<Option<(String, Blame)>>, Error> {
            unreachable!("{ONLY_READS}")
        }

        fn look(&mut self, _: &[&str], _: u64) -> Result<Vec<Option<Before>>, Error> {
            unreachable!("{ONLY_READS}")
        }

        fn locked(&mut self, _: &[&str]) -> Result<Vec<bool>, Error> {
            unreachable!("{ONLY_READS}")
        }

        fn change(&mut self, _: &[Change<'_>], _: bool) -> Result<Vec<Option<u32>>, Error> {
            unreachable!("{ONLY_READS}")
        }

        fn expired(&mut self, _: Option<&Expired>, _: u32) -> Result<Vec<Expired>, Error> {
            unreachable!("{ONLY_READS}")
        }

        fn sweep(&mut self, keys: &[&str]) -> Result<u64, Error> {
            self.takes(keys).map(|()| keys.len() as u64)
        }

        fn backend(&self) {}

        fn end_backend(&mut self, (): &()) -> Result<(), Error> {
            unreachable!("{ONLY_READS}")
        }

        fn is_broken(&mut self) -> bool {
            false
        }
    }

    /// Keeps the numbers of those that were refused, and how many were answered.
    #[derive(Clone, Default)]
    pub(crate) struct Kept(Arc<Mutex<(Vec<usize>, usize)>>);

    impl Deliver for Kept {
        fn deliver(&self, replies: &mut Vec<Reply>) {
            let (refused, answered) = &mut *self.0.lock();
            for reply in replies.drain(..) {
                *answered += 1;
                if reply.answer == Answer::Failed(Failure::Refused("no".into())) {
                    refused.push(reply.ticket.job as usize);
                }
            }
        }
    }

    /// Reads so many keys in one batch: which of them are refused, and how many statements that takes.
    fn read_with(faults: &[(usize, Blame)], keys: usize) -> (Vec<usize>, usize) {
        let (faulty, kept) = (Faulty::with(faults.to_vec()), Kept::default());
        let shared = shared(faulty.clone(), kept.clone());
        let mut jobs = Vec::new();
        for at in 0..keys {
            let (key, id) = (at.to_string(), Id { slot: 0, generation: 0 });
            let (hash, ticket) = (shared.engine.hash(&key), Ticket { event_loop: 0, id, job: at as u32 });
            let _joined_nobody = shared.engine.shard(hash).get(hash, &key, 0, ticket, |_| (), &mut |id| {
                jobs.push(ReadJob { key: key.as_str().into(), hash, id, queued: Instant::now() });
                true
            });
        }
        assert_eq!(jobs.len(), keys);
        let ((_work, queue), (_end, ends)) = (crossbeam_channel::bounded(1), crossbeam_channel::bounded(1));
        Reader::new(shared, queue, ends, 0).execute(&jobs);
        let (mut refused, answered) = kept.0.lock().clone();
        assert_eq!(answered, keys, "everyone is answered once");
        refused.sort_unstable();
        (refused, faulty.statements.load(Ordering::Relaxed))
    }

    #[test]
    fn one_row_that_cannot_be_read_is_refused_alone() {
        assert_eq!(read_with(&[], READ_BATCH), (vec![], 1));
        assert_eq!(read_with(&[(0, Blame::Row)], 1), (vec![0], 1));
        assert_eq!(read_with(&[(1, Blame::Row)], 2), (vec![1], 3));
        for blame in [Blame::Row, Blame::Server] {
            for at in [0, 100, READ_BATCH - 1] {
                assert_eq!(read_with(&[(at, blame)], READ_BATCH), (vec![at], 17), "{blame:?}");
            }
            assert_eq!(read_with(&[(7, blame), (8, blame)], 9).0, [7, 8], "{blame:?}");
            // The last request taken may come on top of all but one.
            let last = READ_BATCH - 1 + KEYS_A_REQUEST - 1;
            for first in 0..last {
                let (refused, _) = read_with(&[(first, blame), (last, blame)], last + 1);
                assert_eq!(refused, [first, last], "{blame:?}");
            }
        }
    }

    #[test]
    fn what_is_refused_is_not_looked_for_without_end() {
        let all = |blame| (0..READ_BATCH).map(|at| (at, blame)).collect::<Vec<_>>();
        let everyone: Vec<usize> = (0..READ_BATCH).collect();
        // The table is at fault, or waiting would only be repeated.
        let halvings = READ_BATCH.ilog2() as usize;
        assert_eq!(read_with(&all(Blame::Server), READ_BATCH), (everyone.clone(), 1 + 2 * halvings));
        assert_eq!(read_with(&[(7, Blame::Held)], READ_BATCH), (everyone.clone(), 1));
        let (refused, statements) = read_with(&all(Blame::Row), READ_BATCH);
        assert_eq!((refused, statements), (everyone, 1 + READ_PARTS));
    }

    #[test]
    fn a_reader_that_leaves_the_queue_to_another_one_ends_with_the_server() {
        let shared = shared(Nowhere, Nowhere);
        let (_other, queue) = crossbeam_channel::bounded(1);
        let (end, ends) = crossbeam_channel::bounded(1);
        let reader = Reader::new(shared, queue, ends, 0);
        drop(end);
        reader.run();
    }
}
