//! A line for every answer, if it is asked for: made by the event loops ([`crate::connection`]), written by a thread of
//! its own. A disk or a pipe that takes no more stops that thread and no loop: lines that find no room meanwhile are
//! dropped and counted. Opened by [`crate::server`].

use crate::config::AccessLogFormat;
use crate::limits::{ACCESS_LOG_LINES, REQUEST_ID_BYTES};
use ahash::RandomState;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use rustix::fs::{OFlags, fcntl_setfl};
use serde::Serialize;
use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, SystemTime};

/// So much is written at once, while more waits.
const WRITE_BYTES: usize = 64 * 1024;
/// How long the last lines may take at the end of the process.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A request's name, from `X-Request-Id` or made here, without an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    bytes: [u8; REQUEST_ID_BYTES],
    length: u8,
}

impl RequestId {
    /// What a client sent, if it may be sent back and logged: visible ASCII, and not too long.
    pub fn sent(value: &[u8]) -> Option<RequestId> {
        let fits = (1..=REQUEST_ID_BYTES).contains(&value.len());
        if !fits || !value.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let mut bytes = [0; REQUEST_ID_BYTES];
        bytes[..value.len()].copy_from_slice(value);
        Some(RequestId { bytes, length: value.len() as u8 })
    }

    /// One that no other request of this process has, nor likely that of another: 64 bits of a keyed hash of a count.
    pub fn made() -> RequestId {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = KEYS.hash_one(COUNT.fetch_add(1, Ordering::Relaxed));
        RequestId::sent(format!("{number:016x}").as_bytes()).expect("16 hexadecimal digits are visible ASCII")
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("only ASCII gets in")
    }
}

/// Text between the quotes of a line: as Apache escapes it.
fn escaped(text: &str) -> Cow<'_, str> {
    match text.contains(['"', '\\']) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who asked.
    pub client: Option<IpAddr>,
    /// Method, target and version; none where the bytes were no request.
    pub request: Option<(Box<str>, Box<str>, &'static str)>,
    /// What it was answered.
    pub status: u16,
    /// Bytes of the answer, its head included.
    pub bytes: usize,
    /// From the turn of the event loop that took the head to the one that encoded the answer.
    pub duration: Duration,
    /// The request's name.
    pub id: RequestId,
    /// When it was answered.
    pub at: SystemTime,
}

impl Entry {
    /// A method or a target as it is logged: not longer than `most` bytes, and what says that it was.
    pub fn cut(text: &str, most: usize) -> Box<str> {
        if text.len() <= most {
            return text.into();
        }
        // Both are ASCII, checked by the parser; else nothing is cut.
        text.get(..most).map_or_else(|| text.into(), |start| format!("{start}...").into())
    }

    fn render(&self, format: AccessLogFormat, out: &mut Vec<u8>) {
        // Writing to a vector does not fail.
        let _ = match format {
            AccessLogFormat::Common => self.common(out),
            AccessLogFormat::Json => self.json(out),
        };
    }

    /// The Common Log Format of NCSA httpd, and behind it the request's name and the duration in seconds.
    fn common(&self, out: &mut Vec<u8>) -> io::Result<()> {
        // `Sun, 06 Nov 1994 08:49:37 GMT`
        let date = httpdate::fmt_http_date(self.at);
        let (day, month, year, time) = (&date[5..7], &date[8..11], &date[12..16], &date[17..25]);
        match self.client {
            Some(client) => write!(out, "{client}")?,
            None => out.push(b'-'),
        }
        write!(out, " - - [{day}/{month}/{year}:{time} +0000] \"")?;
        match &self.request {
            // Both have been parsed as a request line: visible ASCII, but a quote may be in them.
            Some((method, target, version)) => {
                write!(out, "{} {} {version}", escaped(method), escaped(target))?;
            }
            None => out.push(b'-'),
        }
        let Entry { status, bytes, id, duration, .. } = self;
        writeln!(out, "\" {status} {bytes} \"{}\" {:.6}", escaped(id.as_str()), duration.as_secs_f64())
    }

