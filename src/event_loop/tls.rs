//! TLS around a non-blocking socket, by rustls, which does no I/O of its own. Knows no HTTP. Used by [`super::stream`];
//! what a connection has to know besides bytes, [`TlsStream::tell`] tells it.
//!
//! rustls has buffers of its own on both ways, and edge-triggered readiness is told once. So that the connection may go
//! by its rules for bare sockets:
//!
//! - A read that gives less than it was offered room for has emptied socket *and* session; where it stops earlier, for
//!   the sake of others, `News::more` says so.
//! - A write takes plaintext only while no ciphertext waits: what rustls holds is what one write brought, at most.
//! - A flush is done when the kernel has all ciphertext; only then is an answer out.
//! - Before the handshake is done nothing is written, whoever asks: the handshake goes on instead.

use crate::connection::{Connection, Context, Workspace};
use crate::limits::{TLS_OUTPUT_BYTES, TLS_READS};
use crate::metrics::Counters;
use mio::net::TcpStream;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::sync::Arc;

/// A configuration out of a certificate chain and its key, in PEM. An error says which of the two files, and why.
pub fn config(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let bad_cert = |e: String| format!("cannot use --tls-cert {}: {e}", cert.display());
    let bad_key = |e: String| format!("cannot use --tls-key {}: {e}", key.display());
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|e| bad_cert(e.to_string()))?;
    if chain.is_empty() {
        return Err(bad_cert("there is no certificate in it".into()));
    }
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| bad_key(e.to_string()))?;
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be spoken: {e}"))?
        .with_no_client_auth()
        .with_single_cert(chain, key_der)
        .map_err(|e| bad_cert(format!("{e} (with --tls-key {})", key.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A session that is taken up again needs no memory of ours, and finds its key in every loop. No early data: a
    // write that is sent again by somebody else would be done again.
    config.ticketer = ring::Ticketer::new().map_err(|e| format!("TLS cannot be spoken: {e}"))?;
    Ok(Arc::new(config))
}

/// What has happened in a stream that its connection does not learn from reads and writes, and was not told yet.
#[derive(Debug, Default)]
struct News {
    /// The handshake is done.
    established: bool,
    /// A read stopped early.
    more: bool,
    /// The client sends no more.
    ended: bool,
    /// The socket has taken ciphertext.
    sent: bool,
    /// What came is no TLS, or not ours, or not whole; the client has been told.
    failed: bool,
}

/// A socket with TLS around it.
#[derive(Debug)]
pub struct TlsStream {
    socket: TcpStream,
    session: ServerConnection,
    /// When the handshake must be done.
    until_ms: u64,
    /// The client has sent something.
    begun: bool,
    established: bool,
    ended: bool,
    failed: bool,
    /// Nothing more is sent.
    shut: bool,
    news: News,
}

impl TlsStream {
    /// The server's side of a session that begins.
    pub fn new(
        socket: TcpStream,
        config: Arc<ServerConfig>,
        until_ms: u64,
    ) -> Result<TlsStream, rustls::Error> {
        let mut session = ServerConnection::new(config)?;
        session.set_buffer_limit(Some(TLS_OUTPUT_BYTES));
        Ok(TlsStream {
            socket,
            session,
            until_ms,
            begun: false,
            established: false,
            ended: false,
            failed: false,
            shut: false,
            news: News::default(),
        })
    }

    /// What poll looks at.
    pub fn source(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Sends what waits of the session's own: it may have been left over by a turn in which nothing else was to be sent.
    pub fn push_pending(&mut self) {
        // An error shows again at the next read.
        let _ = self.push();
    }

    /// The same where its client has been silent for long: true if there was room. The kernel tells of room only when there is
    /// much of it.
    pub fn push_late(&mut self) -> bool {
        self.push_pending();
        std::mem::take(&mut self.news.sent)
    }

    /// Tells the connection what it has to know besides bytes. True: it is to be turned again.
    pub fn tell(&mut self, connection: &mut Connection, ws: &mut Workspace, cx: &Context<'_>) -> bool {
        if !self.established && !self.failed {
            connection.cap_deadline(self.until_ms);
        }
        let News { established, more, ended, sent, failed } = std::mem::take(&mut self.news);
        if established {
            cx.counters.tls_handshakes.add(1);
            connection.established(cx);
        }
        if more || ended {
            connection.set_readable(ended);
        }
        // Before that its time is the handshake's.
        if sent && self.established {
            connection.has_sent(cx);
        }
        if failed {
            cx.counters.tls_failures.add(1);
            connection.linger(ws, cx);
        }
        established || more || ended || failed
    }

    /// Its client has begun a handshake that has neither come to its end nor failed. One that has sent nothing has begun none: it may
    /// only have looked whether somebody is there.
    pub fn is_shaking_hands(&self) -> bool {
        self.begun && !self.established && !self.failed
    }

    /// Its connection ends, perhaps before it was told what has happened: that is counted all the same.
    pub fn end(&mut self, counters: &Counters, draining: bool) {
        let News { established, failed, .. } = std::mem::take(&mut self.news);
        counters.tls_handshakes.add(u64::from(established));
        counters.tls_failures.add(u64::from(failed || self.is_shaking_hands() && !draining));
        self.farewell();
    }

    /// Takes bytes from the socket once and lets rustls look at them. False: there are none for now.
    fn pull(&mut self) -> io::Result<bool> {
        match self.session.read_tls(&mut self.socket) {
            // A client that is gone before the handshake is: even where there is something to tell it.
            Ok(0) if !self.established => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => self.begun = true,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(e) => return Err(e),
        }
        if let Err(error) = self.session.process_new_packets() {
            log::debug!("a TLS session has failed: {error}");
            self.fail();
            return Ok(false);
        }
        if !self.established && !self.session.is_handshaking() {
            self.established = true;
            self.news.established = true;
        }
        Ok(true)
    }

    /// Sends ciphertext as far as the socket takes it. False: some is left.
    fn push(&mut self) -> io::Result<bool> {
        // What was left over then is lost, and no error: what the client still sends is to be read and dropped.
        while !self.shut && self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => self.news.sent = true,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Tells the client why, and that nothing more comes. From here on bytes are only taken, to be dropped: closing over
    /// unread ones would send a reset, and take the alert with it.
    fn fail(&mut self) {
        self.failed = true;
        self.news.failed = true;
        let _ = self.push();
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Ciphertext of before is out, and plaintext may be taken.
    fn begin_write(&mut self) -> io::Result<()> {
        if self.failed {
            // Its connection is about to be told, and drops it then.
            return Err(ErrorKind::WouldBlock.into());
        }
        for _ in 0..TLS_READS {
            if self.established || !self.pull()? {
                break;
            }
        }
        if self.push()? && self.established { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    /// Plaintext was taken: it counts as written, whatever the socket says of its ciphertext.
    fn end_write(&mut self, taken: usize) -> io::Result<usize> {
        self.push()?;
        Ok(taken)
    }

    /// Says in TLS that nothing more comes. What does not fit into the socket now is lost: two dozen bytes, behind
    /// answers that are all in the kernel's hands.
    fn farewell(&mut self) {
        if self.established && !self.failed {
            self.session.send_close_notify();
            let _ = self.push();
        }
    }

    /// Says that nothing more comes, in TLS and in TCP.
    pub fn shutdown_write(&mut self) {
        self.farewell();
        let _ = self.socket.shutdown(Shutdown::Write);
        self.shut = true;
    }
}

impl Read for TlsStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            // Until its connection has been told, and drops what comes, nothing comes: these bytes are nobody's plaintext.
            return if self.news.failed { Err(ErrorKind::WouldBlock.into()) } else { self.socket.read(buf) };
        }
        let mut n = 0;
        let mut reads = 0;
        loop {
            match self.session.reader().read(&mut buf[n..]) {
                // No room is no end.
                Ok(0) if n == buf.len() => return Ok(n),
                Ok(0) => break self.ended = true,
                Ok(taken) => {
                    n += taken;
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                // Without a farewell of TLS: HTTP knows by itself whether a message is whole.
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => break self.ended = true,
                Err(e) => return Err(e),
            }
            if reads == TLS_READS {
                self.news.more = true;
                break;
            }
            reads += 1;
            match self.pull() {
                Ok(true) => {}
                Ok(false) => break,
                // What came before is the connection's; the error comes again.
                Err(_) if n > 0 => break,
                Err(e) => return Err(e),
            }
        }
        self.push()?;
        match n {
            0 if self.ended => Ok(0),
            0 => Err(ErrorKind::WouldBlock.into()),
            n => {
                self.news.ended |= self.ended;
                Ok(n)
            }
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.begin_write()?;
        let taken = self.session.writer().write(buf)?;
        self.end_write(taken)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.begin_write()?;
        let taken = self.session.writer().write_vectored(bufs)?;
        self.end_write(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.push()? { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
    }
}
