//! A socket in memory. What has arrived, and how much may be sent, is up to [`crate::world`]; it behaves as a
//! non-blocking socket does: a read takes all that has arrived, a write takes what there is room for.

use crate::database::Jobs;
use hotrow::connection::Socket;
use std::io::{self, ErrorKind, IoSlice, Read, Write};

/// One end of a connection, the server's.
#[derive(Debug)]
pub struct Scripted {
    /// All that the client sends.
    input: Vec<u8>,
    /// How much of it has arrived, and has been read.
    arrived: usize,
    read: usize,
    /// The end of the stream has arrived.
    ended: bool,
    /// Bytes that may be sent before a write would block.
    room: usize,
    /// The last write would have blocked: an event follows when there is room.
    blocked: bool,
    /// All that was sent.
    pub sent: Vec<u8>,
    shut: bool,
    interrupted: bool,
    reset: bool,
    /// Jobs that nobody has taken yet; while there are any, the connection waits and must not read.
    waits_for: Option<Jobs>,
}

impl Scripted {
    /// A socket with a client that will send `input`. With `waits_for`, a read while a job is out is a failure.
    pub fn new(input: &[u8], waits_for: Option<Jobs>) -> Scripted {
        Scripted {
            input: input.to_vec(),
            arrived: 0,
            read: 0,
            ended: false,
            room: 0,
            blocked: false,
            sent: Vec::new(),
            shut: false,
            interrupted: false,
            reset: false,
            waits_for,
        }
    }

    /// More of the input arrives. False: there was no more.
    pub fn arrive(&mut self, bytes: usize) -> bool {
        let before = self.arrived;
        self.arrived = self.input.len().min(before.saturating_add(bytes));
        self.arrived > before
    }

    /// The rest of the input and the end of the stream arrive.
    pub fn end(&mut self) {
        self.arrived = self.input.len();
        self.ended = true;
    }

    /// The client reads: there is more room. True where that is an event.
    pub fn make_room(&mut self, bytes: usize) -> bool {
        self.room = self.room.saturating_add(bytes);
        std::mem::take(&mut self.blocked)
    }

    /// The next read or write is interrupted.
    pub fn interrupt(&mut self) {
        self.interrupted = true;
    }

    /// The client is gone: every read and write fails.
    pub fn reset(&mut self) {
        self.reset = true;
    }

    fn disturb(&mut self) -> io::Result<()> {
        if self.reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if std::mem::take(&mut self.interrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        Ok(())
    }
}

impl Read for Scripted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        assert!(!buf.is_empty(), "read into nothing");
        assert!(self.waits_for.as_ref().is_none_or(Jobs::is_empty), "read while a job is out");
        self.disturb()?;
        let left = &self.input[self.read..self.arrived];
        if left.is_empty() {
            return if self.ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let n = left.len().min(buf.len());
        buf[..n].copy_from_slice(&left[..n]);
        self.read += n;
        Ok(n)
    }
}

impl Write for Scripted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(!self.shut, "written after the end was announced");
        assert!(bufs.iter().any(|buf| !buf.is_empty()), "nothing written");
        self.disturb()?;
        if self.room == 0 {
            self.blocked = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let before = self.sent.len();
        for buf in bufs {
            let n = buf.len().min(self.room);
            self.sent.extend_from_slice(&buf[..n]);
            self.room -= n;
        }
        Ok(self.sent.len() - before)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for Scripted {
    fn shutdown_write(&mut self) {
        assert!(!self.shut, "the end was announced twice");
        self.shut = true;
    }
}
