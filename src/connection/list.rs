//! A request for a list of keys. A page is one job and one answer. All rows, as lines, are a page after the other: the
//! next one is asked for when everything of the last one is in the kernel's hands, so that whoever reads slowly holds
//! one page here, and nobody waits behind a long list. Called by [`super`] and by [`super::requests`].

use super::jobs::Job;
use super::{Connection, Context, State, Turn, Workspace};
use crate::api::list::{Form, LINES_STATUS, Lines, List};
use crate::api::refusals;
use crate::http::problem::Problem;
use crate::http::request::Version;
use crate::http::response::Frame;
use crate::limits::{EXPORT_BYTES, EXPORT_RETRY_MS};
use crate::store::Answer;
use crate::store::backend::Refusal;
use crate::store::list::Page;

/// A list whose page is waited for.
#[derive(Debug)]
pub(super) struct Listing {
    list: List,
    /// What is known of the lines that were sent already; `None`: a page, or nothing was sent yet.
    sent: Option<Sent>,
}

/// Lines that are on their way out.
#[derive(Debug)]
pub(super) struct Export {
    list: List,
    lines: Lines,
    sent: Sent,
    /// There are rows behind these.
    more: bool,
    /// Until when a full queue is no reason to give up.
    patience_ms: u64,
}

/// How far lines have got.
#[derive(Debug)]
struct Sent {
    chunked: bool,
    rows: u32,
    last: Box<str>,
}

impl Listing {
    /// Rows have been sent already.
    pub(super) fn has_begun(&self) -> bool {
        self.sent.is_some()
    }
}

impl Connection {
    /// GET of a list.
    pub(super) fn list(&mut self, list: List, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        if let (Form::Lines(version), true) = (list.form, frame.head_only) {
            // How long it would be nobody knows: the head of the answer needs no database.
            List::start_lines(&ws.encoder, &mut ws.output, version == Version::Http11, frame);
            return self.answered(frame, ws, cx);
        }
        // Without chunks the end of the connection is the end of the lines.
        let closes = matches!(list.form, Form::Lines(Version::Http10));
        let frame = frame.closing_if(closes);
        match cx.backend.page(list.first(), self.ticket(cx)) {
            Ok(()) => self.wait(frame, Job::Page(Box::new(Listing { list, sent: None })), cx),
            Err(refusal) => self.refuse(&refusals::refused(refusal), frame, ws, cx),
        }
    }

    /// The reply to a job for a page.
    pub(super) fn take_page(
        &mut self,
        listing: Listing,
        answer: Answer,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        let page = match answer {
            Answer::Page(page) => page,
            Answer::Failed(failure) => {
                return self.end_page(&listing, &refusals::failed(&failure), frame, ws, cx);
            }
            other => unreachable!("{other:?} is no page"),
        };
        let Listing { list, sent } = listing;
        let version = match list.form {
            Form::Page => {
                list.answer(&ws.encoder, &mut ws.output, &page, cx.bounds.items_bytes(), frame);
                return self.answered(frame, ws, cx);
            }
            Form::Lines(version) => version,
        };
        let mut sent = sent.unwrap_or_else(|| {
            let chunked = version == Version::Http11;
            List::start_lines(&ws.encoder, &mut ws.output, chunked, frame);
            Sent { chunked, rows: 0, last: "".into() }
        });
        sent.rows = sent.rows.saturating_add(page.rows.len() as u32);
        if let Some(last) = page.rows.last() {
            sent.last = last.key.clone();
        }
        let Page { rows, more } = page;
        let export = Export { list, lines: Lines::new(rows), sent, more, patience_ms: 0 };
        self.deadline_ms = cx.now_ms + cx.bounds.request_timeout_ms;
        self.state = State::Exporting(frame, Box::new(export));
    }

    /// There will be no page, for this reason. Where lines have been sent already, all that can be said is that they
    /// are not whole: the connection ends without the last chunk (RFC 9112 section 8).
    pub(super) fn end_page(
        &mut self,
        listing: &Listing,
        problem: &Problem,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        if listing.sent.is_none() {
            return self.refuse(problem, frame, ws, cx);
        }
        self.cut_off(problem, frame, ws, cx);
    }

    /// Its client is gone, before all of it was sent: what was is an answer all the same, and has its line and its count.
    pub(super) fn left_export(&mut self, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        self.bring_asker(ws);
        ws.encoder.resume(LINES_STATUS);
        self.answered(frame.closing_if(true), ws, cx);
    }

    fn cut_off(&mut self, problem: &Problem, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        cx.counters.problem(problem.kind as usize);
        log::warn!("an export was cut off: {}", problem.detail);
        ws.encoder.resume(LINES_STATUS);
        self.answered(frame.closing_if(true), ws, cx);
    }

    /// The next piece of the lines, or the next page. Called when everything before is in the kernel's hands.
    pub(super) fn export_on(&mut self, ws: &mut Workspace, cx: &Context<'_>) -> Turn {
        let State::Exporting(frame, mut export) = std::mem::replace(&mut self.state, State::Idle) else {
            unreachable!("whoever calls this has seen that it exports");
        };
        self.bring_asker(ws);
        // A piece of its own, for its length is said before it.
        let mut piece = std::mem::take(&mut ws.piece);
        piece.clear();
        let done = export.lines.write(&mut piece, EXPORT_BYTES);
        if !piece.is_empty() {
            if export.sent.chunked {
                ws.output.bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            }
            ws.output.bytes.extend_from_slice(&piece);
            if export.sent.chunked {
                ws.output.bytes.extend_from_slice(b"\r\n");
            }
        }
        ws.piece = piece;
        // More of this page, or the next one: that is asked for when the kernel has all of this.
        if !done || !ws.output.is_empty() && export.more {
            self.state = State::Exporting(frame, export);
            return Turn::Again;
        }
        let Export { list, sent, more, .. } = *export;
        let next = if more { list.next(&sent.last, sent.rows) } else { None };
        let Some(range) = next else {
            if sent.chunked {
                ws.output.bytes.extend_from_slice(b"0\r\n\r\n");
            }
            let frame = frame.closing_if(cx.draining);
            ws.encoder.resume(LINES_STATUS);
            self.answered(frame, ws, cx);
            return Turn::Again;
        };
        if let Err(problem) = self.still_may(false, cx) {
            self.cut_off(&problem, frame, ws, cx);
            return Turn::Wait;
        }
        match cx.backend.page(range, self.ticket(cx)) {
            Ok(()) => {
                self.wait(frame, Job::Page(Box::new(Listing { list, sent: Some(sent) })), cx);
                Turn::Wait
            }
            Err(Refusal::QueueFull) if export.patience_ms == 0 || cx.now_ms < export.patience_ms => {
                // It was let in once: it waits for its turn.
                let until_ms = cx.now_ms + cx.bounds.request_timeout_ms;
                let patience_ms = if export.patience_ms == 0 { until_ms } else { export.patience_ms };
                let lines = Lines::new(Vec::new());
                self.state =
                    State::Exporting(frame, Box::new(Export { list, lines, sent, more, patience_ms }));
                self.deadline_ms = cx.now_ms + EXPORT_RETRY_MS;
                Turn::Wait
            }
            Err(refusal) => {
                self.cut_off(&refusals::refused(refusal), frame, ws, cx);
                Turn::Wait
            }
        }
    }
}
