//! Clients that mean harm, and clients that have bad luck: slow, silent, gone in the middle, too many, insatiable.
//! Every test looks at two things besides: that others are served meanwhile, and that the server's memory stays small.
//! Here are those who look.

mod crowds;
mod gone;
mod greedy;
mod slow;

use crate::support::{Client, Server, put_in_the_end};
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;

const MIB: usize = 1 << 20;

/// The other client, which means well and must be served whatever happens.
struct Bystander {
    client: Client,
    served: u64,
}

impl Bystander {
    fn new(server: &Server) -> Bystander {
        let mut client = server.connect();
        put_in_the_end(&mut client, "bystander", "0");
        Bystander { client, served: 0 }
    }

    /// Reads from memory, so many times.
    fn reads(&mut self, times: usize) {
        for _ in 0..times {
            assert_eq!(self.client.get("bystander").text(), self.served.to_string());
        }
    }

    /// Reads from memory and writes, so many times.
    fn is_served(&mut self, times: usize) {
        for _ in 0..times {
            self.reads(1);
            self.served += 1;
            assert_eq!(self.client.put("bystander", self.served.to_string()).status, 200);
        }
    }

    /// The same where a request may not take long: on a busy machine it may take longer.
    fn is_served_in_the_end(&mut self, times: usize) {
        for _ in 0..times {
            self.reads(1);
            self.served += 1;
            put_in_the_end(&mut self.client, "bystander", &self.served.to_string());
        }
    }
}

/// Memory before an attack; says how much more it has become.
struct Memory<'a> {
    server: &'a Server,
    before: usize,
}

impl<'a> Memory<'a> {
    fn of(server: &'a Server) -> Memory<'a> {
        Memory { server, before: server.rss_bytes() }
    }

    fn has_grown_by_less_than(&self, bytes: usize) {
        let grown = self.server.rss_bytes().saturating_sub(self.before);
        assert!(grown < bytes, "{grown} bytes more, where less than {bytes} is all right");
    }
}

/// A connection whose receive buffer is as small as the kernel lets it be.
fn connect_with_small_buffer(address: SocketAddr) -> Client {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    Client::over(socket.into())
}

/// The data connections that are open: all but the one that asks.
fn connections(server: &Server) -> u64 {
    server.metric("hotrow_connections") - 1
}
