//! What an operator sees: the pages of the admin socket, metrics, logs. Real sockets, a real PostgreSQL.

use crate::support::exposition::{self, Family};
use crate::support::{Server, left_out, wait_until};
use hotrow::metrics::families;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

/// A page with something in every corner: hits, absences, misses, writes, refusals, nonsense.
fn busy_server() -> Server {
    let server = Server::start(&["--event-loops", "2"]);
    let mut client = server.connect();
    client.put("k", "v");
    client.request("SET", "/kv/k", "", b"w");
    client.get("k");
    client.get("absent");
    client.get("absent");
    client.request("HEAD", "/kv/absent", "", b"");
    client.delete("absent");
    client.request("POST", "/kv/k", "", b"");
    client.request("BREW", "/kv/k", "", b"");
    client.send("PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n");
    assert_eq!(client.response().status, 413);
    let mut client = server.connect();
    client.send("broken\r\n\r\n");
    assert_eq!(client.response().status, 400);
    server
}

fn families_of(page: &str) -> Vec<Family> {
    exposition::parse(page).unwrap_or_else(|error| panic!("{error} in\n{page}"))
}

#[test]
fn metrics_count_what_happened() {
    let server = busy_server();
    // Ready is a server whose first reader and writer have a session.
    let sessions = |worker| server.metric(&format!("hotrow_database_connections{{worker=\"{worker}\"}}"));
    wait_until("every worker has a session", || sessions("reader") + sessions("writer") == 4);
    // The bound on memory counts with so much for a page.
    assert!(server.admin_page("/metrics").len() < hotrow::limits::ADMIN_PAGE_BYTES / 2);
    for (series, value) in [
        (r#"hotrow_requests_total{method="GET",status="200"}"#, 1),
        (r#"hotrow_requests_total{method="GET",status="404"}"#, 2),
        (r#"hotrow_requests_total{method="HEAD",status="404"}"#, 1),
        (r#"hotrow_requests_total{method="PUT",status="201"}"#, 1),
        (r#"hotrow_requests_total{method="PUT",status="413"}"#, 1),
        (r#"hotrow_requests_total{method="SET",status="200"}"#, 1),
        (r#"hotrow_requests_total{method="DELETE",status="404"}"#, 1),
        (r#"hotrow_requests_total{method="POST",status="405"}"#, 1),
        (r#"hotrow_requests_total{method="other",status="501"}"#, 1),
        (r#"hotrow_requests_total{method="none",status="400"}"#, 1),
        (r#"hotrow_problems_total{problem="unknown-method"}"#, 1),
        (r#"hotrow_problems_total{problem="value-too-large"}"#, 1),
        (r#"hotrow_problems_total{problem="queue-full"}"#, 0),
        ("hotrow_parse_errors_total", 1),
        (r#"hotrow_request_duration_seconds_count{kind="hit"}"#, 3),
        (r#"hotrow_request_duration_seconds_count{kind="miss"}"#, 1),
        (r#"hotrow_request_duration_seconds_count{kind="write"}"#, 3),
        (r#"hotrow_cache_requests_total{result="hit"}"#, 1),
        (r#"hotrow_cache_requests_total{result="absent"}"#, 2),
        (r#"hotrow_cache_requests_total{result="miss"}"#, 1),
        // That a DELETE has found nothing is not cached: it may be a trigger's doing.
        ("hotrow_cache_entries", 1),
        ("hotrow_cache_limit_bytes", 256 << 20),
        ("hotrow_keys_in_flight", 0),
        ("hotrow_keys_in_doubt", 0),
        ("hotrow_writes_total", 3),
        ("hotrow_connections_limit", 16_384),
        ("hotrow_connections_accepted_total", 3),
        ("hotrow_database_up", 1),
        (r#"hotrow_database_connections{worker="reader"}"#, 2),
        (r#"hotrow_database_connections{worker="writer"}"#, 2),
        (r#"hotrow_database_queue_jobs{worker="writer"}"#, 0),
        (r#"hotrow_database_queue_wait_seconds_count{worker="reader"}"#, 1),
        (r#"hotrow_database_statement_seconds_count{worker="writer"}"#, 3),
        (r#"hotrow_database_batch_jobs_sum{worker="writer"}"#, 3),
        ("hotrow_ready", 1),
    ] {
        assert_eq!(server.metric(series), value, "{series}");
    }
    wait_until("only the admin connection is open", || server.metric("hotrow_connections") == 1);
    assert_eq!(server.metric(r#"hotrow_connections{state="idle"}"#), 1);
    let admin = server.metric("hotrow_admin_requests_total");
    assert_eq!(server.metric("hotrow_admin_requests_total"), admin + 1, "the request before is counted");
}

#[test]
fn the_page_is_what_prometheus_reads_and_what_is_documented() {
    let server = busy_server();
    let page = server.admin_page("/metrics");
    let found = families_of(&page);
    let facts = |name: &str, kind: &str, help: &str| (name.to_owned(), kind.to_owned(), help.to_owned());
    let found_facts: Vec<_> = found.iter().map(|f| facts(&f.name, &f.kind, &f.help)).collect();
    let known: Vec<_> = families::ALL.iter().map(|f| facts(f.name, f.kind.as_str(), f.help)).collect();
    assert_eq!(found_facts, known, "the page has every metric, in the order of the list");
    let labels: BTreeMap<&str, &[&str]> = families::ALL.iter().map(|f| (f.name, f.labels)).collect();
    for family in &found {
        assert!(!family.samples.is_empty(), "{} has no series", family.name);
        for sample in &family.samples {
            let own: Vec<&str> = sample.labels.iter().map(|(name, _)| name.as_str()).collect();
            let own: Vec<&str> = own.into_iter().filter(|label| *label != "le").collect();
            assert_eq!(own, labels[family.name.as_str()], "{}", sample.name);
        }
    }
    let turns = found.iter().find(|family| family.name == "hotrow_loop_turns_total").unwrap();
    assert_eq!(turns.samples.len(), 2, "one for each loop");
    let value = |name: &str| found.iter().find(|f| f.name == name).unwrap().samples[0].value;
    assert!(
        value("hotrow_loop_busy_seconds_total") > 0.0 && value("hotrow_loop_waiting_seconds_total") > 0.0
    );
    assert!(value("process_cpu_seconds_total") > 0.0 && value("process_start_time_seconds") > 1.7e9);
    assert!(value("process_open_fds") > 10.0 && value("process_max_fds") > value("process_open_fds"));
    assert!(value("process_resident_memory_bytes") > 1e6);
    check_by_promtool(&page);
}

/// Prometheus' own judgement, where it is installed (Debian's package `prometheus`).
fn check_by_promtool(page: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = promtool.spawn() else {
        return left_out("the page of metrics, by Prometheus itself", "promtool is not installed");
    };
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "promtool: {}", String::from_utf8_lossy(&said));
}

/// The rules can fail.
#[test]
fn a_page_that_prometheus_would_not_read_is_found_out() {
    let good =
        "# HELP a_total A thing.\n# TYPE a_total counter\na_total{b=\"c \\\"d\\\"\",e=\"\"} 1\na_total 2.5\n";
    let histogram = "# HELP h_seconds Time.\n# TYPE h_seconds histogram\nh_seconds_bucket{le=\"1\"} 1\n\
        h_seconds_bucket{le=\"+Inf\"} 2\nh_seconds_sum 3\nh_seconds_count 2\n";
    assert_eq!(exposition::parse(&format!("{good}{histogram}")).unwrap().len(), 2);
    for (from, to) in [
        ("# HELP a_total A thing.\n", ""),
        ("A thing.", ""),
        ("# TYPE a_total counter\n", ""),
        ("a_total counter", "a_total number"),
        ("a_total counter", "a_total gauge"),
        ("a_total", "a"),
        ("a_total", "a_ms_total"),
        ("a_total", "A_total"),
        ("a_total 2.5", "b_total 2.5"),
        ("a_total 2.5", "a_total -2.5"),
        ("a_total 2.5", "a_total NaN"),
        ("a_total 2.5", "a_total two"),
        ("a_total 2.5", "a_total{b=\"c \\\"d\\\"\",e=\"\"} 1"),
        ("e=\"\"", "b=\"\""),
        ("e=\"\"", "e=\"\\x\""),
        ("e=\"\"", "1=\"\""),
        ("\\\"d\\\"", "\"d\""),
        ("2.5\n", "2.5"),
    ] {
        assert!(good.contains(from), "{from}");
        assert!(exposition::parse(&good.replace(from, to)).is_err(), "{from} -> {to}");
    }
    for (from, to) in [
        ("le=\"1\"} 1", "le=\"1\"} 3"),
        ("le=\"+Inf\"", "le=\"0.5\""),
        ("le=\"+Inf\"", "le=\"2\""),
        ("h_seconds_count 2", "h_seconds_count 3"),
        ("h_seconds_sum 3\n", ""),
        ("h_seconds", "h_count"),
    ] {
        assert!(histogram.contains(from), "{from}");
        assert!(exposition::parse(&histogram.replace(from, to)).is_err(), "{from} -> {to}");
    }
    assert!(exposition::parse(&format!("{good}{good}")).is_err(), "two blocks of one name");
}
