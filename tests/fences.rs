//! A request that hotrow has given up may still be on its way, and reach its backend when later writes are acknowledged.
//! It must find nobody there. `faults.rs` does this under load; here the moments are chosen.

use crate::support::client::request;
use crate::support::database::Database;
use crate::support::postgresql::{Postgresql, free_port, url_at};
use crate::support::proxy::{Hold, Proxy};
use crate::support::{Client, Server, ending, wait_until};

/// A server behind a proxy, at an address that it can have again.
struct Fenced {
    postgresql: Postgresql,
    proxy: Proxy,
    listen: String,
}

impl Fenced {
    fn new() -> Fenced {
        let postgresql = Postgresql::start_new();
        let proxy = Proxy::start(postgresql.port);
        Fenced { postgresql, proxy, listen: format!("127.0.0.1:{}", free_port()) }
    }

    fn start(&self) -> Server {
        let database = Database::at(url_at(self.proxy.port));
        let server = Server::start_on(
            &database,
            &["--listen", &self.listen, "--db-writers", "1", "--cache-bytes", "0"],
        );
        // Both statements are prepared: what is sent next is one of them.
        let mut client = server.connect();
        assert!(matches!(client.put("k", "old").status, 200 | 201));
        assert_eq!(client.get("k").text(), "old");
        server
    }

    /// A write that is held on its way.
    fn hold(&self, server: &Server, hold: Hold) -> Client {
        self.proxy.aim_at("first");
        self.proxy.hold_requests(1, hold);
        let mut client = server.connect();
        client.send(request("PUT", "/kv/k", "", b"first"));
        wait_until("it is held", || self.proxy.is_harmless());
        client
    }

    /// What was held arrives now, and changes nothing.
    fn release(&self, server: &Server) {
        self.proxy.release();
        wait_until("it was delivered", || self.proxy.delivered() == 1);
        let mut client = server.connect();
        for _ in 0..50 {
            assert_eq!(client.get("k").text(), "second");
        }
        assert_eq!(self.postgresql.database().value("k").as_deref(), Some("second"));
    }
}

#[test]
fn a_request_that_arrives_when_its_writer_has_another_connection_changes_nothing() {
    let fenced = Fenced::new();
    let server = fenced.start();
    let mut first = fenced.hold(&server, Hold::UntilRelease);
    // Its backend is ended, and then it is sent again.
    let response = first.response();
    assert_eq!((response.status, response.text().as_str()), (200, "first"));
    assert_eq!(server.connect().put("k", "second").status, 200);
    fenced.release(&server);
}

#[test]
fn a_request_that_arrives_when_its_hotrow_was_killed_and_started_again_changes_nothing() {
    let fenced = Fenced::new();
    let server = fenced.start();
    let mut first = fenced.hold(&server, Hold::InSilence);
    server.kill();
    assert!(first.try_response_to("PUT").is_err());
    let server = fenced.start();
    assert_eq!(server.connect().put("k", "second").status, 200);
    fenced.release(&server);
}

/// Its commit was never asked for, so that nothing can come of it; but its backend waits for what comes next, and has
/// the table locked against whoever wants to change it.
#[test]
fn a_load_that_is_cut_off_in_its_middle_leaves_no_lock_behind() {
    let fenced = Fenced::new();
    let server = fenced.start();
    let (mut holder, mut observer) = (fenced.postgresql.connect(), fenced.postgresql.connect());
    for round in 0.. {
        let mut lock = holder.transaction().unwrap();
        lock.batch_execute("LOCK TABLE kv_store IN SHARE MODE").unwrap();
        let mut client = server.connect();
        let fields = "Content-Type: application/x-ndjson\r\n";
        client.send(request(
            "PUT",
            "/kv",
            fields,
            format!("{{\"key\":\"{round}\",\"value\":\"\"}}").as_bytes(),
        ));
        let waiting = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%LOCK TABLE kv_store IN ROW EXCLUSIVE%' AND wait_event_type = 'Lock'";
        let mut pid = 0;
        wait_until("its backend has begun", || {
            observer.query_opt(waiting, &[]).unwrap().map(|row| pid = row.get::<_, i32>(0)).is_some()
        });
        fenced.proxy.hold_requests(1, Hold::UntilRelease);
        lock.commit().unwrap();
        wait_until("something is held", || fenced.proxy.is_harmless());
        assert_eq!(client.response().status, 200);
        let state = "SELECT state FROM pg_stat_activity WHERE pid = $1";
        match observer.query_opt(state, &[&pid]).unwrap() {
            None => break,
            // It was the sweeper's request that was held: once more.
            Some(row) if row.get::<_, &str>(0) == "idle" => fenced.proxy.release(),
            Some(row) => panic!("its backend is still there: {}", row.get::<_, &str>(0)),
        }
    }
    // The sweeper may have it for a moment.
    holder
        .batch_execute("SET lock_timeout = '60s'; BEGIN; LOCK TABLE kv_store IN SHARE MODE; COMMIT")
        .unwrap();
}

