//! A bulk load: lines are collected as they come, and a piece of them is at the database while the next one is collected.
//! When that one is full too, nothing more is read: who sends faster than the database stores is slowed down by TCP.
//!
//! ```text
//!  content ──► lines ──full, or the last ones──► piece at the database ──► counted ──► answer, when all are
//!                ▲                                     │
//!                └── read on: until it is full again ──┘
//! ```
//!
//! Here a line is found and not understood: what it says is for the writer to find out. Called by [`super`] and by
//! [`super::requests`].

use super::ends::too_slow;
use super::incoming::reserve;
use super::{Connection, Context, State, Workspace};
use crate::api::{load, refusals};
use crate::http::content::Decoder;
use crate::http::problem::Problem;
use crate::http::request::Framing;
use crate::http::response::Frame;
use crate::limits::{LOAD_BYTES, LOAD_LINES, READ_BYTES};
use crate::store::backend::Piece;
use crate::store::load::{Loaded, Permit, line_bytes};
use crate::store::{Answer, Claim, Reply};
use memchr::{memchr, memchr_iter, memrchr};
use std::sync::Arc;

/// A load on its way.
#[derive(Debug)]
pub(super) struct Load {
    frame: Frame,
    decoder: Decoder,
    /// What has arrived and was not sent to the database: whole lines, and the beginning of one.
    lines: Vec<u8>,
    /// Where that one begins.
    whole: usize,
    /// Whole lines in there.
    count: usize,
    /// There is more in there than empty lines.
    speaks: bool,
    /// The piece at the database, and how many lines will be done with it.
    out: Option<(Claim, u64)>,
    /// So many leading lines are done.
    done: u64,
    loaded: Loaded,
    max_value_bytes: usize,
    permit: Arc<Permit>,
}

impl Load {
    fn new(framing: Framing, frame: Frame, max_value_bytes: usize, permit: Arc<Permit>) -> Load {
        Load {
            frame,
            decoder: Decoder::new(framing),
            lines: Vec::new(),
            whole: 0,
            count: 0,
            speaks: false,
            out: None,
            done: 0,
            loaded: Loaded::default(),
            max_value_bytes,
            permit,
        }
    }

    /// Nothing more can be taken now: the database has a piece, and the next one is full; or there is no more.
    pub(super) fn is_blocked(&self) -> bool {
        self.decoder.is_done() || self.out.is_some() && self.is_full()
    }

    /// A piece is at the database.
    pub(super) fn is_out(&self) -> bool {
        self.out.is_some()
    }

    fn is_full(&self) -> bool {
        self.count >= LOAD_LINES || self.lines.len() >= LOAD_BYTES && self.whole > 0
    }

    /// Takes content from the front of `bytes`; returns how much.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, Problem> {
        // Taken out meanwhile: what it finds goes into the rest of the load.
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(Framing::None));
        let used = decoder.decode(bytes, |piece| {
            self.speaks = self.speaks || !piece.trim_ascii_start().is_empty();
            self.collect(piece);
            Ok(())
        });
        self.decoder = decoder;
        used
    }

    fn collect(&mut self, piece: &[u8]) {
        let most = line_bytes(self.max_value_bytes);
        let room = LOAD_BYTES + READ_BYTES + most;
        if self.lines.len() - self.whole + piece.len() <= most {
            // No line in there can be too long.
            reserve(&mut self.lines, piece.len(), room);
            self.lines.extend_from_slice(piece);
            self.count += memchr_iter(b'\n', piece).count();
            if let Some(at) = memrchr(b'\n', piece) {
                self.whole = self.lines.len() - piece.len() + at + 1;
            }
            return;
        }
        let mut rest = piece;
        while !rest.is_empty() {
            let end = memchr(b'\n', rest);
            let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
            // A byte too many is enough to know that a line is too long; the others are dropped.
            let kept = line.len().min((most + 1).saturating_sub(self.lines.len() - self.whole));
            reserve(&mut self.lines, kept + 1, room);
            self.lines.extend_from_slice(&line[..kept]);
            rest = after;
            if end.is_some() {
                self.lines.push(b'\n');
                self.whole = self.lines.len();
                self.count += 1;
                rest = &rest[1..];
            }
        }
    }

    /// The lines for the next piece, and how many: whole ones, and at the end what is left.
    fn cut(&mut self) -> (Vec<u8>, usize) {
        let last = self.decoder.is_done();
        let rest = if last { Vec::new() } else { self.lines[self.whole..].to_vec() };
        let unended = last && self.whole < self.lines.len();
        self.lines.truncate(self.lines.len() - rest.len());
        let count = std::mem::take(&mut self.count) + usize::from(unended);
        (self.whole, self.speaks) = (0, !rest.trim_ascii_start().is_empty());
        (std::mem::replace(&mut self.lines, rest), count)
    }
}

