//! Stands between hotrow and PostgreSQL and does what networks do: delays, refuses, cuts before an answer, and holds a
//! request on its way and delivers it all the same, later, when hotrow has given it up. Knows bytes and no protocol.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A proxy in front of one port of 127.0.0.1.
#[derive(Debug)]
pub struct Proxy {
    /// Its own port on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The port that it stands in front of.
    target: AtomicU16,
    links: Mutex<Vec<Arc<Link>>>,
    /// Only requests with these bytes are held, and only answers to them cut off.
    aim: Mutex<Vec<u8>>,
    accepted: AtomicUsize,
    /// Answers still to be cut off.
    cut_answers: AtomicU32,
    /// What is said in place of them.
    last_words: Mutex<Vec<u8>>,
    /// Requests still to be held back, each kind by itself.
    hold: [AtomicU32; 3],
    /// How often held requests were released.
    releases: AtomicUsize,
    /// Held requests that are on their way again, or for which there is nobody any more.
    delivered: AtomicUsize,
    /// New connections end at once.
    refuses: AtomicBool,
    /// The longest delay of a piece of data, in microseconds.
    delay_us: AtomicU32,
    ended: AtomicBool,
}

/// How a request is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// hotrow is cut off; the request arrives when it has a new connection: it meets the fence.
    UntilReconnect,
    /// hotrow is cut off; the request arrives when it is released.
    UntilRelease,
    /// hotrow is left waiting for an answer; the request arrives when it is released.
    InSilence,
}

/// One connection through the proxy.
#[derive(Debug)]
struct Link {
    /// To hotrow.
    client: TcpStream,
    /// To PostgreSQL.
    server: TcpStream,
    /// The client has been cut off and the server has not been told.
    orphan: AtomicBool,
    /// Its last request is what the faults are meant for.
    aimed_at: AtomicBool,
}

impl Proxy {
    /// A proxy in front of this port, doing no harm yet.
    pub fn start(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared { target: AtomicU16::new(target), ..Shared::default() });
        let shared_too = Arc::clone(&shared);
        thread::spawn(move || shared_too.accept(&listener));
        Proxy { port, shared }
    }

    /// From now on new connections lead to this port, and those that there are end.
    pub fn lead_to(&self, target: u16) {
        self.shared.target.store(target, Ordering::Relaxed);
        for link in self.shared.links.lock().expect("nobody panics with it").iter() {
            link.close();
        }
    }

    /// From now on requests with these bytes alone are held or not answered, whatever else the server asks meanwhile.
    pub fn aim_at(&self, bytes: &str) {
        bytes.as_bytes().clone_into(&mut self.shared.aim.lock().expect("nobody panics with it"));
        // What was asked before is meant no more, if it is not answered yet.
        for link in self.shared.links.lock().expect("nobody panics with it").iter() {
            link.aimed_at.store(false, Ordering::Relaxed);
        }
    }

    /// Cuts the next answers off: PostgreSQL has done what it was asked, and hotrow does not hear of it.
    pub fn cut_answers(&self, count: u32) {
        self.shared.cut_answers.fetch_add(count, Ordering::Relaxed);
    }

    /// In place of an answer that is cut off this is said from now on, as a pooler would.
    pub fn say_instead(&self, bytes: &[u8]) {
        bytes.clone_into(&mut self.shared.last_words.lock().expect("nobody panics with it"));
    }

    /// Holds the next requests back. PostgreSQL is asked after hotrow has given up.
    pub fn hold_requests(&self, count: u32, hold: Hold) {
        self.shared.hold[hold as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// Delivers what is held.
    pub fn release(&self) {
        self.shared.releases.fetch_add(1, Ordering::Relaxed);
    }

    /// Held requests that were delivered, or for which there was nobody any more.
    pub fn delivered(&self) -> usize {
        self.shared.delivered.load(Ordering::Relaxed)
    }

    /// Ends new connections at once, or takes them again.
    pub fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Every cut that was ordered has happened.
    pub fn is_harmless(&self) -> bool {
        let Shared { cut_answers, hold, .. } = &*self.shared;
        hold.iter().chain([cut_answers]).all(|left| left.load(Ordering::Relaxed) == 0)
    }

    /// Delays every piece of data by up to so many microseconds.
    pub fn delay_us(&self, longest: u32) {
        self.shared.delay_us.store(longest, Ordering::Relaxed);
    }

    /// Cuts hotrow off from all its backends and leaves these alone: they go on with what they have.
    pub fn cut_clients(&self) {
        for link in self.shared.links.lock().expect("nobody panics with it").iter() {
            link.cut_client();
        }
    }

    /// Connections that hotrow has made so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // The listener looks up; nothing else is waited for.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        for link in self.shared.links.lock().expect("nobody panics with it").iter() {
            link.close();
        }
    }
}

