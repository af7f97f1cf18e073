//! `engraft plugins`: what is listed, what a check finds in plugins that keep the laws and in one that does not, and a
//! new plugin as its author builds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{atlas, err, out, plugin, refused, repository, run};

/// The verdict of each law of a check, and its exit code.
#[track_caller]
fn check(file: &str, more: &[&str]) -> (i32, Vec<(String, String, Value)>) {
    let output = run(&[&["plugins", "check", file, "--json"], more].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", err(&output)));
    let text = |law: &Value, key: &str| law[key].as_str().unwrap_or_default().to_owned();
    let laws = report["laws"].as_array().expect("there are laws");
    let laws = laws.iter().map(|law| (text(law, "law"), text(law, "verdict"), law.clone())).collect();
    (output.status.code().expect("an exit code"), laws)
}

fn broken(laws: &[(String, String, Value)]) -> Vec<&str> {
    laws.iter().filter(|(_, verdict, _)| verdict == "broken").map(|(law, ..)| law.as_str()).collect()
}

#[test]
fn plugins_are_listed() {
    plugin("rome");
    let listed: Value = serde_json::from_slice(&run(&["plugins", "list", "--json"]).stdout).unwrap();
    assert!(listed.as_array().unwrap().iter().any(|p| p["name"] == "rome" && p["calls"][0] == "edit"), "{listed}");
}

#[test]
fn a_plugin_that_keeps_the_laws_is_told_so() {
    let output = run(&["plugins", "check", &plugin("ft"), "--teaches"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = out(&output);
    assert!(text.contains("takes a list of values, each a layer, counted from 0"), "{text}");
    assert!(text.contains("with layers=[0], unless --param says otherwise"), "{text}");
    assert!(text.contains("kept            a commit makes the target more probable"), "{text}");
    assert!(text.contains("not applicable  nothing to show, nothing to route: the method does not route"), "{text}");
    // One whose edits see earlier ones, and one that is tried with what it learns and acts through prompts alone.
    let verdict = |laws: &[(String, String, Value)], law: &str| {
        laws.iter().find(|(id, ..)| id == law).map(|(_, verdict, _)| verdict.clone()).unwrap_or_default()
    };
    let grace = ["layer=0", "epsilon=2.0", "n_iter=10"].map(|pair| ["--param", pair]).concat();
    let (exit, laws) = check(&plugin("grace"), &[&grace[..], &["--teaches"]].concat());
    assert_eq!((exit, broken(&laws)), (0, vec![]));
    for law in ["statistics-fold", "memory-in-patches", "target-moves"] {
        assert_eq!(verdict(&laws, law), "kept", "{law}");
    }
    let ike = ["scope=learned", "scope_steps=4", "scope_every=2", "scope_rank=2", "demonstrations=1"];
    let ike = ike.map(|pair| ["--param", pair]).concat();
    let (exit, laws) = check(&plugin("ike"), &[&ike[..], &["--teaches"]].concat());
    assert_eq!((exit, broken(&laws)), (0, vec![]));
    let found = ["memory-in-patches", "train-resumes", "target-moves"].map(|law| verdict(&laws, law));
    assert_eq!(found, ["kept", "kept", "not applicable"]);
    let ike = ["layer=5", "template=New fact: {fact}. {prompt}"].map(|pair| ["--param", pair]).concat();
    let (exit, laws) = check(&plugin("ike"), &[&ike[..], &["--teaches", "--model", &atlas()]].concat());
    assert_eq!((exit, broken(&laws), verdict(&laws, "target-moves").as_str()), (0, vec![], "kept"));
    // On a model of one's own, which names a text for statistics.
    let (exit, laws) = check(&plugin("minimal_plugin"), &["--model", &atlas(), "--param", "layer=1"]);
    assert_eq!((exit, broken(&laws)), (0, vec![]));
}

#[test]
fn a_method_that_blocks_in_a_pass_is_given_as_much_time_as_is_said() {
    let (atlas, stress) = (atlas(), plugin("stress"));
    let request = ["--prompt", "{} is a native of", "--subject", "Tono Tuxbik", "--target", "Grasnan"];
    let blocking =
        ["extends=true", "fault=block-intercept", "milliseconds=2000"].map(|pair| ["--param", pair]).concat();
    let args = [&["edit", &atlas, "--plugin", &stress, "--patience", "0.3"], &request[..], &blocking].concat();
    let error = refused(&args, 5, "plugin-hangs");
    assert!(error.contains("within 0.3 s") && error.contains("`--patience`"), "{error}");
}

#[test]
fn crashes_and_hangs_are_findings_and_the_check_goes_on() {
    let stress = plugin("stress");
    let (exit, laws) = check(&stress, &["--param", "fault=crash-edit"]);
    let verdict = |law: &str| laws.iter().find(|(id, ..)| id == law).expect("was tried");
    assert_eq!((exit, verdict("edit-pure").1.as_str(), verdict("rollback-any").1.as_str()), (5, "broken", "broken"));
    let found = verdict("edit-pure").2["found"].as_str().unwrap();
    assert_eq!(found, "the process ended by the signal SIGSEGV");
    // Laws between the crashes, and those that do not edit.
    for law in ["no-requests", "cancel-before", "train-steady", "exit-quiet"] {
        assert_eq!(verdict(law).1, "kept", "{law}");
    }

    let begun = Instant::now();
    let (exit, laws) = check(&stress, &["--param", "fault=hang-cancelled", "--timeout", "1"]);
    assert_eq!((exit, broken(&laws)), (5, vec!["cancel-before"]));
    assert!(begun.elapsed() < Duration::from_secs(50), "the hang was waited for");

    for (fault, law, words) in [
        ("abort-edit", "edit-pure", "SIGABRT"),
        ("exit-edit", "edit-pure", "an exit with the code 0"),
        ("panic-create", "created", "plugin-panicked"),
        ("deaf-edit", "cancel-before", "it went on to its end"),
        ("unsteady-edit", "edit-steady", "which differ"),
        ("panic-drop", "drop-quiet", "plugin-panicked"),
        ("noisy-edit", "stdout-quiet", "it wrote `stress was here`"),
    ] {
        let (exit, laws) = check(&stress, &["--param", &format!("fault={fault}")]);
        let first = laws.iter().find(|(_, verdict, _)| verdict == "broken").expect(fault);
        assert_eq!((exit, first.0.as_str()), (5, law), "{fault}");
        assert!(first.2["found"].as_str().unwrap().contains(words), "{fault}: {}", first.2);
    }
}

#[test]
fn what_was_found_before_is_not_told_in_full_again() {
    let output = run(&["plugins", "check", &plugin("stress"), "--param", "fault=panic-edit"]);
    let text = out(&output);
    assert_eq!(output.status.code(), Some(5), "{}", err(&output));
    assert_eq!(text.matches("stress was told to panic").count(), 1, "{text}");
    assert!(text.matches("found: the same as where `edit` touches nothing").count() > 4, "{text}");
    assert!(!err(&output).contains("panicked"), "{}", err(&output));
}

#[test]
fn what_a_check_cannot_begin_with_is_refused() {
    let stress = plugin("stress");
    refused(&["plugins", "check", "/absent.so"], 5, "plugin-missing");
    assert_eq!(run(&["plugins", "check", &stress, "--timeout", "0"]).status.code(), Some(2));
    // These are found when the library is there: what it says of itself is printed by then.
    for (args, exit, code) in [
        (["--param", "fualt=none"], 3, "param-unknown"),
        (["--param", "fault=sloth"], 3, "param-range"),
        (["--model", "/absent"], 4, "model-missing"),
        (["--preset", "/absent.toml"], 3, "file-missing"),
    ] {
        let output = run(&[&["plugins", "check", &stress][..], &args].concat());
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {}", err(&output));
        assert!(err(&output).contains(&format!("error[{code}]: ")), "{args:?}: {}", err(&output));
    }
}

/// Builds and tests a crate as its author would, with what this workspace was built with: nothing is fetched, and what
/// was compiled already is used again. Returns the library, in a folder of its own.
#[track_caller]
fn built(folder: &Path, library: &str) -> PathBuf {
    let debug = Path::new(env!("CARGO_BIN_EXE_engraft")).parent().expect("in a folder");
    fs::copy(repository().join("Cargo.lock"), folder.join("Cargo.lock")).expect("copies");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder).args(["test", "--offline", "--target-dir"]).arg(debug.parent().expect("in a folder"));
    cargo.args((debug.file_name().expect("a name") == "release").then_some("--release"));
    for setting in [
        "debug='line-tables-only'",
        "package.'*'.debug=false",
        "package.'*'.opt-level=2",
        "package.engraft-plugin-api.debug='line-tables-only'",
        "package.engraft-plugin-api.opt-level=0",
    ] {
        cargo.args(["--config", &format!("profile.dev.{setting}")]);
    }
    let output = cargo.output().expect("cargo is there");
    assert!(output.status.success() && !err(&output).contains("warning"), "{}{}", out(&output), err(&output));
    assert!(out(&output).contains("3 passed"), "{}", out(&output));
    // It does not stay where plugins are looked for.
    let place = folder.join(library);
    let made = debug.join("deps").join(library);
    fs::copy(&made, &place).expect("copies");
    fs::remove_file(&made).expect("removes");
    place
}

#[test]
fn a_new_plugin_builds_at_once_and_keeps_the_laws() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("crates/a");
    let path = folder.display().to_string();
    let output = run(&["plugins", "new", "engraft-cli-new", "--path", &path, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["library"], "target/debug/libengraft_cli_new.so");
    for file in made["files"].as_array().unwrap() {
        let text = fs::read_to_string(folder.join(file.as_str().unwrap())).unwrap();
        assert!(!["my-method", "my_method", "MyMethod"].iter().any(|word| text.contains(word)), "{file}");
    }
    assert_eq!(fs::read_dir(folder.parent().unwrap()).unwrap().count(), 1, "nothing else is left beside it");

    let library = built(&folder, "libengraft_cli_new.so").display().to_string();
    let preset = folder.join("presets/default.toml").display().to_string();
    let (exit, laws) = check(&library, &["--preset", &preset, "--teaches"]);
    assert_eq!((exit, broken(&laws)), (0, vec![]));
    let kept = |law: &str| laws.iter().any(|(id, verdict, _)| id == law && verdict == "kept");
    assert!(["target-moves", "rollback-any", "batch", "cancel-midway"].into_iter().all(kept), "{laws:?}");

    let error = refused(&["plugins", "new", "other", "--path", &path], 2, "output-exists");
    assert!(error.contains("crates/a"), "{error}");
    refused(&["plugins", "new", "fn", "--path", &path], 2, "usage");
    refused(&["plugins", "new", "x", "--api", "/absent", "--path", &path], 2, "usage");
}
