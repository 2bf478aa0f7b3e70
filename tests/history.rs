//! Servers that do not go on with what was read and written before, behind the address where the other one was: what is cached of that
//! one is not served. And those of which nobody can say. `failover.rs` has those that were promoted, or left behind.

use crate::support::database::Database;
use crate::support::postgresql::{Postgresql, url_at};
use crate::support::proxy::Proxy;
use crate::support::{Server, ending, wait_until};

/// A server that has cached two rows.
fn start(url: String) -> Server {
    let server = Server::start_on(&Database::at(url), &["--db-readers", "1", "--db-writers", "1"]);
    let mut client = server.connect();
    assert_eq!(client.put("changed", "here").status, 201);
    assert_eq!(client.put("new", "here").status, 201);
    assert_eq!(client.get("new").field("Cache-Status"), Some("hotrow; hit"));
    // Each has its session, and the cache does not wait for one.
    assert_eq!(client.get("absent").status, 404);
    server
}

fn forgotten(server: &Server) -> usize {
    server.stderr().matches("what was cached before is forgotten").count()
}

/// `hotrow migrate`: its exit code, and why it could not.
fn migrate(database: &Database) -> (Option<i32>, String) {
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    ending::refusal(command.args(["migrate", "--database-url", &database.url]))
}

#[test]
fn another_cluster_behind_the_same_address_is_another_history() {
    let (first, second) = (Postgresql::start_new(), Postgresql::start_new());
    assert_eq!(migrate(&second.database()).0, Some(0));
    second.database().insert("changed", "there");
    let proxy = Proxy::start(first.port);
    let server = start(url_at(proxy.port));
    let mut client = server.connect();
    proxy.lead_to(second.port);
    wait_until("a reader is there", || client.get("another").status == 404);
    assert_eq!((client.get("changed").text().as_str(), client.get("new").status), ("there", 404));
    wait_until("a writer is, too", || client.put("after", "v").status < 300);
    assert_eq!(client.get("changed").field("Cache-Status"), Some("hotrow; hit"), "it is cached as before");
    assert_eq!(forgotten(&server), 1, "{}", server.stderr());
    // And back.
    proxy.lead_to(first.port);
    wait_until("a reader is back", || client.get("again").status == 404);
    assert_eq!((client.get("changed").text().as_str(), client.get("new").text().as_str()), ("here", "here"));
}

#[test]
fn an_older_copy_of_the_same_cluster_is_another_history() {
    let mut postgresql = Postgresql::start_new();
    assert_eq!(migrate(&postgresql.database()).0, Some(0));
    postgresql.stop_fast();
    postgresql.keep_data();
    postgresql.start();
    let server = start(postgresql.url());
    let mut client = server.connect();
    // The sweeper sees how far the log has come, before it looks for such a row: the second time it has seen the writes above.
    for round in 1..=2 {
        let past = "INSERT INTO kv_store (key, value, expires_at) VALUES ('past', '', now())";
        postgresql.database().execute(past, &[]);
        wait_until("it is swept", || server.metric("hotrow_rows_swept_total") == round);
    }
    postgresql.stop_fast();
    postgresql.bring_data_back();
    postgresql.start();
    wait_until("a reader is back", || client.get("another").status == 404);
    assert_eq!((client.get("changed").status, client.get("new").status), (404, 404));
    wait_until("a writer is, too", || client.put("new", "v").status < 300);
    assert_eq!(forgotten(&server), 1, "{}", server.stderr());
}

/// A server that cannot say now where it is may say so later.
#[test]
fn who_fails_to_say_where_it_is_is_not_taken_for_one_who_does_not_know() {
    let database = Database::new();
    let name = database.text("SELECT current_database()::text", &[]).unwrap();
    let fails = format!(
        "ALTER DATABASE {name} SET search_path = public, pg_catalog;
         CREATE FUNCTION public.pg_walfile_name(pg_lsn) RETURNS text LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'not now'; END $$"
    );
    database.connect().batch_execute(&fails).unwrap();
    let (code, line) = migrate(&database);
    assert!(code == Some(1) && line.contains("not now"), "{line}");
    let may_not = "CREATE OR REPLACE FUNCTION public.pg_walfile_name(pg_lsn) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RAISE insufficient_privilege; END $$";
    database.connect().batch_execute(may_not).unwrap();
    assert_eq!(migrate(&database).0, Some(0));
}

/// Whoever is given another backend for every statement can end none, and has none of the settings that it has made.
#[test]
fn a_pooler_that_deals_backends_out_by_statement_is_refused() {
    let database = Database::new();
    let name = database.text("SELECT current_database()::text", &[]).unwrap();
    let deals = format!(
        "ALTER DATABASE {name} SET search_path = public, pg_catalog;
         CREATE FUNCTION public.pg_backend_pid() RETURNS integer LANGUAGE sql AS
            $$ SELECT pg_catalog.pg_backend_pid() + (current_query() LIKE '%still the backend%')::integer $$"
    );
    database.connect().batch_execute(&deals).unwrap();
    let (code, line) = migrate(&database);
    assert!(code == Some(1) && line.contains("session mode"), "{line}");
}
