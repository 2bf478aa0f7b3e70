//! What a connection still has to send: bytes, with large values lent by the cache in between. Knows nothing of
//! HTTP. Written by [`crate::http::response`], sent by [`crate::connection`].

use std::io::{self, ErrorKind, IoSlice, Write};
use std::sync::Arc;

/// Parts given to one `writev`.
const PARTS_A_WRITE: usize = 16;

/// Answers in order, and how far they have been sent.
///
/// ```text
///  bytes    [ head A | head B + value B | head C ]
///  shared            ^ value A          ^ (sent after the bytes before its `at`)
///  sent     ───────────► counts bytes of both kinds, in the order they leave
/// ```
///
/// Invariant: `shared` is sorted by `at`; `sent <= len`.
#[derive(Default, Debug)]
pub struct Output {
    /// Heads and small values.
    pub bytes: Vec<u8>,
    shared: Vec<Shared>,
    shared_bytes: usize,
    sent: usize,
}

#[derive(Debug)]
struct Shared {
    /// The value leaves after this many of `bytes`.
    at: usize,
    value: Arc<str>,
}

/// How a flush ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Flush {
    /// Everything is in the kernel's hands.
    Done,
    /// The client reads too slowly: wait until the socket is writable.
    WouldBlock,
    /// The client reads as fast as is written, and has had its share of this turn.
    Again,
    /// The client is gone.
    Closed,
}

impl Output {
    /// Appends a value without copying it.
    pub fn push_shared(&mut self, value: Arc<str>) {
        self.shared_bytes += value.len();
        self.shared.push(Shared { at: self.bytes.len(), value });
    }

