//! Made-up clients: what they ask for, what they make of their replies, and how long they wait.

use super::database::{Database, parse_load};
use super::watchers::is_for_watcher;
use super::{Asking, Bug, CLIENTS, COUNTER, KEYS, OPERATIONS, SHORT_LIVED, State, Wish, World};
use crate::engine::shard::{Freshness, Held, Known};
use crate::engine::{NEVER, Record, Row};
use crate::http::conditional::Preconditions;
use crate::http::response::Lent;
use crate::store::backend::{Asked, Piece};
use crate::store::{Answer, Deliver, Failure, NO_VERSION, Op, Reply};
use crate::token::{Id, Ticket};
use std::sync::Arc;

impl World {
    /// A client without an operation under way begins one.
    pub(super) fn ask(&self) {
        let late_fills = self.late_fills();
        let (client, asking) = {
            let mut state = self.state();
            let free = state.clients.iter().position(Option::is_none);
            let Some(client) = free.filter(|_| state.started < OPERATIONS) else { return };
            state.started += 1;
            state.jobs += 1;
            let key = KEYS[state.rng.usize(..KEYS.len())];
            let ttl_s = if state.timed && state.rng.u8(..3) == 0 { Some(1) } else { None };
            let mark = if ttl_s.is_some() { SHORT_LIVED } else { "" };
            let set = Op::Set { value: format!("{key}{}{mark}", state.jobs).into(), ttl_s };
            // A version that the client may know: the newest that it may have seen, or one before it.
            let seen = state.history[key].len() - 1 - state.rng.usize(..2).min(state.history[key].len() - 1);
            let version = state.history[key][seen].as_ref().map_or(NO_VERSION, |(_, version)| *version);
            let kind = match &mut *state {
                // Who asks for what there is now, and who takes what is cached.
                State { shared: true, plain: true, rng, .. } => [0, 4, 4, 4, 5, 6, 9][rng.usize(..7)],
                State { deleting: true, rng, .. } => [0, 6, 9, 9, 9, 15][rng.usize(..6)],
                State { plain: true, rng, .. } => rng.u8(..11),
                State { rng, .. } => rng.u8(..18),
            };
            let (key, wish) = match kind {
                0..=3 => (key, Wish::Read(Freshness::Any)),
                4 => (key, Wish::Read(Freshness::Now)),
                5 => (key, Wish::Read(Freshness::Uncached)),
                6..=8 => (key, Wish::Write(set)),
                9 | 10 => (key, Wish::Write(Op::Delete)),
                11 | 12 => (key, Wish::Swap(set, version)),
                13 => (COUNTER, Wish::Count),
                14 => (COUNTER, Wish::Read(Freshness::Any)),
                15 => (key, Wish::Load(set)),
                16 => (key, Wish::Both(set, version)),
                _ => {
                    let guard = next_to(key);
                    let newest = state.history[guard].last().and_then(Option::as_ref);
                    match newest.map(|(_, version)| *version) {
                        Some(version) => (key, Wish::Guarded(set, guard, version)),
                        None => (key, Wish::Write(set)),
                    }
                }
            };
            let newest = state.history[key].len() - 1;
            let floor = match wish {
                Wish::Read(Freshness::Now | Freshness::Uncached) => newest,
                _ => state.floors[key],
            };
            let late_fills = late_fills.filter(|_| !matches!(wish, Wish::Read(Freshness::Uncached)));
            let asking = Asking { key, wish, claim: None, floor, newest, late_fills, job: state.jobs };
            state.clients[client] = Some(asking.clone());
            (client, asking)
        };
        self.begin(client, &asking);
    }

