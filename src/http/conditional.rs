//! Preconditions (RFC 9110 section 13): what `If-Match` and `If-None-Match` say, and whether a row meets it. Pure.
//! Parsed by [`crate::api`]; judged on a cached row by it, and on the database's row by [`crate::store::judge`].

use crate::http::problem::{Kind, Problem};
use crate::http::request::{Extras, List};

/// The preconditions of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

impl Preconditions {
    /// What they take.
    pub fn bytes(&self) -> usize {
        let listed = |tags: &Option<Tags>| match tags {
            Some(Tags::These(versions)) => size_of_val(&versions[..]),
            Some(Tags::Any) | None => 0,
        };
        listed(&self.if_match) + listed(&self.if_none_match)
    }
}

/// What a field lists.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    /// `*`: any row there is.
    Any,
    /// Rows of these versions. Tags that no row here can have are left out: they match nothing.
    These(Vec<u32>),
}

/// What there is of a key, as far as preconditions look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Current {
    /// No row.
    Absent,
    /// A row of this version.
    Version(u32),
    /// A row that is being written: no client can know its version yet.
    Unversioned,
}

/// How a GET goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As if there were no preconditions.
    Proceed,
    /// The client has this row already: 304.
    NotModified,
    /// 412.
    Failed,
}

impl Preconditions {
    /// The preconditions of a request, if it has any.
    pub fn parse(extras: &Extras<'_>) -> Result<Option<Box<Preconditions>>, Problem> {
        if extras.lists.is_empty() {
            return Ok(None);
        }
        let if_match = Tags::parse(extras, List::IfMatch, Comparison::Strong)?;
        let if_none_match = Tags::parse(extras, List::IfNoneMatch, Comparison::Weak)?;
        let some = if_match.is_some() || if_none_match.is_some();
        Ok(some.then(|| Box::new(Preconditions { if_match, if_none_match })))
    }

    /// The same out of text, as `if_match` and `if_none_match` of a batch give it.
    pub fn from_text(
        if_match: Option<&str>,
        if_none_match: Option<&str>,
    ) -> Result<Option<Box<Preconditions>>, Problem> {
        let lists = [(List::IfMatch, if_match), (List::IfNoneMatch, if_none_match)];
        let lists = lists.into_iter().filter_map(|(list, text)| Some((list, text?.as_bytes()))).collect();
        Preconditions::parse(&Extras { lists, ..Extras::default() })
    }

    /// Whether a write may go on.
    pub fn allow(&self, current: Current) -> bool {
        self.if_match.as_ref().is_none_or(|tags| tags.match_row(current))
            && self.if_none_match.as_ref().is_none_or(|tags| !tags.match_row(current))
    }

    /// How a read goes on (section 13.2.2: `If-Match` comes first).
    pub fn on_read(&self, current: Current) -> Verdict {
        match (&self.if_match, &self.if_none_match) {
            (Some(tags), _) if !tags.match_row(current) => Verdict::Failed,
            (_, Some(tags)) if tags.match_row(current) => Verdict::NotModified,
            _ => Verdict::Proceed,
        }
    }

    /// True where a GET asks for something else than what it has: it can wait for it.
    pub fn has_if_none_match(&self) -> bool {
        self.if_none_match.is_some()
    }
}

/// RFC 9110 section 8.8.3.2. All our tags are strong; a client, or a proxy, may have made a weak one of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

impl Tags {
    fn parse(extras: &Extras<'_>, list: List, comparison: Comparison) -> Result<Option<Tags>, Problem> {
        let mut tags: Option<Tags> = None;
        for line in extras.lines(list) {
            let line = line.trim_ascii();
            if line == b"*" {
                if tags.is_some() {
                    return Err(bad("* stands alone"));
                }
                tags = Some(Tags::Any);
                continue;
            }
            let Tags::These(versions) = tags.get_or_insert(Tags::These(Vec::new())) else {
                return Err(bad("* stands alone"));
            };
            parse_line(line, comparison, versions)?;
        }
        Ok(tags)
    }

    fn match_row(&self, current: Current) -> bool {
        match (self, current) {
            (_, Current::Absent) => false,
            (Tags::Any, Current::Version(_) | Current::Unversioned) => true,
            (Tags::These(versions), Current::Version(version)) => versions.contains(&version),
            (Tags::These(_), Current::Unversioned) => false,
        }
    }
}

