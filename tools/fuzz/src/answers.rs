//! Reads what a client sends and what a connection sends back, and holds one against the other: a client that knows
//! HTTP and remembers what it has stored.

use crate::database::{DOWN, REFUSED, UNKNOWN};
use crate::world::MAX_VALUE_BYTES;
use hotrow::api::{Command, admin, route};
use hotrow::connection::Role;
use hotrow::http::content::Decoder;
use hotrow::http::request::{Framing, List, Parsed, is_head, parse};
use hotrow::http::response::CONTINUE;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A request as it was sent.
#[derive(Debug)]
pub struct Request {
    method: String,
    target: String,
    framing: Framing,
    expects_continue: bool,
    /// It expects something else, which is not met.
    expects_other: bool,
    /// It has conditions, directives or preferences.
    wishes: bool,
    /// `None`: it is cut off, or badly framed.
    content: Option<Vec<u8>>,
}

/// Requests in their order, and what comes behind them.
#[derive(Debug)]
pub struct Requests {
    all: Vec<Request>,
    /// Behind the last one comes something that is none.
    malformed: bool,
    /// Whatever comes there asks for no content.
    rest_is_head: bool,
}

/// An answer as it was received.
#[derive(PartialEq, Eq)]
pub struct Answer {
    /// Status line and fields.
    head: Vec<u8>,
    body: Vec<u8>,
    status: u16,
    length: Option<usize>,
    closes: bool,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        write!(f, "{:?} + {:?}", text(&self.head), text(&self.body))
    }
}

impl Answer {
    /// Bytes of head and body.
    pub fn bytes(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

impl Requests {
    /// Some of them are for this path.
    pub fn ask_for(&self, path: &str) -> bool {
        self.all.iter().any(|request| request.target.split('?').next() == Some(path))
    }
}

/// What the bytes ask for, if the connection lives that long.
pub fn requests(mut bytes: &[u8]) -> Requests {
    let mut all = Vec::new();
    loop {
        let head = match parse(bytes) {
            Ok(Parsed::Complete(head)) => head,
            Ok(Parsed::Partial) => return Requests { all, malformed: false, rest_is_head: is_head(bytes) },
            Err(_) => return Requests { all, malformed: true, rest_is_head: is_head(bytes) },
        };
        bytes = &bytes[head.bytes..];
        let (mut decoder, mut content) = (Decoder::new(head.framing), Vec::new());
        let decoded = decoder.decode(bytes, |piece| {
            content.extend_from_slice(piece);
            Ok(())
        });
        let used = decoded.ok().filter(|_| decoder.is_done());
        all.push(Request {
            method: head.method.into(),
            target: head.target.into(),
            framing: head.framing,
            expects_continue: head.expects_continue,
            expects_other: head.extras.lines(List::Expect).next().is_some(),
            wishes: !head.extras.lists.is_empty(),
            content: used.map(|_| content),
        });
        match used {
            Some(used) => bytes = &bytes[used..],
            None => return Requests { all, malformed: false, rest_is_head: false },
        }
    }
}

/// The answers in `sent`. `cut`: the last one may be cut off.
pub fn answers(requests: &Requests, mut sent: &[u8], cut: bool) -> Vec<Answer> {
    let (mut answers, mut continues) = (Vec::new(), 0);
    while !sent.is_empty() {
        if let Some(rest) = sent.strip_prefix(CONTINUE) {
            continues += 1;
            sent = rest;
            continue;
        }
        let to_head = match requests.all.get(answers.len()) {
            Some(request) => request.method == "HEAD",
            None => answers.len() == requests.all.len() && requests.rest_is_head,
        };
        match answer(sent, to_head) {
            Some(answer) => {
                sent = &sent[answer.bytes()..];
                answers.push(answer);
            }
            None if cut => break,
            None => panic!("an answer is cut off: {:?}", String::from_utf8_lossy(sent)),
        }
    }
    let expecting = requests.all.iter().filter(|request| request.expects_continue).count();
    assert!(continues <= expecting, "{continues} times 100 Continue for {expecting} who expect it");
    answers
}

fn answer(sent: &[u8], to_head: bool) -> Option<Answer> {
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head_bytes) = response.parse(sent).expect("an answer is HTTP") else {
        return None;
    };
    let status = response.code.expect("a complete head has a status");
    let field = |name: &str| {
        let mut fields = response.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        let value = fields.next().map(|field| std::str::from_utf8(field.value).expect("fields are text"));
        assert!(fields.next().is_none(), "{name} twice");
        value
    };
    assert!(field("Date").is_some());
    let length = field("Content-Length").map(|value| value.parse().expect("a length is a number"));
    let closes = field("Connection") == Some("close");
    let rest = &sent[head_bytes..];
    let body_bytes = match (length, field("Transfer-Encoding")) {
        // Of a request that came too slowly the method may not have been there yet. It is the last answer.
        _ if to_head && (status != 408 || rest.is_empty()) => 0,
        (Some(length), None) => length,
        (None, Some("chunked")) => {
            let mut decoder = Decoder::new(Framing::Chunked);
            let used = decoder.decode(rest, |_| Ok(())).expect("chunks are well-formed");
            if !decoder.is_done() {
                return None;
            }
            used
        }
        // Without chunks the end of the connection is the end of a list.
        (None, None) if closes && !matches!(status, 204 | 304) => rest.len(),
        (None, None) => {
            assert!(matches!(status, 204 | 304), "status {status}, and no length");
            0
        }
        (length, coding) => panic!("two lengths: {length:?}, {coding:?}"),
    };
    let body = rest.get(..body_bytes)?.to_vec();
    let id = field("X-Request-Id").map(str::to_owned);
    let (mut head, mut body) = (sent[..head_bytes].to_vec(), body);
    if let Some(id) = id.filter(|id| !id.is_empty()) {
        // Where the client gives none it is made by chance; its length is always the same.
        blot_out(&mut head, id.as_bytes());
        blot_out(&mut body, id.as_bytes());
    }
    Some(Answer { head, body, status, length, closes })
}

/// Puts zeros in the place of a text.
fn blot_out(bytes: &mut [u8], text: &[u8]) {
    while let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
        bytes[at..at + text.len()].fill(0);
    }
}

