//! A connection to PostgreSQL that gives up: past its deadline, a read or write that would wait fails instead. Used by
//! [`super::postgres`].
//!
//! A server that is frozen while its kernel goes on acknowledges what it is sent and never answers: no time-out of TCP
//! notices, `statement_timeout` is the frozen server's own, and the `postgres` crate waits for ever. What it does let us
//! choose is the stream of a session with TLS. So a session without TLS is opened as one with TLS whose negotiation is
//! skipped (`sslnegotiation=direct`) and whose stream is the bare socket with a deadline: not a byte on the wire is
//! different.

use ::postgres::Socket;
use ::postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Until when a session waits for its server, and how long that is; shared with its stream.
#[derive(Clone, Debug, Default)]
pub struct Patience(Arc<Mutex<Option<(Instant, Duration)>>>);

impl Patience {
    /// Waits for so long from now.
    pub fn begin(&self, limit: Duration) {
        *self.0.lock() = Some((Instant::now() + limit, limit));
    }

    /// Waits for as long as it takes.
    pub fn end(&self) {
        *self.0.lock() = None;
    }
}

/// Opens streams that share one patience, which begins anew with each of them.
#[derive(Clone, Debug)]
pub struct Patiently {
    /// Until when.
    pub patience: Patience,
    /// How long a server may take to let a session in.
    pub limit: Duration,
}

impl MakeTlsConnect<Socket> for Patiently {
    type Stream = Stream;
    type TlsConnect = Patiently;
    type Error = Infallible;

    fn make_tls_connect(&mut self, _host: &str) -> Result<Patiently, Infallible> {
        Ok(self.clone())
    }
}

impl TlsConnect<Socket> for Patiently {
    type Stream = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn connect(self, socket: Socket) -> Self::Future {
        self.patience.begin(self.limit);
        let sleep = Box::pin(tokio::time::sleep(self.limit));
        ready(Ok(Stream { socket, patience: self.patience, armed: None, sleep }))
    }
}

/// A socket with a deadline.
pub struct Stream {
    socket: Socket,
    patience: Patience,
    /// The deadline that `sleep` ends at.
    armed: Option<Instant>,
    sleep: Pin<Box<Sleep>>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Stream {
    /// What the socket has said; where it would wait, the deadline is waited for, too.
    fn or_give_up<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let until = *self.patience.0.lock();
        let (Poll::Pending, Some((until, limit))) = (&polled, until) else { return polled };
        if self.armed != Some(until) {
            self.sleep.as_mut().reset(until.into());
            self.armed = Some(until);
        }
        // A sleep that has ended must not be asked again.
        if Instant::now() < until && self.sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, format!("no answer within {limit:?}"))))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        self.or_give_up(cx, polled)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.or_give_up(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}
