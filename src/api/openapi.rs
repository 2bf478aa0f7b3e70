//! `/openapi.json`: the description of the data API for programs (OpenAPI 3.1), as it stands beside this file. Pure. Called by
//! [`super::route`] and by [`crate::connection`]. The tests here hold it against the routes and the problems,
//! `tools/api-check` against the answers of a running server.

use crate::http::response::{Encoder, Frame, JSON, Lent};
use crate::output::Output;
use std::sync::{Arc, LazyLock};

/// Where it is.
pub const PATH: &str = "/openapi.json";
/// Its methods.
pub const METHODS: &str = "GET, HEAD, OPTIONS";

/// Sent from where it is to everyone.
static DESCRIPTION: LazyLock<Arc<str>> = LazyLock::new(|| include_str!("openapi.json").into());

/// Writes the description. It changes with the server's version only, but clients of a server that was
/// replaced should not have to wait long.
pub fn answer(encoder: &Encoder, out: &mut Output, frame: Frame) {
    let mut fields = encoder.start(out, 200, frame);
    fields.field("Content-Type", JSON);
    fields.field("Cache-Control", "max-age=300");
    fields.content(Lent::from(&*DESCRIPTION));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::route;
    use crate::http::problem::Kind;
    use serde_json::Value;
    use std::collections::{BTreeMap, BTreeSet};

    fn description() -> Value {
        serde_json::from_str(&DESCRIPTION).unwrap()
    }

    fn names(array: &Value) -> impl Iterator<Item = &str> {
        array.as_array().unwrap().iter().map(|name| name.as_str().unwrap())
    }

    #[test]
    fn the_version_is_that_of_the_program() {
        assert_eq!(description()["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn every_problem_is_described_with_its_status() {
        let description = description();
        let schemas = &description["components"]["schemas"];
        let listed: Vec<&str> = names(&schemas["ProblemName"]["enum"]).collect();
        let known: Vec<String> = Kind::ALL.iter().map(|kind| kind.urn()).collect();
        assert_eq!(listed, known);
        // In the answers of each status stand its own problems, and no others.
        let mut by_status: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::NotDone) {
            by_status.entry(kind.facts().0).or_default().insert(kind.urn());
        }
        for (status, kinds) in &by_status {
            let properties = &schemas[format!("Problem{status}")]["properties"];
            assert_eq!(properties["status"]["const"], *status);
            let described: BTreeSet<String> = names(&properties["type"]["enum"]).map(str::to_owned).collect();
            assert_eq!(described, *kinds, "{status}");
            let response = &description["components"]["responses"][status.to_string()];
            let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(*schema, format!("#/components/schemas/Problem{status}"));
        }
    }

    #[test]
    fn the_routes_are_those_that_are_described() {
        let description = description();
        let paths = description["paths"].as_object().unwrap();
        for (path, resource) in paths {
            for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
                let described = resource.get(method.to_ascii_lowercase());
                // What a parameter must be, it is; others are left out.
                let empty = Vec::new();
                let parameters =
                    described.and_then(|operation| operation["parameters"].as_array()).unwrap_or(&empty);
                let mut target = path.replace("{key}", "a");
                for parameter in parameters {
                    let reference = parameter["$ref"].as_str().unwrap().trim_start_matches('#');
                    let parameter = description.pointer(reference).unwrap();
                    if parameter["in"] == "query" && parameter["required"] == true {
                        let value = parameter["schema"]["const"].as_str().unwrap();
                        target += &format!("?{}={value}", parameter["name"].as_str().unwrap());
                    }
                }
                let routed = route(method, &target);
                assert_eq!(routed.is_ok(), described.is_some(), "{method} {target}: {routed:?}");
            }
        }
        assert_eq!(route("GET", "/nothing").unwrap_err().status(), 404);
        let detail = route("GET", "/nothing").unwrap_err().detail;
        for path in paths.keys() {
            assert!(detail.contains(path.as_str()), "who looks for resources is not told of {path}");
        }
    }
}
