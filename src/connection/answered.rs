//! Answers that are encoded: refusals with their names, and what is counted and done behind every answer. Called by
//! everything that answers.

use super::{Connection, Context, Role, State, Workspace};
use crate::access_log::RequestId;
use crate::http::problem::{Kind, Problem};
use crate::http::request;
use crate::http::response::{Frame, Reuse};
use crate::metrics::Method;
use std::borrow::Cow;

impl Connection {
    /// The frame of an answer to nobody knows what, after which the connection cannot go on.
    pub(super) fn last(&self, ws: &Workspace) -> Frame {
        Frame { head_only: false, reuse: Reuse::Close, audience: self.audience(None, ws) }
    }

    /// Bytes were no proper request: what was asked for is not known, but perhaps that it was for no content.
    #[cold]
    pub(super) fn unreadable(
        &mut self,
        problem: &Problem,
        bytes: &[u8],
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        self.method = Method::None;
        let head_only = request::is_head(bytes);
        self.note_unreadable(bytes, ws, cx);
        self.malformed(problem, Frame { head_only, ..self.last(ws) }, ws, cx);
    }

    /// Bytes were no proper request, or content too large for one.
    #[cold]
    pub(super) fn malformed(
        &mut self,
        problem: &Problem,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
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
    pub(super) fn name_failure(&self, ws: &mut Workspace, cx: &Context<'_>) -> RequestId {
        self.note_unknown(ws, cx);
        Connection::request_id(ws)
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
    pub(super) fn go_on(&mut self, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
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

/// Why bytes are no proper request, in words of ours: what a client sent names no metric.
pub(super) fn reason(problem: &Problem) -> &'static str {
    match &problem.detail {
        Cow::Borrowed(detail) if problem.kind == Kind::MalformedRequest => detail,
        Cow::Borrowed(_) | Cow::Owned(_) => problem.kind.facts().1,
    }
}