    fn json(&self, out: &mut Vec<u8>) -> io::Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            time: String,
            client: Option<IpAddr>,
            method: Option<&'a str>,
            target: Option<&'a str>,
            version: Option<&'a str>,
            status: u16,
            bytes: usize,
            duration_us: u64,
            request_id: &'a str,
        }
        let request = self.request.as_ref();
        let line = Line {
            time: humantime::format_rfc3339_micros(self.at).to_string(),
            client: self.client,
            method: request.map(|request| &*request.0),
            target: request.map(|request| &*request.1),
            version: request.map(|request| request.2),
            status: self.status,
            bytes: self.bytes,
            duration_us: self.duration.as_micros() as u64,
            request_id: self.id.as_str(),
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.push(b'\n');
        Ok(())
    }
}

/// The log, from any thread.
#[derive(Debug)]
pub struct AccessLog {
    lines: Sender<Line>,
    shared: Arc<Shared>,
}

/// What both ends of the queue know, whether or not it is full.
#[derive(Debug, Default)]
struct Shared {
    dropped: AtomicU64,
    /// Somebody has moved the file away.
    moved: AtomicBool,
}

#[derive(Debug)]
enum Line {
    Entry(Box<Entry>),
    /// There is something to look at besides lines.
    Look,
    /// Everything before is written: tell whoever waits for it.
    Flushed(Sender<()>),
}

impl AccessLog {
    /// Opens a log: on stdout where there is no path.
    pub fn open(path: Option<&Path>, format: AccessLogFormat) -> io::Result<AccessLog> {
        // Of stdout a descriptor of its own, beside the one that the standard library has a buffer for: how much of it was written
        // is to be known.
        let out = match path {
            Some(path) => open(path)?,
            None => File::from(io::stdout().as_fd().try_clone_to_owned()?),
        };
        let (lines, queue) = bounded(ACCESS_LOG_LINES);
        let shared = Arc::new(Shared::default());
        let for_writer = Arc::clone(&shared);
        let writer = Writer {
            torn: is_torn(&out),
            out,
            path: path.map(Path::to_owned),
            format,
            shared: for_writer,
            text: Vec::new(),
            failing: false,
        };
        thread::Builder::new().name("access log".into()).spawn(move || writer.run(&queue))?;
        Ok(AccessLog { lines, shared })
    }

    /// Adds a line, if there is room.
    pub fn add(&self, entry: Entry) {
        if self.lines.try_send(Line::Entry(Box::new(entry))).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that found no room, or that could not be written.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Goes on in a new file of the same name: somebody has moved the old one away (logrotate(8)). Waits for nothing: whoever
    /// calls has a server to stop if a pipe is stuck.
    pub fn reopen(&self) {
        self.shared.moved.store(true, Ordering::Release);
        // Where there is no room the writer is awake, or will be: it looks before it writes.
        let _ = self.lines.try_send(Line::Look);
    }

    /// Waits until everything is written, for a moment: a stuck pipe must not hold up the exit.
    pub fn flush(&self) {
        let (done, wait) = bounded(1);
        if self.lines.send_timeout(Line::Flushed(done), LAST_LINES).is_ok() {
            let _ = wait.recv_timeout(LAST_LINES);
        }
    }
}

/// Without waiting: a pipe that has a name and nobody who reads it is an error, where opening it would wait for ever.
fn open(path: &Path) -> io::Result<File> {
    let at_once = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().append(true).create(true).custom_flags(at_once).open(path)?;
    fcntl_setfl(&file, OFlags::APPEND)?;
    Ok(file)
}

/// Whether a file ends in the middle of a line: it need not be a new one, and what wrote it last may have had no room. What
/// cannot be looked at, as a pipe, ends well.
fn is_torn(file: &File) -> bool {
    let ends_otherwise = || {
        let length = file.metadata().ok().filter(fs::Metadata::is_file)?.len();
        // It was opened to be written, and others may only do that; and stdout has no name but this one.
        let same = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        let mut last = [0];
        same.read_exact_at(&mut last, length.checked_sub(1)?).ok()?;
        Some(last != *b"\n")
    };
    ends_otherwise().unwrap_or(false)
}

/// What the thread has.
struct Writer {
    out: File,
    /// What it is called; stdout has no name.
    path: Option<PathBuf>,
    format: AccessLogFormat,
    shared: Arc<Shared>,
    /// Lines that are rendered and not written.
    text: Vec<u8>,
    /// The last lines could not be written: said once, not for every line.
    failing: bool,
    /// What the file ends with is no whole line: the disk was full in the middle of it.
    torn: bool,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Line>) {
        loop {
            // What is rendered leaves as soon as nothing waits behind it.
            let line = match queue.try_recv() {
                Ok(line) => line,
                Err(TryRecvError::Disconnected) => return self.leave(),
                Err(TryRecvError::Empty) => {
                    self.leave();
                    let Ok(line) = queue.recv() else { return };
                    line
                }
            };
            match line {
                Line::Entry(entry) => {
                    entry.render(self.format, &mut self.text);
                    if self.text.len() >= WRITE_BYTES {
                        self.leave();
                    }
                }
                Line::Look => self.leave(),
                Line::Flushed(done) => {
                    self.leave();
                    let _ = done.send(());
                }
            }
        }
    }

