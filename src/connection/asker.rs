//! Who asks: what a log line or a 5xx needs of a request that is otherwise forgotten once it is parsed. Noted only where
//! the client gave its request a name, or where answers are logged; for everyone else it costs a look. While a request
//! is taken and answered it is in the [`Workspace`]; while a connection waits it is with the connection.

use super::{Connection, Context, Role, Workspace};
use crate::access_log::{Entry, RequestId};
use crate::http::request::{self, Head, Version};
use crate::http::response::CONTINUE;
use crate::limits::{ACCESS_LOG_METHOD_BYTES, ACCESS_LOG_TARGET_BYTES};
use std::time::{Duration, SystemTime};

/// What is known of the request that is being answered.
#[derive(Debug, Default)]
pub(super) struct Asker {
    /// The rest says something.
    noted: bool,
    id: Option<RequestId>,
    /// Method, target, version; only where answers are logged.
    request: Option<(Box<str>, Box<str>, &'static str)>,
    /// When its head was there.
    started_ns: u64,
    /// Bytes of output before its answer, or before what is encoded of it in this turn.
    before: usize,
    /// Bytes of its answer that were encoded in earlier turns.
    sent: usize,
}

impl Connection {
    /// A head was parsed that a name came with, or that is to be logged.
    #[cold]
    pub(super) fn note(&self, head: &Head<'_>, ws: &mut Workspace, cx: &Context<'_>) {
        let version = match head.version {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        };
        let request = || {
            let method = Entry::cut(head.method, ACCESS_LOG_METHOD_BYTES);
            (method, Entry::cut(head.target, ACCESS_LOG_TARGET_BYTES), version)
        };
        ws.asker = Asker {
            noted: true,
            id: head.extras.request_id.and_then(RequestId::sent),
            request: cx.access_log.map(|_| request()),
            started_ns: cx.now_ns,
            before: ws.output.len(),
            sent: 0,
        };
    }

    /// The request that was just noted is put off: it will be noted again.
    pub(super) fn forget_asker(&self, ws: &mut Workspace) {
        ws.asker = Asker::default();
    }

    /// The client is told to send the content that it holds back. That is no part of the answer.
    pub(super) fn ask_for_content(ws: &mut Workspace) {
        ws.output.bytes.extend_from_slice(CONTINUE);
        ws.asker.before = ws.output.len();
    }

    /// The turn is over. Who has no answer yet waits for it with the connection: the workspace is for others now.
    #[inline]
    pub(super) fn keep_asker(&mut self, ws: &mut Workspace) {
        if ws.asker.noted {
            self.keep_noted(ws);
        }
    }

    #[cold]
    fn keep_noted(&mut self, ws: &mut Workspace) {
        let mut asker = std::mem::take(&mut ws.asker);
        asker.sent += ws.output.len().saturating_sub(asker.before);
        self.asker = Some(Box::new(asker));
    }

    /// The waiting is over, an answer follows, or more of it. Who is there already is who is answered: nobody takes its place.
    pub(super) fn bring_asker(&mut self, ws: &mut Workspace) {
        if let Some(asker) = self.asker.take()
            && !ws.asker.noted
        {
            ws.asker = *asker;
        }
        ws.asker.before = ws.output.len();
    }

    /// The name that a failure is to be told with.
    pub(super) fn request_id(ws: &mut Workspace) -> RequestId {
        *ws.asker.id.get_or_insert_with(RequestId::made)
    }

    /// A refusal follows, perhaps of bytes that were no request at all.
    pub(super) fn note_unknown(&self, ws: &mut Workspace, cx: &Context<'_>) {
        if !ws.asker.noted {
            // A name made for an earlier failure is not this one's.
            ws.asker =
                Asker { noted: true, started_ns: cx.now_ns, before: ws.output.len(), ..Asker::default() };
        }
    }

    /// The same; they may have come with a name all the same.
    pub(super) fn note_unreadable(&self, bytes: &[u8], ws: &mut Workspace, cx: &Context<'_>) {
        self.note_unknown(ws, cx);
        ws.asker.id = request::name_of(bytes).and_then(RequestId::sent);
    }

    /// True where the answer that was encoded has an asker.
    #[inline]
    pub(super) fn has_asker(ws: &Workspace) -> bool {
        ws.asker.noted
    }

    /// The answer is encoded: it is logged, if answers are, and its asker forgotten.
    #[cold]
    pub(super) fn answered_asker(&self, ws: &mut Workspace, cx: &Context<'_>) {
        let asker = std::mem::take(&mut ws.asker);
        let Some(log) = cx.access_log.filter(|_| self.role != Role::Admin) else { return };
        log.add(Entry {
            client: self.peer.as_deref().copied(),
            request: asker.request,
            status: ws.encoder.status(),
            bytes: asker.sent + ws.output.len().saturating_sub(asker.before),
            duration: Duration::from_nanos(cx.now_ns.saturating_sub(asker.started_ns)),
            id: asker.id.unwrap_or_else(RequestId::made),
            at: SystemTime::now(),
        });
    }
}
