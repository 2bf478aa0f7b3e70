//! What a client may ask for, and what it knows of the answer: one thing a request.

use super::{KEYS, LARGE_KEYS, NUMBERS, Outcome, Owner};
use crate::client::Answer;
use crate::known::State;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl Owner {
    pub fn get(&mut self) {
        let key = self.some_key(KEYS);
        let name = self.name(key);
        let (method, fields) = match self.rng.u32(..100) {
            0..3 => ("GET", "Cache-Control: no-cache\r\n"),
            3..5 => ("GET", "Cache-Control: no-store\r\n"),
            _ => ("GET", ""),
        };
        if let Outcome::Answered(answer, sent, answered) =
            self.request(method, &format!("/kv/{name}"), fields, b"", &[200, 404])
        {
            let found = (answer.status == 200).then_some(answer.body.as_slice());
            let verdict = self.keys[key].found(found, answer.etag, sent, answered);
            self.judge(verdict, &name, sent, answered);
        }
    }

    pub fn get_if_changed(&mut self) {
        let key = self.some_key(KEYS);
        let Some(etag) = self.keys[key].etag.clone() else { return };
        let name = self.name(key);
        let fields = format!("If-None-Match: {etag}\r\n");
        let expected = match self.keys[key].certain() {
            Some(_) => &[304][..],
            None => &[200, 304, 404],
        };
        self.request("GET", &format!("/kv/{name}"), &fields, b"", expected);
    }

    pub fn get_many(&mut self) {
        let keys: Vec<usize> = (0..8).map(|_| self.some_key(KEYS)).collect();
        let query: Vec<String> = keys.iter().map(|key| format!("key={}", self.name(*key))).collect();
        let target = format!("/kv?{}", query.join("&"));
        let Outcome::Answered(answer, sent, answered) = self.request("GET", &target, "", b"", &[200]) else {
            return;
        };
        let items = items(&answer);
        let verdict = if items.len() == keys.len() { Ok(()) } else { Err("not an item for each key".into()) };
        self.judge(verdict, &target, sent, answered);
        for (key, item) in keys.into_iter().zip(items) {
            self.read_item(key, &item, sent, answered);
        }
    }

    /// An item that a read was answered with.
    fn read_item(&mut self, key: usize, item: &Value, sent: Instant, answered: Instant) {
        let name = self.name(key);
        let etag = item["etag"].as_str().map(str::to_owned);
        let verdict = match item["status"].as_u64() {
            Some(200) => match item["value"].as_str() {
                Some(text) => self.keys[key].found(Some(text.as_bytes()), etag, sent, answered),
                None => Err("200 and no value".to_owned()),
            },
            Some(404) => self.keys[key].found(None, None, sent, answered),
            // There was no room for its value.
            Some(413) => Ok(()),
            Some(status) => {
                return self.note(sent, answered, status as u16, format!("item: {}", short(item)));
            }
            None => Err("an item without a status".to_owned()),
        };
        self.judge(verdict, &name, sent, answered);
    }

    pub fn put(&mut self) {
        let ttl = (self.rng.u32(..3) == 0).then(|| self.rng.u64(1..120));
        let (key, state) = self.some_write(ttl);
        let name = self.name(key);
        let query = ttl.map_or(String::new(), |ttl| format!("?ttl={ttl}"));
        let fields = if self.rng.bool() { "Prefer: return=minimal\r\n" } else { "" };
        let target = format!("/kv/{name}{query}");
        let sent = Instant::now();
        let outcome = self.request("PUT", &target, fields, state.text().as_bytes(), &[200, 201, 204]);
        let state = match (state, ttl.map(Duration::from_secs)) {
            (State::Value { start, bytes, .. }, Some(ttl)) => {
                State::Value { start, bytes, expires: Some((sent + ttl, Instant::now() + ttl)) }
            }
            (state, _) => state,
        };
        match outcome {
            Outcome::Answered(answer, sent, answered) => {
                let right = match answer.status {
                    201 => !matches!(self.keys[key].certain(), Some(State::Value { .. })),
                    204 => !fields.is_empty(),
                    _ => fields.is_empty() && answer.body == state.text().as_bytes(),
                };
                let verdict = if right { Ok(()) } else { Err(format!("{} to a write", answer.status)) };
                self.judge(verdict, &name, sent, answered);
                self.keys[key].is_now(state, answer.etag);
            }
            Outcome::Refused => {}
            // It expires so long after it happens, and nobody knows when that is.
            Outcome::Unknown if ttl.is_some() => {
                self.keys[key].may_be(state);
                self.keys[key].may_be(State::Anything);
            }
            Outcome::Unknown => self.keys[key].may_be(state),
        }
    }

    pub fn delete(&mut self) {
        let key = self.some_key(KEYS);
        let name = self.name(key);
        match self.request("DELETE", &format!("/kv/{name}"), "", b"", &[204, 404]) {
            Outcome::Answered(answer, sent, answered) => {
                let right = match self.keys[key].certain() {
                    Some(State::Value { .. }) => answer.status == 204,
                    Some(_) => answer.status == 404,
                    None => true,
                };
                let verdict = if right { Ok(()) } else { Err(format!("{} to a DELETE", answer.status)) };
                self.judge(verdict, &name, sent, answered);
                self.keys[key].is_now(State::Absent, None);
            }
            Outcome::Refused => {}
            Outcome::Unknown => self.keys[key].may_be(State::Absent),
        }
    }

    /// A compare-and-swap that must succeed, one that must not, or a creation.
    pub fn put_conditionally(&mut self) {
        let (mut key, state) = self.some_write(None);
        if self.rng.bool() {
            // One that has a version.
            let tries: Vec<usize> = (0..20).map(|_| self.some_key(LARGE_KEYS)).collect();
            key = tries.into_iter().find(|key| self.keys[*key].etag.is_some()).unwrap_or(key);
        }
        let known = &self.keys[key];
        let (fields, expected) = match (known.certain(), &known.etag, self.rng.u32(..4)) {
            (Some(State::Value { .. }), Some(etag), 0 | 1) => (format!("If-Match: {etag}\r\n"), &[200][..]),
            (_, _, 2) => ("If-Match: \"1\"\r\n".to_owned(), &[412][..]),
            (Some(State::Value { .. }), _, _) => ("If-None-Match: *\r\n".to_owned(), &[412][..]),
            (Some(State::Absent), _, _) => ("If-None-Match: *\r\n".to_owned(), &[201][..]),
            _ => ("If-None-Match: *\r\n".to_owned(), &[201, 412][..]),
        };
        let name = self.name(key);
        match self.request("PUT", &format!("/kv/{name}"), &fields, state.text().as_bytes(), expected) {
            Outcome::Answered(answer, ..) if answer.status == 412 => {}
            Outcome::Answered(answer, ..) => self.keys[key].is_now(state, answer.etag),
            Outcome::Refused => {}
            Outcome::Unknown => self.keys[key].may_be(state),
        }
    }

    /// A number that only we add to.
    pub fn add(&mut self) {
        let at = self.rng.usize(..NUMBERS);
        let by = self.rng.i64(-5..100);
        let name = format!("{}-{}-number-{at}", self.target.name, self.number);
        let target = format!("/kv/{name}?op=incr&by={by}");
        let (least, most) = self.numbers[at];
        match self.request("POST", &target, "", b"", &[200, 201]) {
            Outcome::Answered(answer, sent, answered) => {
                let sum = std::str::from_utf8(&answer.body).ok().and_then(|text| text.parse::<i64>().ok());
                let verdict = match sum {
                    Some(sum) if (least + by..=most + by).contains(&sum) => {
                        self.numbers[at] = (sum, sum);
                        Ok(())
                    }
                    _ => {
                        self.numbers[at] = (i64::MIN / 2, i64::MAX / 2);
                        Err(format!("sum {sum:?}, expected {} to {}", least + by, most + by))
                    }
                };
                self.judge(verdict, &name, sent, answered);
            }
            Outcome::Refused => {}
            Outcome::Unknown => self.numbers[at] = (least.min(least + by), most.max(most + by)),
        }
    }

    pub fn add_to_shared(&mut self) {
        let target = format!("/kv/{}-shared?op=incr", self.target.name);
        match self.request("POST", &target, "", b"", &[200, 201]) {
            Outcome::Answered(..) => self.target.shared.fetch_add(1, Ordering::Relaxed),
            Outcome::Refused => 0,
            Outcome::Unknown => self.target.shared_unknown.fetch_add(1, Ordering::Relaxed),
        };
    }

    pub fn batch(&mut self) {
        let mut writes: Vec<(usize, State)> = Vec::new();
        for _ in 0..6 {
            let (key, state) = self.some_write(None);
            if writes.iter().all(|(other, _)| *other != key) {
                writes.push((key, state));
            }
        }
        let reads: Vec<usize> =
            (0..4).map(|_| self.some_key(KEYS)).filter(|key| writes.iter().all(|(k, _)| k != key)).collect();
        let operations: Vec<Value> = writes
            .iter()
            .map(|(key, state)| json!({"op": "set", "key": self.name(*key), "value": state.text()}))
            .chain(reads.iter().map(|key| json!({"op": "get", "key": self.name(*key)})))
            .collect();
        let target = if self.rng.bool() { "/batch" } else { "/batch?atomic=true" };
        let body = Value::Array(operations).to_string();
        match self.request("POST", target, "Content-Type: application/json\r\n", body.as_bytes(), &[200, 404])
        {
            Outcome::Answered(answer, sent, answered) => {
                let items = items(&answer);
                let right = items.len() == writes.len() + reads.len();
                let verdict = if right { Ok(()) } else { Err("not an item for each operation".to_owned()) };
                self.judge(verdict, target, sent, answered);
                for ((key, state), item) in writes.iter().zip(&items) {
                    match item["status"].as_u64() {
                        Some(200 | 201) => {
                            let etag = item["etag"].as_str().map(str::to_owned);
                            self.keys[*key].is_now(state.clone(), etag);
                        }
                        // A GET of an atomic batch found no row.
                        Some(424) => {}
                        Some(status) => {
                            self.note(sent, answered, status as u16, format!("item: {}", short(item)));
                            if status == 504 {
                                self.keys[*key].may_be(state.clone());
                            }
                        }
                        None => self.judge(Err("no status".into()), &short(item), sent, answered),
                    }
                }
                for (key, item) in reads.iter().zip(items.iter().skip(writes.len())) {
                    if item["status"].as_u64() != Some(424) {
                        self.read_item(*key, item, sent, answered);
                    }
                }
            }
            Outcome::Refused => {}
            Outcome::Unknown => {
                for (key, state) in writes {
                    self.keys[key].may_be(state);
                }
            }
        }
    }

    /// Our keys that begin with some digit: a page, or all as lines.
    pub fn list(&mut self, export: bool) {
        let (fields, query) = match (export, self.rng.bool()) {
            (true, _) => ("Accept: application/x-ndjson\r\n", ""),
            (false, true) => ("", "&limit=50&values=true"),
            (false, false) => ("", "&limit=500"),
        };
        let digits = if export { self.rng.usize(10..100) } else { self.rng.usize(1..100) };
        let (prefix, lasting) = (self.name(digits), self.lasting(digits));
        let target = format!("/kv?prefix={prefix}{query}");
        let Outcome::Answered(answer, sent, answered) = self.request("GET", &target, fields, b"", &[200])
        else {
            return;
        };
        // What does not parse is an item without a key.
        let (items, goes_on) = if export {
            let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            (lines.map(|line| serde_json::from_slice(line).unwrap_or_default()).collect(), false)
        } else {
            let page: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            (items(&answer), page["cursor"].is_string())
        };
        let keys: Vec<&str> = items.iter().map(|item| item["key"].as_str().unwrap_or_default()).collect();
        // Of a page that others follow, what stands behind its last key may be on those.
        let last = goes_on.then(|| keys.last().copied().unwrap_or_default());
        let missing: Vec<&String> = lasting
            .iter()
            .filter(|name| last.is_none_or(|last| name.as_str() <= last))
            .filter(|name| keys.binary_search(&name.as_str()).is_err())
            .collect();
        let verdict = match missing.first() {
            Some(name) => Err(format!("{} of {} are missing, as {name}", missing.len(), lasting.len())),
            None if goes_on && keys.is_empty() => Err("a page without a key that others follow".into()),
            None if !keys.is_sorted_by(|one, next| one < next) => Err("it is not in order".into()),
            None => Ok(()),
        };
        self.judge(verdict, &target, sent, answered);
        let own = self.name(0);
        let own = own.trim_end_matches('0');
        for (item, name) in items.iter().zip(keys) {
            let key = name.strip_prefix(own).and_then(|key| key.parse::<usize>().ok());
            let known = key.filter(|_| name.starts_with(&prefix)).and_then(|key| self.keys.get_mut(key));
            let verdict = match (known, item["value"].as_str()) {
                (Some(known), Some(value)) => {
                    let etag = item["etag"].as_str().map(str::to_owned);
                    known.found(Some(value.as_bytes()), etag, sent, answered)
                }
                (Some(known), None) if known.certain() != Some(&State::Absent) => Ok(()),
                _ => Err(format!("{name} is listed in {target}")),
            };
            self.judge(verdict, name, sent, answered);
        }
    }

    /// Our keys that begin with these digits and certainly have values that stay.
    fn lasting(&self, digits: usize) -> Vec<String> {
        let mut keys = Vec::new();
        let (mut from, mut count) = (digits, 1);
        while from < KEYS {
            keys.extend(from..(from + count).min(KEYS));
            (from, count) = (from * 10, count * 10);
        }
        keys.retain(|key| matches!(self.keys[*key].certain(), Some(State::Value { .. })));
        keys.into_iter().map(|key| self.name(key)).collect()
    }
}

fn items(answer: &Answer) -> Vec<Value> {
    let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    json["items"].as_array().cloned().unwrap_or_default()
}

fn short(item: &Value) -> String {
    item["problem"].as_str().unwrap_or("no problem").replace("urn:hotrow:problem:", "")
}
