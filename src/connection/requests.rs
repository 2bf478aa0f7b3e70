//! What a connection does with its requests: takes them out of bytes, and finds out what each of them asks for. What is done then
//! is in [`super::read`], [`super::write`] and others. Called by [`super`] with whatever it has read.

use super::incoming::{self, Incoming, Judged, Owned, Plan, Purpose, Setting};
use super::{Connection, Context, Role, State, Workspace};
use crate::api::batch::{self, Form};
use crate::api::wishes::Wishes;
use crate::api::{self, Command, admin, answer, load, openapi, refusals};
use crate::http::cors::Audience;
use crate::http::problem::Problem;
use crate::http::request::{self, Framing, Head, Parsed, Version};
use crate::http::response::{Frame, Reuse};
use crate::limits::{OUTPUT_BYTES, REPEATS};
use crate::metrics::Method;
use crate::store::Op;

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
        self.method = Method::of(head.method);
        let judged = self.judge(head, cx);
        match incoming::plan(judged, head) {
            Plan::Execute(command, wishes, reuse) => {
                self.execute(command, wishes, frame.closing_if(reuse == Reuse::Close), ws, cx);
            }
            Plan::Refuse(problem, reuse) => {
                self.refuse(&problem, frame.closing_if(reuse == Reuse::Close), ws, cx);
            }
            // Whoever does not read earlier answers keeps none of the few places.
            Plan::Load if !ws.output.is_empty() => {
                self.unparsed = true;
                self.forget_asker(ws);
            }
            Plan::Load => {
                if self.begin_load(head.framing, frame, ws, cx) && head.expects_continue && !more_follows {
                    Connection::ask_for_content(ws);
                }
            }
            Plan::Receive(purpose) => {
                // RFC 9110 section 10.1.1: not needed where the content is on its way already.
                if head.expects_continue && !more_follows {
                    Connection::ask_for_content(ws);
                }
                self.state = State::Content(Box::new(Incoming::new(purpose, frame, head.framing)));
                self.deadline_ms = cx.now_ms + cx.bounds.request_timeout_ms;
            }
        }
    }

    /// What a head asks for, if who sends it may ask for it, and all that it says of it can be done.
    fn judge<'b>(&mut self, head: &Head<'b>, cx: &Context<'_>) -> Judged<'b> {
        let mut command = match (self.role, cx.tokens) {
            (Role::Admin, _) => admin::route(head.method, head.target)?,
            (Role::Data, None) => api::route(head.method, head.target)?,
            (Role::Data, Some(tokens)) => {
                let (command, token) = tokens.route(head.method, head.target, head.extras.authorization)?;
                self.token = token;
                command
            }
        };
        if let Command::List(list) = &mut command {
            list.negotiate(&head.extras, head.version);
        }
        incoming::check(&command, head, cx.bounds.max_value_bytes)?;
        let wishes = if command.takes_wishes() { Wishes::parse(&head.extras)? } else { None };
        let is_conditional = wishes.as_ref().is_some_and(|wishes| wishes.conditions.is_some());
        match command {
            Command::Load | Command::Batch(_) if is_conditional => return Err(refusals::conditional()),
            Command::Load => load::check(&head.extras)?,
            _ => {}
        }
        Ok((command, wishes))
    }

    /// Who asks, as a browser tells it. Operations are for nobody's script.
    #[inline]
    pub(super) fn audience(&self, origin: Option<&[u8]>, ws: &Workspace) -> Audience {
        if self.role == Role::Admin { Audience::NONE } else { ws.encoder.audience(origin) }
    }

    #[inline(never)]
    fn content_whole(&mut self, ws: &mut Workspace, cx: &Context<'_>) {
        let State::Content(incoming) = std::mem::replace(&mut self.state, State::Idle) else { return };
        let Incoming { purpose, frame, content, .. } = *incoming;
        // Draining may have begun since the head was taken.
        let frame = frame.closing_if(cx.draining);
        self.bring_asker(ws);
        if let Some(changes) = purpose.needs_access()
            && let Err(problem) = self.still_may(changes, cx)
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
}
