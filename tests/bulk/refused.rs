//! Rows that PostgreSQL refuses, breaks off, keeps out or holds: whom that concerns, and what it costs.

use super::{LINES, count, line, load, told};
use crate::support::client::request;
use crate::support::postgresql::Postgresql;
use crate::support::{Server, get_in_the_end, put_in_the_end, wait_until};
use std::time::{Duration, Instant};

#[test]
fn what_is_refused_at_the_commit_is_not_said_to_be_stored() {
    let server = Server::start(&[]);
    let trigger = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.key LIKE 'bad%' THEN RAISE 'no such keys here'; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON kv_store DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse()";
    server.database().connect().batch_execute(trigger).unwrap();
    let mut client = server.connect();
    let lines = line("a", "1") + &line("bad", "2") + &line("c", "3");
    let (counts, errors) = told(&load(&mut client, &lines));
    assert_eq!((counts, errors), ([3, 2, 1], vec![(2, "database-refused".into())]));
    assert_eq!(["a", "bad", "c"].map(|key| client.get(key).status), [200, 404, 200]);
}

/// Halving for each of them would be two statements a line, half of them commits: a piece would keep everybody else waiting.
#[test]
fn many_lines_that_are_refused_keep_no_others_out_and_cost_few_statements() {
    let server = Server::start(&["--db-writers", "1"]);
    let refuse = |how: &str| {
        let trigger = format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN IF NEW.value = 'bad' THEN {how}; END IF; RETURN NEW; END $$;"
        );
        server.database().connect().batch_execute(&trigger).unwrap();
    };
    refuse("RAISE 'not this one'");
    let before = "CREATE TRIGGER refuse BEFORE INSERT ON kv_store FOR EACH ROW EXECUTE FUNCTION refuse()";
    let at_the_end =
        "DROP TRIGGER refuse ON kv_store; CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON kv_store
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()";
    let statements = || server.metric("hotrow_database_statement_seconds_count{worker=\"writer\"}");
    let mut client = server.connect();
    for (round, (trigger, how)) in [
        (before, "RAISE 'not this one'"),
        // As a bug in a trigger does: of class 42, which may be the server's.
        ("", "PERFORM 1 FROM nowhere"),
        ("", "RETURN NULL"),
        (at_the_end, "RAISE 'not this one'"),
    ]
    .into_iter()
    .enumerate()
    {
        server.database().connect().batch_execute(trigger).unwrap();
        refuse(how);
        let lines: String = (0..2_000)
            .map(|i| line(&format!("{round}-{i:04}"), if i % 2 == 0 { "good" } else { "bad" }))
            .collect();
        let earlier = statements();
        let (counts, errors) = told(&load(&mut client, &lines));
        assert_eq!(counts, [2_000, 1_000, 1_000], "{how}");
        assert!(
            errors.iter().all(|(line, problem)| line % 2 == 0 && problem == "database-refused"),
            "{errors:?}"
        );
        let cost = statements() - earlier;
        assert!(cost < 100, "{how}: {cost} statements");
        let sql =
            format!("SELECT count(*)::text FROM kv_store WHERE key LIKE '{round}-%' AND value = 'good'");
        assert_eq!(server.database().text(&sql, &[]).unwrap(), "1000", "{how}");
    }
    // What is refused of all of them for a reason of the server's ends the load.
    server.database().connect().batch_execute("DROP TRIGGER refuse ON kv_store").unwrap();
    server.database().connect().batch_execute(before).unwrap();
    refuse("RAISE SQLSTATE '53100'");
    let lines: String = (0..2_000).map(|i| line(&format!("full-{i:04}"), "bad")).collect();
    let earlier = statements();
    assert_eq!(load(&mut client, &lines).outcome(), "503 database-refused");
    assert!(statements() - earlier < 20);
}

/// It is said of a statement, too, that does not fit its table any more, and of the session that has it prepared.
#[test]
fn a_row_of_which_a_trigger_says_what_is_said_of_a_statement_is_refused_alone() {
    let server = Server::start(&["--db-writers", "1"]);
    let trigger = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.value = 'bad' THEN RAISE feature_not_supported USING MESSAGE = 'not here'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION no()";
    server.database().connect().batch_execute(trigger).unwrap();
    let mut client = server.connect();
    for round in 0..2 {
        let lines: String = ["good", "bad", "good"]
            .iter()
            .enumerate()
            .map(|(at, value)| line(&format!("{round}-{at}"), value))
            .collect();
        let answer = load(&mut client, &lines);
        assert_eq!(told(&answer), ([3, 2, 1], vec![(2, "database-refused".into())]), "{}", answer.text());
    }
    // So are more of them than are looked for by halves.
    let lines: String =
        (0..300).map(|i| line(&format!("many-{i:03}"), if i % 2 == 0 { "bad" } else { "good" })).collect();
    let answer = load(&mut client, &lines);
    assert_eq!(told(&answer).0, [300, 150, 150], "{}", answer.text());
}

