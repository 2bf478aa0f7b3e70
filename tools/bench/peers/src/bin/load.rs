//! An open load: requests are due at a fixed rate, whether or not the earlier ones were answered, as strangers' are. A
//! latency counts from the moment when the request was due, so that a server that stalls for a second is charged with
//! everyone who came in that second (a closed load, where each client waits for its answer, would leave them out).
//!
//! Arguments, all `name=value`:
//!
//! - `port`, `connections`; `method=GET|PUT`, `bytes` of the value that a PUT sends; `prefix` and `keys`: a key is the
//!   prefix and a number below `keys`, of twelve digits.
//! - `rate` in requests a second and `seconds`. Rate 0 is a closed load instead, where a request is due when a connection
//!   is free for it: for so many seconds; or, with 0 seconds, every key once, in order, which fills a cache.
//! - `wait=spin` where the load has a core to itself, `wait=sleep` where it shares the cores.
//!
//! Prints one line of JSON; latencies in microseconds. Knows as much of HTTP as a server of our own choice may answer:
//! heads with Content-Length.

use rustix::event::epoll;
use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// How long after the last request was due an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// A fill has no rate, and so no end but its own.
const FILL_PATIENCE: Duration = Duration::from_secs(600);

struct Plan {
    port: u16,
    connections: usize,
    method: String,
    prefix: String,
    value: String,
    keys: u64,
    rate: u64,
    total: u64,
    end: Duration,
    spin: bool,
}

impl Plan {
    fn from(arguments: impl Iterator<Item = String>) -> Result<Plan, Box<dyn Error>> {
        let pairs: Option<HashMap<String, String>> = arguments
            .map(|argument| argument.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect();
        let pairs = pairs.ok_or("arguments are name=value")?;
        let text = |name: &str| pairs.get(name).cloned().ok_or(format!("{name}= is missing"));
        let number = |name: &str| -> Result<u64, Box<dyn Error>> { Ok(text(name)?.parse()?) };
        let (rate, seconds, keys) = (number("rate")?, number("seconds")?, number("keys")?);
        let (total, end) = match (rate, seconds) {
            (0, 0) => (keys, FILL_PATIENCE),
            (0, _) => (u64::MAX, Duration::from_secs(seconds)),
            (_, _) => (rate * seconds, Duration::from_secs(seconds) + PATIENCE),
        };
        Ok(Plan {
            port: u16::try_from(number("port")?)?,
            connections: usize::try_from(number("connections")?)?,
            method: text("method")?,
            prefix: text("prefix")?,
            value: "w".repeat(usize::try_from(number("bytes")?)?),
            keys,
            rate,
            total,
            end,
            spin: text("wait")? == "spin",
        })
    }

    /// When a request is due, after the start.
    fn due(&self, request: u64) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        Duration::from_secs(request / self.rate)
            + Duration::from_nanos(request % self.rate * 1_000_000_000 / self.rate)
    }

    fn request(&self, number: u64, draw: &mut Draw) -> Vec<u8> {
        let key = if self.total == self.keys && self.rate == 0 { number } else { draw.next() % self.keys };
        let (method, prefix) = (&self.method, &self.prefix);
        let mut bytes =
            format!("{method} /kv/{prefix}{key:012} HTTP/1.1\r\nHost: 127.0.0.1\r\n").into_bytes();
        if method == "PUT" {
            let _ = write!(bytes, "Content-Length: {}\r\n\r\n{}", self.value.len(), self.value);
        } else {
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }
}

/// xorshift64: keys need no better chance.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    /// When the request that is under way was due.
    due: Duration,
}

/// The bytes of the answer at the front of `input` and whether its status is 2xx, once it is whole.
fn answer(input: &[u8]) -> Result<Option<(usize, bool)>, Box<dyn Error>> {
    let Some(head) = input.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&input[..head])?;
    let mut fields = text.lines().filter_map(|line| line.split_once(": "));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.ok_or("an answer without Content-Length")?.1.trim().parse()?;
    let used = head + 4 + length;
    Ok((input.len() >= used).then(|| (used, text.starts_with("HTTP/1.1 2"))))
}

