//! The command line as a user meets it: exit codes, what goes to which stream, and that every mistake has its code.
//! The plugins of the workspace are used, so it has to be built as a whole: `cargo test --workspace`.

mod ask;
mod inspect;
mod json;
mod patches;
mod plugins;
mod probe;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const EXPORTS: [&str; 7] = [
    "dynamo-mask",
    "dynamo-nomask",
    "dynamo-raw",
    "dynamo-sdpa",
    "torchscript-mask",
    "torchscript-nomask",
    "torchscript-opset14",
];

/// Models of other families: heads first and packed, parallel; fused operators and a cache; sandwich norms and windows;
/// slopes for positions; rows and positions in one axis; a packed gate.
const FAMILIES: [(&str, &str); 6] = [
    ("gptneox", "gptneox-torchscript"),
    ("llama", "llama-dynamo-23-cache"),
    ("gemma3", "gemma3-optimum"),
    ("bloom", "bloom-dynamo"),
    ("opt", "opt-dynamo"),
    ("phi3", "phi3-dynamo-raw"),
];

fn engraft(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engraft"));
    command.args(args).stdin(Stdio::null()).env_remove("ENGRAFT_PLUGIN_PATH");
    command
}

fn run(args: &[&str]) -> Output {
    engraft(args).output().expect("the binary starts")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The command ends with the exit code and the error code, and its results stay empty. Returns the error.
#[track_caller]
fn refused(args: &[&str], exit: i32, code: &str) -> String {
    let output = run(args);
    let error = err(&output);
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {error}");
    assert!(error.contains(&format!("error[{code}]: ")), "{args:?}: {error}");
    assert_eq!(out(&output), "", "{args:?}");
    error
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn zoo(export: &str) -> String {
    repository().join(format!("tests/zoo/gpt2-{export}")).display().to_string()
}

fn atlas() -> String {
    repository().join("examples/atlas/model").display().to_string()
}

/// The library of a method of the workspace.
#[track_caller]
fn plugin(name: &str) -> String {
    let file = Path::new(env!("CARGO_BIN_EXE_engraft")).with_file_name(format!("deps/libengraft_{name}.so"));
    assert!(file.is_file(), "{} is not built: test the whole workspace", file.display());
    file.display().to_string()
}

/// An experiment on a folder that is no model: whoever opens it fails with a code of its own.
fn experiment(folder: &Path, data: &str, plugin: &str) -> String {
    let model = folder.join("model");
    fs::create_dir_all(&model).expect("a folder can be made");
    fs::write(folder.join("facts.json"), "[]").expect("a file can be written");
    let file = folder.join("experiment.toml");
    let text = format!(
        "name = \"x\"\nseed = 1\n\n[model]\npath = \"model\"\n\n[data]\nkind = \"counterfact\"\n{data}\n\n\
         [[method]]\nplugin = \"{plugin}\"\nparams = {{ layer = 0 }}\n"
    );
    fs::write(&file, text).expect("a file can be written");
    file.display().to_string()
}

#[test]
fn help_has_examples_and_the_version_names_the_runtime() {
    for command in ["run", "edit", "ask", "export", "inspect", "probe", "patches", "plugins", "setup", "explain"] {
        let output = run(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0));
        assert!(out(&output).contains(&format!("Example: engraft {command}")), "{command}");
    }
    let version = out(&run(&["--version"]));
    assert!(version.starts_with("engraft ") && version.contains("ONNX Runtime 1."), "{version}");
}

#[test]
fn a_command_line_that_cannot_be_is_exit_2() {
    for args in [&[][..], &["frobnicate"], &["ask"], &["run"], &["inspect", "m", "--frobnicate"]] {
        let output = run(args);
        assert_eq!((output.status.code(), out(&output)), (Some(2), String::new()), "{args:?}");
    }
    let edit = |more: &[&'static str]| refused(&[&["edit", "m", "--plugin", "rome"], more].concat(), 2, "usage");
    let error = edit(&["--prompt", "Ada is", "--subject", "Ada", "--target", "x"]);
    assert!(error.contains("help: write `{} is`"), "{error}");
    edit(&["--prompt", "{} is", "--target", "x"]);
    edit(&["--prompt", "{} is", "--subject", "Ada", "--target", ""]);
    refused(&["ask", "m", "hi", "--top-k", "0"], 2, "usage");
    let error = refused(&["run", "x.toml", "--regime", "argmx"], 2, "usage");
    assert!(error.contains("probability"), "{error}");
}

#[test]
fn codes_are_explained() {
    let list = out(&run(&["explain"]));
    assert!(list.contains("weights     delta-not-finite") && list.lines().count() > 80, "{list}");
    let one = out(&run(&["explain", "delta-not-finite"]));
    assert!(one.starts_with("delta-not-finite (exit code 5)\n\n") && one.contains("NaN"), "{one}");
    assert!(out(&run(&["explain", "host-panicked"])).starts_with("plugin-host-panicked"));
    let error = refused(&["explain", "delta-not-finte"], 2, "code-unknown");
    assert!(error.contains("did you mean `delta-not-finite`?"), "{error}");
    let error = refused(&["explain", "a-plugins-very-own"], 2, "code-unknown");
    assert!(error.contains("README"), "{error}");
}

#[test]
fn an_experiment_is_refused_at_its_place_before_a_model_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let file = experiment(folder.path(), "path = \"facts.json\"\nlimt = 3", "rome");
    let error = refused(&["run", &file], 3, "config-key");
    assert!(error.contains("experiment.toml, line 10, column 1") && error.contains("`limit`"), "{error}");
    let file = experiment(folder.path(), "path = \"facts.json\"", "rome");
    let error = refused(&["run", &file, "--set", "run.mod=batch"], 3, "config-key");
    assert!(error.contains("--set run.mod=batch") && error.contains("`mode`"), "{error}");
    refused(&["run", &file, "--set", "method.7.plugin=x"], 3, "config-override");
    refused(&["run", &file, "--set", "run.mode=batch"], 3, "config-mode");
    let error = refused(&["run", &file, "--set", "method.0.params={ layr = 1 }"], 3, "config-param");
    assert!(error.contains("`layer`"), "{error}");
    refused(&["run", "/absent/x.toml"], 3, "config-unreadable");
    // An editor's mark at the head is no part of the text, and shifts no column.
    let marked = folder.path().join("marked.toml");
    fs::write(&marked, format!("\u{feff}{}", fs::read_to_string(&file).unwrap().replace("limt", "limit"))).unwrap();
    refused(&["run", &marked.display().to_string()], 3, "data-empty");
    fs::write(&marked, "\u{feff}naem = 1").unwrap();
    let error = refused(&["run", &marked.display().to_string()], 3, "config-key");
    assert!(error.contains("line 1, column 1"), "{error}");
    let broken = folder.path().join("broken.toml");
    fs::write(&broken, "name = \n").unwrap();
    let error = refused(&["run", &broken.display().to_string()], 3, "config-syntax");
    assert!(error.contains("line 1"), "{error}");
    refused(&["run", "--resume", "/absent"], 3, "resume-missing");
    let file = experiment(folder.path(), "path = \"facts.json\"", "no-such-method");
    refused(&["run", &file], 5, "plugin-missing");
    let library = folder.path().join("libfake.so");
    fs::write(&library, "text").unwrap();
    refused(&["plugins", "check", &library.display().to_string()], 5, "plugin-file");
}

#[test]
fn a_run_folder_that_cannot_be_written_stops_the_run_before_it_begins() {
    let plugin = plugin("rome");
    let folder = tempfile::tempdir().unwrap();
    let file = experiment(folder.path(), "path = \"facts.json\"", &plugin);
    let fact = r#"[{"case_id": 0, "requested_rewrite": {"prompt": "{} is", "subject": "Ada",
        "target_new": {"str": "x"}, "target_true": {"str": "y"}},
        "paraphrase_prompts": [], "neighborhood_prompts": []}]"#;
    fs::write(folder.path().join("facts.json"), fact).unwrap();
    fs::write(folder.path().join("taken"), "a file").unwrap();
    let taken = format!("run.out={}", folder.path().join("taken/runs").display());
    refused(&["run", &file, "--set", &taken], 6, "run-folder");
    let free = format!("run.out={}", folder.path().join("runs").display());
    let output = run(&["run", &file, "--set", &free]);
    assert_eq!(output.status.code(), Some(4), "the next thing to fail is the model: {}", err(&output));
}

