//! What a connection does with its requests: takes them out of bytes, answers what the cache knows, sends jobs for the
//! rest, takes the replies. Called by [`super`] with whatever it has read.

use super::collect::Collect;
use super::incoming::{self, Incoming, Owned, Purpose, Setting, own};
use super::list::Listing;
use super::watch::Watch;
use super::{Connection, Context, Role, State, Workspace};
use crate::access_log::RequestId;
use crate::api::answer::Forward;
use crate::api::batch::{self, Form};
use crate::api::wishes::Wishes;
use crate::api::{self, Command, admin, answer, load, openapi, value};
use crate::http::conditional::Preconditions;
use crate::http::cors::Audience;
use crate::http::problem::{Kind, Problem};
use crate::http::request::{self, Framing, Head, Parsed, Version};
use crate::http::response::{Frame, Reuse};
use crate::limits::{DISCARD_BYTES, OUTPUT_BYTES, REPEATS};
use crate::metrics::Method;
use crate::store::backend::Asked;
use crate::store::{Answer, Claim, Op, Reply};
use crate::token::Ticket;
use memchr::memchr;
use std::borrow::Cow;

/// What is waited for: decides what a reply and a deadline mean.
#[derive(Debug)]
pub(super) enum Job {
    /// A read, why it went to the database, and what else its request asked for.
    Read(Forward, Option<Box<Preconditions>>),
    /// A write; its answer need not repeat the value.
    Write { claim: Claim, minimal: bool },
    /// A key that is to change.
    Watch(Box<Watch>),
    /// A batch of operations.
    Batch(Claim, batch::Asked),
    /// Several reads, for one answer.
    Items(Box<Collect>),
    /// A page of a list.
    Page(Box<Listing>),
}

impl Connection {
    /// Answers the requests in `bytes`, in their order, as far as they are whole and may be answered now. Returns the
    /// bytes used; `unparsed` says whether the rest may be a whole request.
    pub(super) fn serve(
        &mut self,
        bytes: &[u8],
        requests: &mut usize,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) -> usize {
        let mut used = 0;
        self.unparsed = false;
        // It knows no tokens and notes nothing.
        let short_way = self.role == Role::Data && cx.tokens.is_none() && cx.access_log.is_none();
        while used < bytes.len() {
            let rest = &bytes[used..];
            let literal = request::literal_path(rest);
            if short_way
                && matches!(self.state, State::New | State::Idle | State::Head)
                && Connection::may_answer(*requests, ws)
                && let Some(path) = literal
                && let Some(get) = ws.repeats[self.id.slot as usize % REPEATS].known(path, rest)
                && let Some(key) = api::literal_key(path)
            {
                *requests -= 1;
                used += get.bytes;
                self.get_literal(key, get.keep_alive, ws, cx);
                continue;
            }
            match self.step(rest, literal, requests, ws, cx) {
                Some(step) => used += step,
                None => break,
            }
        }
        used
    }

    /// True where this turn may answer another request.
    #[inline]
    fn may_answer(requests: usize, ws: &Workspace) -> bool {
        requests > 0 && ws.output.len() < OUTPUT_BYTES
    }

    /// Takes what stands at the front of `bytes`: a request, whose path may be `literal`, or a part of a content. Returns the
    /// bytes used, none where it waits: for more of them, for an answer, or for its next turn. Not inlined: what it needs
    /// would be kept ready on the short way, too.
    #[inline(never)]
    fn step(
        &mut self,
        bytes: &[u8],
        literal: Option<&[u8]>,
        requests: &mut usize,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) -> Option<usize> {
        match &mut self.state {
            State::New | State::Idle | State::Head => {
                if !Connection::may_answer(*requests, ws) {
                    self.unparsed = true;
                    return None;
                }
                // By reference: a head is large enough that moving it would be noticed.
                match &request::parse_next(bytes, &mut ws.repeats[self.id.slot as usize % REPEATS]) {
                    Ok(Parsed::Complete(head)) => {
                        *requests -= 1;
                        if cx.access_log.is_some() || head.extras.request_id.is_some() {
                            self.note(head, ws, cx);
                        }
                        if !self.begin(head, literal, head.bytes < bytes.len(), ws, cx) {
                            // It may cost more than it sends: one a turn.
                            *requests = 0;
                            if self.unparsed {
                                return None;
                            }
                        }
                        Some(head.bytes)
                    }
                    Ok(Parsed::Partial) => {
                        self.begin_head(bytes, cx);
                        None
                    }
                    Err(problem) => {
                        self.unreadable(problem, bytes, ws, cx);
                        Some(0)
                    }
                }
            }
            State::Content(incoming) => match incoming.take(bytes, cx.bounds.max_value_bytes) {
                Ok(taken) => {
                    if incoming.decoder.is_done() {
                        self.content_whole(ws, cx);
                    }
                    Some(taken)
                }
                Err(problem) => {
                    let frame = incoming.frame.closing_if(true);
                    self.bring_asker(ws);
                    self.malformed(&problem, frame, ws, cx);
                    Some(0)
                }
            },
            State::Loading(load) if !load.is_blocked() => Some(self.take_lines(bytes, ws, cx)),
            State::Waiting(..) | State::Exporting(..) | State::Loading(_) => {
                self.unparsed = true;
                None
            }
            State::Closing | State::Lingering { .. } => None,
        }
    }