fn break_off_bad_rows(server: &Server) {
    let trigger = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.value = 'bad' THEN RAISE serialization_failure USING MESSAGE = 'not this one'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION no()";
    server.database().connect().batch_execute(trigger).unwrap();
}

/// What PostgreSQL breaks off may be done at another try. What it breaks off each time is refused, and keeps no other row out.
#[test]
fn a_row_that_is_broken_off_each_time_keeps_no_other_out() {
    let server = Server::start(&["--db-writers", "1"]);
    break_off_bad_rows(&server);
    let mut client = server.connect();
    // One alone; some; and more of them than are looked for by halves.
    for (round, bad) in [vec![0], vec![3, 4, 63], (0..64).step_by(2).collect()].into_iter().enumerate() {
        let lines: String = (0..64)
            .map(|i| line(&format!("{round}-{i:02}"), if bad.contains(&i) { "bad" } else { "good" }))
            .collect();
        let answer = load(&mut client, &lines);
        let (counts, errors) = told(&answer);
        assert_eq!(counts, [64, 64 - bad.len() as u64, bad.len() as u64], "{}", answer.text());
        assert!(errors.iter().all(|(line, kind)| bad.contains(&(line - 1)) && kind == "database-refused"));
    }
}

/// Each group with such a row would be tried as often as one that may be done at another try: that would take all the time of a request.
#[test]
fn many_rows_that_are_broken_off_each_time_keep_no_others_out_and_cost_few_statements() {
    let server = Server::start(&["--db-writers", "1"]);
    break_off_bad_rows(&server);
    let value = |i| if i % 2 == 0 { "good" } else { "bad" };
    let lines: String = (0..2_048).map(|i| line(&format!("{i:04}"), value(i))).collect();
    let statements = || server.metric("hotrow_database_statement_seconds_count{worker=\"writer\"}");
    let answer = load(&mut server.connect(), &lines);
    assert_eq!((answer.status, told(&answer).0), (200, [2_048, 1_024, 1_024]), "{}", answer.text());
    assert_eq!(count(&server), "1024");
    let cost = statements();
    assert!(cost < 200, "{cost} statements");
}

/// Row by row is many statements in one commit. Each is answered in time, so that nobody is to take it for a server that is not there.
#[test]
fn many_slow_rows_are_no_server_that_does_not_answer() {
    let server = Server::start(&["--db-writers", "1", "--request-timeout", "2s"]);
    // Slow are only good rows behind another one in the same transaction. Together they begin with a bad one.
    let trigger = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.value = 'bad' THEN RAISE 'not this one'; END IF;
            IF current_setting('slow.down', true) = 'yes' THEN PERFORM pg_sleep(0.5); END IF;
            PERFORM set_config('slow.down', 'yes', true);
            RETURN NEW;
        END $$;
        CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION slow()";
    server.database().connect().batch_execute(trigger).unwrap();
    let lines: String =
        (0..64).map(|i| line(&format!("{i:02}"), if i % 2 == 0 { "bad" } else { "good" })).collect();
    let mut loading = server.connect();
    loading.send(request("PUT", "/kv", LINES, lines.as_bytes()));
    wait_until("it is under way", || server.metric("hotrow_keys_in_flight") > 0 || loading.has_something());
    wait_until("it has ended", || {
        let ready = server.connect_admin().request("GET", "/readyz", "", b"");
        assert_eq!((ready.status, server.metric("hotrow_database_up")), (200, 1), "{}", ready.text());
        server.metric("hotrow_keys_in_flight") == 0
    });
    // Whatever of it was done by then is done.
    let answer = loading.response();
    assert!(matches!(answer.status, 200 | 503 | 504), "{}", answer.text());
    put_in_the_end(&mut server.connect(), "other", "value");
}

/// Slow rows go by twos. Two that a trigger refuses for what may be the server's reason are no server that takes nothing, where it has
/// taken others.
#[test]
fn slow_rows_that_are_refused_side_by_side_end_no_load_of_which_others_are_stored() {
    const TIMEOUT: Duration = Duration::from_secs(8);
    let server = Server::start(&["--db-writers", "1", "--request-timeout", "8s"]);
    let trigger = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.value LIKE 'slow%' THEN PERFORM pg_sleep(1.2); END IF;
            IF NEW.value LIKE '%row' THEN RAISE 'not this one'; END IF;
            IF NEW.value LIKE '%server' THEN RAISE insufficient_privilege USING MESSAGE = 'not here'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION no()";
    server.database().connect().batch_execute(trigger).unwrap();
    let mut client = server.connect();
    let mut round = 0;
    // More of them than are looked for by halves come first. Then one takes its time, and two of a kind are all of their group.
    for slow in [["slow server"; 3], ["slow row", "slow row", "slow server"]] {
        wait_until("it ends before its time is over", || {
            round += 1;
            let mut lines = String::new();
            for at in 0..128 {
                lines += &line(&format!("{round}-{at:03}"), if at % 2 == 0 { "row" } else { "good" });
            }
            for (at, value) in slow.iter().chain(&["good"; 4]).enumerate() {
                lines += &line(&format!("{round}-x{at}"), value);
            }
            let began = Instant::now();
            let answer = load(&mut client, &lines);
            let in_time = answer.status == 200;
            assert!(in_time || began.elapsed() >= TIMEOUT, "{}", answer.text());
            if in_time {
                assert_eq!(told(&answer).0, [135, 68, 67], "{}", answer.text());
            }
            in_time
        });
    }
}

