//! Two PostgreSQL servers, the second a synchronous standby of the first, and the first dies under load: hotrow goes on
//! by itself on the second, nothing acknowledged is lost, and a server that is only a standby, or was left behind, is
//! not believed.

use crate::support::client::request;
use crate::support::database::Database;
use crate::support::linearizable::Prior;
use crate::support::load::Load;
use crate::support::postgresql::Postgresql;
use crate::support::world::judge;
use crate::support::{Server, ending, wait_until};

/// A primary that acknowledges nothing that its standby does not have.
fn pair() -> (Postgresql, Postgresql) {
    let primary = Postgresql::start_new();
    let standby = Postgresql::start_standby(&primary);
    let mut sql = primary.connect();
    sql.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").unwrap();
    wait_until("the standby is synchronous", || {
        let sql_text = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        sql.query_one(sql_text, &[]).unwrap().get::<_, i64>(0) == 1
    });
    (primary, standby)
}

fn both(first: &Postgresql, second: &Postgresql) -> Database {
    let (first, second) = (first.port, second.port);
    let url = format!(
        "postgresql://hotrow@127.0.0.1:{first},127.0.0.1:{second}/postgres?target_session_attrs=read-write"
    );
    Database::at(url)
}

#[test]
fn a_standby_is_promoted_while_the_primary_is_killed() {
    let (mut primary, mut standby) = pair();
    let flags = ["--event-loops", "3", "--cache-bytes", "4KiB", "--request-timeout", "20s"];
    let server = Server::start_on(&both(&primary, &standby), &flags);
    let load = Load::start(server.address, (0..5).map(|i| format!("key-{i}")).collect(), 1);
    load.go_on_for(300);
    primary.stop_immediately();
    standby.promote();
    load.go_on_for(300);

    // The old one comes back and believes that it is the primary still: it stands first in the URL, and takes whatever
    // it is given. Nobody may ask it anything.
    primary.start();
    let mut sql = primary.connect();
    sql.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").unwrap();
    wait_until("it commits by itself", || {
        sql.query_one("SHOW synchronous_standby_names", &[]).unwrap().get::<_, &str>(0).is_empty()
    });
    let before = primary.connect().query("SELECT key, value FROM kv_store ORDER BY key", &[]).unwrap().len();
    for _ in 0..3 {
        standby.restart_immediately();
        load.go_on_for(100);
    }
    let after = primary.connect().query("SELECT key, value FROM kv_store ORDER BY key", &[]).unwrap().len();
    assert_eq!(before, after);
    let changed =
        "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables";
    let written: i64 = primary.connect().query_one(changed, &[]).unwrap().get(0);
    assert_eq!(written, 0, "the old primary was written to");
    println!("{:?}", judge(load, &server, &standby.url(), Prior::Repeated));
}

#[test]
fn a_standby_is_promoted_while_the_primary_is_frozen() {
    let (primary, standby) = pair();
    let flags = ["--event-loops", "2", "--cache-bytes", "4KiB", "--request-timeout", "2s"];
    let server = Server::start_on(&both(&primary, &standby), &flags);
    let load = Load::start(server.address, (0..5).map(|i| format!("key-{i}")).collect(), 2);
    load.go_on_for(300);
    // Its kernel goes on: connections are made, and what is sent is acknowledged. Only nobody ever answers.
    let frozen = primary.freeze();
    standby.promote();
    load.go_on_for(300);
    // Whoever writes there has given up a session with the other one.
    let writers = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'hotrow/%'";
    wait_until("it has sessions with the one that was promoted", || {
        standby.connect().query_one(writers, &[]).unwrap().get::<_, i64>(0) > 0
    });
    // It wakes up, believes that it is the primary still, and finds what it had been sent.
    drop(frozen);
    wait_until("its backends have found nobody", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'hotrow/%' AND wait_event <> 'SyncRep'";
        primary.connect().query_one(sql, &[]).unwrap().get::<_, i64>(0) == 0
    });
    load.go_on_for(300);
    println!("{:?}", judge(load, &server, &standby.url(), Prior::Repeated));
}

/// A standby that is not waited for: what the primary had acknowledged last is lost with it.
#[test]
fn rows_whose_commits_a_failover_has_lost_are_not_served_from_memory() {
    let mut primary = Postgresql::start_new();
    let mut standby = Postgresql::start_standby(&primary);
    // One of each, so that both have had a session with the primary.
    let server = Server::start_on(&both(&primary, &standby), &["--db-readers", "1", "--db-writers", "1"]);
    let mut client = server.connect();
    assert_eq!(client.put("changed", "old").status, 201);
    let mut sql = primary.connect();
    let committed: String = sql.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).unwrap().get(0);
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{committed}'");
    wait_until("the standby has it", || standby.connect().query_one(&replayed, &[]).unwrap().get(0));
    assert_eq!(standby.database().value("changed").as_deref(), Some("old"));
    standby.stop_fast();
    assert_eq!(client.put("changed", "lost").status, 200);
    assert_eq!(client.put("new", "lost").status, 201);
    assert_eq!(client.get("cold").status, 404);
    primary.stop_immediately();
    let lost = client.get("changed");
    assert_eq!(lost.text(), "lost", "nobody can know yet that it is");
    let mut waiting = server.connect();
    let fields = format!("If-None-Match: \"{}\"\r\nPrefer: wait=300\r\n", lost.version());
    waiting.send(request("GET", "/kv/changed", &fields, b""));
    standby.start();
    standby.promote();
    // Whoever needs a session finds out.
    wait_until("a reader is on the other server", || client.get("another").status == 404);
    assert_eq!((client.get("changed").text().as_str(), client.get("new").status), ("old", 404));
    assert_eq!(waiting.response().text(), "old", "whoever waits for a change is told of it");
    wait_until("a writer is, too", || client.put("after", "v").status < 300);
    assert_eq!(client.get("changed").field("Cache-Status"), Some("hotrow; hit"), "it is cached as before");
    let said = || server.stderr().matches("another server was promoted").count();
    wait_until("it is logged", || said() > 0);
    assert_eq!(said(), 1, "it happened once");
}

#[test]
fn a_standby_alone_is_refused() {
    let (primary, standby) = pair();
    let first = Server::start_on(&primary.database(), &[]);
    assert_eq!(first.connect().put("k", "v").status, 201);
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "off", "--database-url", &standby.url()]);
    ending::refused(&mut command, 1, &["standby", "target_session_attrs=read-write"]);
    // Without being told so, it takes the one of two that can be written to.
    let url = format!("postgresql://hotrow@127.0.0.1:{},127.0.0.1:{}/postgres", standby.port, primary.port);
    let second = Server::start_on(&Database::at(url), &[]);
    assert_eq!(second.connect().get("k").text(), "v");
    assert_eq!(second.connect().put("k", "w").status, 200);
}