    /// A head is not whole yet. Not inlined, as [`Connection::begin_any`].
    #[inline(never)]
    fn begin_head(&mut self, bytes: &[u8], cx: &Context<'_>) {
        match self.state {
            // An empty line that some send behind a content begins none (RFC 9112 section 2.2); more of them do.
            State::Idle if matches!(bytes, b"\r" | b"\r\n") => {}
            State::New | State::Idle => {
                self.state = State::Head;
                self.deadline_ms = cx.now_ms + cx.bounds.header_timeout_ms;
            }
            _ => {}
        }
    }

    /// A head is whole. Decides what is done with it before any content is read. False: it may cost more than it sends, for it is not of one key.
    #[inline]
    fn begin(
        &mut self,
        head: &Head<'_>,
        literal: Option<&[u8]>,
        more_follows: bool,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) -> bool {
        let reuse = match head.version {
            _ if !head.keep_alive || cx.draining => Reuse::Close,
            Version::Http10 => Reuse::KeepAlive,
            Version::Http11 => Reuse::Silent,
        };
        let audience = self.audience(head.extras.origin, ws);
        let frame = Frame { head_only: head.method == "HEAD", reuse, audience };
        // The short way again, for a GET whose fields had to be read: the first with them, or one that is logged.
        if self.role != Role::Admin
            && cx.tokens.is_none()
            && head.extras.lists.is_empty()
            && !head.framing.has_content()
            && literal.is_some_and(|path| path.len() == head.target.len() && api::literal_key(path).is_some())
        {
            // Text already: looking again whether it is UTF-8 would cost a hundred instructions.
            self.get(&head.target[api::KEYS.len()..], frame, ws, cx);
            return true;
        }
        self.begin_any(head, more_follows, frame, ws, cx);
        head.target.starts_with(api::KEYS)
    }