#[test]
fn models_that_cannot_be_read_are_exit_4() {
    refused(&["inspect", "/absent"], 4, "model-missing");
    refused(&["ask", "/absent", "hi"], 4, "model-missing");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    let path = file.display().to_string();
    let whole = fs::read(Path::new(&zoo("dynamo-mask")).join("model.onnx")).unwrap();
    for bytes in [&whole[..whole.len() / 2], b"text", b"", b"\x08\x07\x12\x03abc"] {
        fs::write(&file, bytes).unwrap();
        refused(&["inspect", &path], 4, "model-not-onnx");
    }
    let error = refused(&["ask", &zoo("dynamo-mask"), "hi"], 4, "tokenizer-missing");
    assert!(error.contains("tokenizer.json"), "{error}");
}

#[test]
fn a_reader_that_goes_away_changes_nothing_and_a_full_disk_is_told() {
    for args in [&["explain"][..], &["inspect", &zoo("dynamo-mask")], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = engraft(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), err(&output)), (Some(0), String::new()), "{args:?}");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = engraft(&["explain"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(err(&output).contains("error[output-failed]: "), "{}", err(&output));
}

#[test]
fn prompts_are_continued_and_cut_where_asked() {
    let model = atlas();
    let ask = |more: &[&str]| {
        let output = run(&[&["ask", &model, "The birthplace of Tono Tuxbik is", "--json"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        (answer["text"].as_str().unwrap().to_owned(), answer["tokens"].as_array().unwrap().len())
    };
    let (whole, tokens) = ask(&[]);
    assert!(whole.starts_with(" Mosdril"), "the model knows its facts: {whole:?}");
    let (cut, fewer) = ask(&["--stop", "."]);
    assert!(whole.starts_with(&format!("{cut}.")) && fewer < tokens && !cut.is_empty(), "{whole:?} {cut:?}");
    let drawn = || ask(&["--top-k", "8", "--temperature", "3", "--seed", "5"]);
    assert_eq!(drawn(), drawn());
    refused(&["ask", &model, ""], 3, "row-empty");
    refused(&["ask", &model, &"long ".repeat(300)], 3, "row-too-long");
    let readme = repository().join("README.md").display().to_string();
    refused(&["ask", &model, "hi", "--patch", &readme], 4, "patch-file");
    for command in [&["ask", &model, "hi"][..], &["export", &model, "--out", "/absent/out"]] {
        let error = refused(&[command, &["--patch", "/absent.patch"]].concat(), 3, "file-missing");
        assert!(error.contains("there is no file /absent.patch"), "{error}");
    }
}

#[test]
fn an_edit_is_shown_saved_used_and_exported() {
    let plugin = plugin("rome");
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let (patch, exported, model) = (place("edit.safetensors"), place("edited"), atlas());
    let (prompt, subject, target) = ("{} is a native of", "Tono Tuxbik", "Grasnan");
    let edit = ["--prompt", prompt, "--subject", subject, "--target", target, "--json"];
    let params = ["--param", "layer=0", "--param", "prefixes=fixed", "--save", &patch];
    let output = run(&[&["edit", &model, "--plugin", &plugin], &edit[..], &params].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // The next edit does not take its place unasked, and the model is not opened in vain.
    let again = |more: &[&'static str]| [&["edit", "/absent", "--plugin", &plugin], &edit[..6], &params, more].concat();
    assert!(refused(&again(&[]), 2, "output-exists").contains("--force"));
    refused(&again(&["--force"]), 4, "model-missing");
    let probability = |when: &str| report[when]["target_probability"].as_f64().unwrap();
    assert!(probability("before") < 0.1 && probability("after") > 0.5, "{report}");

    let asked = "Tono Tuxbik is a native of";
    let text = |model: &str, more: &[&str]| {
        let output = run(&[&["ask", model, asked, "--max-new", "12"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        out(&output).trim_end().to_owned()
    };
    let after = format!("{asked}{}", report["after"]["text"].as_str().unwrap());
    assert_eq!(text(&model, &["--patch", &patch]), after.trim_end());
    assert_eq!(run(&["export", &model, "--patch", &patch, "--out", &exported]).status.code(), Some(0));
    assert_eq!(text(&exported, &[]), after.trim_end());
    // Statistics of the export are of the text that the model names.
    let settings: Value =
        serde_json::from_slice(&fs::read(Path::new(&exported).join("engraft.json")).unwrap()).unwrap();
    let corpus = repository().join("examples/atlas/corpus.txt").canonicalize().unwrap();
    assert_eq!(settings["corpus"].as_str(), corpus.to_str());
    refused(&["ask", &exported, asked, "--patch", &patch], 4, "patch-base");
    refused(
        &["edit", &model, "--plugin", &plugin, "--prompt", "x", "--target", "y", "--param", "layr=0"],
        3,
        "param-unknown",
    );
}

/// An experiment on the first facts of the shipped model, whose runs are put beside it.
fn on_atlas(folder: &Path, facts: usize, plugin: &str, params: &str) -> String {
    let file = folder.join("experiment.toml");
    let atlas = repository().join("examples/atlas").canonicalize().expect("it is there");
    let text = format!(
        "name = \"x\"\nseed = 1\n[model]\npath = \"{0}/model\"\n[data]\nkind = \"counterfact\"\n\
         path = \"{0}/counterfact.json\"\nlimit = {facts}\n[run]\nout = \"{1}\"\n[[method]]\nplugin = \"{plugin}\"\n\
         params = {{ {params} }}\n",
        atlas.display(),
        folder.display()
    );
    fs::write(&file, text).expect("a file can be written");
    file.display().to_string()
}

#[test]
fn a_method_of_which_no_case_was_measured_is_an_error_behind_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&["run", &on_atlas(folder.path(), 2, &plugin("stress"), "fault = \"error-edit\"")]);
    let (table, error) = (out(&output), err(&output));
    assert_eq!(output.status.code(), Some(5), "{error}");
    assert!(table.contains("2 (2, 0)") && table.contains("the report and its numbers"), "{table}");
    assert!(error.contains("error[plugin-failed]: every case of `stress` failed, 2 of 2; the first, `"), "{error}");
}

#[test]
fn an_interrupted_run_leaves_whole_lines_and_can_be_continued() {
    let folder = tempfile::tempdir().unwrap();
    let file = on_atlas(folder.path(), 12, &plugin("ft"), "layers = [0]");
    let mut child = engraft(&["run", &file]).stderr(Stdio::null()).spawn().unwrap();
    let cases = || {
        let run = fs::read_dir(folder.path()).unwrap().flatten().find(|e| e.path().is_dir())?.path();
        fs::read_to_string(run.join("cases.jsonl")).ok().map(|text| (run, text))
    };
    while cases().is_none_or(|(_, text)| text.lines().count() < 2) {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let (run_folder, text) = cases().unwrap();
    assert!(text.ends_with('\n') && text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    let lines_before = text.lines().count();
    let again = run_folder.display().to_string();
    refused(&["run", &file, "--resume", &again, "--set", "seed=2"], 3, "resume-differs");

    let output = run(&["run", "--resume", &again, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let (_, all) = cases().unwrap();
    assert!(all.starts_with(&text) && lines_before < 12 && all.lines().count() == 12, "{all}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["methods"][0]["cases"], &summary["methods"][0]["failed"]), (&12.into(), &0.into()));
    let written: Value = serde_json::from_slice(&fs::read(run_folder.join("summary.json")).unwrap()).unwrap();
    assert_eq!(written, summary);
}
