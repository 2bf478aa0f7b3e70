//! Whose scripts may read the answers: the fields that browsers ask for (CORS, the Fetch standard section 3.3), prepared
//! once for each origin that is let in. Knows no resource. Used by [`super::response`], which writes them.

use std::fmt::Write;

/// Who an answer is for, as a browser would tell it: the number of a prepared block of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audience(u8);

impl Audience {
    /// Nobody in a browser: no field says anything.
    pub const NONE: Audience = Audience(0);
    /// An origin that was not told, or that is not let in.
    const STRANGER: Audience = Audience(1);

    /// Its place in a table of all.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The fields for one audience.
#[derive(Clone, Debug, Default)]
struct Block {
    /// In every answer.
    fields: String,
    /// In place of them in answers that depend on `Accept`, too: one `Vary` for all reasons.
    by_accept: String,
    /// This audience may read what is answered.
    shares: bool,
}

/// All audiences, and what is said to each.
#[derive(Clone, Debug)]
pub struct Audiences {
    /// The origins that are told from each other, in the order of their blocks.
    origins: Vec<Box<[u8]>>,
    /// [`Audience::NONE`], then a stranger if there are others at all, then one for each origin.
    blocks: Vec<Block>,
}

/// Fields of answers that a script may look at. Those that the Fetch standard lets it see anyway are here as well:
/// whoever reads a dump finds all of them.
const EXPOSED: &str = "Age, Allow, Cache-Control, Cache-Status, Content-Length, Date, ETag, Expires, Link, Location, Preference-Applied, \
    Retry-After, Vary, WWW-Authenticate, X-Request-Id";

impl Audiences {
    /// For these origins; `*` is everyone, nothing nobody.
    pub fn new(origins: &[String]) -> Audiences {
        let mut blocks = vec![Block::new(None, false)];
        let everyone = origins.iter().any(|origin| origin == "*");
        let mut told_apart = Vec::new();
        if everyone {
            // The same for all, so that a shared cache need not keep one answer for each.
            blocks.push(Block::new(Some("*"), false));
        } else if !origins.is_empty() {
            blocks.push(Block::new(None, true));
            for origin in origins {
                blocks.push(Block::new(Some(origin), true));
                told_apart.push(origin.as_bytes().into());
            }
        }
        Audiences { origins: told_apart, blocks }
    }

    /// All of them, in the order of their places.
    pub fn all(&self) -> impl Iterator<Item = Audience> + use<> {
        (0..=u8::MAX).take(self.blocks.len()).map(Audience)
    }

    /// Who asks, by the `Origin` of a request.
    #[inline]
    pub fn of(&self, origin: Option<&[u8]>) -> Audience {
        if self.blocks.len() == 1 { Audience::NONE } else { self.find(origin) }
    }

    fn find(&self, origin: Option<&[u8]>) -> Audience {
        let at = origin.and_then(|origin| self.origins.iter().position(|known| **known == *origin));
        let at = at.and_then(|at| u8::try_from(at + 1 + Audience::STRANGER.index()).ok());
        at.map_or(Audience::STRANGER, Audience)
    }

    /// What every answer to it carries.
    pub(super) fn fields(&self, audience: Audience) -> &str {
        &self.blocks[audience.index()].fields
    }

    /// The same where the answer depends on `Accept`.
    pub(super) fn fields_by_accept(&self, audience: Audience) -> &str {
        &self.blocks[audience.index()].by_accept
    }

    /// True where it may read what it is answered.
    pub fn shares(&self, audience: Audience) -> bool {
        self.blocks[audience.index()].shares
    }
}

impl Block {
    fn new(allowed: Option<&str>, varies: bool) -> Block {
        let access = allowed.map_or_else(String::new, |origin| {
            format!("Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Expose-Headers: {EXPOSED}\r\n")
        });
        let (mut fields, mut by_accept) = (access.clone(), access);
        let (plain, accept) = if varies { ("Vary: Origin\r\n", "Accept, Origin") } else { ("", "Accept") };
        fields.push_str(plain);
        write!(by_accept, "Vary: {accept}\r\n").expect("a string takes all that is written to it");
        Block { fields, by_accept, shares: allowed.is_some() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audiences(origins: &[&str]) -> Audiences {
        Audiences::new(&origins.iter().map(|origin| (*origin).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn nobody_is_told_anything_unless_somebody_is_let_in() {
        let none = audiences(&[]);
        for origin in [None, Some(&b"https://a.example"[..])] {
            let audience = none.of(origin);
            assert_eq!((audience, none.fields(audience), none.shares(audience)), (Audience::NONE, "", false));
            assert_eq!(none.fields_by_accept(audience), "Vary: Accept\r\n");
        }
    }

    #[test]
    fn everyone_is_told_the_same() {
        let all = audiences(&["*"]);
        assert_eq!(all.of(None), all.of(Some(b"null")));
        let fields = all.fields(all.of(None));
        assert!(fields.starts_with("Access-Control-Allow-Origin: *\r\n") && !fields.contains("Vary:"));
        assert!(all.fields_by_accept(all.of(None)).ends_with("\r\nVary: Accept\r\n"));
    }

    #[test]
    fn an_origin_is_told_its_own_name_and_no_other_is_told_any() {
        let some = audiences(&["https://a.example", "http://b.example:81"]);
        for (origin, named) in [
            (Some("https://a.example"), Some("https://a.example")),
            (Some("http://b.example:81"), Some("http://b.example:81")),
            (Some("http://b.example"), None),
            (Some("https://a.example.evil"), None),
            (Some("null"), None),
            (Some("*"), None),
            (Some(""), None),
            (None, None),
        ] {
            let audience = some.of(origin.map(str::as_bytes));
            let fields = some.fields(audience);
            let found = fields.split("\r\n").find_map(|l| l.strip_prefix("Access-Control-Allow-Origin: "));
            assert_eq!((found, some.shares(audience)), (named, named.is_some()), "{origin:?}");
            assert!(fields.ends_with("Vary: Origin\r\n"), "{origin:?}: {fields}");
            assert!(some.fields_by_accept(audience).ends_with("Vary: Accept, Origin\r\n"));
            assert_ne!(audience, Audience::NONE);
        }
    }
}