    /// The same for every other request. Not inlined: what it needs would be kept ready on the short way, too.
    #[inline(never)]
    fn begin_any(
        &mut self,
        head: &Head<'_>,
        more_follows: bool,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        let mut routed = match self.role {
            Role::Data => match cx.tokens {
                None => api::route(head.method, head.target),
                Some(tokens) => tokens.route(head.method, head.target, head.extras.authorization).map(
                    |(command, token)| {
                        self.token = token;
                        command
                    },
                ),
            },
            Role::Admin => admin::route(head.method, head.target),
        };
        self.method = Method::of(head.method);
        if let Ok(Command::List(list)) = &mut routed {
            list.negotiate(&head.extras, head.version);
        }
        let checked = routed
            .and_then(|command| incoming::check(command, head, cx.bounds.max_value_bytes))
            .and_then(|command| Ok((command, Wishes::parse(&head.extras)?)))
            .and_then(|(command, wishes)| match (&command, &wishes) {
                (Command::Load | Command::Batch(_), Some(wishes)) if wishes.conditions.is_some() => {
                    Err(answer::conditional())
                }
                (Command::Load, _) => load::check(&head.extras).map(|()| (command, wishes)),
                _ => Ok((command, wishes)),
            });
        if !head.framing.has_content() {
            return match checked {
                Ok((command, wishes)) => self.execute(command, wishes, frame, ws, cx),
                Err(problem) => self.refuse(&problem, frame, ws, cx),
            };
        }
        // Content that is not wanted is read to keep the connection, if it is small and on its way; else the answer
        // comes first, and the connection ends with it. But what changes something happens once its request is whole, and not
        // before: one that is cut off in its content must change nothing.
        let changes = matches!(checked, Ok((Command::Delete(_) | Command::Add(..), _)));
        let droppable = match head.framing {
            Framing::Length(..=DISCARD_BYTES) => changes || !head.expects_continue,
            Framing::Chunked => changes,
            Framing::None | Framing::Length(_) => false,
        };
        let purpose = match checked {
            Ok((Command::Set(key, ttl_s), wishes)) => {
                Purpose::Set(Setting { key: key.into(), ttl_s, wishes })
            }
            Ok((Command::Batch(all_or_nothing), _)) => match Form::of(&head.extras) {
                Ok(form) => Purpose::Batch(form, all_or_nothing),
                Err(problem) => {
                    return self.refuse(&problem, frame.closing_if(true), ws, cx);
                }
            },
            // Whoever does not read earlier answers keeps none of the few places.
            Ok((Command::Load, _)) if !ws.output.is_empty() => {
                self.unparsed = true;
                return self.forget_asker(ws);
            }
            Ok((Command::Load, _)) => {
                if self.begin_load(head.framing, frame, ws, cx) && head.expects_continue && !more_follows {
                    Connection::ask_for_content(ws);
                }
                return;
            }
            Ok((command, wishes)) if droppable => Purpose::Drop(Owned::Command(own(command), wishes)),
            // Whoever expects what is not done may send no content before the answer.
            Err(problem)
                if droppable && !matches!(problem.kind, Kind::ValueTooLarge | Kind::ExpectationFailed) =>
            {
                Purpose::Drop(Owned::Refusal(problem))
            }
            Ok(_) if changes => {
                return self.refuse(&incoming::needless(), frame.closing_if(true), ws, cx);
            }
            Ok((command, wishes)) => {
                return self.execute(command, wishes, frame.closing_if(true), ws, cx);
            }
            Err(problem) => return self.refuse(&problem, frame.closing_if(true), ws, cx),
        };
        // RFC 9110 section 10.1.1: not needed where the content is on its way already.
        if head.expects_continue && !more_follows {
            Connection::ask_for_content(ws);
        }
        self.state = State::Content(Box::new(Incoming::new(purpose, frame, head.framing)));
        self.deadline_ms = cx.now_ms + cx.bounds.request_timeout_ms;
    }

    /// Who asks, as a browser tells it. Operations are for nobody's script.
    #[inline]
    fn audience(&self, origin: Option<&[u8]>, ws: &Workspace) -> Audience {
        if self.role == Role::Admin { Audience::NONE } else { ws.encoder.audience(origin) }
    }

    /// The frame of an answer to nobody knows what, after which the connection cannot go on.
    pub(super) fn last(&self, ws: &Workspace) -> Frame {
        Frame { head_only: false, reuse: Reuse::Close, audience: self.audience(None, ws) }
    }

    #[inline(never)]
    fn content_whole(&mut self, ws: &mut Workspace, cx: &Context<'_>) {
        let State::Content(incoming) = std::mem::replace(&mut self.state, State::Idle) else { return };
        let Incoming { purpose, frame, content, .. } = *incoming;
        // Draining may have begun since the head was taken.
        let frame = frame.closing_if(cx.draining);
        self.bring_asker(ws);
        if purpose.changes()
            && let Err(problem) = self.still_may(true, cx)
        {
            return self.refuse(&problem, frame, ws, cx);
        }
        match purpose {
            Purpose::Set(setting) => self.set(setting, content, frame, ws, cx),
            Purpose::Batch(form, all_or_nothing) => {
                let steps = batch::steps(&content, form, cx.bounds.max_value_bytes);
                match steps {
                    Ok(steps) => self.batch(steps, all_or_nothing, frame, ws, cx),
                    Err(problem) => self.refuse(&problem, frame, ws, cx),
                }
            }
            Purpose::Drop(Owned::Command(command, wishes)) => self.execute(command, wishes, frame, ws, cx),
            Purpose::Drop(Owned::Refusal(problem)) => self.refuse(&problem, frame, ws, cx),
        }
    }

    /// Whether the token of a request that takes long is still good for it: tokens are taken away while it is under way, too.
    pub(super) fn still_may(&self, changes: bool, cx: &Context<'_>) -> Result<(), Problem> {
        cx.tokens.map_or(Ok(()), |tokens| match self.role {
            Role::Data => tokens.stands(self.token, changes),
            Role::Admin => Ok(()),
        })
    }