/// What holds however a connection fares: no more answers than requests, none behind the last.
pub fn check_order(requests: &Requests, answers: &[Answer]) {
    assert!(answers.len() <= requests.all.len() + 1, "more answers than requests");
    let before_last = &answers[..answers.len().saturating_sub(1)];
    assert!(before_last.iter().all(|answer| !answer.closes), "answered behind the last answer");
}

/// What holds where nobody disturbs it: an answer to everything, and the right one.
pub fn check(role: Role, requests: &Requests, answers: &[Answer]) {
    check_order(requests, answers);
    if answers.last().is_none_or(|answer| !answer.closes) {
        let whole = requests.all.iter().filter(|request| request.content.is_some()).count();
        assert_eq!(answers.len(), whole, "requests and answers of a connection that was not closed");
        assert!(!requests.malformed, "malformed, and not refused");
    }
    let mut stored = Stored::default();
    for (request, answer) in requests.all.iter().zip(answers) {
        if answer.status == 417 {
            assert!(request.expects_other, "{request:?}: {answer:?}");
            continue;
        }
        match (&request.content, role) {
            (Some(content), Role::Data) => check_data(request, content, answer, &mut stored),
            (Some(_), _) => {
                let expected = admin::route(&request.method, &request.target);
                let expected =
                    expected.map_or_else(|p| p.status(), |c| if is_options(&c) { 204 } else { 200 });
                assert_eq!(answer.status, expected, "{request:?}");
            }
            (None, _) => assert!(answer.closes, "a request that has no end was answered: {request:?}"),
        }
    }
    if answers.len() > requests.all.len() {
        let last = &answers[answers.len() - 1];
        assert!(requests.malformed && last.closes && last.status >= 400, "{last:?}");
    }
}

fn is_options(command: &Command<'_>) -> bool {
    matches!(command, Command::Options(_))
}

/// What a client knows of the rows.
#[derive(Default)]
struct Stored {
    rows: BTreeMap<String, Vec<u8>>,
    /// Keys with writes whose effect depends on more than what is remembered here.
    unsure: BTreeSet<String>,
    /// Any key may have such writes.
    any: bool,
}

/// Statuses of requests with wishes, and of additions.
const WISHED: [u16; 14] = [200, 201, 204, 304, 400, 404, 405, 409, 411, 412, 413, 422, 503, 504];

