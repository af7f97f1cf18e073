//! The laws of the house, by test: who may import whom, who names which outside crate, how files begin and end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use engraft_tests::root;

fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("the repository is readable") {
            let path = entry.expect("the repository is readable").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found.sort();
    let name = |p: &Path| p.strip_prefix(root()).expect("the repository is readable").to_string_lossy().into_owned();
    found.iter().map(|p| (name(p), std::fs::read_to_string(p).expect("the repository is readable"))).collect()
}

fn all() -> Vec<(String, String)> {
    ["plugin-api", "host", "plugins", "examples", "tests"].iter().flat_map(|f| sources(f)).collect()
}

/// Code without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim_start).filter(|l| !l.starts_with("//"))
}

#[test]
fn every_file_begins_with_its_story_and_none_is_too_long() {
    for (name, text) in all() {
        assert!(text.starts_with("//!"), "{name} has no `//!` at its head");
        assert!(text.lines().count() <= 800, "{name} is longer than 800 lines");
    }
}

/// The names that stand after `word` wherever it begins a path in a line.
fn after<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    let begins = move |at: usize| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '"' && c != ':')
    };
    line.match_indices(word).filter(move |(at, _)| begins(*at)).map(move |(at, _)| {
        let rest = &line[at + word.len()..];
        &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())]
    })
}

/// True if a line names a crate: `NAME::...`, `use NAME;`, `use NAME as ...` or `extern crate NAME`.
fn names(line: &str, krate: &str) -> bool {
    let used = |lead: &str| after(line, lead).any(|name| name == krate);
    after(line, &format!("{krate}::")).next().is_some() || used("use ") || used("extern crate ")
}

/// Who may name which outside crate, by the beginnings of paths.
const OWNERS: [(&str, &[&str]); 9] = [
    ("ort", &["host/src/runtime/"]),
    ("tokenizers", &["host/src/runtime/"]),
    ("minijinja", &["host/src/runtime/"]),
    ("minijinja_contrib", &["host/src/runtime/"]),
    // Methods write the graphs of splices and of their networks with the builder of `plugins/common`.
    ("onnx_protobuf", &["host/src/graph/", "host/tests/", "tests/", "plugins/common/src/graph.rs"]),
    ("abi_stable", &["plugin-api/src/abi/", "host/src/plugins/", "tests/stress-plugin/"]),
    ("clap", &["host/src/cli/", "host/src/main.rs"]),
    ("anyhow", &["examples/embed.rs"]),
    ("engraft", &["host/", "tests/", "examples/"]),
];

#[test]
fn outside_crates_have_their_owners() {
    // This file spells what it forbids.
    for (name, text) in all().into_iter().filter(|(name, _)| name != "tests/all/tidy.rs") {
        for (krate, owners) in OWNERS {
            let allowed = owners.iter().any(|o| name.starts_with(o));
            if let Some(line) = code(&text).find(|l| !allowed && names(l, krate)) {
                panic!("{name} names {krate}: {line}");
            }
        }
        let prints = ["host/benches/", "examples/embed.rs"].iter().any(|f| name.starts_with(f));
        assert!(prints || !code(&text).any(|l| after(l, "println!").next().is_some()), "{name} prints");
    }
}

/// Which folder of the host may import which, besides itself and `base`. No other edge stands.
const EDGES: [(&str, &[&str]); 15] = [
    ("base", &[]),
    ("graph", &[]),
    ("anatomy", &["graph"]),
    ("autodiff", &["graph"]),
    ("weights", &[]),
    ("runtime", &[]),
    ("hooks", &["anatomy", "graph", "runtime"]),
    ("model", &["anatomy", "autodiff", "graph", "hooks", "runtime", "weights"]),
    ("plugins", &["model"]),
    ("laws", &["model", "plugins", "weights"]),
    ("data", &[]),
    ("metrics", &["data"]),
    ("report", &["data", "metrics"]),
    ("experiment", &["data", "metrics", "model", "plugins", "report", "runtime", "weights"]),
    (
        "cli",
        &[
            "anatomy",
            "codes",
            "experiment",
            "graph",
            "laws",
            "metrics",
            "model",
            "plugins",
            "report",
            "runtime",
            "weights",
        ],
    ),
];

