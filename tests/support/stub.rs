//! A server of HTTP/1.1 that answers what a test tells it to, breaks off where it is told to, and remembers what it was
//! asked. For tests of clients.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Method and target.
    pub line: String,
    /// Fields, names in lower case.
    pub fields: Vec<(String, String)>,
    /// Content.
    pub body: String,
}

/// What is done about it.
#[derive(Clone, Debug)]
pub enum Reply {
    /// These bytes are sent, and the connection is kept.
    Answer(String),
    /// These bytes are sent, and the connection ends.
    Cut(String),
    /// These bytes are sent, and then nothing, until the client goes.
    Hold(String),
}

/// A running one.
#[derive(Clone, Debug)]
pub struct Stub {
    /// Where it is.
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Stub {
    /// Answers every request by this, on as many connections as come.
    pub fn start(answer: impl FnMut(&Request) -> Reply + Send + 'static) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let (requests, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(answer)));
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                thread::spawn(move || {
                    // A client that goes is no fault of ours.
                    let _ = serve(stream, &seen, &answer);
                });
            }
        });
        Stub { address, requests }
    }

    /// What it was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("nobody panics with it").clone()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Request {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// An answer with a content of this length.
pub fn answer(status: &str, fields: &str, content: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{content}", content.len())
}

fn serve(
    stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    answer: &Mutex<impl FnMut(&Request) -> Reply>,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let target = line.rsplit_once(' ').map_or("", |(target, _)| target).to_owned();
        let mut request = Request { line: target, fields: Vec::new(), body: String::new() };
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            request.fields.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        if request.field("expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let length = request.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        request.body = String::from_utf8(body).expect("lines are UTF-8");
        let reply = (answer.lock().expect("nobody panics with it"))(&request);
        let (Reply::Answer(bytes) | Reply::Cut(bytes) | Reply::Hold(bytes)) = &reply;
        // First the memory, then the answer: a client that has come to its end has been seen altogether.
        seen.lock().expect("nobody panics with it").push(request);
        stream.write_all(bytes.as_bytes())?;
        match reply {
            Reply::Answer(_) => line.clear(),
            Reply::Cut(_) => break,
            Reply::Hold(_) => {
                let _ = reader.read(&mut [0]);
                break;
            }
        }
    }
    Ok(())
}
