//! Where the address of the database comes from: a flag, a file, or one of two variables. Called by [`super::read`].

use super::settings::{Origin, Setting, mask_url};
use super::{Config, Stop};
use crate::secrets;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The variable that many programs read, where nothing else is said.
const USUAL: &str = "DATABASE_URL";
const URL: &str = "database-url";
const FILE: &str = "database-url-file";

/// The address of the database, if one is given, and what gave it, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub url: Option<String>,
    pub by: String,
    /// The file that it was read from.
    pub file: Option<PathBuf>,
}

/// Of a URL and a file with one, a flag wins over a variable; two of a kind contradict each other. Where there is neither, the
/// usual variable counts. An empty URL says that there is none, whatever that variable says.
pub(super) fn given(
    url: Option<String>,
    file: Option<PathBuf>,
    settings: &mut [Setting],
    usual: Option<OsString>,
) -> Result<Given, Stop> {
    let origin = |name: &str| {
        settings.iter().find(|setting| setting.name == name).map_or(Origin::Default, |setting| setting.origin)
    };
    let (url, file) = match (url, file) {
        (Some(url), Some(file)) => match (origin(URL), origin(FILE)) {
            (Origin::Flag, Origin::Environment) => (Some(url), None),
            (Origin::Environment, Origin::Flag) => (None, Some(file)),
            (Origin::Environment, _) => {
                return Err(contradiction("HOTROW_DATABASE_URL and HOTROW_DATABASE_URL_FILE"));
            }
            _ => return Err(contradiction("--database-url and --database-url-file")),
        },
        one => one,
    };
    let (url, by) = match (url, &file) {
        (_, Some(file)) => (Some(read(file)?), format!("--{FILE} {}", file.display())),
        (Some(url), None) => (Some(url), format!("--{URL}")),
        (None, None) => {
            let usual = usual.map(OsString::into_string).transpose();
            // As if it were not there, another database would be served.
            let usual = usual.map_err(|_| Stop::Unusable(format!("{USUAL} is not UTF-8")))?;
            if let (Some(usual), Some(setting)) =
                (usual.as_ref().filter(|url| !url.is_empty()), settings.iter_mut().find(|s| s.name == URL))
            {
                setting.value = Some(mask_url(usual));
                (setting.origin, setting.variable) = (Origin::Environment, Some(USUAL.to_owned()));
            }
            (usual, USUAL.to_owned())
        }
    };
    Ok(Given { url: url.filter(|url| !url.is_empty()), by, file })
}

/// The same, with the variable as it is.
pub(super) fn complete(config: Config, mut settings: Vec<Setting>) -> Result<Config, Stop> {
    let Given { url, by, file } =
        given(config.database_url, config.database_url_file, &mut settings, usual())?;
    Ok(Config { database_url: url, database_url_file: file, database_given_by: by, settings, ..config })
}

/// What [`USUAL`] says.
pub(super) fn usual() -> Option<OsString> {
    std::env::var_os(USUAL)
}

fn contradiction(both: &str) -> Stop {
    Stop::Unusable(format!("{both} are both given: say one of them"))
}

/// The URL in a file.
fn read(file: &Path) -> Result<String, Stop> {
    let unusable = |what: &str| Stop::Unusable(format!("--{FILE} {}: {what}", file.display()));
    let text = secrets::read(file).map_err(|e| unusable(&e.to_string()))?;
    match text.trim() {
        "" => Err(unusable("there is nothing in it")),
        url => Ok(url.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_a_variable_and_two_of_a_kind_contradict_each_other() {
        use Origin::{Environment, Flag};
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        std::fs::write(&file, "in-file\n").unwrap();
        let by_file = format!("--database-url-file {}", file.display());
        for (url, in_file, usual, expected) in [
            (None, None, None, Ok((None, "DATABASE_URL"))),
            (None, None, Some("usual"), Ok((Some("usual"), "DATABASE_URL"))),
            (Some(("", Flag)), None, Some("usual"), Ok((None, "--database-url"))),
            (Some(("url", Environment)), None, Some("usual"), Ok((Some("url"), "--database-url"))),
            (None, Some(Environment), Some("usual"), Ok((Some("in-file"), &by_file))),
            (Some(("url", Flag)), Some(Environment), None, Ok((Some("url"), "--database-url"))),
            (Some(("url", Environment)), Some(Flag), None, Ok((Some("in-file"), &by_file))),
            (Some(("url", Flag)), Some(Flag), None, Err("--database-url-file")),
            (Some(("url", Environment)), Some(Environment), None, Err("HOTROW_DATABASE_URL_FILE")),
        ] {
            let setting = |name: &str, origin: Option<Origin>| Setting {
                name: name.to_owned(),
                value: None,
                origin: origin.unwrap_or(Origin::Default),
                variable: None,
            };
            let mut settings = [setting(URL, url.map(|(_, origin)| origin)), setting(FILE, in_file)];
            let got = given(
                url.map(|(url, _)| url.to_owned()),
                in_file.map(|_| file.clone()),
                &mut settings,
                usual.map(Into::into),
            );
            match (got, expected) {
                (Ok(got), Ok((url, by))) => {
                    assert_eq!((got.url.as_deref(), got.by.as_str()), (url, by));
                    let from_usual = settings[0].variable.as_deref() == Some(USUAL);
                    assert_eq!(from_usual, by == USUAL && url.is_some());
                }
                (Err(Stop::Unusable(line)), Err(part)) => assert!(line.contains(part), "{line}"),
                (got, expected) => panic!("{got:?} for {expected:?}"),
            }
        }
    }
}
