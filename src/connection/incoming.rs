//! A content that is arriving: what it is for, whether it may be, and the bytes so far. A bulk load's, which is never here as a
//! whole, is in [`super::load`]. Called by [`super::requests`].

use crate::api::batch::{self, Form};
use crate::api::wishes::Wishes;
use crate::api::{Command, value};
use crate::http::content::Decoder;
use crate::http::problem::{Kind, Problem};
use crate::http::request::{Framing, Head, List};
use crate::http::response::{Frame, Reuse};
use crate::limits::DISCARD_BYTES;

/// A request whose content is arriving.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) purpose: Purpose,
    pub(super) frame: Frame,
    pub(super) decoder: Decoder,
    pub(super) content: Vec<u8>,
    /// Bytes of content so far, kept or not.
    bytes: u64,
}

/// What becomes of a content.
#[derive(Debug)]
pub(super) enum Purpose {
    /// It is the value of this key.
    Set(Setting),
    /// It is a batch of operations, all to be done or none.
    Batch(Form, bool),
    /// It is dropped, and then this is done.
    Drop(Owned),
}

impl Purpose {
    /// Whether what it is for may change a row; nothing where nobody needs a token for it.
    pub(super) fn needs_access(&self) -> Option<bool> {
        match self {
            Purpose::Set(_) | Purpose::Batch(..) => Some(true),
            Purpose::Drop(Owned::Command(Command::Options(_), _) | Owned::Refusal(_)) => None,
            Purpose::Drop(Owned::Command(command, _)) => Some(command.changes()),
        }
    }
}

/// A PUT whose value is on its way.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) key: Box<str>,
    pub(super) ttl_s: Option<u32>,
    pub(super) wishes: Option<Box<Wishes>>,
}

/// A command that outlives the bytes it was parsed from.
#[derive(Debug)]
pub(super) enum Owned {
    Command(Command<'static>, Option<Box<Wishes>>),
    Refusal(Problem),
}

impl Incoming {
    pub(super) fn new(purpose: Purpose, frame: Frame, framing: Framing) -> Incoming {
        Incoming { purpose, frame, decoder: Decoder::new(framing), content: Vec::new(), bytes: 0 }
    }

    /// Takes content from the front of `bytes`; returns how much.
    #[inline(never)]
    pub(super) fn take(&mut self, bytes: &[u8], max_value_bytes: usize) -> Result<usize, Problem> {
        let Incoming { purpose, decoder, content, bytes: total, .. } = self;
        let check = |total: u64| match purpose {
            Purpose::Set(_) if total > max_value_bytes as u64 => {
                Err(value::too_large(total, max_value_bytes))
            }
            Purpose::Batch(..) if total > max_value_bytes as u64 => {
                Err(batch::too_large(total, max_value_bytes))
            }
            Purpose::Drop(_) if total > DISCARD_BYTES => Err(needless()),
            Purpose::Set(_) | Purpose::Batch(..) | Purpose::Drop(_) => Ok(()),
        };
        let used = decoder.decode(bytes, |piece| {
            *total += piece.len() as u64;
            check(*total)?;
            if let Purpose::Set(_) | Purpose::Batch(..) = purpose {
                reserve(content, piece.len(), max_value_bytes);
                content.extend_from_slice(piece);
            }
            Ok(())
        })?;
        // A chunk that has said how large it is need not be waited for.
        check(total.saturating_add(decoder.announced()))?;
        Ok(used)
    }
}

/// A request has more content than would be read to be dropped.
pub(super) fn needless() -> Problem {
    let detail =
        format!("this method has no use for a content, and reads past {DISCARD_BYTES} bytes of one at most");
    Problem::new(Kind::ValueTooLarge, detail)
}

/// Grows by doubling, but never past what a value may have: memory is computed by the largest value, not by twice that.
pub(super) fn reserve(content: &mut Vec<u8>, more: usize, max_value_bytes: usize) {
    let wanted = content.len() + more;
    if wanted > content.capacity() {
        let room = wanted.max(2 * content.capacity()).min(max_value_bytes);
        content.reserve_exact(room - content.len());
    }
}

/// Whether a request may have the expectation, and the content, that it is sent with: a write needs a length, and one that fits; and what is stored is
/// stored as it comes, and whole. A content that stands for another, or is a part of one, would be taken for what it is
/// not (RFC 9110 sections 8.4 and 14.5).
pub(super) fn check(command: &Command<'_>, head: &Head<'_>, max_value_bytes: usize) -> Result<(), Problem> {
    if head.extras.lines(List::Expect).next().is_some() {
        let detail = "the only expectation met here is 100-continue";
        return Err(Problem::new(Kind::ExpectationFailed, detail));
    }
    let stores = match command {
        Command::Set(..) | Command::Batch(_) | Command::Load => true,
        Command::Get(_)
        | Command::GetMany(_)
        | Command::List(_)
        | Command::Delete(_)
        | Command::Add(..)
        | Command::Options(_)
        | Command::Description
        | Command::Admin(_) => false,
    };
    if !stores {
        return Ok(());
    }
    let refused = |kind, detail: &'static str| Err(Problem::new(kind, detail));
    let is_coded = |coding: &[u8]| !coding.eq_ignore_ascii_case(b"identity");
    match head.framing {
        Framing::None => refused(
            Kind::LengthRequired,
            "a write needs Content-Length or Transfer-Encoding: chunked; an empty value has Content-Length: 0",
        ),
        Framing::Length(bytes) if bytes > max_value_bytes as u64 && !matches!(command, Command::Load) => {
            Err(match command {
                Command::Batch(_) => batch::too_large(bytes, max_value_bytes),
                _ => value::too_large(bytes, max_value_bytes),
            })
        }
        _ if head.extras.content_encoding.is_some_and(is_coded) => {
            refused(Kind::UnsupportedMediaType, "a content is taken as it is, without Content-Encoding")
        }
        _ if head.extras.content_range.is_some() => {
            refused(Kind::MalformedRequest, "a content is taken whole, without Content-Range")
        }
        Framing::Length(_) | Framing::Chunked => Ok(()),
    }
}

/// What a head asks for, and with which wishes; or why it may not.
pub(super) type Judged<'b> = Result<(Command<'b>, Option<Box<Wishes>>), Problem>;