    /// Bytes not yet sent.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.shared_bytes - self.sent
    }

    /// True when nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything and keeps the allocation.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.shared.clear();
        (self.shared_bytes, self.sent) = (0, 0);
    }

    /// Moves what is unsent into an output of its own, as small as can be, and leaves this one empty with its
    /// allocation: a loop's shared output becomes one connection's backlog.
    pub fn split_unsent(&mut self) -> Output {
        let mut unsent = Output::default();
        let (mut skip, mut from) = (self.sent, 0);
        let bytes = &self.bytes;
        let take = |from: usize, to: usize, skip: &mut usize, unsent: &mut Output| {
            let skipped = (*skip).min(to - from);
            *skip -= skipped;
            unsent.bytes.extend_from_slice(&bytes[from + skipped..to]);
        };
        for Shared { at, value } in self.shared.drain(..) {
            take(from, at, &mut skip, &mut unsent);
            from = at;
            if skip >= value.len() {
                skip -= value.len();
            } else {
                // A value that is partly out is lent whole and marked as partly sent: only the first can be.
                unsent.sent += std::mem::take(&mut skip);
                unsent.push_shared(value);
            }
        }
        take(from, bytes.len(), &mut skip, &mut unsent);
        self.clear();
        unsent
    }

    /// Puts what is unsent of `later` behind what is unsent here.
    pub fn append(&mut self, later: &mut Output) {
        let Output { bytes, shared, .. } = later.split_unsent();
        let base = self.bytes.len();
        self.bytes.extend_from_slice(&bytes);
        for Shared { at, value } in shared {
            self.shared_bytes += value.len();
            self.shared.push(Shared { at: base + at, value });
        }
    }

    /// Writes until everything is out, the writer takes no more, or `most` bytes are written.
    pub fn flush(&mut self, writer: &mut impl Write, most: usize) -> Flush {
        let mut share = most;
        loop {
            let result = if self.is_empty() {
                // What the writer has taken may still wait in it, where it is no bare socket: then it is not out.
                match writer.flush() {
                    Ok(()) => {
                        self.clear();
                        return Flush::Done;
                    }
                    Err(e) => Err(e),
                }
            } else if share == 0 {
                return Flush::Again;
            } else {
                self.write_once(writer, share)
            };
            match result {
                Ok(0) => return Flush::Closed,
                Ok(n) => {
                    self.sent += n;
                    share = share.saturating_sub(n);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Flush::WouldBlock,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Flush::Closed,
            }
        }
    }

    /// Writes once, `most` bytes at most.
    fn write_once(&self, writer: &mut impl Write, most: usize) -> io::Result<usize> {
        if self.shared.is_empty() {
            let unsent = &self.bytes[self.sent..];
            return writer.write(&unsent[..unsent.len().min(most)]);
        }
        self.write_parts(writer, most)
    }

    /// The same, of what is in more than one place. Not inlined: most answers have no such place.
    #[inline(never)]
    fn write_parts(&self, writer: &mut impl Write, most: usize) -> io::Result<usize> {
        let mut parts = [IoSlice::new(&[]); PARTS_A_WRITE];
        let (mut count, mut skip, mut from, mut left) = (0, self.sent, 0, most);
        let add = |part: &[u8], skip: &mut usize| -> Option<usize> {
            let skipped = (*skip).min(part.len());
            *skip -= skipped;
            (skipped < part.len()).then_some(skipped)
        };
        let tail = (self.bytes.len(), None);
        for (at, value) in self.shared.iter().map(|s| (s.at, Some(&s.value))).chain([tail]) {
            for part in [&self.bytes[from..at], value.map_or(&[][..], |v| v.as_bytes())] {
                if let Some(skipped) = add(part, &mut skip)
                    && count < PARTS_A_WRITE
                    && left > 0
                {
                    let part = &part[skipped..];
                    let part = &part[..part.len().min(left)];
                    parts[count] = IoSlice::new(part);
                    count += 1;
                    left -= part.len();
                }
            }
            from = at;
            if count == PARTS_A_WRITE || left == 0 {
                break;
            }
        }
        writer.write_vectored(&parts[..count])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes `step` bytes a write and would block after `room` bytes.
    struct Slow {
        got: Vec<u8>,
        step: usize,
        room: usize,
    }

    impl Write for Slow {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let n = buf.len().min(self.step).min(self.room);
            if n == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.room -= n;
            self.got.extend_from_slice(&buf[..n]);
            Ok(n)
        }
        fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
            let all: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
            self.write(&all)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_appended_leaves_last() {
        let (mut first, mut second, mut sent) = (Output::default(), Output::default(), Vec::new());
        first.bytes.extend_from_slice(b"a");
        first.push_shared("B".into());
        second.bytes.extend_from_slice(b"c");
        second.push_shared("D".into());
        second.bytes.extend_from_slice(b"e");
        first.append(&mut second);
        assert!(second.is_empty() && first.len() == 5);
        assert_eq!(first.flush(&mut sent, usize::MAX), Flush::Done);
        assert_eq!(sent, b"aBcDe");
    }

    #[test]
    fn no_flush_writes_more_than_its_share() {
        let most = 1_000;
        for shared in [false, true] {
            let mut output = Output::default();
            output.bytes.extend_from_slice(b"head");
            let value = "v".repeat(2 * most);
            if shared {
                output.push_shared(value.into())
            } else {
                output.bytes.extend_from_slice(value.as_bytes())
            }
            let mut writer = Slow { got: Vec::new(), step: usize::MAX, room: usize::MAX };
            assert_eq!(output.flush(&mut writer, most), Flush::Again);
            assert_eq!(writer.got.len(), most);
            let mut rest = output.split_unsent();
            assert_eq!((rest.flush(&mut writer, most), writer.got.len()), (Flush::Again, 2 * most));
            assert_eq!((rest.flush(&mut writer, most), writer.got.len()), (Flush::Done, 2 * most + 4));
        }
    }

    proptest! {
        #[test]
        fn bytes_leave_in_order_whole_and_once(
            parts in prop::collection::vec((any::<bool>(), "[a-z]{0,9}"), 0..40),
            step in 1usize..20, room in 0usize..60, split in any::<bool>(), most in 1usize..30,
        ) {
            let mut output = Output::default();
            let mut expected = Vec::new();
            for (shared, text) in &parts {
                expected.extend_from_slice(text.as_bytes());
                if *shared { output.push_shared(text.as_str().into()) } else { output.bytes.extend_from_slice(text.as_bytes()) }
            }
            let mut writer = Slow { got: Vec::new(), step, room };
            let total = output.len();
            while output.flush(&mut writer, most) != Flush::Done {
                prop_assert_eq!(output.len(), total - writer.got.len());
                if split {
                    let mut rest = output.split_unsent();
                    prop_assert_eq!(rest.len(), total - writer.got.len());
                    std::mem::swap(&mut output, &mut rest);
                }
                writer.room += room + 1;
            }
            prop_assert_eq!(writer.got, expected);
            prop_assert!(output.is_empty());
        }
    }
}
