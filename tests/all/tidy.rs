//! The laws of the house, by test: who may import whom, who names which outside crate, how files begin and end.

use std::collections::BTreeMap;
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

#[test]
fn outside_crates_have_their_owners() {
    let owners: [(&str, &[&str]); 7] = [
        ("ort::", &["host/src/runtime/"]),
        ("tokenizers::", &["host/src/runtime/"]),
        ("onnx_protobuf::", &["host/src/graph/"]),
        ("abi_stable::", &["plugin-api/src/abi/", "host/src/plugins/", "tests/stress-plugin/"]),
        ("clap::", &["host/src/cli/"]),
        ("println!", &["host/benches/", "examples/embed.rs"]),
        ("anyhow::", &["examples/embed.rs"]),
    ];
    for (name, text) in all() {
        for (word, folders) in owners {
            let named = code(&text).any(|l| {
                l.match_indices(word).any(|(at, _)| {
                    let before = l[..at].chars().next_back();
                    before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '"' && c != ':')
                })
            });
            let tests = name.starts_with("tests/all/tidy.rs") || name.contains("/tests/");
            assert!(!named || tests || folders.iter().any(|f| name.starts_with(f)), "{name} names {word}");
        }
    }
}

#[test]
fn folders_of_the_host_import_downwards_only() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("base", &[][..]),
        ("graph", &[]),
        ("anatomy", &["graph"]),
        ("autodiff", &["graph"]),
        ("weights", &[]),
        ("runtime", &[]),
        ("hooks", &["anatomy", "graph", "runtime"]),
        ("model", &["hooks", "runtime", "weights", "autodiff", "anatomy", "graph"]),
        ("plugins", &["model"]),
        ("data", &[]),
        ("metrics", &["data"]),
        ("report", &["metrics", "data"]),
        ("experiment", &["plugins", "model", "metrics", "data", "report", "runtime", "weights"]),
    ]);
    for (name, text) in sources("host/src") {
        let Some((folder, file)) = name.strip_prefix("host/src/").and_then(|n| n.split_once('/')) else { continue };
        let Some(allowed) = allowed.get(folder) else { continue };
        if file.contains("tests") {
            continue;
        }
        // What stands below `#[cfg(test)] mod tests` is a test.
        let text = text.split("mod tests {").next().unwrap_or_default();
        for line in code(text) {
            for (at, _) in line.match_indices("crate::") {
                let to: String = line[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let fine = to == folder || to == "base" || allowed.contains(&to.as_str()) || to.is_empty();
                assert!(fine, "{name} imports {to}: {line}");
            }
        }
    }
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
            let known = ["engraft-plugin-api", "engraft-method-common", "ndarray", "faer", "thiserror"];
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