#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    /// How late this program itself was where a connection was free.
    late: Vec<Duration>,
    refused: u64,
}

fn run(plan: &Plan) -> Result<(Seen, Duration), Box<dyn Error>> {
    // Without this the kernel may let a sleep take 50 us longer.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::new();
    for number in 0..plan.connections {
        let stream = TcpStream::connect(("127.0.0.1", plan.port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        connections.push(Connection { stream, input: Vec::new(), due: Duration::ZERO });
    }
    let mut idle: VecDeque<usize> = (0..plan.connections).collect();
    let mut events = Vec::with_capacity(plan.connections);
    let mut buffer = vec![0; 64 << 10];
    let mut seen = Seen::default();
    let mut draw = Draw(0x9E37_79B9_7F4A_7C15);
    let (start, mut sent) = (Instant::now(), 0);
    while (seen.latencies.len() as u64) < plan.total && start.elapsed() < plan.end {
        // Send what is due, as far as connections are free.
        let mut now = start.elapsed();
        let had_idle = !idle.is_empty();
        while sent < plan.total && plan.due(sent) <= now {
            let Some(number) = idle.pop_front() else { break };
            let connection = &mut connections[number];
            connection.due = if plan.rate == 0 { now } else { plan.due(sent) };
            // A free connection has an empty send buffer, which takes a small request whole.
            connection.stream.write_all(&plan.request(sent, &mut draw))?;
            sent += 1;
            now = start.elapsed();
            if had_idle && plan.rate > 0 {
                seen.late.push(now - connection.due);
            }
        }
        // Wait for answers, and no longer than until the next request can go out.
        let wait = match plan.due(sent).checked_sub(now) {
            _ if plan.spin => Duration::ZERO,
            Some(wait) if sent < plan.total && !idle.is_empty() => wait,
            _ => Duration::from_millis(100),
        };
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&wait.try_into()?))?;
        for event in &events {
            let number = usize::try_from(event.data.u64())?;
            let connection = &mut connections[number];
            let count = match connection.stream.read(&mut buffer) {
                Ok(0) => return Err("the server has closed a connection".into()),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            connection.input.extend_from_slice(&buffer[..count]);
            if let Some((used, good)) = answer(&connection.input)? {
                connection.input.drain(..used);
                seen.latencies.push(start.elapsed() - connection.due);
                seen.refused += u64::from(!good);
                idle.push_back(number);
            }
        }
    }
    Ok((seen, start.elapsed()))
}

/// The value that so many of a thousand do not exceed, in microseconds.
fn quantile(sorted: &[Duration], thousandth: usize) -> f64 {
    let index = (sorted.len() * thousandth).div_ceil(1000).max(1) - 1;
    sorted.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
}

fn main() -> Result<(), Box<dyn Error>> {
    let plan = Plan::from(std::env::args().skip(1))?;
    let (mut seen, elapsed) = run(&plan)?;
    let answered = seen.latencies.len() as u64;
    let unanswered = if plan.rate == 0 { 0 } else { plan.total - answered };
    // Who was not answered has waited until now at least.
    let waited = (0..unanswered).map(|late| elapsed - plan.due(answered + late).min(elapsed));
    seen.latencies.extend(waited);
    seen.latencies.sort_unstable();
    seen.late.sort_unstable();
    println!(
        r#"{{"requests":{answered},"seconds":{:.6},"unanswered":{},"errors":{},"p50":{:.1},"p99":{:.1},"p999":{:.1},"late_p99":{:.1}}}"#,
        elapsed.as_secs_f64(),
        unanswered,
        seen.refused,
        quantile(&seen.latencies, 500),
        quantile(&seen.latencies, 990),
        quantile(&seen.latencies, 999),
        quantile(&seen.late, 990),
    );
    Ok(())
}
