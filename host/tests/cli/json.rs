//! `--json`: what a machine reads of every command, errors too; and edits that are interrupted.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{atlas, engraft, err, plugin, run, zoo};

/// The one JSON value that a command prints.
#[track_caller]
fn printed(args: &[&str]) -> Value {
    let output = run(args);
    assert_eq!((output.status.code(), err(&output)), (Some(0), String::new()), "{args:?}");
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

#[test]
fn an_error_is_one_object_with_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old");
    std::fs::write(&old, "old").unwrap();
    let (model, old) = (zoo("dynamo-mask"), old.display().to_string());
    let cases: [(&[&str], &str, i32); 10] = [
        (&["inspect", "/absent", "--json"], "model-missing", 4),
        (&["ask", &model, "hi", "--json"], "tokenizer-missing", 4),
        (&["export", "/absent", "--out", "x", "--json"], "model-missing", 4),
        (&["explain", "delta-not-finte", "--json"], "code-unknown", 2),
        (&["plugins", "check", &old, "--json"], "plugin-file", 5),
        (&["run", "/absent.toml", "--json"], "config-unreadable", 3),
        (&["edit", "m", "--plugin", "rome", "--prompt", "{} is", "--target", "x", "--json"], "usage", 2),
        (&["probe", "m", "--text", "x", "--tap", "embed", "--out", &old, "--json"], "output-exists", 2),
        (&["probe", "m", "--json"], "usage", 2),
        (&["frobnicate", "--json"], "usage", 2),
    ];
    for (args, code, exit) in cases {
        let output = run(args);
        assert!(output.stdout.is_empty() && output.stderr.ends_with(b"}\n"), "{args:?}: {}", err(&output));
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        let keys: Vec<&str> = error.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["code", "message", "help", "causes", "exit"]);
        assert_eq!((&error["code"], &error["exit"]), (&code.into(), &exit.into()), "{args:?}");
        assert_eq!(output.status.code(), Some(exit));
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()) && error["causes"].is_array(), "{error}");
    }
}

#[test]
fn codes_plugins_and_places_are_data() {
    let all = printed(&["explain", "--json"]);
    let all = all.as_array().unwrap();
    let of = |code: &str| all.iter().find(|c| c["code"] == code).unwrap_or_else(|| panic!("{code}"));
    assert_eq!(
        (&of("delta-not-finite")["folder"], &of("site-unknown")["folder"]),
        (&"weights".into(), &"plugin-api".into())
    );
    // A plugin meets the host's codes behind `host-`.
    let one = printed(&["explain", "host-site-absent", "--json"]);
    assert_eq!((&one["code"], &one["exit"]), (&"site-absent".into(), &4.into()));
    assert!(one["explanation"].as_str().unwrap().len() > 60, "{one}");

    let rome = plugin("rome");
    let checked = printed(&["plugins", "check", &rome, "--json"]);
    assert_eq!((&checked["plugin"]["name"], &checked["taken"]), (&"rome".into(), &serde_json::json!(["layer=0"])));
    let folder = tempfile::tempdir().unwrap();
    // Another file of the same method is no plugin of the list, but it is in it.
    let twin = [std::fs::read(&rome).unwrap(), vec![0]].concat();
    std::fs::write(folder.path().join("libengraft_rome.so"), twin).unwrap();
    let listed = printed(&["plugins", "list", "--plugin-dir", &folder.path().display().to_string(), "--json"]);
    let listed = listed.as_array().unwrap();
    assert!(listed.iter().any(|p| p["name"] == "rome") && listed.iter().any(|p| p["name"] == "ft"), "{listed:?}");
    assert!(listed.iter().any(|p| p["error"]["code"] == "plugin-duplicate" && p["file"].is_string()), "{listed:?}");

    let target = folder.path().join("plain").display().to_string();
    let exported = printed(&["export", &zoo("dynamo-mask"), "--out", &target, "--json"]);
    assert_eq!((&exported["patches"], exported["out"].as_str()), (&serde_json::json!([]), Some(target.as_str())));
    assert!(Path::new(&target).join("model.onnx").is_file());
    let runtime = printed(&["setup", "--json"]);
    assert!(Path::new(runtime["library"].as_str().unwrap()).is_file(), "{runtime}");
}

#[test]
fn a_fault_of_a_plugin_is_exit_5_and_one_object() {
    let (stress, model) = (plugin("stress"), atlas());
    let edit = |params: &[&str], json: bool| {
        let args = ["edit", &model, "--plugin", &stress, "--prompt", "a b", "--target", "y"];
        let params = params.iter().flat_map(|pair| ["--param", pair]);
        let args: Vec<&str> = args.into_iter().chain(params).chain(json.then_some("--json")).collect();
        run(&args)
    };
    for (params, code) in [
        (&["fault=panic-create"][..], "plugin-panicked"),
        (&["fault=panic-edit"], "plugin-panicked"),
        (&["fault=panic-payload"], "plugin-panicked"),
        (&["fault=nan"], "delta-not-finite"),
        (&["fault=wrong-shape"], "delta-shape"),
        (&["fault=unknown-weight"], "delta-weight"),
        (&["fault=wrong-request"], "plugin-host-refused"),
        (&["fault=panic-intercept", "extends=true"], "plugin-panicked"),
        (&["fault=nan-intercept", "extends=true"], "plugin-failed"),
        (&["fault=wrong-intercept", "extends=true"], "plugin-failed"),
        (&["fault=panic-route", "extends=true"], "plugin-panicked"),
    ] {
        let output = edit(params, true);
        let error: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{}", err(&output)));
        assert_eq!((&error["code"], output.status.code()), (&code.into(), Some(5)), "{params:?}: {error}");
        let at = error["message"].as_str().unwrap().contains("[at: ");
        assert_eq!(at, code == "plugin-panicked", "{error}");
    }
    let output = edit(&["fault=empty-edit"], false);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(super::out(&output).contains("changed: nothing"), "{}", super::out(&output));
}

/// Starts an edit with a method that misbehaves, interrupts it, and returns exit code, error and how long that took.
fn interrupted(fault: &str) -> (Option<i32>, Value, Duration) {
    let stress = plugin("stress");
    let fault = format!("fault={fault}");
    let args = ["edit", &atlas(), "--plugin", &stress, "--prompt", "x", "--target", "y", "--json", "--param", &fault];
    let child = engraft(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the process starts");
    // The edit itself is waited for: before it, an interruption is noticed by the host alone.
    let threads = || std::fs::read_dir(format!("/proc/{}/task", child.id())).expect("a file can be read").flatten();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let begun = Instant::now();
    while !threads().any(|task| name(task).trim() == "engraft-plugin") {
        assert!(begun.elapsed() < Duration::from_secs(60), "the edit does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    let asked = Instant::now();
    assert!(
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("the process starts").success()
    );
    let output = child.wait_with_output().expect("the process starts");
    (output.status.code(), serde_json::from_slice(&output.stderr).expect("it is JSON"), asked.elapsed())
}

#[test]
fn an_edit_can_be_interrupted_and_a_method_that_does_not_listen_is_left_behind() {
    let (exit, error, _) = interrupted("wait");
    assert_eq!((exit, &error["code"]), (Some(130), &"interrupted".into()), "{error}");
    let (exit, error, took) = interrupted("hang");
    assert_eq!((exit, &error["code"]), (Some(5), &"plugin-hangs".into()), "{error}");
    assert!(took < Duration::from_secs(50), "the plugin's own minute was waited for");
}