/// Its client sends them again, through another writer, and whoever writes after that is not to be overtaken.
#[test]
fn rows_that_nobody_waits_for_any_more_are_not_sent() {
    let server = Server::start(&["--db-writers", "1", "--request-timeout", "60s"]);
    let mut holding = server.database().connect();
    // No lock that is waited for: such a piece would be put aside.
    let trigger = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.key = 'a' THEN RAISE 'not this one'; END IF;
            WHILE NEW.key = 'b' AND NOT pg_try_advisory_xact_lock(1) LOOP PERFORM pg_sleep(0.01); END LOOP;
            RETURN NEW;
        END $$;
        CREATE TRIGGER slow BEFORE INSERT ON kv_store FOR EACH ROW EXECUTE FUNCTION slow();
        SELECT pg_advisory_lock(1)";
    holding.batch_execute(trigger).unwrap();
    let mut client = server.connect();
    let lines: String = ["a", "b", "c", "d"].map(|key| line(key, "old")).concat();
    client.send(request("PUT", "/kv", LINES, lines.as_bytes()));
    // All are refused for the first, and so is a half of them; then the second is alone.
    let sleeping = "SELECT (count(*) > 0)::text FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    wait_until("it is there", || server.database().text(sleeping, &[]).as_deref() == Some("true"));
    client.reset();
    wait_until("it is gone", || server.metric("hotrow_connections") == 1);
    holding.batch_execute("SELECT pg_advisory_unlock(1)").unwrap();
    wait_until("it has ended", || server.metric("hotrow_keys_in_flight") == 0);
    let keys = "SELECT string_agg(key, ' ' ORDER BY key) FROM kv_store";
    assert_eq!(server.database().text(keys, &[]).as_deref(), Some("b"));
}

#[test]
fn a_load_that_ends_among_rows_that_are_kept_out_leaves_no_stale_hit() {
    let server = Server::start(&["--request-timeout", "1s"]);
    // Of many rows PostgreSQL does not say which it has kept out, so that each is tried by itself: then this one takes its time.
    let trigger = "CREATE SEQUENCE times;
        CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.key = 'b' THEN RETURN NEW; END IF;
            IF nextval('times') > 2 THEN PERFORM pg_sleep(60); END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER keep_out BEFORE INSERT ON kv_store FOR EACH ROW EXECUTE FUNCTION keep_out();";
    server.database().connect().batch_execute(trigger).unwrap();
    let mut client = server.connect();
    wait_until("it is written", || client.put("b", "old").status < 300);
    let answer = load(&mut client, &(line("a", "1") + &line("b", "new")));
    assert!(matches!(answer.status, 503 | 504), "{}", answer.text());
    wait_until("it has ended", || server.metric("hotrow_keys_in_flight") == 0);
    // It is cached no more, and whoever asks the table has a second for it here.
    let read = get_in_the_end(&mut server.connect(), "b");
    assert_eq!(Some(read.text()), server.database().value("b"));
}

#[test]
fn a_row_that_is_held_is_no_row_that_is_refused() {
    let mut postgresql = Postgresql::start_new();
    postgresql.configure(&["lock_timeout = '200ms'"]);
    postgresql.restart_immediately();
    let server = Server::start_on(&postgresql.database(), &["--request-timeout", "2s"]);
    let mut sql_client = postgresql.connect();
    sql_client.batch_execute("INSERT INTO kv_store (key, value) VALUES ('held', 'old')").unwrap();
    let mut holding = sql_client.transaction().unwrap();
    holding.execute("UPDATE kv_store SET value = 'other' WHERE key = 'held'", &[]).unwrap();
    let mut client = server.connect();
    let lines = line("a", "1") + &line("held", "2");
    // Where this machine stands still for longer than a request may take, it is withdrawn before it has met the row.
    wait_until("it has met the row that is held", || {
        let answer = load(&mut client, &lines);
        assert_eq!(told(&answer).0, [0, 0, 0], "{answer:?}");
        answer.outcome() == "503 database-refused"
    });
    holding.rollback().unwrap();
    wait_until("it is stored", || told(&load(&mut client, &lines)).0 == [2, 2, 0]);
}
