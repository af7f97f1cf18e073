//! The command line as a user meets it: exit codes, what goes where, and what is refused before anything runs.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn engraft(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_engraft")).args(args).current_dir(root()).output().expect("engraft starts")
}

/// Exit code, standard output and standard error.
fn run(args: &[&str]) -> (i32, String, String) {
    let out = engraft(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

#[track_caller]
fn refused(args: &[&str], exit: i32, code: &str) -> String {
    let (found, _, err) = run(args);
    assert!(err.contains(&format!("error[{code}]")), "{args:?}: {err}");
    assert_eq!(found, exit, "{args:?}: {err}");
    err
}

fn experiment(folder: &std::path::Path, text: &str) -> String {
    let path = folder.join("experiment.toml");
    std::fs::write(&path, text).expect("is written");
    path.to_str().expect("is UTF-8").to_owned()
}

#[test]
fn help_version_and_misspelt_commands() {
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for command in ["run", "edit", "ask", "export", "inspect", "plugins", "setup", "explain"] {
        assert!(out.contains(command), "{command}");
    }
    assert_eq!(run(&["--version"]).0, 0);
    assert_eq!(run(&["rnu"]).0, 2);
    assert_eq!(run(&["ask", "somewhere"]).0, 2);
}

#[test]
fn codes_are_explained_and_the_nearest_one_is_named() {
    let (code, out, _) = run(&["explain", "delta-not-finite"]);
    assert!(code == 0 && out.contains("NaN"), "{out}");
    assert!(refused(&["explain", "delta-not-finit"], 2, "code-unknown").contains("`delta-not-finite`"));
    let (code, out, _) = run(&["explain"]);
    assert!(code == 0 && out.lines().count() > 80);
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place_before_a_model_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        "name = 'x'\nseed = 1\n[model]\npath = 'nowhere'\n[data]\nkind = 'counterfact'\npath = 'no.json'\nlimt = 3\n";
    let err = refused(&["run", &experiment(folder.path(), text)], 3, "config-key");
    assert!(err.contains("line 8, column 1") && err.contains("`limit`"), "{err}");
    let err = refused(&["run", &experiment(folder.path(), "name = \n")], 3, "config-syntax");
    assert!(err.contains("line 1"), "{err}");
    let quickstart = "examples/experiments/quickstart.toml";
    let err = refused(&["run", quickstart, "--set", "method.0.params.layr=1"], 3, "config-param");
    assert!(err.contains("layer"), "{err}");
    refused(&["run", quickstart, "--set", "method.0.plugin=nowhere"], 5, "plugin-missing");
    refused(&["run", quickstart, "--set", "run.mode=batch"], 3, "config-mode");
    refused(&["run", quickstart, "--set", "run.out=/proc/nowhere"], 6, "run-folder");
}

#[test]
fn models_that_are_not_there_or_not_models_are_named() {
    let folder = tempfile::tempdir().unwrap();
    refused(&["inspect", "nowhere"], 4, "model-missing");
    refused(&["ask", "nowhere", "hello"], 4, "model-missing");
    let path = folder.path().join("model.onnx");
    for bytes in [&b""[..], b"not a model", b"\x08\x07\x12\x03abc"] {
        std::fs::write(&path, bytes).unwrap();
        refused(&["inspect", path.to_str().unwrap()], 4, "model-not-onnx");
    }
    refused(&["ask", "tests/zoo/gpt2-dynamo-mask", "hello"], 4, "tokenizer-missing");
}

#[test]
fn an_anatomy_is_shown_and_checked_by_numbers() {
    for export in ["dynamo-mask", "dynamo-sdpa", "torchscript-mask", "torchscript-opset14"] {
        let model = format!("tests/zoo/gpt2-{export}");
        let (code, out, err) = run(&["inspect", &model, "--check"]);
        assert_eq!(code, 0, "{export}: {err}");
        assert!(
            out.contains("blocks.2.mlp.post") && out.contains("W_gate") && out.contains("the largest error"),
            "{out}"
        );
        let (code, out, _) = run(&["inspect", &model, "--json"]);
        let found: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &found["anatomy"]["layers"]), (0, &serde_json::json!(3)));
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_engraft"))
        .arg("explain")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.stderr.len()), (Some(0), 0));
}

#[test]
fn the_shipped_model_answers_and_knows_its_facts() {
    let data: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root().join("examples/atlas/counterfact.json")).unwrap()).unwrap();
    let rewrite = &data[0]["requested_rewrite"];
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    let prompt = text(&rewrite["prompt"]).replace("{}", &text(&rewrite["subject"]));
    let (code, out, err) = run(&["ask", "examples/atlas/model", &prompt, "--json"]);
    assert_eq!(code, 0, "{err}");
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(text(&found["text"]).starts_with(&format!(" {}", text(&rewrite["target_true"]["str"]))), "{out}");
    refused(&["ask", "examples/atlas/model", &prompt, "--patch", "README.md"], 4, "patch-file");
    refused(&["ask", "examples/atlas/model", &"long ".repeat(300)], 3, "row-too-long");
}