    /// Executes a request that has no content, or whose content did not matter.
    fn execute(
        &mut self,
        command: Command<'_>,
        wishes: Option<Box<Wishes>>,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        match command {
            Command::Get(key) => match wishes {
                None => self.get(&key, frame, ws, cx),
                Some(wishes) => self.get_as_wished(&key, *wishes, frame, ws, cx),
            },
            Command::Delete(key) => self.write(key.into(), Op::Delete, wishes, frame, ws, cx),
            Command::Add(key, by) => self.write(key.into(), Op::Add(by), wishes, frame, ws, cx),
            Command::Set(key, ttl_s) => {
                self.set(Setting { key: key.into(), ttl_s, wishes }, Vec::new(), frame, ws, cx);
            }
            // Without a content: no operations.
            Command::Batch(_) => match batch::steps(b"", Form::Lines, 0) {
                Ok(_) => unreachable!("there is none in nothing"),
                Err(problem) => self.refuse(&problem, frame, ws, cx),
            },
            // Without a content: no lines.
            Command::Load => {
                if self.begin_load(Framing::None, frame, ws, cx) {
                    self.load_on(ws, cx);
                }
            }
            Command::GetMany(keys) => self.get_many(keys, frame, ws, cx),
            Command::List(list) => self.list(list, frame, ws, cx),
            Command::Options(allow) => {
                answer::options(&ws.encoder, &mut ws.output, allow, frame);
                self.answered(frame, ws, cx);
            }
            Command::Description => {
                openapi::answer(&ws.encoder, &mut ws.output, frame);
                self.answered(frame, ws, cx);
            }
            Command::Admin(page) => {
                admin::page(&ws.encoder, &mut ws.output, page, cx.status, cx.backend, frame);
                self.answered(frame, ws, cx);
            }
        }
    }

    /// The way of most requests: a GET whose fields ask for nothing in particular, of a key that is cached.
    #[inline(always)]
    fn get_literal(&mut self, key: &[u8], keep_alive: bool, ws: &mut Workspace, cx: &Context<'_>) {
        let reuse = if keep_alive && !cx.draining { Reuse::Silent } else { Reuse::Close };
        let frame = Frame { head_only: false, reuse, audience: self.audience(None, ws) };
        let Workspace { output, encoder, .. } = ws;
        match cx.backend.glance(key, cx.now_s, |known| answer::hit(encoder, output, &known, frame)) {
            Some(()) => self.hit(frame, ws, cx),
            None => self.ask(text(key), frame, ws, cx),
        }
    }

    /// The same where the request was read. Not inlined, as [`Connection::begin_any`].
    #[inline(never)]
    fn get(&mut self, key: &str, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        let Workspace { output, encoder, .. } = ws;
        match cx.backend.glance(key.as_bytes(), cx.now_s, |known| answer::hit(encoder, output, &known, frame))
        {
            Some(()) => self.hit(frame, ws, cx),
            None => self.ask(key, frame, ws, cx),
        }
    }

    /// A GET of a key that was not known at first sight.
    #[inline(never)]
    fn ask(&mut self, key: &str, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        let ticket = self.ticket(cx);
        let Workspace { output, encoder, .. } = ws;
        let asked =
            cx.backend.get(key, cx.now_s, ticket, |known| answer::hit(encoder, output, &known, frame));
        match asked {
            Asked::Answered(()) => self.hit(frame, ws, cx),
            asked => self.take_asked(asked, Job::Read(Forward::Miss, None), frame, ws, cx),
        }
    }

    /// The cache has answered, and the answer is encoded.
    #[inline]
    pub(super) fn hit(&mut self, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        let method = if frame.head_only { Method::Head } else { Method::Get };
        cx.counters.hit(method, ws.encoder.status());
        self.go_on(frame, ws, cx);
    }

    /// Goes on as the look-up of a key says.
    pub(super) fn take_asked(
        &mut self,
        asked: Asked<()>,
        job: Job,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        let method = if frame.head_only { Method::Head } else { Method::Get };
        match asked {
            Asked::Answered(()) => {
                self.count_problem(ws, cx);
                self.hit(frame, ws, cx);
            }
            Asked::Waiting | Asked::Joined => {
                self.method = method;
                cx.counters.cache_misses.add(1);
                let job = match job {
                    Job::Read(Forward::Miss, conditions) if matches!(asked, Asked::Joined) => {
                        Job::Read(Forward::Collapsed, conditions)
                    }
                    job => job,
                };
                self.wait(frame, job, cx);
            }
            Asked::Refused(refusal) => {
                self.method = method;
                cx.counters.cache_misses.add(1);
                self.refuse(&answer::refused(refusal), frame, ws, cx);
            }
        }
    }

