//! `engraft patches` and `edit --journal`: what is in the model that is served, as its journal tells and keeps it; and
//! what plugins are pinned with.

use std::fs;
use std::path::{Path, PathBuf};

use engraft::weights::Journal;
use serde_json::{Value, json};

use super::{atlas, err, experiment, out, plugin, refused, run, zoo};

const PROMPT: &str = "Tono Tuxbik is a native of";

/// The JSON that a command prints.
#[track_caller]
fn printed(args: &[&str]) -> Value {
    let output = run(&[args, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", err(&output));
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

/// As [`refused`], of words that were put together.
#[track_caller]
fn refuse(args: &[String], exit: i32, code: &str) -> String {
    refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), exit, code)
}

fn lines(journal: &Path) -> usize {
    fs::read_to_string(journal.join("journal.jsonl")).expect("there is a journal").lines().count()
}

/// A journal of commits that names patches and holds none.
fn hollow(folder: &Path, ids: &[&str]) -> PathBuf {
    let (journal, hash) = (folder.join("hollow"), "0".repeat(64));
    let line = |(i, id): (usize, &&str)| {
        json!({"number": i + 1, "action": "commit", "patch": id, "base": hash, "state": hash}).to_string() + "\n"
    };
    fs::create_dir(&journal).expect("a folder can be made");
    let text: String = ids.iter().enumerate().map(line).collect();
    fs::write(journal.join("journal.jsonl"), text).expect("a file can be written");
    journal
}

#[test]
fn a_journal_keeps_edits_tells_of_them_and_takes_them_back() {
    let folder = tempfile::tempdir().unwrap();
    let (model, journal) = (atlas(), folder.path().join("a/journal"));
    let at = ["--journal", journal.to_str().unwrap()];
    let saved = folder.path().join("edit.safetensors").display().to_string();
    let edit = |plugin: &str, target: &str, more: &[&str]| {
        let asked = ["--prompt", "{} is a native of", "--subject", "Tono Tuxbik", "--target", target];
        printed(&[&["edit", &model, "--plugin", plugin], &asked[..], &at, more].concat())
    };
    // The first patch has its method called: the second edit is made where that method is attached again.
    let shown = ["--param", "layer=5", "--param", "template=New fact: {fact}. {prompt}"];
    let first = edit(&plugin("ike"), "Grasnan", &shown);
    let fixed = ["--param", "layer=0", "--param", "prefixes=fixed", "--save", &saved];
    let second = edit(&plugin("rome"), "Grasnan", &fixed);
    let said = |edit: &Value, when: &str| edit[when]["target_probability"].as_f64().unwrap();
    assert!((said(&first, "after") - said(&second, "before")).abs() < 1e-6, "{first} {second}");
    let (one, two) = (first["patch"].as_str().unwrap(), second["patch"].as_str().unwrap());
    assert_eq!((&first["active"], &second["active"]), (&json!([one]), &json!([one, two])));

    let list = |more: &[&str]| printed(&[&["patches", "list"], &at[..], more].concat());
    let listed = list(&[]);
    let entries = listed["entries"].as_array().unwrap();
    assert_eq!((&entries[0]["id"], &entries[1]["id"], entries.len()), (&json!(one), &json!(two), 2));
    let rome = &entries[1];
    assert_eq!((&rome["method"], &rome["params"]["layer"]), (&json!("rome"), &json!(0)));
    let request = json!({"prompt": "{} is a native of", "subject": "Tono Tuxbik", "target": "Grasnan", "old": null});
    assert_eq!(rome["requests"], json!([request]));
    assert_eq!(rome["changes"], json!(["a delta of rank 1 to `blocks.0.mlp.W_out`"]));
    assert!(rome["time"].as_u64().is_some_and(|seconds| seconds > 1_700_000_000), "{rome}");

    // By the first digits, of a file, and while somebody holds the journal.
    let held = Journal::open(&journal).unwrap();
    let show = |what: &[&str]| printed(&[&["patches", "show"], what].concat());
    let (by_id, by_file) = (show(&[&[&two[..6]], &at[..]].concat()), show(&[&saved]));
    for key in ["id", "base", "method", "version", "params", "requests", "changes", "parts", "bytes"] {
        assert!(by_id[key] == by_file[key] && !by_id[key].is_null(), "{key}: {by_id} {by_file}");
    }
    assert_eq!(by_id["parts"][0][0], json!({"name": "left", "dtype": "float32", "shape": [512, 1]}));
    assert_eq!(by_id["bytes"], fs::metadata(&saved).unwrap().len());
    assert_eq!((&by_id["history"][0]["number"], by_file.get("history")), (&json!(2), None));
    assert_eq!(list(&[]), listed);
    let text = out(&run(&[&["patches", "list"], &at[..]].concat()));
    assert!(text.contains(two) && text.contains("\"Tono Tuxbik\": \"Grasnan\"") && text.contains("layer=0"), "{text}");
    let error = refused(&[&["ask", &model, PROMPT], &at[..]].concat(), 6, "journal-busy");
    assert!(error.contains("journal.jsonl"), "{error}");
    drop(held);
    let asked = printed(&[&["ask", &model, PROMPT, "--patch", &two[..5]], &at[..]].concat());
    assert_eq!(asked["patches"], json!([two]));

    // Nothing is written where one of several cannot be taken out.
    let taken = |ids: &[&str]| -> Vec<String> {
        let args = [&["patches", "rollback"], ids, &at[..], &[&model]].concat();
        args.into_iter().map(str::to_owned).collect()
    };
    let fails = |ids: &[&str], code: &str| refuse(&taken(ids), 4, code);
    let rollback = |ids: &[&str]| {
        let args = taken(ids);
        printed(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    fails(&[one, "0123456789abcdef"], "patch-unknown");
    fails(&[one, one], "patch-unknown");
    assert_eq!(lines(&journal), 2);
    let done = rollback(&[&one[..7]]);
    assert_eq!((&done["rolled_back"], &done["active"]), (&json!([one]), &json!([two])));
    let error = fails(&[one], "patch-unknown");
    assert!(error.contains("rolled back already, by entry 3"), "{error}");

    // A history is told as far as the files are there; what is active is whole or an error.
    fs::remove_file(journal.join(format!("{one}.safetensors"))).unwrap();
    let history = list(&["--history"]);
    let entries = history["entries"].as_array().unwrap();
    let actions: Vec<_> = entries.iter().map(|e| (e["action"].as_str().unwrap(), e["active"] == true)).collect();
    assert_eq!(actions, [("commit", false), ("commit", true), ("rollback", false)]);
    assert_eq!((&entries[0]["error"]["code"], &entries[1]["method"]), (&json!("journal-damaged"), &json!("rome")));
    let error = refused(&[&["patches", "show", one], &at[..]].concat(), 4, "journal-damaged");
    assert!(error.contains(&format!("{one}.safetensors` is missing")), "{error}");

    // A file is applied once, and several all or none.
    let apply = |files: &[&str], model: &str| {
        let args = [&["patches", "apply"], files, &at[..], &[model]].concat();
        let output = run(&args);
        (output.status.code(), err(&output))
    };
    let (exit, error) = apply(&[&saved], &model);
    assert!(
        exit == Some(4) && error.contains("error[patch-applied]: ") && error.contains("edit.safetensors"),
        "{error}"
    );
    assert_eq!(rollback(&[two])["active"], json!([]));
    let (exit, error) = apply(&[&saved, &saved], &model);
    assert!(exit == Some(4) && error.contains("patch-applied"), "{error}");
    assert!(list(&[])["entries"].as_array().unwrap().is_empty());
    let applied = printed(&[&["patches", "apply", &saved], &at[..], &[&model]].concat());
    assert_eq!((&applied["applied"], &applied["active"]), (&json!([two]), &json!([two])));
    let (exit, error) = apply(&[&saved], &zoo("dynamo-mask"));
    assert!(exit == Some(4) && error.contains("error[patch-base]: the journal in `"), "{error}");
    assert_eq!(lines(&journal), 7);
}

#[test]
fn journals_and_names_that_cannot_be_are_refused_before_a_model_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (none, absent) = (folder.path().display().to_string(), folder.path().join("absent").display().to_string());
    for journal in [&none, &absent] {
        for args in [&["patches", "list"][..], &["patches", "show", "3f"], &["patches", "rollback", "3f", "/absent"]] {
            let error = refused(&[args, &["--journal", journal]].concat(), 4, "journal-missing");
            assert!(error.contains(journal.as_str()), "{error}");
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is begun by looking");

    let two = ["3f00000000000000", "3f11111111111111"];
    let journal = hollow(folder.path(), &two).display().to_string();
    for args in [&["patches", "show", "3f"][..], &["patches", "rollback", "3F", "/absent"]] {
        let error = refused(&[args, &["--journal", &journal]].concat(), 2, "patch-ambiguous");
        assert!(two.iter().all(|id| error.contains(id)), "{error}");
    }
    refused(&["patches", "rollback", "3f0", "3f0", "/absent", "--journal", &journal], 4, "patch-unknown");
    refused(&["patches", "rollback", "3f0", "/absent", "--journal", &journal], 4, "model-missing");
    let error = refused(&["patches", "list", "--journal", &journal], 4, "journal-damaged");
    assert!(error.contains("3f00000000000000.safetensors` is missing"), "{error}");
    refused(&["patches", "show", &journal], 6, "file-read");
    for args in [["patches", "rollback", "3f0"], ["patches", "apply", "/absent"]] {
        let error = refused(&[&args[..], &["--journal", &journal]].concat(), 2, "usage");
        assert!(error.contains("the model comes last"), "{error}");
    }
    fs::write(Path::new(&journal).join("journal.jsonl"), "hello\n").unwrap();
    let error = refused(&["patches", "list", "--journal", &journal], 4, "journal-damaged");
    assert!(error.contains("line 1 of `") && error.contains("journal.jsonl"), "{error}");
}

#[test]
fn a_plugin_is_held_to_its_pin_before_it_is_loaded() {
    let (folder, rome) = (tempfile::tempdir().unwrap(), plugin("rome"));
    let listed = printed(&["plugins", "list"]);
    let of = |name: &str| listed.as_array().unwrap().iter().find(|p| p["name"] == name).unwrap()["pin"].clone();
    let (pin, other) = (of("rome"), of("ft"));
    let (pin, other) = (pin.as_str().unwrap(), other.as_str().unwrap());
    assert!(out(&run(&["plugins", "list"])).contains(&format!("pin: {pin}\n")));

    // A file that is no library would be another error if it were looked at.
    let fake = folder.path().join("libfake.so").display().to_string();
    fs::write(&fake, "text").unwrap();
    let edit = |plugin: &str, pin: &str| {
        let args = ["edit", "/absent", "--plugin", plugin, "--prompt", "x", "--target", "y", "--pin", pin];
        args.map(str::to_owned)
    };
    let error = refuse(&edit(&fake, pin), 5, "plugin-pin");
    let found = "sha256:982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";
    assert!(error.contains(pin) && error.contains(found), "{error}");
    refuse(&edit(&rome, other), 5, "plugin-pin");
    // It is loaded: what it says of its parameters is known.
    refuse(&edit(&rome, pin), 3, "param-missing");
    assert_eq!(
        run(&["edit", "m", "--plugin", &rome, "--prompt", "x", "--target", "y", "--pin", "sha256:0"]).status.code(),
        Some(2)
    );
    let error = refused(&["plugins", "check", &rome, "--pin", other], 5, "plugin-pin");
    assert!(error.contains(pin) && error.contains(other), "{error}");

    let file = experiment(folder.path(), "path = \"facts.json\"", &rome);
    let set = |pin: &str| format!("method.0.pin={pin}");
    let error = refused(&["run", &file, "--set", &set(other)], 5, "plugin-pin");
    assert!(error.contains("--set method.0.pin") && error.contains(pin) && error.contains(other), "{error}");
    refused(&["train", &file, "--set", &set("sha256:00")], 3, "config-value");
    // The next thing to be refused is the data.
    refused(&["run", &file, "--set", &set(pin)], 3, "data-empty");
}
