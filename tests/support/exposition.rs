//! Reads `/metrics` and takes nothing that is not exactly right: the text format of Prometheus, and the rules for names
//! that its own `promtool check metrics` holds.

use std::collections::{BTreeMap, BTreeSet};

/// All series of one name.
#[derive(Debug)]
pub struct Family {
    /// The name.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// What it is said to mean.
    pub help: String,
    /// Every series: suffix, labels in their order, value.
    pub samples: Vec<Sample>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The name as it stands there, with the suffix of a histogram's parts.
    pub name: String,
    /// Labels with their values.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

/// Reads a page; fails with what is wrong.
pub fn parse(page: &str) -> Result<Vec<Family>, String> {
    if !page.ends_with('\n') {
        return Err("the last line does not end".into());
    }
    let mut families: Vec<Family> = Vec::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, help) = line
            .strip_prefix("# HELP ")
            .and_then(|rest| rest.split_once(' '))
            .ok_or_else(|| format!("no help: {line}"))?;
        let kind = lines
            .next()
            .and_then(|line| line.strip_prefix(&format!("# TYPE {name} ")))
            .ok_or_else(|| format!("no type behind the help of {name}"))?;
        let mut samples = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            samples.push(sample(line).ok_or_else(|| format!("no sample: {line}"))?);
        }
        let family = Family { name: name.into(), kind: kind.into(), help: help.into(), samples };
        check(&family).map_err(|rule| format!("{name}: {rule}"))?;
        families.push(family);
    }
    let names: BTreeSet<&str> = families.iter().map(|family| family.name.as_str()).collect();
    if names.len() < families.len() {
        return Err("a name has two blocks".into());
    }
    Ok(families)
}

fn check(family: &Family) -> Result<(), String> {
    let Family { name, kind, help, samples } = family;
    if !is_name(name) || name.contains(':') || name.to_lowercase() != *name {
        return Err("that is no name".into());
    }
    if help.len() < 5 {
        return Err("that is no help".into());
    }
    let parts = ["_bucket", "_sum", "_count"];
    let own = match kind.as_str() {
        "counter" if !name.ends_with("_total") => return Err("a counter ends in _total".into()),
        "gauge" | "histogram" if name.ends_with("_total") => {
            return Err("only a counter ends in _total".into());
        }
        "counter" | "gauge" => [""].as_slice(),
        "histogram" => &parts,
        _ => return Err(format!("{kind} is no type")),
    };
    if parts.iter().any(|part| name.ends_with(part)) {
        return Err("the name ends like a part of a histogram".into());
    }
    // Prometheus' base units, spelled out: never ms, kilobytes, percent.
    let words: Vec<&str> = name.split('_').collect();
    let wrong =
        ["milliseconds", "microseconds", "nanoseconds", "ms", "us", "ns", "minutes", "hours", "kilobytes"];
    if let Some(unit) = words.iter().find(|word| wrong.contains(word) || **word == "percent") {
        return Err(format!("{unit} is no base unit"));
    }
    let mut seen = BTreeSet::new();
    for sample in samples {
        let suffix = sample.name.strip_prefix(name.as_str()).ok_or("a sample of another name")?;
        if !own.contains(&suffix) {
            return Err(format!("a sample called {}", sample.name));
        }
        let labels: BTreeSet<&str> = sample.labels.iter().map(|(label, _)| label.as_str()).collect();
        if labels.len() < sample.labels.len() || !labels.iter().all(|label| is_name(label)) {
            return Err(format!("bad labels: {sample:?}"));
        }
        if !seen.insert((sample.name.clone(), sample.labels.clone())) {
            return Err(format!("twice: {sample:?}"));
        }
        if kind == "counter" && (sample.value < 0.0 || !sample.value.is_finite()) {
            return Err(format!("a counter of {}", sample.value));
        }
    }
    if kind == "histogram" { check_buckets(family) } else { Ok(()) }
}

/// Buckets grow, end with +Inf, and have a sum and a count that agree.
fn check_buckets(family: &Family) -> Result<(), String> {
    let mut series: BTreeMap<Vec<(String, String)>, Vec<&Sample>> = BTreeMap::new();
    for sample in &family.samples {
        let labels = sample.labels.iter().filter(|(label, _)| label != "le").cloned().collect();
        series.entry(labels).or_default().push(sample);
    }
    for (labels, samples) in series {
        let [buckets @ .., sum, count] = samples.as_slice() else { return Err("too few parts".into()) };
        if !sum.name.ends_with("_sum") || !count.name.ends_with("_count") {
            return Err(format!("{labels:?} has no sum and count"));
        }
        let mut last = (f64::NEG_INFINITY, 0.0);
        for bucket in buckets {
            let le = bucket.labels.iter().find(|(label, _)| label == "le").ok_or("a bucket without le")?;
            let bound = le.1.parse::<f64>().map_err(|_| format!("le {}", le.1))?;
            if bound <= last.0 || bucket.value < last.1 {
                return Err(format!("{labels:?}: the buckets do not grow at {}", le.1));
            }
            last = (bound, bucket.value);
        }
        if last.0 != f64::INFINITY || last.1 != count.value {
            return Err(format!("{labels:?}: the last bucket is {last:?}, the count {}", count.value));
        }
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `name{label="value",…} value`
fn sample(line: &str) -> Option<Sample> {
    let name_bytes = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_bytes);
    let mut labels = Vec::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inside.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next()?.1 {
                        'n' => '\n',
                        c @ ('"' | '\\') => c,
                        _ => return None,
                    }),
                    (_, c) => value.push(c),
                }
            };
            labels.push((label.to_owned(), value));
            let after = &after[end + 1..];
            if let Some(after) = after.strip_prefix('}') {
                rest = after;
                break;
            }
            inside = after.strip_prefix(',')?;
        }
    }
    let value = rest.strip_prefix(' ')?;
    let value = if value == "NaN" { return None } else { value.parse().ok()? };
    Some(Sample { name: name.to_owned(), labels, value })
}
