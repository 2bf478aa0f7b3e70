//! Clients that have finished sending, or are gone, at whatever stage.

use super::{Bystander, MIB, Memory, connect_with_small_buffer, connections};
use crate::support::client::request;
use crate::support::{Client, Server, random_text, wait_until};

#[test]
fn a_client_that_has_finished_sending_still_gets_its_answers() {
    let server = Server::start(&[]);
    let mut bystander = Bystander::new(&server);
    for round in 0..50 {
        server.database().insert(&format!("cold-{round}"), "cold");
        let cold = request("GET", &format!("/kv/cold-{round}"), "", b"");
        let put = request("PUT", &format!("/kv/put-{round}"), "", b"value");
        let absent = request("GET", &format!("/kv/absent-{round}"), "", b"");
        let hit = request("GET", "/kv/bystander", "", b"");
        for (sent, outcomes) in [
            (hit.clone(), &["200"][..]),
            (cold.clone(), &["200"]),
            (put.clone(), &["201"]),
            (absent.clone(), &["404 key-not-found"]),
            ([&put[..], &cold, &hit, b"\r\n"].concat(), &["200", "200", "200"]),
            (hit.repeat(300), &["200"; 300]),
            // The beginning of another one is not answered: its client will never finish it.
            ([&hit[..], &put[..put.len() - 1]].concat(), &["200"]),
            (hit[..hit.len() - 1].to_vec(), &[]),
            (Vec::new(), &[]),
        ] {
            let mut client = server.connect();
            client.send(&sent);
            client.finish_sending();
            for outcome in outcomes {
                assert_eq!(client.response().outcome(), *outcome);
            }
            client.expect_closed();
        }
        bystander.is_served(1);
    }
    // Larger than what the kernel takes at once: the answer goes on after the end of the requests.
    let value = random_text(MIB, 1);
    bystander.client.put("large", &value);
    let mut client = connect_with_small_buffer(server.address);
    client.send(request("GET", "/kv/large", "", b"").repeat(20));
    client.finish_sending();
    bystander.is_served(10);
    for _ in 0..20 {
        assert!(client.response().body == value.as_bytes());
    }
    client.expect_closed();
    assert_eq!(server.metric("hotrow_late_replies_total"), 0);
}

#[test]
fn resets_at_every_stage_leave_nothing_behind() {
    let server = Server::start(&[]);
    let mut bystander = Bystander::new(&server);
    bystander.client.put("large", random_text(MIB, 1));
    bystander.is_served(50);
    // With the bystander's and the admin connection, which the metrics are read over.
    assert_eq!(connections(&server), 1);
    server.is_settled();
    let (memory, descriptors) = (Memory::of(&server), server.descriptors());
    let large = request("GET", "/kv/large", "", b"").repeat(50);
    for round in 0..50 {
        let put = request("PUT", &format!("/kv/put-{round}"), "", &[b'x'; 1000]);
        let absent = request("GET", &format!("/kv/absent-{round}"), "", b"");
        for sent in [
            &b""[..],
            b"GET /kv",
            &put[..put.len() - 1],
            &put,
            &absent,
            &large,
            &[&put[..], &absent, &large, b"GET"].concat(),
            b"broken\r\n\r\n",
            b"PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000\r\n\r\nxxxxx",
        ] {
            let mut client = server.connect();
            client.send(sent);
            if round % 2 == 1 {
                // Half of them wait until the server has certainly begun.
                bystander.reads(1);
            }
            client.reset();
        }
        bystander.is_served(1);
    }
    wait_until("all connections are gone", || connections(&server) == 1);
    wait_until("all their jobs have ended", || server.metric("hotrow_keys_in_flight") == 0);
    // Its own looks at itself need one for a moment.
    wait_until("all their descriptors are closed", || server.descriptors() <= descriptors);
    memory.has_grown_by_less_than(8 * MIB);
}

#[test]
fn a_write_goes_on_without_its_client_and_its_reply_reaches_no_stranger() {
    // One writer, so that whoever writes waits for whoever wrote before.
    let server = Server::start(&["--event-loops", "1", "--db-writers", "1"]);
    let mut bystander = Bystander::new(&server);
    for goes in ["with a reset", "with a farewell"] {
        let key = goes.replace(' ', "-");
        server.database().insert(&key, "old");
        assert_eq!(bystander.client.get(&key).text(), "old");
        // The write is sent, and waits.
        let mut writes = server.database().hold_writes();
        let before = connections(&server);
        let mut client = server.connect();
        client.send(request("PUT", &format!("/kv/{key}"), "", b"new"));
        wait_until("the write was sent", || writes.waiting() == 1);
        // The write is not acknowledged: the old value is the value.
        assert_eq!(bystander.client.get(&key).text(), "old");
        if goes == "with a reset" {
            client.reset();
            wait_until("its connection is gone", || connections(&server) == before);
        } else {
            drop(client);
        }
        // Others come, one of them into its slot, and wait for writes of their own.
        let mut strangers: Vec<Client> = (0..10).map(|_| server.connect()).collect();
        for (n, stranger) in strangers.iter_mut().enumerate() {
            stranger.send(request("PUT", &format!("/kv/{key}-{n}"), "", format!("mine {n}").as_bytes()));
        }
        wait_until("all of them wait", || server.metric("hotrow_keys_in_flight") == 11);
        writes.release();
        for (n, stranger) in strangers.iter_mut().enumerate() {
            let stored = stranger.response();
            assert_eq!((stored.status, stored.text()), (201, format!("mine {n}")));
        }
        assert_eq!(bystander.client.get(&key).text(), "new");
        assert_eq!(server.database().value(&key).as_deref(), Some("new"));
    }
    assert_eq!(server.metric("hotrow_late_replies_total"), 1, "the reply to the reset one has found nobody");
}
