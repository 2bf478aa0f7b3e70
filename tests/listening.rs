//! Where it listens: IPv6, and that every event loop gets connections, from a listener of its own and from one that all share.

use crate::support::database::Database;
use crate::support::{Client, Server, left_out};
use std::net::TcpListener;

#[test]
fn it_serves_at_an_address_of_version_6() {
    if let Err(error) = TcpListener::bind("[::1]:0") {
        return left_out("serving at [::1]", format!("it cannot be listened at: {error}"));
    }
    let server = Server::start(&["--listen", "[::1]:0", "--admin-listen", "[::1]:0"]);
    assert!(server.address.is_ipv6() && server.address.port() != 0, "{}", server.address);
    let mut client = server.connect();
    assert_eq!(client.put("k", "v").status, 201);
    assert_eq!(client.get("k").text(), "v");
    assert_eq!(server.connect_admin().request("GET", "/livez", "", b"").status, 200);
}

#[test]
fn every_loop_gets_connections() {
    let flags = ["--event-loops", "2"];
    all_loops_serve(&Server::start(&flags));
    // One socket for both, as a service manager hands it over.
    let [data, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    all_loops_serve(&Server::start_with_sockets(&Database::new(), &data, &admin, &flags));
}

fn all_loops_serve(server: &Server) {
    // So many that the kernel does not give all of them to one of two listeners by chance.
    const CLIENTS: usize = 64;
    // More events of one connection than the requests for the metrics, which are one loop's, have.
    const REQUESTS: u64 = 20;
    server.connect().put("k", "v");
    let events = || [0, 1].map(|at| server.metric(&format!("hotrow_loop_events_total{{loop=\"{at}\"}}")));
    let before = events();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.connect()).collect();
    for client in &mut clients {
        for _ in 0..REQUESTS {
            assert_eq!(client.get("k").text(), "v");
        }
    }
    let after = events();
    for (before, after) in before.into_iter().zip(after) {
        assert!(after - before >= REQUESTS / 2, "{before} and {after}: a loop has served nobody");
    }
}