/// Another hotrow on the same database is none of our business.
#[test]
fn only_the_same_instance_is_ended() {
    let fenced = Fenced::new();
    let server = fenced.start();
    let other = Server::start_on(&fenced.postgresql.database(), &[]);
    wait_until("it warns of the first", || other.stderr().contains("another hotrow is on this database"));
    assert_eq!(other.connect().put("other", "v").status, 201);
    let backends = "SELECT COALESCE(string_agg(pid::text, ' ' ORDER BY pid), '') FROM pg_stat_activity
                    WHERE application_name LIKE 'hotrow/%' AND application_name NOT LIKE '%' || $1";
    // It sweeps: the session that has prepared the table has ended long ago.
    let sweeping = format!("{backends} AND query LIKE '%expires_at::text AS at%'");
    let pids = |sql: &str| fenced.postgresql.database().text(sql, &[&fenced.listen]).unwrap();
    wait_until("it sweeps", || !pids(&sweeping).is_empty());
    let before = pids(backends);
    server.kill();
    let _server = fenced.start();
    let after = pids(backends);
    let is_left = |pid: &str| after.split(' ').any(|other| other == pid);
    assert!(before.split(' ').all(is_left), "{before} became {after}");
}

/// An index on many rows takes longer than any statement on data may, and so does the wait for another server that makes it.
#[test]
fn no_time_limit_of_statements_holds_for_migrations() {
    let database = Database::new();
    let mut sql = database.connect();
    let name = database.text("SELECT current_database()::text", &[]).unwrap();
    sql.batch_execute(&format!("ALTER DATABASE {name} SET lock_timeout = '1s'")).unwrap();
    sql.batch_execute(
        "CREATE FUNCTION look() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen VALUES (tg_tag, current_setting('statement_timeout'), current_setting('lock_timeout'));
         END $$;
         CREATE TABLE seen (command text, statement_timeout text, lock_timeout text);
         CREATE EVENT TRIGGER look ON ddl_command_start EXECUTE FUNCTION look()",
    )
    .unwrap();
    let server = Server::start_on(&database, &["--request-timeout", "5s"]);
    assert_eq!(server.connect().put("k", "v").status, 201);
    let limits = |command: &str| {
        let limits = "SELECT string_agg(DISTINCT statement_timeout || ' ' || lock_timeout, ', ') FROM seen WHERE command = $1";
        database.text(limits, &[&command])
    };
    for command in ["CREATE TABLE", "ALTER TABLE", "CREATE INDEX"] {
        assert_eq!(limits(command).as_deref(), Some("0 0"), "{command}");
    }
}

#[test]
fn what_writes_and_what_sweeps_has_a_time_limit_and_counts_in_utc() {
    let server = Server::start(&["--request-timeout", "7s"]);
    let look = "CREATE TABLE seen (what text, statement_timeout text, zone text);
        CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen VALUES (tg_op, current_setting('statement_timeout'), current_setting('TimeZone'));
            RETURN COALESCE(NEW, OLD);
        END $$;
        CREATE TRIGGER look BEFORE INSERT OR DELETE ON kv_store FOR EACH ROW EXECUTE FUNCTION look()";
    server.database().connect().batch_execute(look).unwrap();
    let mut client = server.connect();
    wait_until("it is written", || client.request("PUT", "/kv/k?ttl=1", "", b"v").status < 300);
    // By nobody else than the sweeper.
    wait_until("it is swept", || server.metric("hotrow_rows_swept_total") == 1);
    let seen = "SELECT string_agg(DISTINCT concat_ws(' ', what, statement_timeout, zone), ', ') FROM seen";
    assert_eq!(server.database().text(seen, &[]).as_deref(), Some("DELETE 7s UTC, INSERT 7s UTC"));
}

#[test]
fn a_migration_that_is_cut_off_keeps_nobody_out() {
    let postgresql = Postgresql::start_new();
    let proxy = Proxy::start(postgresql.port);
    proxy.aim_at("EXISTS hotrow_migrations");
    let migrate = |url: &str| {
        let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
        ending::run(command.args(["migrate", "--database-url", url])).status.code()
    };
    // Its backend has the lock of the migrations, and waits for a statement that nobody lets through. Not for ever: where this machine
    // has stood still for longer than that, the next one shows it.
    let locks = "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory'";
    let database = postgresql.database();
    wait_until("a backend is left behind with the lock", || {
        proxy.hold_requests(1, Hold::UntilRelease);
        assert_eq!(migrate(&url_at(proxy.port)), Some(1));
        database.text(locks, &[]).as_deref() == Some("1")
    });
    assert_eq!(migrate(&database.url), Some(0));
}