/// Statuses of batches and bulk loads.
const BATCHED: [u16; 9] = [200, 400, 409, 411, 412, 413, 415, 503, 504];

/// A request whose answer depends on more than what is remembered here. True: there is nothing more to check.
fn check_wished(request: &Request, command: &Command<'_>, answer: &Answer, stored: &mut Stored) -> bool {
    let (key, writes, depends) = match command {
        Command::Get(key) => (key, false, request.wishes),
        Command::Set(key, ttl_s) => (key, true, request.wishes || ttl_s.is_some()),
        Command::Delete(key) => (key, true, request.wishes),
        Command::Add(key, _) => (key, true, true),
        // Whatever it has done, it may have done to any key.
        Command::Batch(_) | Command::Load => {
            stored.rows.clear();
            stored.any = true;
            assert!(BATCHED.contains(&answer.status), "{request:?}: {answer:?}");
            return true;
        }
        _ => return false,
    };
    let unsure = stored.any || stored.unsure.contains(&**key);
    if depends && writes {
        stored.unsure.insert(key.to_string());
    }
    if depends || unsure {
        assert!(WISHED.contains(&answer.status), "{request:?}: {answer:?}");
    }
    depends || unsure
}

fn check_data(request: &Request, content: &[u8], answer: &Answer, stored: &mut Stored) {
    let routed = route(&request.method, &request.target);
    if routed.as_ref().is_ok_and(|command| check_wished(request, command, answer, stored)) {
        return;
    }
    let stored = &mut stored.rows;
    let fails = |key: &str| key.starts_with([REFUSED, DOWN]);
    let loses = |key: &str| key.starts_with(UNKNOWN);
    let expected = match routed {
        Err(problem) => problem.status(),
        Ok(Command::Add(..) | Command::Batch(_) | Command::Load) => panic!("its effect depends on the row"),
        Ok(Command::Options(_)) => 204,
        Ok(Command::Description) => 200,
        Ok(Command::Admin(_)) => panic!("operations on the data socket"),
        Ok(Command::Get(key)) if fails(&key) => 503,
        Ok(Command::Get(key)) => match stored.get(&*key) {
            None => 404,
            Some(value) => {
                assert_eq!(answer.length, Some(value.len()), "{request:?}");
                assert!(request.method == "HEAD" || answer.body == *value, "{request:?}");
                200
            }
        },
        Ok(Command::List(_)) => {
            let form = if answer.body.starts_with(b"{\"items\"") { "items" } else { "lines" };
            assert!(request.method == "HEAD" || form == "lines" || answer.length.is_some(), "{request:?}");
            200
        }
        Ok(Command::GetMany(keys)) => {
            if request.method == "GET" {
                let json: serde_json::Value = serde_json::from_slice(&answer.body).expect("items are JSON");
                let items = json["items"].as_array().expect("items are a list");
                assert_eq!(items.len(), keys.len(), "{request:?}");
                for (item, key) in items.iter().zip(keys) {
                    assert_eq!(item["key"], *key, "{request:?}");
                    let (status, value) = match stored.get(&*key) {
                        _ if fails(&key) => (503, None),
                        Some(value) if item["status"] != 413 => (200, std::str::from_utf8(value).ok()),
                        Some(_) => (413, None),
                        None => (404, None),
                    };
                    assert_eq!(
                        (&item["status"], item["value"].as_str()),
                        (&status.into(), value),
                        "{request:?}"
                    );
                }
            }
            200
        }
        Ok(Command::Delete(key)) if fails(&key) => 503,
        Ok(Command::Delete(key)) => match stored.remove(&*key) {
            _ if loses(&key) => 504,
            Some(_) => 204,
            None => 404,
        },
        Ok(Command::Set(..)) if request.framing == Framing::None => 411,
        Ok(Command::Set(..)) if content.len() > MAX_VALUE_BYTES => 413,
        Ok(Command::Set(..)) if std::str::from_utf8(content).map_or(true, |text| text.contains('\0')) => 422,
        Ok(Command::Set(key, _)) if fails(&key) => 503,
        Ok(Command::Set(key, _)) => match stored.insert(key.to_string(), content.to_vec()) {
            _ if loses(&key) => 504,
            existed => {
                assert_eq!(answer.body, content, "{request:?}");
                if existed.is_some() { 200 } else { 201 }
            }
        },
    };
    assert_eq!(answer.status, expected, "{request:?}");
}