    /// Some clients ask for a key each, in one request, as one connection would.
    pub(super) fn ask_for_many(&self) {
        let late_fills = self.late_fills();
        let asking: Vec<(usize, Asking)> = {
            let mut state = self.state();
            let free: Vec<usize> = (0..CLIENTS).filter(|client| state.clients[*client].is_none()).collect();
            let count = state.rng.usize(..=free.len()).min(OPERATIONS - state.started.min(OPERATIONS));
            let mut begin = |client: usize| {
                state.started += 1;
                state.jobs += 1;
                let key = KEYS[state.rng.usize(..KEYS.len())];
                let (floor, newest) = (state.floors[key], state.history[key].len() - 1);
                let wish = Wish::Read(Freshness::Any);
                let asking = Asking { key, wish, claim: None, floor, newest, late_fills, job: state.jobs };
                state.clients[client] = Some(asking.clone());
                state.log(|| format!("client {client}, one of many: {asking:?}"));
                (client, asking)
            };
            free.into_iter().take(count).map(&mut begin).collect()
        };
        let mut hits: Vec<Option<Row>> = vec![None; asking.len()];
        let ticket = |at: usize| Ticket {
            event_loop: 0,
            id: Id { slot: asking[at].0 as u32, generation: 0 },
            job: asking[at].1.job,
        };
        let keys = asking.iter().map(|(_, asking)| asking.key);
        let asked =
            self.backend.get_many(keys, self.now_s(), ticket, |at, known| hits[at] = Some(row_of(known)));
        for (at, asked) in asked.into_iter().enumerate() {
            let (client, asking) = &asking[at];
            match asked {
                Asked::Answered(()) => {
                    let mut state = self.state();
                    let row = hits[at].take().expect("told with the answer");
                    state.clients[*client] = None;
                    state.check_hit(asking, &row, "a hit of many");
                }
                Asked::Waiting | Asked::Joined => {}
                Asked::Refused(_) => {
                    self.finish(*client, &Answer::Failed(Failure::Down { retry_after_seconds: 1 }))
                }
            }
        }
    }

    pub(super) fn begin(&self, client: usize, asking: &Asking) {
        self.state().log(|| format!("client {client}: {asking:?}"));
        let id = Id { slot: client as u32, generation: 0 };
        let ticket = Ticket { event_loop: 0, id, job: asking.job };
        let key = asking.key;
        let conditions = |version: u32| {
            let tag = format!("\"{version}\"");
            let (tag, star) = (Some(tag.as_str()), Some("*"));
            let (if_match, if_none_match) = if version == NO_VERSION { (None, star) } else { (tag, None) };
            Preconditions::from_text(if_match, if_none_match).expect("well-formed")
        };
        let expired = {
            let mut state = self.state();
            state.faults.deadlines && state.rng.u8(..20) == 0
        };
        let deadline_ms = if expired { 0 } else { u64::MAX };
        let mut freshness = Freshness::Any;
        let queued = match &asking.wish {
            Wish::Read(wanted) => {
                freshness = *wanted;
                None
            }
            Wish::Write(op) => Some(self.backend.write(key.into(), op.clone(), None, ticket, deadline_ms)),
            Wish::Swap(op, version) => {
                let conditions = conditions(*version);
                Some(self.backend.write(key.into(), op.clone(), conditions, ticket, deadline_ms))
            }
            Wish::Count => Some(self.backend.write(key.into(), Op::Add(1), None, ticket, deadline_ms)),
            Wish::Load(op) => {
                let Op::Set { value, ttl_s } = op else { unreachable!("loads store values") };
                let (other, ttl) = (next_to(key), ttl_s.is_some());
                let lines = format!("{key}={value} {ttl}\nno row\n{other}={value}-too false\n").into_bytes();
                let permit = self.backend.loads.begin().expect("there are fewer clients");
                let piece = Piece { lines, first: 1, parse: parse_load, max_value_bytes: 100, permit };
                Some(self.backend.load(piece, client, ticket, deadline_ms))
            }
            Wish::Both(op, version) => {
                let steps = vec![
                    (COUNTER.into(), Op::Add(1), None),
                    (key.into(), op.clone(), conditions(*version)),
                    (key.into(), Op::Read, None),
                ];
                Some(self.backend.write_many(steps, true, ticket, deadline_ms))
            }
            Wish::Guarded(op, guard, version) => {
                let steps =
                    vec![((*guard).into(), Op::Read, conditions(*version)), (key.into(), op.clone(), None)];
                Some(self.backend.write_many(steps, true, ticket, deadline_ms))
            }
        };
        match queued {
            Some(Ok(claim)) => {
                if let Some(asking) = &mut self.state().clients[client] {
                    asking.claim = Some(claim);
                }
                return;
            }
            Some(Err(_)) => return self.finish(client, &Answer::Failed(Failure::NotStarted)),
            None => {}
        }
        let asked = match freshness {
            Freshness::Any => self.backend.get(key, self.now_s(), ticket, row_of),
            _ => self.backend.get_fresh(key, (self.now_s(), freshness), ticket, row_of),
        };
        match asked {
            Asked::Answered(row) => {
                let mut state = self.state();
                state.log(|| format!("client {client}: hit {row:?}"));
                state.clients[client] = None;
                state.check_hit(asking, &row, "a hit");
            }
            Asked::Waiting | Asked::Joined => {}
            Asked::Refused(_) => {
                self.finish(client, &Answer::Failed(Failure::Down { retry_after_seconds: 1 }))
            }
        }
    }

