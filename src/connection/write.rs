//! Writes: of one key, and batches of them. A job each; a bulk load is in [`super::load`]. Called by [`super::requests`].

use super::incoming::Setting;
use super::jobs::Job;
use super::{Connection, Context, Workspace};
use crate::api::wishes::Wishes;
use crate::api::{batch, refusals, value};
use crate::http::response::Frame;
use crate::store::Op;
use memchr::memchr;

impl Connection {
    pub(super) fn set(
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

    pub(super) fn write(
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
            Err(refusal) => self.refuse(&refusals::refused(refusal), frame, ws, cx),
        }
    }

    pub(super) fn batch(
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
            Err(refusal) => self.refuse(&refusals::refused(refusal), frame, ws, cx),
        }
    }
}