/// Whoever sends the same lines again, through another writer, is not to be overtaken by a piece that nobody waits for.
impl Drop for Load {
    fn drop(&mut self) {
        if let Some((claim, _)) = &self.out {
            claim.withdraw();
        }
    }
}

impl Connection {
    /// The head of a load was taken; its content follows, or none.
    pub(super) fn begin_load(
        &mut self,
        framing: Framing,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) -> bool {
        let Some(permit) = cx.backend.loads.begin() else {
            let frame = frame.closing_if(framing.has_content());
            self.refuse(&load::too_many(), frame, ws, cx);
            return false;
        };
        let load = Load::new(framing, frame, cx.bounds.max_value_bytes, permit);
        self.state = State::Loading(Box::new(load));
        self.deadline_ms = cx.now_ms + cx.bounds.request_timeout_ms;
        true
    }

    /// Content of a load has come. Returns how much was taken.
    pub(super) fn take_lines(&mut self, bytes: &[u8], ws: &mut Workspace, cx: &Context<'_>) -> usize {
        let State::Loading(load) = &mut self.state else { return 0 };
        match load.take(bytes) {
            Ok(used) => {
                self.load_on(ws, cx);
                used
            }
            Err(problem) => {
                cx.counters.parse_error(super::answered::reason(&problem));
                self.fail_load(&problem, ws, cx);
                bytes.len()
            }
        }
    }

    /// Sends the next piece, if there is one and none is out; answers, when all are done.
    pub(super) fn load_on(&mut self, ws: &mut Workspace, cx: &Context<'_>) {
        let State::Loading(load) = &mut self.state else { return };
        if load.out.is_some() || !load.is_full() && !load.decoder.is_done() {
            return;
        }
        if load.lines.is_empty() {
            return self.answer_stored(ws, cx);
        }
        self.send_piece(ws, cx);
    }

    fn send_piece(&mut self, ws: &mut Workspace, cx: &Context<'_>) {
        if let Err(problem) = self.still_may(true, cx) {
            return self.fail_load(&problem, ws, cx);
        }
        let ticket = self.ticket(cx);
        let State::Loading(load) = &mut self.state else { return };
        let (lines, count) = load.cut();
        let piece = Piece {
            lines,
            first: load.done + 1,
            parse: load::parse,
            max_value_bytes: load.max_value_bytes,
            permit: Arc::clone(&load.permit),
        };
        let deadline_ms = cx.now_ms + cx.bounds.request_timeout_ms;
        // Loads of several connections are dealt out among the writers.
        let writer = self.id.slot as usize + usize::from(cx.event_loop);
        match cx.backend.load(piece, writer, ticket, deadline_ms) {
            Ok(claim) => {
                cx.counters.writes.add(1);
                load.out = Some((claim, load.done + count as u64));
                self.sent_ns = cx.now_ns;
                self.deadline_ms = deadline_ms;
            }
            Err(refusal) => self.fail_load(&refusals::refused(refusal), ws, cx),
        }
    }

    /// The reply to a piece.
    pub(super) fn take_loaded(&mut self, reply: &Reply, ws: &mut Workspace, cx: &Context<'_>) {
        cx.counters.write_duration.observe(cx.now_ns.saturating_sub(self.sent_ns), 1);
        let State::Loading(load) = &mut self.state else { return };
        let Some((_, lines)) = load.out.take() else { return };
        match &reply.answer {
            Answer::Loaded(loaded) => {
                cx.counters.loaded(loaded.written, loaded.failed);
                load.loaded.add(loaded);
                load.done = lines;
                self.deadline_ms = cx.now_ms + cx.bounds.request_timeout_ms;
                if cx.draining && !load.decoder.is_done() {
                    return self.fail_load(&load::draining(), ws, cx);
                }
                self.load_on(ws, cx);
            }
            Answer::Failed(failure) => self.fail_load(&refusals::failed(failure), ws, cx),
            other => unreachable!("{other:?} is no answer to a piece of a load"),
        }
    }

    /// All is stored.
    fn answer_stored(&mut self, ws: &mut Workspace, cx: &Context<'_>) {
        let State::Loading(load) = std::mem::replace(&mut self.state, State::Idle) else { return };
        let frame = load.frame.closing_if(cx.draining);
        self.bring_asker(ws);
        load::answer(&ws.encoder, &mut ws.output, load.done, &load.loaded, frame);
        self.answered(frame, ws, cx);
    }