    /// A reply, or what stands for one, has come to a client.
    fn finish(&self, client: usize, answer: &Answer) {
        let late_fills = self.backend.engine.stats().late_fills;
        let mut state = self.state();
        let asking = state.clients[client].take().expect("only who asks is answered");
        state.log(|| format!("client {client}: {answer:?} for {asking:?}"));
        match answer {
            Answer::Found(row) => {
                state.check_read(&asking, row, asking.late_fills == Some(late_fills), "a miss");
            }
            Answer::Stored { record, .. } => state.check_stored(&asking, record),
            Answer::Many(answers) => state.check_many(&asking, answers),
            // The row is another one, or it was while this was under way.
            Answer::PreconditionFailed => state.check_not_swapped(&asking),
            Answer::NotANumber | Answer::NotDone | Answer::Changed | Answer::Page(_) => {
                state.violate(format!("{answer:?} for {asking:?}"));
            }
            Answer::Loaded(loaded) => state.check_loaded(&asking, loaded),
            Answer::Deleted { existed: true } => {
                state.count_delete(&asking);
                state.check_write(&asking, None);
            }
            // Absent when it ran: at some state since the floor, or between two writes of its batch.
            Answer::Deleted { existed: false } => {
                let absent = state.history[asking.key][asking.floor..].iter().any(Option::is_none);
                let batched = state.history[asking.key].len() - 1 > asking.newest;
                if !absent && !batched {
                    state.violate(format!("{asking:?} found nothing, but there was a row all the time"));
                }
            }
            Answer::Failed(Failure::Unknown) => state.count_unknown(&asking),
            Answer::Failed(
                Failure::Down { .. } | Failure::Refused(_) | Failure::NotStarted | Failure::InDoubt,
            ) => {
                state.refuse(&asking);
            }
        }
        if !matches!(asking.wish, Wish::Read(_)) {
            let jobs = state.jobs;
            state.last_ended.insert(asking.key, jobs);
        }
    }

    /// The deadline of some write passes at its connection.
    pub(super) fn pass_deadline(&self) {
        let waiting = {
            let mut state = self.state();
            if !state.faults.deadlines {
                return;
            }
            let client = state.rng.usize(..CLIENTS);
            state.clients[client]
                .as_ref()
                .and_then(|asking| asking.claim.clone())
                .map(|claim| (client, claim))
        };
        if let Some((client, claim)) = waiting {
            let failure = if claim.withdraw() { Failure::NotStarted } else { Failure::Unknown };
            if failure == Failure::NotStarted {
                let mut state = self.state();
                let job = state.clients[client].as_ref().expect("it waits").job;
                state.replied.insert(job);
            }
            self.finish(client, &Answer::Failed(failure));
        }
    }
}

/// The next one of the keys.
fn next_to(key: &str) -> &'static str {
    let at = KEYS.iter().position(|known| *known == key).expect("one of them");
    KEYS[(at + 1) % KEYS.len()]
}

fn row_of(known: Known<'_>) -> Row {
    match known {
        Known::Value(Held { value, version, .. }) => {
            let value = match value {
                Lent::Bytes(bytes) => std::str::from_utf8(bytes).expect("values are text").into(),
                Lent::Shared(value) => Arc::clone(value),
            };
            Some(Record { value, version, expires_s: NEVER })
        }
        Known::Absent { .. } => None,
    }
}

/// Takes replies to the made-up clients.
pub(super) struct Clients(pub(super) Database);

impl Deliver for Clients {
    fn deliver(&self, replies: &mut Vec<Reply>) {
        let world = self.0.world();
        let times = if world.bug == Some(Bug::AnsweredTwice) { 2 } else { 1 };
        let each = |Reply { ticket, answer }| std::iter::repeat_n((ticket, answer), times);
        let (watching, asking): (Vec<_>, Vec<_>) = replies.drain(..).partition(is_for_watcher);
        for reply in &watching {
            world.reply_to_watcher(reply);
        }
        for (ticket, answer) in asking.into_iter().flat_map(each) {
            let client = ticket.id.slot as usize;
            if !world.state().replied.insert(ticket.job) {
                world
                    .state()
                    .violate(format!("job {} was withdrawn, or has had its reply: {answer:?}", ticket.job));
            }
            let waits = world.state().clients[client].as_ref().is_some_and(|asking| asking.job == ticket.job);
            if waits {
                world.finish(client, &answer);
            }
        }
    }
}