/// What is done when a head is whole, before any of its content is read. Where the connection is not to be reused, that is because of
/// a content that nobody will read.
#[derive(Debug)]
pub(super) enum Plan<'b> {
    /// This, at once.
    Execute(Command<'b>, Option<Box<Wishes>>, Reuse),
    /// It is refused, at once.
    Refuse(Problem, Reuse),
    /// Its lines are taken as they come.
    Load,
    /// Its content is taken, for this.
    Receive(Purpose),
}

/// What is done with a request that was judged.
pub(super) fn plan<'b>(judged: Judged<'b>, head: &Head<'_>) -> Plan<'b> {
    if !head.framing.has_content() {
        return match judged {
            Ok((command, wishes)) => Plan::Execute(command, wishes, Reuse::Silent),
            Err(problem) => Plan::Refuse(problem, Reuse::Silent),
        };
    }
    // Content that is not wanted is read to keep the connection, if it is small and on its way; else the answer
    // comes first, and the connection ends with it. But what changes something happens once its request is whole, and not
    // before: one that is cut off in its content must change nothing.
    let changes = matches!(judged, Ok((Command::Delete(_) | Command::Add(..), _)));
    // Whoever expects something may send no content before the answer.
    let expects = head.expects_continue || head.extras.lines(List::Expect).next().is_some();
    let droppable = match head.framing {
        Framing::Length(..=DISCARD_BYTES) => changes || !expects,
        Framing::Chunked => changes,
        Framing::None | Framing::Length(_) => false,
    };
    let refuse = |problem: Problem| match droppable && problem.kind != Kind::ValueTooLarge {
        true => Plan::Receive(Purpose::Drop(Owned::Refusal(problem))),
        false => Plan::Refuse(problem, Reuse::Close),
    };
    match judged {
        Ok((Command::Set(key, ttl_s), wishes)) => {
            Plan::Receive(Purpose::Set(Setting { key: key.into(), ttl_s, wishes }))
        }
        Ok((Command::Batch(all_or_nothing), _)) => match Form::of(&head.extras) {
            Ok(form) => Plan::Receive(Purpose::Batch(form, all_or_nothing)),
            Err(problem) => refuse(problem),
        },
        Ok((Command::Load, _)) => Plan::Load,
        Ok((command, wishes)) if droppable => {
            Plan::Receive(Purpose::Drop(Owned::Command(own(command), wishes)))
        }
        Ok(_) if changes => Plan::Refuse(needless(), Reuse::Close),
        Ok((command, wishes)) => Plan::Execute(command, wishes, Reuse::Close),
        Err(problem) => refuse(problem),
    }
}

