//! Clients for measuring: many connections in one thread, each with one request out at most, either as fast as answers
//! come (closed loop) or at a rate that does not care for answers (open loop, latency counted from when a request was
//! due). Judges nothing. Knows as much of HTTP as it takes to find the end of an answer.

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What is sent, and how fast.
#[derive(Debug)]
pub struct Plan {
    /// Requests a second; `None`: as fast as answers come.
    pub rate: Option<f64>,
    /// How many connections.
    pub connections: usize,
    /// For how long.
    pub time: Duration,
    /// The bytes of each request.
    pub request: fn(u64) -> Vec<u8>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Measured {
    /// For how long.
    pub time: Duration,
    /// Requests that were due while every connection waited for an answer.
    pub unsent: u64,
    /// Latencies by status, in microseconds, sorted; 0 is a connection that ended.
    pub latencies_us: BTreeMap<u16, Vec<u32>>,
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    unsent: Vec<u8>,
    /// When the request that is out was due.
    due: Option<Instant>,
}

/// Runs a plan in a thread of its own.
pub fn start(address: SocketAddr, plan: Plan) -> JoinHandle<Measured> {
    thread::spawn(move || run(address, &plan))
}

/// Runs a plan.
pub fn run(address: SocketAddr, plan: &Plan) -> Measured {
    let mut poll = Poll::new().expect("there is a poll");
    let mut events = Events::with_capacity(1024);
    let mut connections: Vec<Connection> =
        (0..plan.connections).map(|at| connect(&poll, address, at)).collect();
    let mut idle: Vec<usize> = (0..plan.connections).collect();
    let mut measured = Measured { time: plan.time, ..Measured::default() };
    let (start, mut count) = (Instant::now(), 0);
    let end = start + plan.time;
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        // Everything that is due by now.
        loop {
            let due = match plan.rate {
                Some(rate) => start + Duration::from_secs_f64(count as f64 / rate),
                None => now,
            };
            if due > now {
                break;
            }
            match idle.pop() {
                Some(at) => send(&mut connections[at], (plan.request)(count), due),
                None if plan.rate.is_none() => break,
                None => measured.unsent += 1,
            }
            count += 1;
        }
        let pause = if plan.rate.is_some() { Duration::from_millis(1) } else { end - now };
        poll.poll(&mut events, Some(pause)).expect("it polls");
        for event in &events {
            let Token(at) = event.token();
            let connection = &mut connections[at];
            flush(connection);
            match receive(connection) {
                Some(status) => {
                    let due = connection.due.take().expect("an answer to a request");
                    let us = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
                    measured.latencies_us.entry(status).or_default().push(us);
                    idle.push(at);
                    if status == 0 {
                        connections[at] = connect(&poll, address, at);
                    }
                }
                None => continue,
            }
        }
    }
    for latencies in measured.latencies_us.values_mut() {
        latencies.sort_unstable();
    }
    measured
}

fn connect(poll: &Poll, address: SocketAddr, at: usize) -> Connection {
    let stream = std::net::TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("a socket has it");
    stream.set_nonblocking(true).expect("a socket has it");
    let mut stream = TcpStream::from_std(stream);
    let interest = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut stream, Token(at), interest).expect("it can be polled");
    Connection { stream, received: Vec::new(), unsent: Vec::new(), due: None }
}

fn send(connection: &mut Connection, bytes: Vec<u8>, due: Instant) {
    connection.unsent = bytes;
    connection.due = Some(due);
    flush(connection);
}

fn flush(connection: &mut Connection) {
    while !connection.unsent.is_empty() {
        match connection.stream.write(&connection.unsent) {
            Ok(n @ 1..) => drop(connection.unsent.drain(..n)),
            // The end of a connection is found by reading.
            _ => return,
        }
    }
}

/// The status of an answer that is whole; 0 where the connection has ended with a request out.
fn receive(connection: &mut Connection) -> Option<u16> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match connection.stream.read(&mut buffer) {
            Ok(n @ 1..) => connection.received.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return connection.due.map(|_| 0),
        }
    }
    let head = memchr::memmem::find(&connection.received, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&connection.received[..head]).expect("a head is text");
    let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length.map_or(0, |length| length.parse().expect("a length is a number"));
    if connection.received.len() < head + length {
        return None;
    }
    let status = text[9..12].parse().expect("a status is a number");
    connection.received.clear();
    Some(status)
}

impl Measured {
    /// Answers with this status.
    pub fn count(&self, status: u16) -> usize {
        self.latencies_us.get(&status).map_or(0, Vec::len)
    }

    /// Answers that are a success, a second.
    pub fn good_a_second(&self) -> f64 {
        (self.count(200) + self.count(201)) as f64 / self.time.as_secs_f64()
    }

    /// All answers, a second.
    pub fn answers_a_second(&self) -> f64 {
        self.latencies_us.values().map(Vec::len).sum::<usize>() as f64 / self.time.as_secs_f64()
    }
}

/// By status: how many a second, and the latencies that half of them, 99 % of them, and all of them stay within.
impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (status, us)) in self.latencies_us.iter().enumerate() {
            let ms = |share: f64| f64::from(us[((us.len() - 1) as f64 * share) as usize]) / 1e3;
            let a_second = us.len() as f64 / self.time.as_secs_f64();
            let (half, most, all) = (ms(0.5), ms(0.99), ms(1.0));
            let comma = if at > 0 { "; " } else { "" };
            write!(
                f,
                "{comma}{status}: {a_second:.0}/s, p50 {half:.1} ms, p99 {most:.1} ms, max {all:.1} ms"
            )?;
        }
        if self.unsent > 0 {
            write!(
                f,
                "; {:.0}/s not sent for want of a connection",
                self.unsent as f64 / self.time.as_secs_f64()
            )?;
        }
        Ok(())
    }
}
