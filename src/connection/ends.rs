//! How what a connection waits for comes to an end before it has come: its deadline passes, the server drains or can wait no
//! longer, there is no room for it.

use super::jobs::Job;
use super::{Connection, Context, Crowd, Socket, State, Turn, Workspace};
use crate::api::refusals;
use crate::http::problem::{Kind, Problem};
use crate::http::request::is_head;
use crate::http::response::Frame;
use crate::metrics::Method;

impl Connection {
    /// Nothing can be said or understood any more: what still comes is dropped for a moment, so that the client can
    /// read what it was told last.
    pub fn linger(&mut self, ws: &mut Workspace, cx: &Context<'_>) {
        self.leave(ws, cx);
        self.backlog = None;
        self.enter_lingering(cx);
    }

    /// The connection is gone, or as good as gone: nobody is to be told of a change any more, and rows that are on their way are all
    /// that comes.
    pub fn leave(&mut self, ws: &mut Workspace, cx: &Context<'_>) {
        match &self.state {
            State::Waiting(_, Job::Watch(watch)) => watch.leave(cx),
            State::Exporting(frame, _) => self.left_export(*frame, ws, cx),
            State::Waiting(frame, Job::Page(listing)) if listing.has_begun() => {
                self.left_export(*frame, ws, cx);
            }
            _ => {}
        }
    }

    /// The server has begun to drain: an idle connection may send one last request, soon.
    pub fn drain(&mut self, cx: &Context<'_>) {
        self.deadline_ms = self.deadline_ms.min(self.own_deadline_ms(cx));
    }

    /// Its deadline has passed.
    pub fn expire(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Turn {
        if self.backlog.is_some() {
            // The kernel tells of room only when there is much of it: whoever reads, and slowly, has made some.
            return match self.send_backlog(io, ws, cx) {
                // What it waits for besides may be over, too: that is the next turn's.
                None => Turn::Again,
                Some(turn) if turn == Turn::Close || self.deadline_ms > cx.now_ms => turn,
                Some(_) => {
                    cx.counters.slow_readers.add(1);
                    Turn::Close
                }
            };
        }
        self.bring_asker(ws);
        match std::mem::replace(&mut self.state, State::Idle) {
            State::New | State::Idle => return self.end_idle(io, ws, cx),
            State::Closing | State::Lingering { .. } => return Turn::Close,
            State::Head => {
                self.method = Method::None;
                let frame = Frame { head_only: is_head(&self.input), ..self.last(ws) };
                self.note_unreadable(&self.input, ws, cx);
                self.refuse(&too_slow("--header-timeout"), frame, ws, cx);
            }
            State::Content(incoming) => {
                let frame = incoming.frame.closing_if(true);
                self.refuse(&too_slow("--request-timeout"), frame, ws, cx);
            }
            State::Loading(load) => {
                self.state = State::Loading(load);
                self.load_expired(ws, cx);
            }
            State::Exporting(frame, export) => {
                // The queue was full: perhaps it is not any more.
                self.state = State::Exporting(frame, export);
                self.export_on(ws, cx);
            }
            State::Waiting(frame, job) => {
                let frame = frame.closing_if(cx.draining);
                self.observe_job(&job, cx);
                match job {
                    Job::Watch(watch) => self.watched_in_vain(watch, frame, ws, cx),
                    Job::Page(listing) => {
                        self.end_page(&listing, &refusals::deadline_exceeded(), frame, ws, cx);
                    }
                    Job::Items(collect) => {
                        self.end_collect(*collect, &refusals::deadline_exceeded(), frame, ws, cx);
                    }
                    Job::Read(..) => self.refuse(&refusals::deadline_exceeded(), frame, ws, cx),
                    Job::Write { claim, .. } | Job::Batch(claim, _) if claim.withdraw() => {
                        self.refuse(&refusals::not_started(), frame, ws, cx);
                    }
                    Job::Write { .. } | Job::Batch(..) => {
                        self.refuse(&refusals::outcome_unknown(), frame, ws, cx);
                    }
                }
            }
        }
        self.flush_and(Turn::Again, io, ws, cx)
    }

    /// The client was silent for long enough: for `--idle-timeout`, or while the server drains. Its next request may have come since poll has looked:
    /// then it is answered. If it is still on its way, the end of the stream tells that it will not be; it is dropped
    /// unread, and does not bring about a reset, which can take earlier answers with it (RFC 9112 section 9.6).
    fn end_idle(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Turn {
        self.readable = true;
        let turn = self.turn(io, ws, cx);
        // What was answered has moved the deadline.
        let has_come = !matches!(self.state, State::Idle) || self.deadline_ms > cx.now_ms;
        if turn != Turn::Wait || has_come || self.backlog.is_some() {
            return turn;
        }
        if !cx.draining {
            cx.counters.idle_closed.add(1);
        }
        io.shutdown_write();
        self.enter_lingering(cx);
        Turn::Again
    }

    /// The server cannot wait any longer: whoever still waits is told what is known, as far as the socket takes it.
    pub fn abandon(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) {
        if self.backlog.is_some() {
            // What its client has not read yet goes with the process; that of an export is logged.
            return self.leave(ws, cx);
        }
        if let State::Loading(_) = self.state {
            self.abandon_load(ws, cx);
            self.flush_and(Turn::Again, io, ws, cx);
            return;
        }
        if let State::Exporting(..) = self.state {
            return self.leave(ws, cx);
        }
        let State::Waiting(frame, job) = std::mem::replace(&mut self.state, State::Closing) else { return };
        self.bring_asker(ws);
        let frame = frame.closing_if(true);
        let problem = match job {
            Job::Page(listing) => {
                self.end_page(&listing, &refusals::draining(), frame, ws, cx);
                self.flush_and(Turn::Again, io, ws, cx);
                return;
            }
            Job::Write { claim, .. } | Job::Batch(claim, _) if !claim.withdraw() => {
                refusals::outcome_unknown()
            }
            Job::Read(..) | Job::Items(_) | Job::Write { .. } | Job::Watch(_) | Job::Batch(..) => {
                refusals::draining()
            }
        };
        self.refuse(&problem, frame, ws, cx);
        self.flush_and(Turn::Again, io, ws, cx);
    }

    /// Tells a client that there is no room for it.
    pub fn turn_away(
        &mut self,
        io: &mut impl Socket,
        crowd: Crowd,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) -> Turn {
        let detail = match crowd {
            Crowd::Server => "the server has as many connections as --max-connections allows",
            Crowd::Address => "this address has as many connections as --max-connections-per-ip allows",
            Crowd::Admin => "the admin socket has as many connections as it serves at a time",
        };
        let problem = Problem::new(Kind::TooManyConnections, detail).retry_after(1);
        self.refuse(&problem, self.last(ws), ws, cx);
        self.flush_and(Turn::Again, io, ws, cx)
    }
}

/// What is told to a client whose request has not come in time, by the flag that says how long.
pub(super) fn too_slow(flag: &str) -> Problem {
    Problem::new(Kind::SlowRequest, format!("the request did not arrive within {flag}"))
}
