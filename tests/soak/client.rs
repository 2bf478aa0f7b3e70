//! One connection of the soak's, over TCP or TLS: a request, its answer, nothing judged. Knows as much of HTTP as it
//! takes to find the end of an answer; that answers are well formed is shown elsewhere.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// How long an answer may take before it counts as none: longer than the server's own deadline.
const PATIENCE: Duration = Duration::from_secs(30);

/// Either kind of a stream.
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A connection with no request out.
pub struct Connection {
    stream: Stream,
    received: Vec<u8>,
}

/// What was answered.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// The quoted text of the `ETag`.
    pub etag: Option<String>,
    /// The connection ends with it.
    pub close: bool,
    pub body: Vec<u8>,
}

impl Connection {
    /// Connects; TLS if there is a configuration for it, with its handshake done.
    pub fn open(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Connection> {
        let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let stream = match tls {
            None => Stream::Plain(socket),
            Some(config) => {
                let name = ServerName::try_from("localhost").expect("it is a name");
                let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                let mut stream = StreamOwned::new(session, socket);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Stream::Tls(Box::new(stream))
            }
        };
        Ok(Connection { stream, received: Vec::new() })
    }

    /// The certificate that the server has shown.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        match &self.stream {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => Some(stream.conn.peer_certificates()?.first()?.to_vec()),
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Ends the connection with a reset instead of a farewell.
    pub fn reset(self) {
        let socket = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        };
        let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }

    /// A request and its answer. Fields are whole lines.
    pub fn request(&mut self, method: &str, target: &str, fields: &str, body: &[u8]) -> io::Result<Answer> {
        let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: soak.test\r\n{fields}").into_bytes();
        if !body.is_empty() || matches!(method, "PUT" | "POST") {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        self.send(&bytes)?;
        self.answer(method == "HEAD")
    }

    fn answer(&mut self, headless: bool) -> io::Result<Answer> {
        let end = self.find(b"\r\n\r\n", 0)? + 4;
        let head = std::str::from_utf8(&self.received[..end]).map_err(io::Error::other)?;
        let wrong = || io::Error::new(ErrorKind::InvalidData, "that is no head");
        let mut answer = Answer {
            status: head.get(9..12).and_then(|text| text.parse().ok()).ok_or_else(wrong)?,
            ..Answer::default()
        };
        let (mut length, mut chunked) = (0, false);
        for line in head.lines().skip(1) {
            match line.split_once(": ") {
                Some(("Content-Length", text)) => length = text.parse().map_err(io::Error::other)?,
                Some(("Transfer-Encoding", _)) => chunked = true,
                Some(("ETag", text)) => answer.etag = Some(text.to_owned()),
                Some(("Connection", "close")) => answer.close = true,
                _ => {}
            }
        }
        self.received.drain(..end);
        if headless || matches!(answer.status, 204 | 304) {
            return Ok(answer);
        }
        if chunked {
            loop {
                let line = self.find(b"\r\n", 0)?;
                let size = std::str::from_utf8(&self.received[..line]).map_err(io::Error::other)?;
                let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
                self.wait_for(line + 2 + size + 2)?;
                answer.body.extend_from_slice(&self.received[line + 2..line + 2 + size]);
                self.received.drain(..line + 4 + size);
                if size == 0 {
                    return Ok(answer);
                }
            }
        }
        self.wait_for(length)?;
        answer.body = self.received.drain(..length).collect();
        Ok(answer)
    }

    fn find(&mut self, what: &[u8], from: usize) -> io::Result<usize> {
        loop {
            match memchr::memmem::find(&self.received[from..], what) {
                Some(at) => return Ok(from + at),
                None => self.receive()?,
            }
        }
    }

    fn wait_for(&mut self, bytes: usize) -> io::Result<()> {
        while self.received.len() < bytes {
            self.receive()?;
        }
        Ok(())
    }

    /// Where an answer that does not come has stopped, as the kernel sees it: both ends of the connection with what waits in
    /// their queues. An end without an inode was never accepted.
    pub fn whereabouts(&self) -> String {
        let socket = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        };
        let Ok(address) = socket.local_addr() else { return String::new() };
        let port = format!(":{:04X} ", address.port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let ends: Vec<&str> = table.lines().filter(|line| line.contains(&port)).map(str::trim).collect();
        format!("{} bytes of an answer; local, remote, state, tx:rx, inode: {ends:?}", self.received.len())
    }

    /// Reads once; the end of the stream is an error.
    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 32 * 1024];
        let n = match &mut self.stream {
            Stream::Plain(stream) => stream.read(&mut buffer)?,
            Stream::Tls(stream) => stream.read(&mut buffer)?,
        };
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.received.extend_from_slice(&buffer[..n]);
        Ok(())
    }
}