    /// Writes what is rendered, into the file that now has the name.
    fn leave(&mut self) {
        if self.shared.moved.swap(false, Ordering::Acquire) {
            self.reopen();
        }
        if self.text.is_empty() {
            return;
        }
        let was_torn = std::mem::take(&mut self.torn);
        if was_torn {
            self.text.insert(0, b'\n');
        }
        let (written, result) = write_up_to(&mut self.out, &self.text);
        self.torn = self.text[..written].last().map_or(was_torn, |byte| *byte != b'\n');
        // Those whose end is not written; what ended the line before them is none.
        let unwritten = &self.text[written.max(usize::from(was_torn))..];
        let lines = memchr::memchr_iter(b'\n', unwritten).count() as u64;
        self.text.clear();
        match result {
            Ok(()) if std::mem::take(&mut self.failing) => log::info!("the access log is written again"),
            Ok(()) => {}
            Err(error) => {
                self.shared.dropped.fetch_add(lines, Ordering::Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    log::error!("the access log cannot be written, its lines are dropped: {error}");
                }
            }
        }
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(file) => {
                log::info!("the access log goes on in a new {}", path.display());
                self.torn = is_torn(&file);
                self.out = file;
            }
            Err(error) => {
                log::error!("{} cannot be opened again, the old file goes on: {error}", path.display());
            }
        }
    }
}