    fn set(
        &mut self,
        setting: Setting,
        content: Vec<u8>,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        let Setting { key, ttl_s, wishes } = setting;
        let value = String::from_utf8(content).ok().filter(|value| memchr(0, value.as_bytes()).is_none());
        match value {
            Some(value) => self.write(key, Op::Set { value: value.into(), ttl_s }, wishes, frame, ws, cx),
            None => self.refuse(&value::not_text(), frame, ws, cx),
        }
    }

    fn write(
        &mut self,
        key: Box<str>,
        op: Op,
        wishes: Option<Box<Wishes>>,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        let (conditions, minimal) =
            wishes.map_or((None, false), |wishes| (wishes.conditions, wishes.minimal));
        let (ticket, deadline_ms) = (self.ticket(cx), cx.now_ms + cx.bounds.request_timeout_ms);
        match cx.backend.write(key, op, conditions, ticket, deadline_ms) {
            Ok(claim) => {
                cx.counters.writes.add(1);
                self.wait(frame, Job::Write { claim, minimal }, cx);
            }
            Err(refusal) => self.refuse(&answer::refused(refusal), frame, ws, cx),
        }
    }

    fn batch(
        &mut self,
        steps: Vec<batch::Step>,
        all_or_nothing: bool,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        let (ticket, deadline_ms) = (self.ticket(cx), cx.now_ms + cx.bounds.request_timeout_ms);
        let asked = batch::Asked::new(&steps, all_or_nothing);
        match cx.backend.write_many(steps, all_or_nothing, ticket, deadline_ms) {
            Ok(claim) => {
                cx.counters.writes.add(1);
                self.wait(frame, Job::Batch(claim, asked), cx);
            }
            Err(refusal) => self.refuse(&answer::refused(refusal), frame, ws, cx),
        }
    }

    /// A ticket that nobody had before. Its number is used up whatever becomes of it: who was given it may answer long
    /// after it was waited for, and that is never taken for the answer to a later job.
    pub(super) fn ticket(&mut self, cx: &Context<'_>) -> Ticket {
        self.tickets(1, cx)
    }

    /// The first of so many tickets; the others' numbers follow it.
    pub(super) fn tickets(&mut self, count: u32, cx: &Context<'_>) -> Ticket {
        let job = self.jobs.wrapping_add(1);
        self.jobs = self.jobs.wrapping_add(count);
        Ticket { event_loop: cx.event_loop, id: self.id, job }
    }

    /// Waits for the answer to the ticket that was handed out last.
    pub(super) fn wait(&mut self, frame: Frame, job: Job, cx: &Context<'_>) {
        self.sent_ns = cx.now_ns;
        self.state = State::Waiting(frame, job);
        self.deadline_ms = cx.now_ms + cx.bounds.request_timeout_ms;
    }

    pub(super) fn take_reply(&mut self, reply: Reply, ws: &mut Workspace, cx: &Context<'_>) {
        if let State::Loading(_) = &self.state {
            return self.take_loaded(&reply, ws, cx);
        }
        if let State::Waiting(_, Job::Items(_)) = &self.state {
            return self.take_item(&reply, ws, cx);
        }
        let State::Waiting(frame, job) = std::mem::replace(&mut self.state, State::Idle) else { return };
        // Draining may have begun since the request was taken.
        let frame = frame.closing_if(cx.draining);
        self.observe_job(&job, cx);
        self.bring_asker(ws);
        let Workspace { encoder, output, .. } = ws;
        match (job, reply.answer) {
            (Job::Page(listing), answer) => return self.take_page(*listing, answer, frame, ws, cx),
            (Job::Watch(watch), answer) => return self.take_watched(watch, &answer, frame, ws, cx),
            (_, Answer::Failed(failure)) => return self.refuse(&answer::failed(&failure), frame, ws, cx),
            (Job::Read(forward, conditions), Answer::Found(row)) => {
                answer::found(encoder, output, &row, forward, conditions.as_deref(), frame);
            }
            (Job::Batch(_, asked), Answer::Many(answers)) => {
                let request_id = asked.has_failed(&answers).then(|| self.name_failure(ws, cx));
                let Workspace { encoder, output, .. } = ws;
                asked.answer(encoder, output, &answers, cx.bounds.items_bytes(), (frame, request_id));
            }
            (Job::Batch(..) | Job::Read(..) | Job::Items(_), other) => {
                unreachable!("{other:?} is no answer to this job")
            }
            (Job::Write { minimal, .. }, written) => {
                answer::written(encoder, output, &written, minimal, frame);
            }
        }
        self.answered(frame, ws, cx);
    }