/// The same command, apart from the bytes that it was parsed from.
fn own(command: Command<'_>) -> Command<'static> {
    match command {
        Command::Get(key) => Command::Get(key.into_owned().into()),
        Command::GetMany(keys) => Command::GetMany(keys),
        Command::List(list) => Command::List(list),
        Command::Set(key, ttl_s) => Command::Set(key.into_owned().into(), ttl_s),
        Command::Delete(key) => Command::Delete(key.into_owned().into()),
        Command::Add(key, by) => Command::Add(key.into_owned().into(), by),
        Command::Batch(all_or_nothing) => Command::Batch(all_or_nothing),
        Command::Load => Command::Load,
        Command::Options(allow) => Command::Options(allow),
        Command::Description => Command::Description,
        Command::Admin(page) => Command::Admin(page),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api;
    use crate::http::request::{Parsed, parse};

    #[test]
    fn what_is_done_with_a_content_is_known_by_its_head() {
        let large = format!("Content-Length: {}", DISCARD_BYTES + 1);
        let (small, chunked, asks) =
            ("Content-Length: 5", "Transfer-Encoding: chunked", "Expect: 100-continue");
        for (line, fields, expected) in [
            ("GET /kv/a", &[][..], "execute"),
            ("GET /kv/a", &["Content-Length: 0"], "execute"),
            ("GET /kv/a", &[small], "drop, then execute"),
            ("GET /kv/a", &[small, asks], "execute, close"),
            ("GET /kv/a", &[chunked], "execute, close"),
            ("GET /kv/a", &[&large], "execute, close"),
            ("GET /kv/%zz", &[], "refuse 400"),
            ("GET /kv/%zz", &[small], "drop, then refuse 400"),
            ("GET /kv/%zz", &[small, asks], "refuse 400, close"),
            ("GET /kv/%zz", &["Expect: a-miracle", small], "refuse 400, close"),
            ("GET /kv/a", &["Expect: a-miracle"], "refuse 417"),
            ("GET /kv/a", &["Expect: a-miracle", small], "refuse 417, close"),
            // What changes something waits for its whole request.
            ("DELETE /kv/a", &[], "execute"),
            ("DELETE /kv/a", &[small], "drop, then execute"),
            ("DELETE /kv/a", &[small, asks], "drop, then execute"),
            ("DELETE /kv/a", &[chunked], "drop, then execute"),
            ("DELETE /kv/a", &[&large], "refuse 413, close"),
            ("POST /kv/a?op=incr", &[chunked], "drop, then execute"),
            ("PUT /kv/a", &[], "refuse 411"),
            ("PUT /kv/a", &["Content-Length: 0"], "execute"),
            ("PUT /kv/a", &[small], "set"),
            ("PUT /kv/a", &[chunked, asks], "set"),
            // Too large for a value, and no more than is read past.
            ("PUT /kv/a", &["Content-Length: 1001"], "refuse 413, close"),
            ("PUT /kv/a", &[small, "Content-Encoding: gzip"], "drop, then refuse 415"),
            ("POST /batch", &[small, "Content-Type: application/json"], "batch"),
            ("POST /batch", &[small, "Content-Type: text/html"], "drop, then refuse 415"),
            ("POST /batch", &[small, asks, "Content-Type: text/html"], "refuse 415, close"),
            ("POST /batch", &[chunked, "Content-Type: text/html"], "refuse 415, close"),
            ("PUT /kv", &[&large], "load"),
            ("PUT /kv", &["Content-Length: 0"], "execute"),
        ] {
            let head = format!("{line} HTTP/1.1\r\nHost: h\r\n{}\r\n\r\n", fields.join("\r\n"));
            let head = head.replace("\r\n\r\n\r\n", "\r\n\r\n");
            let Ok(Parsed::Complete(head)) = parse(head.as_bytes()) else { panic!("{head}") };
            let judged = api::route(head.method, head.target)
                .and_then(|command| check(&command, &head, 1_000).map(|()| (command, None)));
            let end = |reuse| if reuse == Reuse::Close { ", close" } else { "" };
            let told = match plan(judged, &head) {
                Plan::Execute(_, _, reuse) => format!("execute{}", end(reuse)),
                Plan::Refuse(problem, reuse) => format!("refuse {}{}", problem.status(), end(reuse)),
                Plan::Load => "load".into(),
                Plan::Receive(Purpose::Set(_)) => "set".into(),
                Plan::Receive(Purpose::Batch(..)) => "batch".into(),
                Plan::Receive(Purpose::Drop(Owned::Command(..))) => "drop, then execute".into(),
                Plan::Receive(Purpose::Drop(Owned::Refusal(problem))) => {
                    format!("drop, then refuse {}", problem.status())
                }
            };
            assert_eq!(told, expected, "{line} {fields:?}");
        }
    }
}