    /// The rest will not be stored, for this reason. What still comes of the content is not looked at.
    pub(super) fn fail_load(&mut self, problem: &Problem, ws: &mut Workspace, cx: &Context<'_>) {
        let State::Loading(load) = std::mem::replace(&mut self.state, State::Idle) else { return };
        let whole = load.decoder.is_done() && !cx.draining;
        let frame = load.frame.closing_if(!whole);
        self.bring_asker(ws);
        self.refuse(&load::ended(problem, load.done, &load.loaded), frame, ws, cx);
    }

    /// Its time is over: that of the piece at the database, or that in which lines were to come. If some have, they wait no
    /// longer for others; who sends none, or empty ones, keeps a place that somebody else may want.
    pub(super) fn load_expired(&mut self, ws: &mut Workspace, cx: &Context<'_>) {
        let State::Loading(load) = &mut self.state else { return };
        if load.out.is_none() && load.count > 0 && load.speaks && !cx.draining {
            return self.send_piece(ws, cx);
        }
        let problem = match &load.out {
            Some((claim, _)) if claim.withdraw() => refusals::not_started(),
            Some(_) => refusals::outcome_unknown(),
            None if cx.draining => load::draining(),
            None => too_slow("--request-timeout"),
        };
        self.fail_load(&problem, ws, cx);
    }

    /// The server cannot wait any longer.
    pub(super) fn abandon_load(&mut self, ws: &mut Workspace, cx: &Context<'_>) {
        let State::Loading(load) = &mut self.state else { return };
        let problem = match &load.out {
            Some((claim, _)) if !claim.withdraw() => refusals::outcome_unknown(),
            Some(_) | None => load::draining(),
        };
        self.fail_load(&problem, ws, cx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::cors::Audience;
    use crate::http::response::Reuse;
    use crate::store::load::Loads;
    use proptest::prelude::*;

    fn load(max_value_bytes: usize, length: usize) -> Load {
        let frame = Frame { head_only: false, reuse: Reuse::Silent, audience: Audience::NONE };
        let permit = Loads::default().begin().unwrap();
        Load::new(Framing::Length(length as u64), frame, max_value_bytes, permit)
    }

    #[test]
    fn when_the_next_piece_is_full_too_nothing_more_is_taken() {
        let lines = b"\n".repeat(LOAD_LINES);
        let mut load = load(1, 10 * lines.len());
        load.take(&lines[1..]).unwrap();
        assert!(!load.is_full() && !load.is_blocked());
        load.take(&lines[..1]).unwrap();
        assert!(load.is_full() && !load.is_blocked(), "it can be sent");
        assert_eq!(load.cut().1, LOAD_LINES);
        load.out = Some((Claim::default(), LOAD_LINES as u64));
        load.take(&lines).unwrap();
        assert!(load.is_blocked());
    }

    #[test]
    fn blanks_that_are_left_over_say_nothing() {
        let mut load = load(1, 1_000);
        load.take(b"x\n \r").unwrap();
        assert!(load.speaks);
        assert_eq!(load.cut(), (b"x\n".to_vec(), 1));
        assert!(!load.speaks);
        load.take(b"\ny").unwrap();
        assert!(load.speaks);
    }

    proptest! {
        #[test]
        fn pieces_are_the_content_and_lines_that_are_too_long_are_cut(
            lines in prop::collection::vec((0usize..3, 0usize..60), 0..20),
            ended in any::<bool>(), step in 1usize..9_000, cut_after in 1usize..5)
        {
            let most = line_bytes(0);
            // Short lines, and lines about as long as may be.
            let line = |(kind, bytes): &(usize, usize)| vec![b'x'; if *kind == 0 { most - 30 + bytes } else { *bytes }];
            let lines: Vec<Vec<u8>> = lines.iter().map(line).collect();
            let join = |lines: &[Vec<u8>]| {
                let mut content = lines.join(&b'\n');
                content.extend(ended.then_some(b'\n'));
                content
            };
            let content = join(&lines);
            let kept: Vec<Vec<u8>> = lines.iter().map(|line| line[..line.len().min(most + 1)].to_vec()).collect();
            let mut load = load(0, content.len());
            let (mut sent, mut count) = (Vec::new(), 0);
            for (at, piece) in content.chunks(step).enumerate() {
                prop_assert_eq!(load.take(piece).unwrap(), piece.len());
                if at % cut_after == 0 || load.decoder.is_done() {
                    let (piece, lines) = load.cut();
                    sent.extend(piece);
                    count += lines;
                }
            }
            prop_assert!(sent == join(&kept));
            let unended = usize::from(!sent.is_empty() && !sent.ends_with(b"\n"));
            prop_assert_eq!(count, sent.iter().filter(|b| **b == b'\n').count() + unended);
        }
    }
}
