//! What a package consists of agrees with the program: man page, environment file and units. That the package can be
//! installed is shown by `tools/package --check`.

#[allow(dead_code, unreachable_pub)]
#[path = "../tools/package_files.rs"]
mod package_files;

use crate::support::left_out;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// What `systemd-analyze security` may say of the service at most, times ten.
const EXPOSURE: f64 = 1.2;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tools/deploy/debian").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap()
}

/// The values that a unit has for a name.
fn values(unit: &str, name: &str) -> Vec<String> {
    let unit = read(unit);
    unit.lines().filter_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned())).collect()
}

/// The names of the service's settings that are like this.
fn values_named(is_like: impl Fn(&str) -> bool) -> Vec<String> {
    let unit = read("hotrow.service");
    unit.lines()
        .filter_map(|line| Some(line.split_once('=')?.0.to_owned()))
        .filter(|name| is_like(name))
        .collect()
}

#[test]
fn the_man_page_has_every_flag_variable_and_command() {
    let page = package_files::man_page().unwrap().replace("\\-", "-");
    let command = hotrow::config::command();
    let mut flags = 0;
    for sub in command.get_subcommands() {
        assert!(page.contains(&format!("hotrow {}", sub.get_name())), "{}", sub.get_name());
    }
    for arg in command.get_arguments().chain(command.get_subcommands().flat_map(|sub| sub.get_arguments())) {
        if let Some(long) = arg.get_long() {
            flags += 1;
            assert!(page.contains(&format!("--{long}")), "--{long}");
        }
        if let Some(variable) = arg.get_env() {
            assert!(page.contains(variable.to_str().unwrap()), "{variable:?}");
        }
    }
    assert!(flags > 25);
    for section in ["OPTIONS", "COMMANDS", "ENVIRONMENT", "SIGNALS", "FILES", "EXIT STATUS"] {
        assert!(
            page.lines().any(|line| line.trim_matches('"') == format!(".SH {section}")
                || line == format!(".SH \"{section}\"")),
            "{section}"
        );
    }
}

#[test]
fn the_environment_file_has_every_option_with_its_default() {
    let file = package_files::environment_file();
    let commented: Vec<(&str, &str)> =
        file.lines().filter_map(|line| line.strip_prefix("#HOTROW_")?.split_once('=')).collect();
    let unset: BTreeSet<&str> = {
        let mut lines = file.lines().peekable();
        let mut unset = BTreeSet::new();
        while let Some(line) = lines.next() {
            if line.ends_with(" (unset)") {
                unset.extend(lines.peek().unwrap().strip_prefix("#HOTROW_").unwrap().split('=').next());
            }
        }
        unset
    };
    assert!(
        file.lines().all(|line| line.is_empty() || line.starts_with('#')),
        "something is not commented out"
    );
    let known = hotrow::config::command().get_arguments().filter(|arg| arg.get_env().is_some()).count();
    assert_eq!(commented.len(), known);
    // What is said to be the default is what the program says without any of them.
    let config = |set: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hotrow"));
        command.arg("config").env_clear();
        for (name, value) in commented.iter().filter(|(name, _)| set && !unset.contains(name)) {
            command.env(format!("HOTROW_{name}"), value);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("--data-dir "));
        lines.map(|line| line.rsplit_once("  (").unwrap().0.replace("  unset", "  false")).collect::<Vec<_>>()
    };
    let is_switch = |line: &String| line.starts_with("--allow-anonymous");
    let (with, without) = (config(true), config(false));
    assert_eq!(
        with.iter().filter(|line| !is_switch(line)).collect::<Vec<_>>(),
        without.iter().filter(|line| !is_switch(line)).collect::<Vec<_>>()
    );
}

