//! Tokens that are renewed while a request is under way.

use super::*;

#[test]
fn a_token_that_is_taken_away_ends_what_is_under_way_at_its_next_step() {
    let with_token = |request: &[u8]| {
        let request = String::from_utf8(request.to_vec()).unwrap();
        request.replacen("\r\n", "\r\nAuthorization: Bearer writer\r\n", 1).into_bytes()
    };
    let load = b"PUT /kv HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n";
    let put = b"PUT /kv/a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n";
    for (left, read_status, write_status) in
        [("rw writer", 304, 200), ("ro writer", 304, 403), ("ro reader", 401, 401)]
    {
        let world = || {
            let mut world = World::knowing("k", "value");
            world.tokens = Some(Tokens::parse("rw writer").unwrap());
            world
        };
        let renew = |world: &mut World| {
            let renewed = Tokens::parse(left).unwrap().after(world.tokens.as_ref().unwrap());
            world.tokens = Some(renewed);
        };
        let mut watching = world();
        watching.send(&with_token(&wait("9", 60)));
        renew(&mut watching);
        assert!(watching.statuses().is_empty());
        change(&mut watching);
        if read_status == 304 {
            watching.turn(Some(&Answer::Found(row(9))));
            watching.expire();
        }
        assert_eq!(watching.statuses(), [read_status], "a wait, {left}");

        // That nothing has changed is told of the row, too.
        let mut waiting = world();
        waiting.send(&with_token(&wait("9", 60)));
        renew(&mut waiting);
        waiting.expire();
        assert_eq!(waiting.statuses(), [read_status], "the end of a wait, {left}");

        let mut exporting = world();
        exporting.send(&with_token(&export()));
        renew(&mut exporting);
        exporting.turn(Some(&page(&["a"], "v", true)));
        exporting.turn_until_it_waits();
        let goes_on = exporting.connection.phase() == Phase::Reply;
        assert_eq!(goes_on, read_status == 304, "an export, {left}");
        assert!(!content(&exporting).ends_with("0\r\n\r\n"));

        let mut loading = world();
        loading.send(&with_token(load));
        renew(&mut loading);
        loading.send(b"0\r\n\r\n");
        let sent = loading.writes.try_recv().is_ok();
        assert_eq!(sent, write_status == 200, "a load, {left}");
        if sent {
            loading.turn(Some(&Answer::Failed(Failure::NotStarted)));
        }
        assert_eq!(loading.statuses(), [if sent { 503 } else { write_status }], "a load, {left}");

        let mut putting = world();
        putting.send(&with_token(put));
        renew(&mut putting);
        putting.send(b"v");
        assert_eq!(putting.writes.try_recv().is_ok(), write_status == 200, "a write, {left}");

        // What wants no content waits for one that is on its way.
        for (target, status) in [("/kv/k", 200), ("/kv?key=k", 200), ("/openapi.json", 200), ("/kv/%zz", 400)]
        {
            let mut reading = world();
            let get = format!("GET {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
            reading.send(&with_token(get.as_bytes()));
            renew(&mut reading);
            reading.send(b"12345");
            let stays = read_status == 304 || status == 400;
            assert_eq!(reading.statuses(), [if stays { status } else { 401 }], "{target}, {left}");
            let told = String::from_utf8_lossy(&reading.io.written).contains("error=\"invalid_token\"");
            assert_eq!(told, !stays, "{target}, {left}");
        }
        // And this needs no token.
        let mut asking = world();
        asking.send(b"OPTIONS /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
        renew(&mut asking);
        asking.send(b"12345");
        assert_eq!(asking.statuses(), [204], "{left}");
    }
}
