//! A content that is arriving: what it is for, whether it may be, and the bytes so far. A bulk load's, which is never here as a
//! whole, is in [`super::load`]. Called by [`super::requests`].

use crate::api::batch::{self, Form};
use crate::api::wishes::Wishes;
use crate::api::{Command, value};
use crate::http::content::Decoder;
use crate::http::problem::{Kind, Problem};
use crate::http::request::{Framing, Head, List};
use crate::http::response::Frame;
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
    /// True where what it is for may change a row.
    pub(super) fn changes(&self) -> bool {
        match self {
            Purpose::Set(_) | Purpose::Batch(..) => true,
            Purpose::Drop(Owned::Command(command, _)) => command.changes(),
            Purpose::Drop(Owned::Refusal(_)) => false,
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
pub(super) fn check<'b>(
    command: Command<'b>,
    head: &Head<'_>,
    max_value_bytes: usize,
) -> Result<Command<'b>, Problem> {
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
        return Ok(command);
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
        Framing::Length(_) | Framing::Chunked => Ok(command),
    }
}

/// The same command, apart from the bytes that it was parsed from.
pub(super) fn own(command: Command<'_>) -> Command<'static> {
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
