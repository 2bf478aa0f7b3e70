//! Bounds of a writer that only the whole server shows: each is met, and not passed.

use crate::support::database::Database;
use crate::support::{Client, Server, wait_until};
use hotrow::limits::{OVERTAKEN_RETRIES, WRITE_BATCH_BYTES};

#[test]
fn a_batch_of_large_values_ends_at_its_bound_of_bytes() {
    const VALUES: usize = 20;
    let value = "v".repeat(1 << 20);
    let server = Server::start(&["--db-writers", "1", "--max-value-bytes", "2MiB"]);
    let mut writes = server.database().hold_writes();
    let mut first = server.ask("PUT", "first", "v");
    wait_until("it was sent", || writes.waiting() == 1);
    let mut clients: Vec<Client> = (0..VALUES).map(|n| server.ask("PUT", &format!("k{n}"), &value)).collect();
    wait_until("all others are queued", || server.metric("hotrow_keys_in_flight") == VALUES as u64 + 1);
    writes.release();
    for client in std::iter::once(&mut first).chain(&mut clients) {
        assert_eq!(client.response().status, 201);
    }
    // Rows of one commit have one `xmin`.
    let batches = "SELECT string_agg(rows::text, ' ' ORDER BY rows DESC) FROM
        (SELECT count(*) AS rows FROM kv_store WHERE key LIKE 'k%' GROUP BY xmin::text) AS batches";
    let full = WRITE_BATCH_BYTES / value.len();
    let expected = format!("{full} {full} {}", VALUES - 2 * full);
    assert_eq!(server.database().text(batches, &[]), Some(expected));
}

#[test]
fn a_change_that_never_finds_its_row_as_it_was_is_tried_so_often_and_no_more() {
    let server = Server::start(&[]);
    let database: &Database = server.database();
    database.insert("k", "1");
    let trigger = "CREATE SEQUENCE times;
        CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM nextval('times'); RETURN NULL; END $$;
        CREATE TRIGGER keep_out BEFORE UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION keep_out()";
    database.connect().batch_execute(trigger).unwrap();
    let refused = server.connect().request("POST", "/kv/k?op=incr", "", b"");
    assert_eq!(refused.outcome(), "503 database-refused");
    assert!(refused.text().contains("writes this row all the time"), "{}", refused.text());
    let times = database.text("SELECT last_value::text FROM times", &[]);
    assert_eq!(times, Some((OVERTAKEN_RETRIES + 1).to_string()));
    assert_eq!(database.value("k").as_deref(), Some("1"));
}