#[test]
fn the_units_agree_with_each_other_and_with_the_defaults() {
    let command = hotrow::config::command();
    let default = |id: &str| {
        let arg = command.get_arguments().find(|arg| arg.get_id() == id).unwrap();
        arg.get_default_values()[0].to_str().unwrap().to_owned()
    };
    assert_eq!(values("hotrow.socket", "ListenStream"), [default("listen")]);
    assert_eq!(values("hotrow-admin.socket", "ListenStream"), [default("admin_listen")]);
    // The names that the server takes its sockets by.
    assert_eq!(values("hotrow.socket", "FileDescriptorName"), ["http"]);
    assert_eq!(values("hotrow-admin.socket", "FileDescriptorName"), ["admin"]);
    assert_eq!(values("hotrow.service", "Sockets"), ["hotrow.socket hotrow-admin.socket"]);
    assert_eq!(values("hotrow.service", "Environment"), ["HOTROW_DATA_DIR=/var/lib/hotrow"]);
    assert_eq!(values("hotrow.service", "StateDirectory"), ["hotrow"]);
    let user = values("hotrow.service", "User");
    assert!(read("hotrow.conf").contains(&format!("u {} ", user[0])));
    let limit: u64 = values("hotrow.service", "LimitNOFILE")[0].parse().unwrap();
    assert!(limit > default("max_connections").parse::<u64>().unwrap() + 1024);
}

/// The unit that the README shows starts and ends the server as the packaged one does.
#[test]
fn the_unit_of_the_readme_is_that_of_the_package() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("# hotrow.service\n").unwrap();
    let (unit, _) = rest.split_once("```").unwrap();
    // Who it runs as, and where its flags and sockets are.
    let own = ["Wants", "PartOf", "After", "Sockets", "EnvironmentFile", "DynamicUser"];
    for line in unit.lines().filter(|line| !line.starts_with('[')) {
        let (name, value) = line.split_once('=').unwrap();
        if !own.contains(&name) {
            assert_eq!(values("hotrow.service", name), [value], "{name}");
        }
    }
    for name in
        values_named(|name| name.starts_with("Restart") || name.starts_with("Kill") || name.contains("Limit"))
    {
        assert!(unit.contains(&format!("{name}=")) || name == "LimitNOFILE", "{name}");
    }
}

/// Each unit is put into the package once and has its life in every script: nothing is left to guess.
#[test]
fn every_unit_is_packed_started_stopped_and_forgotten() {
    let manifest = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let units = ["hotrow.service", "hotrow.socket", "hotrow-admin.socket"];
    let is_unit = |name: &String| name.ends_with(".service") || name.ends_with(".socket");
    let names =
        fs::read_dir(file("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(is_unit).collect::<BTreeSet<_>>(), units.map(str::to_owned).into());
    for unit in units {
        let asset = format!(r#"["tools/deploy/debian/{unit}", "usr/lib/systemd/system/", "644"]"#);
        assert_eq!(manifest.matches(&asset).count(), 1, "{unit}");
        for script in ["scripts/postinst", "scripts/prerm", "scripts/postrm"] {
            assert!(read(script).contains(unit), "{script} says nothing of {unit}");
        }
    }
}

/// And that its exposure is what the README says.
#[test]
fn systemd_finds_the_service_closed() {
    let arguments = ["security", "--offline=true", "--no-pager"];
    let analyze = Command::new("systemd-analyze").args(arguments).arg(file("hotrow.service")).output();
    let what = "the exposure of the service";
    let Ok(output) = analyze else {
        return left_out(what, "systemd-analyze is not installed");
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Older ones cannot judge a file.
    let Some(line) = text.lines().find(|line| line.contains("Overall exposure level")) else {
        let said = String::from_utf8_lossy(&output.stderr);
        return left_out(what, format!("systemd-analyze says: {}", said.trim_end()));
    };
    let level: f64 = line.split(": ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(level <= EXPOSURE, "{line}");
    let readme = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    assert!(
        readme.contains(&format!("exposure level of {EXPOSURE}")),
        "README.md says another level than {EXPOSURE}"
    );
}
