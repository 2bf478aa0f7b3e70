//! What a server says of lines that it was sent, and what follows from it. Pure. Used by [`super::import`].

use serde::Deserialize;
use std::time::Duration;

/// What became of lines.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct Report {
    /// So many leading ones are done: stored, or refused.
    pub(super) lines: u64,
    pub(super) written: u64,
    pub(super) failed: u64,
    /// The first of those that were refused.
    #[serde(default)]
    pub(super) errors: Vec<Refused>,
}

/// A line that was refused.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Refused {
    /// Its number among those that were sent, from 1.
    pub(super) line: u64,
    #[serde(default)]
    pub(super) detail: String,
}

/// What follows from an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All lines are done.
    Done(Report),
    /// These are; the others are to be sent again, after a pause that the server may have named.
    Again(Report, String, Option<Duration>),
    /// It would be answered so again.
    Never(String),
}

/// A problem (RFC 9457), as far as it matters here.
#[derive(Default, Deserialize)]
struct Problem {
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
}

/// What is wrong, by a status that says so and the content that came with it.
pub(super) fn reason(status: u16, content: &[u8]) -> String {
    let Problem { title, detail } = serde_json::from_slice(content).unwrap_or_default();
    match (title.as_str(), detail.as_str()) {
        ("", "") => format!("{status}"),
        (title, "") => format!("{status} {title}"),
        (title, detail) => format!("{status} {title}: {detail}"),
    }
}

/// A status that another try may change: the server, its database or what stands before it is busy or away.
pub(super) fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 429 | 502 | 503 | 504)
}

/// What the answer to so many lines means.
pub(super) fn judge(sent: u64, status: u16, retry_after: Option<Duration>, content: &[u8]) -> Verdict {
    let report: Option<Report> = serde_json::from_slice(content).ok();
    match (status, report) {
        (200, Some(report)) if report.lines == sent => Verdict::Done(report),
        (200, Some(Report { lines, .. })) => {
            Verdict::Never(format!("the answer is about {lines} lines, and {sent} were sent"))
        }
        (200, None) => Verdict::Never("the answer is none that hotrow gives".into()),
        (status, report) if may_pass(status) => {
            let report = report.filter(|report| report.lines <= sent).unwrap_or_default();
            Verdict::Again(report, reason(status, content), retry_after)
        }
        (status, _) => Verdict::Never(reason(status, content)),
    }
}

/// A number of seconds (RFC 9110 section 10.2.3); a date is not waited for, hotrow sends none.
pub(super) fn retry_after(field: &str) -> Option<Duration> {
    field.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_row() {
        let report = |lines, written, failed, errors: &[(u64, &str)]| Report {
            lines,
            written,
            failed,
            errors: errors
                .iter()
                .map(|(line, detail)| Refused { line: *line, detail: (*detail).into() })
                .collect(),
        };
        let second = Some(Duration::from_secs(1));
        for (status, content, expected) in [
            (200, r#"{"lines":3,"written":3,"failed":0,"errors":[]}"#, Verdict::Done(report(3, 3, 0, &[]))),
            (
                200,
                r#"{"lines":3,"written":2,"failed":1,"errors":[{"line":2,"status":413,"problem":"urn:p","detail":"d"}]}"#,
                Verdict::Done(report(3, 2, 1, &[(2, "d")])),
            ),
            (
                200,
                r#"{"lines":2,"written":2,"failed":0,"errors":[]}"#,
                Verdict::Never("the answer is about 2 lines, and 3 were sent".into()),
            ),
            (200, "<html>", Verdict::Never("the answer is none that hotrow gives".into())),
            (204, "", Verdict::Never("204".into())),
            (
                503,
                r#"{"type":"urn:p","title":"T","status":503,"detail":"d","lines":2,"written":1,"failed":1,"errors":[{"line":1,"detail":"e"}]}"#,
                Verdict::Again(report(2, 1, 1, &[(1, "e")]), "503 T: d".into(), second),
            ),
            (503, r#"{"title":"T"}"#, Verdict::Again(report(0, 0, 0, &[]), "503 T".into(), second)),
            // More than was sent: not believed.
            (
                504,
                r#"{"title":"T","lines":4,"written":4,"failed":0}"#,
                Verdict::Again(report(0, 0, 0, &[]), "504 T".into(), second),
            ),
            (502, "<html>", Verdict::Again(report(0, 0, 0, &[]), "502".into(), second)),
            (413, r#"{"title":"T","detail":"d"}"#, Verdict::Never("413 T: d".into())),
            (401, r#"{"title":"T","detail":"d"}"#, Verdict::Never("401 T: d".into())),
            (405, "", Verdict::Never("405".into())),
            (500, "", Verdict::Never("500".into())),
        ] {
            assert_eq!(judge(3, status, second, content.as_bytes()), expected, "{status} {content}");
        }
        for (field, expected) in [("2", Some(2)), (" 10 ", Some(10)), ("soon", None), ("-1", None)] {
            assert_eq!(retry_after(field), expected.map(Duration::from_secs), "{field}");
        }
    }
}
