//! A client that sends the bytes it is told to, and takes no answer that is not exactly right. Knows HTTP/1.1 and
//! nothing of hotrow but the shape of its problems.

use super::DEADLINE;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::SystemTime;

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    /// Bytes that came and were not taken yet.
    received: Vec<u8>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names, as they were sent, and values.
    pub fields: Vec<(String, String)>,
    /// The content; empty for HEAD, 1xx, 204 and 304.
    pub body: Vec<u8>,
}

impl Client {
    /// Connects. Every read and write gives up after [`DEADLINE`].
    pub fn connect(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).expect("the server listens"))
    }

    /// Speaks over a stream that is connected.
    pub fn over(stream: TcpStream) -> Client {
        stream.set_nodelay(true).expect("a TCP socket has this option");
        stream.set_read_timeout(Some(DEADLINE)).expect("a duration above zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("a duration above zero");
        Client { stream, received: Vec::new() }
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server takes bytes");
    }

    /// Sends bytes to a server that may have closed already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    /// Ends the connection with a reset instead of a farewell.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(std::time::Duration::ZERO))
            .expect("a socket has it");
    }

    /// Something has come, or the end has, that was not taken yet. Does not wait.
    pub fn has_something(&self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket has this mode");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("a socket has this mode");
        !self.received.is_empty() || !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Some of an answer has come that was not taken yet.
    pub fn has_received(&self) -> bool {
        !self.received.is_empty()
    }

    /// The answer to a request with this method: HEAD has no content in its answer.
    pub fn response_to(&mut self, method: &str) -> Response {
        self.try_response_to(method).unwrap_or_else(|error| {
            let start = &self.received[..self.received.len().min(500)];
            panic!(
                "no answer: {error}; received {} bytes: {:?}",
                self.received.len(),
                String::from_utf8_lossy(start)
            )
        })
    }

    /// The answer to anything but HEAD.
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// The answer, if there is one: an error is the end of the connection, or the deadline.
    pub fn try_response_to(&mut self, method: &str) -> io::Result<Response> {
        let end = loop {
            match self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.receive()?,
            }
        };
        let head = String::from_utf8(self.received[..end].to_vec()).expect("a head is UTF-8");
        let (status, fields) = parse_head(&head);
        let mut response = Response { status, fields, body: Vec::new() };
        if response.field("Transfer-Encoding").is_some() && method != "HEAD" {
            self.received.drain(..end);
            response.body = self.chunks()?;
            response.check_fields(method);
            return Ok(response);
        }
        let length = response.check_framing();
        if method != "HEAD" && response.may_have_content() {
            while self.received.len() < end + length {
                self.receive()?;
            }
            response.body = self.received[end..end + length].to_vec();
        }
        let used = end + response.body.len();
        self.received.drain(..used);
        response.check_fields(method);
        Ok(response)
    }

    /// A chunked content, without extensions and trailers, to its last chunk.
    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            let line = loop {
                match self.received.windows(2).position(|window| window == b"\r\n") {
                    Some(end) => break end,
                    None => self.receive()?,
                }
            };
            let size = std::str::from_utf8(&self.received[..line]).expect("a size is ASCII");
            let size = usize::from_str_radix(size, 16).expect("a size is hexadecimal");
            while self.received.len() < line + 2 + size + 2 {
                self.receive()?;
            }
            content.extend_from_slice(&self.received[line + 2..line + 2 + size]);
            assert_eq!(
                &self.received[line + 2 + size..line + 4 + size],
                b"\r\n",
                "a chunk ends with its line"
            );
            self.received.drain(..line + 4 + size);
            if size == 0 {
                return Ok(content);
            }
        }
    }

    /// Sends a request with a `Content-Length` where there is a body or the method calls for one, and takes the
    /// answer. `fields` are whole lines.
    pub fn request(&mut self, method: &str, target: &str, fields: &str, body: &[u8]) -> Response {
        self.try_request(method, target, fields, body).expect("the server answers")
    }

    /// The same, where the connection may have ended.
    pub fn try_request(
        &mut self,
        method: &str,
        target: &str,
        fields: &str,
        body: &[u8],
    ) -> io::Result<Response> {
        self.try_send(request(method, target, fields, body))?;
        self.try_response_to(method)
    }

    /// GET of a key, which must need no encoding.
    pub fn get(&mut self, key: &str) -> Response {
        self.request("GET", &format!("/kv/{key}"), "", b"")
    }

    /// PUT of a key, which must need no encoding.
    pub fn put(&mut self, key: &str, value: impl AsRef<[u8]>) -> Response {
        self.request("PUT", &format!("/kv/{key}"), "", value.as_ref())
    }

    /// DELETE of a key, which must need no encoding.
    pub fn delete(&mut self, key: &str) -> Response {
        self.request("DELETE", &format!("/kv/{key}"), "", b"")
    }

    /// The server closes the connection in good order, and sends nothing before that.
    pub fn expect_closed(&mut self) {
        // Something may have come with the last answer.
        let result = if self.received.is_empty() { self.receive() } else { Ok(()) };
        match result {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            Err(error) => panic!("the connection was not closed in good order: {error}"),
            Ok(()) => panic!("more bytes instead of a close: {:?}", String::from_utf8_lossy(&self.received)),
        }
    }

    /// Waits for the end of the connection, in good order or not, and returns what came before it.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        loop {
            if let Err(error) = self.receive() {
                let late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!late, "the connection stays open");
                return std::mem::take(&mut self.received);
            }
        }
    }

    /// Reads once; the end of the stream is an error.
    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 64 * 1024];
        loop {
            return match self.stream.read(&mut buffer) {
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.received.extend_from_slice(&buffer[..n]);
                    Ok(())
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }
}

