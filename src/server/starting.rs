//! Who asks for operations while the server starts, which may take as long as a log is replayed or a migration runs: is told so.
//! One connection at a time, one answer each, and no event loop: there is nothing to serve yet. Used by [`super`].

use crate::api::{Command, admin, answer};
use crate::http::cors::Audience;
use crate::http::problem::Problem;
use crate::http::request::{self, Head, Parsed};
use crate::http::response::{Encoder, Frame, Reuse};
use crate::limits::STARTING_MS;
use crate::output::Output;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::io::{self, Read, Write};
use std::net;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

const WAKER: Token = Token(0);
/// How often it is asked whether it is still to be waited for.
const LOOK: Duration = Duration::from_millis(20);

/// Answers until it is dropped. Who comes later waits in the sockets' queues for the loops.
#[derive(Debug)]
pub(super) struct Starting {
    ends: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Starting {
    /// Answers on these sockets, which stay the caller's.
    pub(super) fn on(sockets: &[net::TcpListener]) -> io::Result<Starting> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut listeners = Vec::new();
        for socket in sockets {
            socket.set_nonblocking(true)?;
            let mut listener = TcpListener::from_std(socket.try_clone()?);
            poll.registry().register(&mut listener, Token(WAKER.0 + 1), Interest::READABLE)?;
            listeners.push(listener);
        }
        let ends = Arc::new(AtomicBool::new(false));
        let ends_too = Arc::clone(&ends);
        let thread =
            thread::Builder::new().name("starting".into()).spawn(move || run(poll, &listeners, &ends_too))?;
        Ok(Starting { ends, waker, thread: Some(thread) })
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // Where it cannot be woken it goes on for as long as it is polled for.
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut poll: Poll, listeners: &[TcpListener], ends: &AtomicBool) {
    let mut events = Events::with_capacity(8);
    while !ends.load(Ordering::Relaxed) {
        for listener in listeners {
            // Only the waker and new connections wake it: after each it looks at all of them.
            while let Ok((stream, _)) = listener.accept() {
                // Who does not read, or has gone, has no answer.
                let _ = serve(stream, ends);
                if ends.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
        match poll.poll(&mut events, Some(Duration::from_millis(STARTING_MS))) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
            Ok(()) | Err(_) => {}
        }
    }
}

/// Reads one request, for so long and while the server starts, and answers it.
fn serve(stream: TcpStream, ends: &AtomicBool) -> io::Result<()> {
    let mut stream: net::TcpStream = stream.into();
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_write_timeout(Some(Duration::from_millis(STARTING_MS)))?;
    let until = Instant::now() + Duration::from_millis(STARTING_MS);
    let is_over = || Instant::now() > until || ends.load(Ordering::Relaxed);
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    let mut out = Output::default();
    while out.is_empty() {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
            Err(error) if is_timeout(&error) && !is_over() => continue,
            Err(error) => return Err(error),
        }
        match request::parse(&bytes) {
            Ok(Parsed::Partial) if is_over() => return Ok(()),
            Ok(Parsed::Partial) => {}
            Ok(Parsed::Complete(head)) => encode(Ok(&head), &mut out),
            Err(problem) => encode(Err(&problem), &mut out),
        }
    }
    stream.write_all(&out.bytes)?;
    // What is unread would make the end a reset, which may take the answer back (RFC 9112 section 9.6).
    stream.shutdown(net::Shutdown::Write)?;
    while !is_over() {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn encode(parsed: Result<&Head<'_>, &Problem>, out: &mut Output) {
    let encoder = Encoder::new(0, SystemTime::now());
    let head_only = parsed.is_ok_and(|head| head.method == "HEAD");
    let frame = Frame { head_only, reuse: Reuse::Close, audience: Audience::NONE };
    let routed = parsed.map_err(Problem::clone).and_then(|head| admin::route(head.method, head.target));
    match routed {
        Ok(Command::Admin(page)) => admin::page_at_start(&encoder, out, page, frame),
        Ok(Command::Options(allow)) => answer::options(&encoder, out, allow, frame),
        Ok(_) => unreachable!("operations have no other commands"),
        Err(problem) => encoder.problem(out, &problem, frame),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is answered, up to the end of the connection.
    fn ask(at: net::SocketAddr, request: &str) -> String {
        let mut stream = net::TcpStream::connect(at).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn who_asks_while_the_server_starts_is_told_so() {
        let socket = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        let starting = Starting::on(std::slice::from_ref(&socket)).unwrap();
        for (line, status, content) in [
            ("GET /livez", "200", "alive\n"),
            ("GET /readyz", "503", "starting\n"),
            ("HEAD /readyz", "503", ""),
            ("GET /metrics", "503", "starting\n"),
            ("OPTIONS /readyz", "204", ""),
            ("GET /nowhere", "404", "path-not-found"),
            ("BREW /livez", "501", "unknown-method"),
        ] {
            let answer = ask(at, &format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n"));
            let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
            assert!(head.contains("\r\nConnection: close"), "{line}: {answer}");
            assert!(body.contains(content) && body.is_empty() == content.is_empty(), "{line}: {answer}");
        }
        assert!(ask(at, "no request\r\n\r\n").starts_with("HTTP/1.1 400 "));
        // Who says nothing holds nobody up for ever.
        let silent = net::TcpStream::connect(at).unwrap();
        assert!(ask(at, "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n").starts_with("HTTP/1.1 200 "));
        drop(silent);
        drop(starting);
        // Whoever comes now waits for the loops.
        let mut late = net::TcpStream::connect(at).unwrap();
        late.write_all(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        socket.set_nonblocking(false).unwrap();
        let (mut accepted, _) = socket.accept().unwrap();
        let mut start = [0; 10];
        accepted.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"GET /livez");
    }
}
