//! A connection to PostgreSQL that gives up: past its deadline, a read or write that would wait fails instead. Used by
//! [`super::postgres`].
//!
//! A server that is frozen while its kernel goes on acknowledges what it is sent and never answers: no time-out of TCP
//! notices, `statement_timeout` is the frozen server's own, and the `postgres` crate waits for ever. What it does let us
//! choose is the stream of a session with TLS. So a session without TLS is opened as one with TLS whose negotiation is
//! skipped (`sslnegotiation=direct`) and whose stream is the bare socket with a deadline: not a byte on the wire is
//! different. Where TLS is wanted, it is negotiated here, as the crate would have done, and has its deadline from the
//! first byte on.

use super::tls::Mode;
use super::worker::Asked;
use ::postgres::Socket;
use ::postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use parking_lot::Mutex;
use std::fmt;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Sleep;
use tokio_postgres_rustls::MakeRustlsConnect;

/// The message SSLRequest of PostgreSQL's protocol: its length, and a number that no version has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Until when a session waits for its server, and how long that is; shared with its stream.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    until: Arc<Mutex<Option<(Instant, Duration)>>>,
    /// Who is told of each statement.
    asked: Option<Asked>,
}

impl Patience {
    /// Waits for so long from now.
    pub fn begin(&self, limit: Duration) {
        *self.until.lock() = Some((Instant::now() + limit, limit));
        self.tell();
    }

    /// Waits for as long again: before each of several statements, whose answers are each waited for by themselves.
    pub fn again(&self) {
        if let Some((until, limit)) = &mut *self.until.lock() {
            *until = Instant::now() + *limit;
        }
        self.tell();
    }

    /// Tells this worker, too, whenever it begins anew.
    pub fn tells(&mut self, asked: Asked) {
        self.asked = Some(asked);
    }

    fn tell(&self) {
        if let Some(asked) = &self.asked {
            asked.again();
        }
    }

    /// Waits for as long as it takes.
    pub fn end(&self) {
        *self.until.lock() = None;
    }
}

/// Opens streams that share one patience, which begins anew with each of them.
#[derive(Clone)]
pub struct Patiently {
    /// Until when.
    pub patience: Patience,
    /// How long a server may take to let a session in.
    pub limit: Duration,
    /// How TLS is spoken, if it is.
    pub tls: Option<Tls>,
}

/// How TLS is spoken.
#[derive(Clone)]
pub struct Tls {
    /// Makes it.
    pub connector: MakeRustlsConnect,
    /// Whether the session may do without.
    pub mode: Mode,
    /// It is not asked for first: the URL says `sslnegotiation=direct`.
    pub direct: bool,
}

/// Opens the stream to one host.
pub struct Opener {
    patiently: Patiently,
    secure: Option<<MakeRustlsConnect as MakeTlsConnect<Stream>>::TlsConnect>,
}

impl MakeTlsConnect<Socket> for Patiently {
    type Stream = Session;
    type TlsConnect = Opener;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Opener> {
        let secure = match &mut self.tls {
            Some(tls) => {
                let made = MakeTlsConnect::<Stream>::make_tls_connect(&mut tls.connector, host);
                Some(made.map_err(|e| io::Error::new(ErrorKind::InvalidInput, e.to_string()))?)
            }
            None => None,
        };
        Ok(Opener { patiently: self.clone(), secure })
    }
}

impl TlsConnect<Socket> for Opener {
    type Stream = Session;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Session>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(self.open(socket))
    }
}

impl Opener {
    async fn open(self, socket: Socket) -> io::Result<Session> {
        let Patiently { patience, limit, tls } = self.patiently;
        patience.begin(limit);
        let sleep = Box::pin(tokio::time::sleep(limit));
        let mut stream = Stream { socket, patience, armed: None, sleep };
        let (Some(tls), Some(secure)) = (tls, self.secure) else { return Ok(Session::Plain(stream)) };
        if !tls.direct {
            stream.write_all(&SSL_REQUEST).await?;
            let mut answer = [0];
            // One byte and no more: what follows belongs to the handshake.
            stream.read_exact(&mut answer).await?;
            match answer[0] {
                b'S' => {}
                _ if tls.mode == Mode::Prefer => return Ok(Session::Plain(stream)),
                _ => return Err(io::Error::other("the server does not speak TLS")),
            }
        }
        Ok(Session::Secure(Box::new(secure.connect(stream).await?)))
    }
}

/// What a session is spoken over.
pub enum Session {
    /// Bare.
    Plain(Stream),
    /// With TLS around it.
    Secure(Box<<MakeRustlsConnect as MakeTlsConnect<Stream>>::Stream>),
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Session::Plain(_)) { "Plain" } else { "Secure" })
    }
}

impl AsyncRead for Session {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Session::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Session::Secure(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Session {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Session::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Session::Secure(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Session::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Session::Secure(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Session::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Session::Secure(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl TlsStream for Session {
    fn channel_binding(&self) -> ChannelBinding {
        match self {
            Session::Plain(_) => ChannelBinding::none(),
            Session::Secure(stream) => stream.channel_binding(),
        }
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
        let until = *self.patience.until.lock();
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