/// The bytes of a request; see [`Client::request`].
pub fn request(method: &str, target: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: hotrow.test\r\n{fields}");
    if !body.is_empty() || matches!(method, "PUT" | "SET") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

impl Response {
    /// The value of a field that may be there once.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values =
            self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let value = values.next();
        assert!(values.next().is_none(), "{name} is there twice: {:?}", self.fields);
        value
    }

    /// The content as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("the content is UTF-8")
    }

    /// The version in the `ETag`, which must be there.
    pub fn version(&self) -> &str {
        let tag = self.field("ETag").expect("there is an ETag");
        tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).expect("a strong entity-tag")
    }

    /// The name of the problem, from a content that must be a well-formed one.
    pub fn problem(&self) -> String {
        assert_eq!(self.field("Content-Type"), Some("application/problem+json"));
        let json: serde_json::Value = serde_json::from_slice(&self.body).expect("a problem is JSON");
        let mut members: Vec<&str> =
            json.as_object().expect("a problem is an object").keys().map(String::as_str).collect();
        // Of a load that was broken off: how far it has got.
        if members.contains(&"lines") {
            members.retain(|name| !["lines", "written", "failed", "errors"].contains(name));
            assert_eq!(members.len() + 4, json.as_object().map_or(0, serde_json::Map::len), "{json}");
        }
        if self.status >= 500 {
            assert_eq!(members, ["detail", "request_id", "status", "title", "type"], "{json}");
            assert_eq!(json["request_id"].as_str(), self.field("X-Request-Id"), "{json}");
        } else {
            assert_eq!(members, ["detail", "status", "title", "type"], "{json}");
        }
        assert_eq!(json["status"], self.status, "{json}");
        let text =
            |name: &str| json[name].as_str().filter(|text| !text.is_empty()).expect("a member is text");
        let name = text("type").strip_prefix("urn:hotrow:problem:").expect("a problem has a name");
        // Ours are short; what PostgreSQL says has a bound of its own.
        let detail_bytes = if name == "database-refused" { 1_200 } else { 300 };
        assert!(text("title").len() < 40 && text("detail").len() < detail_bytes, "{json}");
        name.to_owned()
    }

    /// The `detail` of the problem.
    pub fn detail(&self) -> String {
        let json: serde_json::Value = serde_json::from_slice(&self.body).expect("a problem is JSON");
        json["detail"].as_str().expect("it is text").to_owned()
    }

    /// The status, and the problem's name where there is one: `400 bad-key`.
    pub fn outcome(&self) -> String {
        match self.field("Content-Type") {
            Some("application/problem+json") if !self.body.is_empty() => {
                format!("{} {}", self.status, self.problem())
            }
            _ => self.status.to_string(),
        }
    }

    /// The answer says that the connection ends with it.
    pub fn says_close(&self) -> bool {
        self.field("Connection") == Some("close")
    }

    fn may_have_content(&self) -> bool {
        !matches!(self.status, 100..=199 | 204 | 304)
    }

    /// RFC 9112 section 6: we are told the length of everything that has a content, in one way.
    fn check_framing(&self) -> usize {
        if let Some(coding) = self.field("Transfer-Encoding") {
            assert_eq!((coding, self.field("Content-Length")), ("chunked", None));
            return 0;
        }
        match self.field("Content-Length") {
            Some(length) => {
                // RFC 9110 section 8.6: not in 1xx and 204.
                assert!(
                    !matches!(self.status, 100..=199 | 204),
                    "a length without a content: {:?}",
                    self.fields
                );
                assert!(length.bytes().all(|b| b.is_ascii_digit()), "Content-Length: {length}");
                length.parse().expect("a length is a number")
            }
            None => {
                assert!(!self.may_have_content(), "a content without a length: {:?}", self.fields);
                0
            }
        }
    }

    /// What every answer must have.
    fn check_fields(&self, method: &str) {
        for (name, _) in &self.fields {
            self.field(name);
        }
        if self.status < 200 {
            assert_eq!((self.status, self.fields.len()), (100, 0), "the only interim answer is a bare 100");
            return;
        }
        let date = self.field("Date").expect("every answer has a date");
        let time = httpdate::parse_http_date(date).expect("Date is a date");
        // IMF-fixdate is one of three formats that parse, and the only one that may be sent.
        assert_eq!(httpdate::fmt_http_date(time), date);
        let off = SystemTime::now().duration_since(time).unwrap_or_else(|error| error.duration());
        assert!(off.as_secs() < 60, "Date: {date}");
        if self.field("Content-Type") == Some("application/problem+json") && method != "HEAD" {
            self.problem();
        }
        if self.status == 405 {
            assert!(self.field("Allow").is_some_and(|allow| allow.contains("OPTIONS")));
        }
        if self.status == 503
            && method != "HEAD"
            && self.field("Content-Type") == Some("application/problem+json")
        {
            let seconds = self.field("Retry-After").expect("a 503 says when to come again");
            assert!(seconds.parse::<u32>().is_ok_and(|seconds| seconds >= 1), "Retry-After: {seconds}");
        }
    }
}

/// A head by the letter of RFC 9112, with one blank behind each colon as everybody sends it.
fn parse_head(head: &str) -> (u16, Vec<(String, String)>) {
    let mut lines = head.strip_suffix("\r\n\r\n").expect("ends with an empty line").split("\r\n");
    let line = lines.next().expect("there is a status line");
    let (status, reason) = line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.split_once(' '))
        .expect("a status line of HTTP/1.1");
    assert!(status.len() == 3 && !reason.is_empty() && reason.is_ascii(), "{line}");
    let fields = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line:?}"));
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{line:?}");
        assert!(!value.is_empty() && value == value.trim() && !value.contains(char::is_control), "{line:?}");
        (name.to_owned(), value.to_owned())
    });
    (status.parse().expect("a status is a number"), fields.collect())
}