    /// Bytes were no proper request: what was asked for is not known, but perhaps that it was for no content.
    #[cold]
    fn unreadable(&mut self, problem: &Problem, bytes: &[u8], ws: &mut Workspace, cx: &Context<'_>) {
        self.method = Method::None;
        let head_only = request::is_head(bytes);
        self.malformed(problem, Frame { head_only, ..self.last(ws) }, ws, cx);
    }

    /// Bytes were no proper request, or content too large for one.
    #[cold]
    fn malformed(&mut self, problem: &Problem, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        if problem.kind != Kind::ValueTooLarge {
            cx.counters.parse_error(reason(problem));
        }
        self.refuse(problem, frame, ws, cx);
    }

    #[cold]
    pub(super) fn refuse(&mut self, problem: &Problem, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        if problem.status() >= 500 {
            let request_id = Some(self.name_failure(ws, cx).as_str().into());
            let problem = Problem { request_id, ..problem.clone() };
            ws.encoder.problem(&mut ws.output, &problem, frame);
        } else {
            self.note_unknown(ws, cx);
            ws.encoder.problem(&mut ws.output, problem, frame);
        }
        self.answered(frame, ws, cx);
    }

    /// A failure has a name: who asks for help can tell it, and is found in the log.
    fn name_failure(&self, ws: &mut Workspace, cx: &Context<'_>) -> RequestId {
        self.note_unknown(ws, cx);
        Connection::request_id(ws)
    }

    /// A job is over, with a reply or without: how long it took is counted.
    pub(super) fn observe_job(&self, job: &Job, cx: &Context<'_>) {
        let duration = match job {
            Job::Read(..) | Job::Items(_) => &cx.counters.miss_duration,
            Job::Write { .. } | Job::Batch(..) => &cx.counters.write_duration,
            // Takes as long as its client wants.
            Job::Watch(_) => return,
            // A page is no row.
            Job::Page(_) => return,
        };
        duration.observe(cx.now_ns.saturating_sub(self.sent_ns), 1);
    }

    /// An answer has been encoded.
    pub(super) fn answered(&mut self, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        debug_assert!(self.asker.is_none(), "who has waited for this answer was not brought");
        self.count_problem(ws, cx);
        match self.role {
            Role::Data => cx.counters.answered(self.method, ws.encoder.status()),
            Role::Admin => cx.counters.admin_requests.add(1),
        }
        self.go_on(frame, ws, cx);
    }

    /// An answer has been encoded: if it is a problem, it counts by its name, wherever it was found. What the admin socket says, again
    /// and again to whoever looks after the server, is none that its clients have.
    #[inline]
    pub(super) fn count_problem(&self, ws: &Workspace, cx: &Context<'_>) {
        if let Some(kind) = ws.encoder.take_problem()
            && self.role == Role::Data
        {
            cx.counters.problem(kind as usize);
        }
    }

    /// An answer has been encoded and counted.
    #[inline]
    fn go_on(&mut self, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        if Connection::has_asker(ws) {
            self.answered_asker(ws, cx);
        }
        match (frame.reuse, &self.state) {
            // Written only if it changes: what it was would have to be looked at, to be dropped.
            (Reuse::Silent | Reuse::KeepAlive, State::Idle) => {}
            (Reuse::Silent | Reuse::KeepAlive, _) => self.state = State::Idle,
            (Reuse::Close, _) => self.state = State::Closing,
        }
        self.deadline_ms = cx.now_ms + cx.bounds.idle_timeout_ms;
    }
}

/// A key that stands for itself.
fn text(literal: &[u8]) -> &str {
    str::from_utf8(literal).expect("a literal path is ASCII")
}

/// Why bytes are no proper request, in words of ours: what a client sent names no metric.
pub(super) fn reason(problem: &Problem) -> &'static str {
    match &problem.detail {
        Cow::Borrowed(detail) if problem.kind == Kind::MalformedRequest => detail,
        Cow::Borrowed(_) | Cow::Owned(_) => problem.kind.facts().1,
    }
}
