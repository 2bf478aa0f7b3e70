//! What is deployed beside the server: the dashboard and the alerts ask for metrics and labels that it really has.

use crate::support::{Server, exposition, left_out};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const RULES: &str = "prometheus-rules.yml";
const RULES_TEST: &str = "prometheus-rules-test.yml";
const DASHBOARD: &str = "grafana-dashboard.json";

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tools/deploy").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap()
}

/// Every series' name that the server sends, with the labels and values that it may have. What appears only once
/// something has happened is added by hand.
fn known(server: &Server) -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let mut client = server.connect();
    client.put("k", "v");
    client.get("k");
    client.request("BREW", "/kv/k", "", b"");
    client.send("broken\r\n\r\n");
    assert_eq!(client.response().status, 400);
    let mut known: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for family in exposition::parse(&server.admin_page("/metrics")).unwrap() {
        for sample in family.samples {
            let labels = known.entry(sample.name).or_default();
            for (label, value) in sample.labels {
                labels.entry(label).or_default().insert(value);
            }
            // Prometheus' own.
            for own in ["instance", "job"] {
                labels.entry(own.to_owned()).or_default();
            }
        }
    }
    known
}

/// Names of metrics in an expression, each with the selector behind it.
fn selectors(expression: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = ["hotrow_", "process_"].iter().filter_map(|prefix| rest.find(prefix)).min() {
        let name: String =
            rest[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        rest = &rest[at + name.len()..];
        let selector = match rest.strip_prefix('{') {
            Some(inside) => inside[..inside.find('}').unwrap()].to_owned(),
            None => String::new(),
        };
        found.push((name, selector));
    }
    found
}

fn check(
    what: &str,
    expression: &str,
    known: &BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
) -> usize {
    let selectors = selectors(expression);
    let mut labels_of_all = BTreeSet::from(["le", "job", "instance"]);
    for (name, selector) in &selectors {
        let labels = known.get(name).unwrap_or_else(|| panic!("{what}: there is no {name}: {expression}"));
        labels_of_all.extend(labels.keys().map(String::as_str));
        for part in selector.split(',').filter(|part| !part.trim().is_empty()) {
            let operator = ["=~", "!~", "="].into_iter().find(|operator| part.contains(operator)).unwrap();
            let (label, value) = part.split_once(operator).unwrap();
            let (label, value) = (label.trim(), value.trim().trim_matches('"'));
            let values = labels.get(label).unwrap_or_else(|| panic!("{what}: {name} has no label {label}"));
            // What is left out need not be there.
            if ["instance", "job"].contains(&label) || operator == "!~" {
                continue;
            }
            for one in value.split('|') {
                let is_one = |known: &String| known == one || one == "5.." && known.starts_with('5');
                assert!(values.iter().any(is_one), "{what}: {name} is never {label}={one}: {values:?}");
            }
        }
    }
    for by in expression.split("by (").skip(1) {
        for label in by[..by.find(')').unwrap()].split(',').map(str::trim) {
            assert!(labels_of_all.contains(label), "{what}: nothing has the label {label}: {expression}");
        }
    }
    selectors.len()
}

#[test]
fn dashboard_and_alerts_ask_for_what_there_is() {
    let server = Server::start(&[]);
    let known = known(&server);
    let dashboard: serde_json::Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let mut used = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        assert!(panel["type"] == "row" || !targets.is_empty(), "{title} shows nothing");
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            assert!(check(title, expression, &known) > 0, "{title}: no metric in {expression}");
            used.extend(selectors(expression).into_iter().map(|(name, _)| name));
        }
    }
    assert!(used.len() > 25, "the dashboard shows only {used:?}");
    let ids: BTreeSet<u64> =
        dashboard["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), dashboard["panels"].as_array().unwrap().len(), "two panels have the same id");

    // Every expression of the rules; what people read stands in quotes behind other words.
    let rules = read(RULES);
    let mut expressions = Vec::new();
    let mut lines = rules.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(expression) = line.trim().strip_prefix("expr: ") else { continue };
        let mut expression = if expression == "|" { String::new() } else { expression.to_owned() };
        while let Some(more) = lines.next_if(|line| {
            line.starts_with("          ") && expression.is_empty() || line.starts_with("            ")
        }) {
            expression.push_str(more.trim());
            expression.push(' ');
        }
        expressions.push(expression);
    }
    assert_eq!(expressions.len(), rules.matches("- alert: ").count());
    for expression in &expressions {
        assert!(check(RULES, expression, &known) > 0 || expression.starts_with("up{"), "{expression}");
    }
}

#[test]
fn prometheus_takes_the_rules_and_they_fire_when_they_should() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return left_out("the alerts, by Prometheus itself", "promtool is not installed");
    }
    for arguments in [["check", "rules", RULES], ["test", "rules", RULES_TEST]] {
        let output = Command::new("promtool").args(arguments).current_dir(file("")).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
    }
}

/// 504 `not-cached` is what `only-if-cached` asks for: whoever looks into the cache alone wakes nobody.
#[test]
fn what_clients_have_asked_for_is_no_failure() {
    let dashboard = read(DASHBOARD).replace("\\\"", "\"");
    for (name, expressions) in [
        (RULES, read(RULES).split("- alert: ").map(str::to_owned).collect::<Vec<_>>()),
        (DASHBOARD, dashboard.split("\"expr\": ").map(str::to_owned).collect()),
    ] {
        let failures =
            |text: &&String| text.contains("hotrow_requests_total{") && text.contains("status=~\"5..\"");
        let mut found = expressions.iter().filter(failures).peekable();
        assert!(found.peek().is_some(), "{name} has no failures");
        for expression in found {
            let asked_for = "rate(hotrow_problems_total{";
            let (_, behind) =
                expression.split_once(asked_for).unwrap_or_else(|| panic!("{name}: {expression}"));
            assert!(
                behind.split('}').next().unwrap().contains("problem=\"not-cached\""),
                "{name}: {expression}"
            );
        }
    }
}

/// These checks can fail.
#[test]
fn what_is_not_there_is_found() {
    let server = Server::start(&[]);
    let known = known(&server);
    for (expression, is_there) in [
        ("sum by (instance) (rate(hotrow_requests_total{status=~\"5..\"}[5m]))", true),
        ("hotrow_cache_hits_total", false),
        ("hotrow_requests_total{code=\"200\"}", false),
        ("hotrow_request_duration_seconds_bucket{kind=\"hits\"}", false),
        ("sum by (colour) (hotrow_connections)", false),
    ] {
        let result = std::panic::catch_unwind(|| check("a test", expression, &known));
        assert_eq!(result.is_ok(), is_there, "{expression}");
    }
}
