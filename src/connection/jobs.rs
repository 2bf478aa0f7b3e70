//! What a connection waits for: a job that is out, the tickets that its answer comes under, and what becomes of that
//! answer. Called by [`super`], and by whoever sends a job.

use super::collect::Collect;
use super::list::Listing;
use super::watch::Watch;
use super::{Connection, Context, State, Workspace};
use crate::api::answer::{self, Forward};
use crate::api::batch;
use crate::api::refusals;
use crate::http::conditional::Preconditions;
use crate::http::response::Frame;
use crate::store::{Answer, Claim, Reply};
use crate::token::Ticket;

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
            (_, Answer::Failed(failure)) => return self.refuse(&refusals::failed(&failure), frame, ws, cx),
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

    /// True when this reply is for the job that is out.
    pub fn waits_for(&self, ticket: Ticket) -> bool {
        if let State::Loading(load) = &self.state {
            return load.is_out() && ticket.id == self.id && ticket.job == self.jobs;
        }
        let State::Waiting(_, job) = &self.state else { return false };
        ticket.id == self.id
            && match job {
                Job::Items(collect) => collect.waits_for(ticket.job),
                Job::Read(..) | Job::Write { .. } | Job::Watch(_) | Job::Batch(..) | Job::Page(_) => {
                    ticket.job == self.jobs
                }
            }
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
}