impl Shared {
    fn accept(self: Arc<Shared>, listener: &TcpListener) {
        for client in listener.incoming().map_while(Result::ok) {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            self.accepted.fetch_add(1, Ordering::Relaxed);
            if self.refuses.load(Ordering::Relaxed) {
                continue;
            }
            // Nobody there: hotrow sees a connection that ends at once.
            let target = ("127.0.0.1", self.target.load(Ordering::Relaxed));
            let Ok(server) = TcpStream::connect(target) else { continue };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let link = Arc::new(Link {
                client,
                server,
                orphan: AtomicBool::new(false),
                aimed_at: AtomicBool::new(false),
            });
            let mut links = self.links.lock().expect("nobody panics with it");
            // Whoever else holds a link is one of its two threads.
            links.retain(|link| Arc::strong_count(link) > 1);
            links.push(Arc::clone(&link));
            drop(links);
            let (link_too, shared, shared_too) = (Arc::clone(&link), Arc::clone(&self), Arc::clone(&self));
            thread::spawn(move || shared.carry_requests(&link));
            thread::spawn(move || shared_too.carry_answers(&link_too));
        }
    }

    fn carry_requests(&self, link: &Link) {
        let mut buffer = [0; 64 * 1024];
        while let Ok(n @ 1..) = (&link.client).read(&mut buffer) {
            self.delay();
            let kinds = [Hold::UntilReconnect, Hold::UntilRelease, Hold::InSilence];
            let aimed_at = self.is_aimed_at(&buffer[..n]);
            link.aimed_at.store(aimed_at, Ordering::Relaxed);
            let hold = kinds.into_iter().find(|hold| aimed_at && take(&self.hold[*hold as usize]));
            if let Some(hold) = hold {
                self.deliver_late(link, &buffer[..n], hold);
                return;
            }
            if (&link.server).write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        if !link.orphan.load(Ordering::Relaxed) {
            link.close();
        }
    }

    fn deliver_late(&self, link: &Link, request: &[u8], hold: Hold) {
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        let (accepted, releases) = (count(&self.accepted), count(&self.releases));
        link.orphan.store(true, Ordering::Relaxed);
        if hold != Hold::InSilence {
            link.cut_client();
        }
        let is_time = || match hold {
            Hold::UntilReconnect => count(&self.accepted) > accepted || count(&self.releases) > releases,
            Hold::UntilRelease | Hold::InSilence => count(&self.releases) > releases,
        };
        while !is_time() && !self.ended.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_micros(200));
        }
        self.delay();
        let _ = (&link.server).write_all(request);
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    fn carry_answers(&self, link: &Link) {
        let mut buffer = [0; 64 * 1024];
        while let Ok(n @ 1..) = (&link.server).read(&mut buffer) {
            if link.orphan.load(Ordering::Relaxed) {
                continue;
            }
            self.delay();
            let aimed_at = link.aimed_at.load(Ordering::Relaxed);
            if aimed_at && take(&self.cut_answers) {
                let last_words = self.last_words.lock().expect("nobody panics with it").clone();
                let _ = (&link.client).write_all(&last_words);
                break;
            }
            if (&link.client).write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        link.close();
    }

    fn is_aimed_at(&self, request: &[u8]) -> bool {
        let aim = self.aim.lock().expect("nobody panics with it");
        aim.is_empty() || request.windows(aim.len()).any(|window| window == *aim)
    }

    fn delay(&self) {
        let longest = self.delay_us.load(Ordering::Relaxed);
        if longest > 0 {
            // The fault itself, not a wait for anything.
            thread::sleep(Duration::from_micros(u64::from(fastrand::u32(..longest))));
        }
    }
}

impl Link {
    fn cut_client(&self) {
        self.orphan.store(true, Ordering::Relaxed);
        let _ = self.client.shutdown(Shutdown::Both);
    }

    fn close(&self) {
        let _ = (self.client.shutdown(Shutdown::Both), self.server.shutdown(Shutdown::Both));
    }
}

/// Takes one from a count that may be zero.
fn take(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok()
}