/// `#entity-tag`: commas between them, and empty elements are skipped (section 5.6.1).
fn parse_line(mut rest: &[u8], comparison: Comparison, versions: &mut Vec<u32>) -> Result<(), Problem> {
    loop {
        while let [b',' | b' ' | b'\t', more @ ..] = rest {
            rest = more;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let (weak, quoted) = match rest {
            [b'W', b'/', b'"', quoted @ ..] => (true, quoted),
            [b'"', quoted @ ..] => (false, quoted),
            _ => return Err(bad("an entity tag stands in double quotes")),
        };
        let Some(end) = quoted.iter().position(|b| *b == b'"') else {
            return Err(bad("an entity tag ends in a double quote"));
        };
        if let Some(version) = version_of(&quoted[..end]).filter(|_| !weak || comparison == Comparison::Weak)
        {
            versions.push(version);
        }
        rest = quoted[end + 1..].trim_ascii_start();
        if !matches!(rest, [] | [b',', ..]) {
            return Err(bad("a comma stands between entity tags"));
        }
    }
}

/// The version in a tag of ours. Tags are compared letter by letter: `01` is none of ours.
fn version_of(opaque: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(opaque).ok()?;
    let version: u32 = text.parse().ok()?;
    let ours = !text.starts_with('+') && (text.len() == 1 || !text.starts_with('0'));
    ours.then_some(version)
}

fn bad(detail: &'static str) -> Problem {
    Problem::new(Kind::BadCondition, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lists: &[(List, &'static str)]) -> Result<Option<Box<Preconditions>>, u16> {
        let lists = lists.iter().map(|(list, line)| (*list, line.as_bytes())).collect();
        Preconditions::parse(&Extras { lists, ..Extras::default() }).map_err(|problem| problem.status())
    }

    #[test]
    fn every_condition_is_met_by_the_rows_of_its_row() {
        use Current::{Absent, Unversioned, Version};
        // The lines, and whether a write goes on where there is no row, version 5, version 6, a row being written.
        for (list, lines, absent, five, six, unversioned) in [
            (List::IfMatch, &["*"][..], false, true, true, true),
            (List::IfMatch, &["\"5\""], false, true, false, false),
            (List::IfMatch, &["\"7\" , ,\"5\","], false, true, false, false),
            (List::IfMatch, &["\"7\"", "\"6\""], false, false, true, false),
            (List::IfMatch, &["W/\"5\""], false, false, false, false),
            (List::IfMatch, &["\"05\", \"+5\", \"\", \"a,5\", \"99999999999\""], false, false, false, false),
            (List::IfNoneMatch, &["*"], true, false, false, false),
            (List::IfNoneMatch, &["\"5\""], true, false, true, true),
            (List::IfNoneMatch, &["W/\"5\""], true, false, true, true),
        ] {
            let lists: Vec<_> = lines.iter().map(|line| (list, *line)).collect();
            let conditions = parse(&lists).unwrap().expect("there is a condition");
            let got = [Absent, Version(5), Version(6), Unversioned].map(|current| conditions.allow(current));
            assert_eq!(got, [absent, five, six, unversioned], "{list:?} {lines:?}");
        }
    }

    #[test]
    fn a_read_fails_before_it_is_not_modified() {
        let both = parse(&[(List::IfNoneMatch, "\"5\""), (List::IfMatch, "\"5\"")]).unwrap().unwrap();
        assert_eq!(both.on_read(Current::Version(5)), Verdict::NotModified);
        assert_eq!(both.on_read(Current::Version(6)), Verdict::Failed);
        let none = parse(&[(List::IfNoneMatch, "*")]).unwrap().unwrap();
        assert_eq!(none.on_read(Current::Version(1)), Verdict::NotModified);
        assert_eq!(none.on_read(Current::Absent), Verdict::Proceed);
    }

    #[test]
    fn what_is_no_list_of_tags_is_refused() {
        for line in ["5", "\"5", "\"5\" \"6", "\"5\" \"6\"", "\"5\"\"6\"", "w/\"5\"", "*, \"5\"", "W/5"] {
            assert_eq!(parse(&[(List::IfMatch, line)]), Err(400), "{line}");
        }
        assert_eq!(parse(&[(List::IfMatch, "*"), (List::IfMatch, "\"5\"")]), Err(400));
        assert_eq!(parse(&[(List::IfMatch, "\"5\""), (List::IfMatch, "*")]), Err(400));
        assert_eq!(parse(&[(List::CacheControl, "no-cache")]), Ok(None));
    }
}