/// The folders that a line imports from, where `{` hides none of them.
fn imports(line: &str) -> Vec<&str> {
    after(line, "crate::").chain(after(line, "$crate::")).collect()
}

#[test]
fn folders_of_the_host_import_downwards_only() {
    let edges: BTreeMap<&str, &[&str]> = BTreeMap::from(EDGES);
    let mut met = BTreeSet::new();
    for (name, text) in sources("host/src") {
        // `lib.rs`, `main.rs` and `codes.rs`, which gathers every folder's codes, see all folders.
        let Some((folder, file)) = name.strip_prefix("host/src/").and_then(|n| n.split_once('/')) else { continue };
        let allowed = edges.get(folder).unwrap_or_else(|| panic!("{name} lies in a folder that has no edges"));
        met.insert(folder.to_owned());
        if file.split('/').any(|part| part == "tests" || part == "tests.rs" || part == "testing.rs") {
            continue;
        }
        // What stands below `#[cfg(test)] mod tests` is a test.
        let text = text.split("mod tests {").next().unwrap_or_default();
        for line in code(text) {
            for to in imports(line) {
                let fine = to == folder || to == "base" || allowed.contains(&to);
                assert!(fine, "{name} imports `{to}`, which is no edge of `{folder}`: {line}");
            }
        }
    }
    assert_eq!(met.iter().map(String::as_str).collect::<Vec<_>>(), edges.keys().copied().collect::<Vec<_>>());
}

#[test]
fn the_rules_see_what_they_forbid() {
    for line in ["use ort;", "use ort::Session;", "let x = ort::init();", "pub use ort as x;", "fn f(x: &ort::Value)"] {
        assert!(names(line, "ort"), "{line}");
    }
    for line in ["use crate::report::Summary;", "use super::ort::X;", "use ort_sys::x;", "let port = 1;"] {
        assert!(!names(line, "ort"), "{line}");
    }
    assert_eq!(imports("use crate::graph::Graph; crate::model::open(crate::base::Hash)"), ["graph", "model", "base"]);
    // A group hides its folders, and no folder has an empty name.
    assert_eq!(imports("use crate::{graph, model};"), [""]);
}

#[test]
fn plugins_import_the_contract_and_common_only() {
    for folder in std::fs::read_dir(root().join("plugins")).expect("the repository is readable") {
        let manifest = std::fs::read_to_string(folder.expect("the repository is readable").path().join("Cargo.toml"))
            .expect("the repository is readable");
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for line in dependencies.lines().filter(|l| !l.trim().is_empty()) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let known = [
                "engraft-plugin-api",
                "engraft-method-common",
                "ndarray",
                "faer",
                "safetensors",
                "thiserror",
                "onnx-protobuf", // named in `plugins/common` alone, as `OWNERS` says
            ];
            assert!(known.contains(&name), "a plugin depends on {name}");
        }
    }
}

#[test]
fn the_readmes_program_is_the_one_that_is_tested() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).expect("the repository is readable");
    let fenced = |text: &str, fence: &str| -> String {
        let inside = text.split_once(fence).expect("there is a program").1;
        inside.split_once("```").expect("it ends").0.to_owned()
    };
    let docs: String =
        read("host/src/lib.rs").lines().map_while(|l| l.strip_prefix("//!")).fold(String::new(), |mut docs, line| {
            docs.push_str(line.strip_prefix(' ').unwrap_or(line));
            docs.push('\n');
            docs
        });
    // Lines that begin with `#` are hidden from readers.
    let tested = fenced(&docs, "```\n");
    let shown: Vec<&str> = tested.lines().filter(|l| !l.starts_with('#')).collect();
    let readme = fenced(&read("README.md"), "```rust\n");
    assert_eq!(readme.lines().collect::<Vec<_>>(), shown);
}
