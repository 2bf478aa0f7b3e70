//! The socket of a connection: bare, or with TLS around it. An enum and not a trait object, so that the bare one costs
//! a branch. Used by [`super`].

use super::tls::TlsStream;
use crate::connection::Socket;
use mio::net::TcpStream;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

/// One of the two.
#[derive(Debug)]
pub enum Stream {
    /// HTTP on TCP.
    Plain(TcpStream),
    /// HTTP on TLS on TCP.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// What poll looks at.
    pub fn source(&mut self) -> &mut TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream.source(),
        }
    }
}

impl Read for Stream {
    #[inline]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buf),
            Stream::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    #[inline]
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(buf),
            Stream::Tls(stream) => stream.write(buf),
        }
    }

    #[inline]
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write_vectored(bufs),
            Stream::Tls(stream) => stream.write_vectored(bufs),
        }
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

impl Socket for Stream {
    fn shutdown_write(&mut self) {
        match self {
            // It fails where the client is gone already, and then there is nobody to tell.
            Stream::Plain(socket) => drop(socket.shutdown(Shutdown::Write)),
            Stream::Tls(stream) => stream.shutdown_write(),
        }
    }
}