/// Writes all, or as much as can be: how many bytes that are, and why not more.
fn write_up_to(out: &mut impl Write, text: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < text.len() {
        match out.write(&text[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, and then has no room.
    struct Small(usize);

    impl Write for Small {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let taken = text.len().min(3).min(self.0);
            self.0 -= taken;
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn how_much_was_written_is_known() {
        for (room, written) in [(0, 0), (4, 4), (9, 7)] {
            let (up_to, result) = write_up_to(&mut Small(room), b"a line\n");
            assert_eq!((up_to, result.is_ok()), (written, room > 7), "{room}");
        }
    }

    fn entry() -> Entry {
        Entry {
            client: Some("192.0.2.1".parse().unwrap()),
            request: Some(("GET".into(), "/kv/a\"b".into(), "HTTP/1.1")),
            status: 200,
            bytes: 123,
            duration: Duration::from_micros(1_500),
            id: RequestId::sent(b"an-id").unwrap(),
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_250),
        }
    }

    fn rendered(entry: &Entry, format: AccessLogFormat) -> String {
        let mut out = Vec::new();
        entry.render(format, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_has_its_form() {
        let unknown = Entry { client: None, request: None, status: 400, ..entry() };
        for (entry, format, line) in [
            (
                entry(),
                AccessLogFormat::Common,
                "192.0.2.1 - - [06/Nov/1994:08:49:37 +0000] \"GET /kv/a\\\"b HTTP/1.1\" 200 123 \"an-id\" 0.001500\n",
            ),
            (
                unknown.clone(),
                AccessLogFormat::Common,
                "- - - [06/Nov/1994:08:49:37 +0000] \"-\" 400 123 \"an-id\" 0.001500\n",
            ),
            (
                entry(),
                AccessLogFormat::Json,
                "{\"time\":\"1994-11-06T08:49:37.250000Z\",\"client\":\"192.0.2.1\",\"method\":\"GET\",\
                 \"target\":\"/kv/a\\\"b\",\"version\":\"HTTP/1.1\",\"status\":200,\"bytes\":123,\
                 \"duration_us\":1500,\"request_id\":\"an-id\"}\n",
            ),
            (
                unknown,
                AccessLogFormat::Json,
                "{\"time\":\"1994-11-06T08:49:37.250000Z\",\"client\":null,\"method\":null,\"target\":null,\
                 \"version\":null,\"status\":400,\"bytes\":123,\"duration_us\":1500,\"request_id\":\"an-id\"}\n",
            ),
        ] {
            assert_eq!(rendered(&entry, format), line);
        }
    }

    #[test]
    fn a_request_id_is_taken_only_if_it_may_be_sent_back() {
        let longest = [b'x'; REQUEST_ID_BYTES];
        for (sent, taken) in [
            (&b"abc-123/{}"[..], true),
            (&longest, true),
            (&[b'x'; REQUEST_ID_BYTES + 1], false),
            (b"", false),
            (b"two words", false),
            (b"tab\t", false),
            ("ä".as_bytes(), false),
        ] {
            let id = RequestId::sent(sent);
            assert_eq!(id.is_some(), taken, "{sent:?}");
            assert!(id.is_none_or(|id| id.as_str().as_bytes() == sent));
        }
        assert_ne!(RequestId::made(), RequestId::made());
        assert_eq!(RequestId::made().as_str().len(), 16);
    }

    #[test]
    fn what_is_long_is_cut() {
        assert_eq!(&*Entry::cut("/kv/abc", 5), "/kv/a...");
        assert_eq!(&*Entry::cut("/kv/a", 5), "/kv/a");
    }

    /// A pipe that takes some of it and does not wait.
    #[test]
    fn lines_that_were_written_are_not_counted_as_dropped() {
        let (reader, pipe) = io::pipe().unwrap();
        fcntl_setfl(&pipe, OFlags::NONBLOCK).unwrap();
        let shared = Arc::new(Shared::default());
        let mut writer = Writer {
            out: File::from(std::os::fd::OwnedFd::from(pipe)),
            path: None,
            format: AccessLogFormat::Json,
            shared: Arc::clone(&shared),
            text: Vec::new(),
            failing: false,
            torn: false,
        };
        let mut lines = 0;
        // More than a pipe has room for, however large its pages are; and then once more, behind a line that was cut.
        while writer.text.len() < 1 << 21 {
            entry().render(writer.format, &mut writer.text);
            lines += 1;
        }
        writer.leave();
        let line = "{\"a line\":\"that finds no room\"}\n";
        writer.text.extend_from_slice(line.repeat(2).as_bytes());
        writer.leave();
        assert!(writer.failing && writer.torn);
        drop(writer);
        let written = io::read_to_string(reader).unwrap();
        let whole = written.matches('\n').count();
        assert!(whole > 10, "{whole}");
        assert_eq!(shared.dropped.load(Ordering::Relaxed), (lines - whole + 2) as u64);
    }

    /// A file that takes nothing: a pipe whose reader does not read.
    #[test]
    fn who_says_that_a_file_was_moved_waits_for_no_stuck_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let log = AccessLog::open(Some(&path), AccessLogFormat::Json).unwrap();
        while log.dropped() == 0 {
            log.add(entry());
        }
        fs::rename(&path, dir.path().join("moved")).unwrap();
        log.reopen();
        // It is read again: what has waited goes on in a new file of the name. The old one has no end, so nobody waits for it.
        thread::spawn(move || io::copy(&mut &reader, &mut io::sink()));
        let is_written = || fs::read_to_string(&path).is_ok_and(|lines| lines.starts_with("{\"time\":"));
        while !is_written() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
