//! What a user sees who mistypes an experiment.

use engraft_plugin_api::ParamValue;

use super::fake::{World, specs};
use crate::base::{Error, Result};
use crate::experiment::{Mode, Settings};
use crate::plugins::{Patience, Pin};

/// `[code] message (help)`, with the file's folder left out.
fn shown(world: &World, error: &Error) -> String {
    let help = error.advice().map(|help| format!(" ({help})")).unwrap_or_default();
    let folder = format!("{}/", world.folder.path().display());
    format!("[{}] {error}{help}", error.code().id).replace(&folder, "")
}

/// The error of the file with one text replaced by another, and overrides.
fn refused(from: &str, to: &str, overrides: &[&str]) -> String {
    let mut world = World::new();
    assert!(world.toml.contains(from));
    world.toml = world.toml.replacen(from, to, 1);
    let checked = |settings: Settings| settings.methods.iter().map(|m| m.check(&specs())).collect::<Result<Vec<_>>>();
    let error = world.settings(overrides).and_then(checked).map(drop).unwrap_err();
    shown(&world, &error)
}

fn with(to: &str) -> String {
    refused("seed = 1", to, &[])
}

#[test]
fn a_misspelt_key_is_refused_with_its_place_and_the_nearest_key() {
    assert_eq!(
        with("sed = 1"),
        "[config-key] e.toml, line 2, column 1: unknown key `sed` (did you mean `seed`? known: name, seed, model, \
         data, run, statistics, train, method)"
    );
    assert_eq!(
        refused("path = \"model\"", "path = \"model\"\n  devise = \"cpu\"", &[]),
        "[config-key] e.toml, line 5, column 3: unknown key `devise` (did you mean `device`? known: path, device)"
    );
    assert_eq!(
        refused("[[method]]", "[[method]]\nlabels = \"a\"", &[]),
        "[config-key] e.toml, line 9, column 1: unknown key `labels` (did you mean `label`? known: plugin, label, \
         artefact, pin, params)"
    );
    assert_eq!(
        refused("[data]", "[statistics]\ncorpsu = \"a\"\n[data]", &[]),
        "[config-key] e.toml, line 6, column 1: unknown key `corpsu` (did you mean `corpus`? known: corpus)"
    );
}

#[test]
fn a_wrong_value_is_refused_with_its_place() {
    assert_eq!(
        with("seed = \"one\""),
        "[config-value] e.toml, line 2, column 8: invalid type: string \"one\", expected u64"
    );
    assert_eq!(
        with("seed = 1\nrun = { mode = \"sequental\" }"),
        "[config-value] e.toml, line 3, column 16: unknown word `sequental` (did you mean `sequential`? known: \
         single, batch, sequential)"
    );
    assert_eq!(
        with("seed = 1\nrun = { patience = -1 }"),
        "[config-value] e.toml, line 3, column 20: `run.patience`: expected seconds from 0 on, where 0 waits as long as \
         it takes, found -1"
    );
    assert_eq!(
        refused("plugin = \"table\"", "", &[]),
        "[config-value] e.toml, line 8, column 1: missing field `plugin`"
    );
    assert_eq!(
        refused("\"counterfact\"", "\"counter fact\"", &[]),
        "[data-kind] e.toml, line 6, column 8: there is no kind of data `counter fact` (did you mean `counterfact`? \
         known: counterfact)"
    );
    assert_eq!(
        refused("path = \"model\"", "path = \"modell\"", &[]),
        "[config-path] e.toml, line 4, column 8: `model.path` names `modell`, which does not exist (paths are \
         relative to the experiment file, not to the working directory)"
    );
    assert_eq!(
        refused("path = \"model\"", "path = \"model\"\ndevice = \"gpu\"", &[]),
        "[config-value] e.toml, line 5, column 10: `device` takes \"cpu\", \"cuda\" or \"cuda:1\", found \"gpu\""
    );
    assert_eq!(
        refused("[[method]]", "[[method]]\npin = \"sha1:00\"", &[]),
        "[config-value] e.toml, line 9, column 7: `sha1:00` is not a pin: expected `sha256:` and 64 lower-case \
         hexadecimal digits (`engraft plugins list` shows the pin of every plugin)"
    );
    assert_eq!(with("seed = = 1").split(':').next(), Some("[config-syntax] e.toml, line 2, column 8"));
    assert_eq!(with("seed = 1\nseed = 2").split(':').next(), Some("[config-syntax] e.toml, line 3, column 1"));
    let deep = format!("seed = {}", "[".repeat(100_000));
    assert!(with(&deep).starts_with("[config-syntax] e.toml, line 2"));
    let huge = format!("seed = 1 # {}", "x".repeat(1 << 20));
    assert!(with(&huge).starts_with("[config-unreadable]"));
}

#[test]
fn a_wrong_parameter_is_refused_with_its_place() {
    let params = |text: &str| refused("[[method]]", &format!("[[method]]\nparams = {text}"), &[]);
    assert_eq!(
        params("{ layr = 1 }"),
        "[config-param] e.toml, line 9, column 12: there is no parameter `layr` (did you mean `layer`? known: layer, \
         spill, fail)"
    );
    assert_eq!(
        params("{ layer = 0, spill = 1 }"),
        "[config-param] e.toml, line 9, column 23: the parameter `spill` takes true or false, found 1"
    );
    assert_eq!(
        params("{ layer = { a = 1 } }"),
        "[config-value] e.toml, line 9, column 20: a parameter takes a flag, a number, a text or a list of these, \
         found a table"
    );
}

#[test]
fn overrides_are_checked_like_the_file() {
    let set = |text: &str| refused("seed = 1", "seed = 1", &[text]);
    assert_eq!(
        set("modle.path=x"),
        "[config-key] --set modle.path=x: unknown key `modle` (did you mean `model`? known: name, seed, model, data, \
         run, statistics, train, method)"
    );
    assert_eq!(
        set("method.0.params.layr=2"),
        "[config-param] --set method.0.params.layr=2: there is no parameter `layr` (did you mean `layer`? known: \
         layer, spill, fail)"
    );
    assert_eq!(
        set("method.0.params={ layer = -1 }"),
        "[config-param] --set method.0.params={ layer = -1 }: the parameter `layer` takes a layer, counted from 0, \
         found -1"
    );
    let help = " (an override is spelled `--set method.0.params.layer=2`)";
    for (text, why) in [
        ("method.1.plugin=ft", "`method` has 1 elements, numbered from 0; there is no `1`"),
        ("method.rome.plugin=ft", "`method` is a list, expected the number of an element from 0, found `rome`"),
        ("seed.a=1", "`seed` is a single value, there is no `a` in it"),
        ("seed", "there is no `=`"),
        ("model..path=1", "a key is empty at character 7"),
    ] {
        assert_eq!(set(text), format!("[config-override] --set {text}: {why}{help}"));
    }
}

#[test]
fn settings_are_resolved_and_resolve_to_themselves() {
    let world = World::new();
    let pin = Pin::of(b"a library");
    let pinned = format!("method.0.pin={pin}");
    let settings = world
        .settings(&[
            "method.0.params.layer=2",
            "run.mode=batch",
            "model.device=cuda:1",
            "data.limit=3",
            "seed=5",
            "run.patience=2",
            &pinned,
        ])
        .unwrap();
    assert_eq!(settings.methods[0].pin, Some(pin));
    assert_eq!((settings.name.as_str(), settings.seed, settings.mode), ("a run", 5, Mode::Batch));
    assert_eq!((settings.device.as_str(), settings.data.limit, settings.text), ("cuda:1", Some(3), 12));
    assert_eq!(settings.model, world.folder.path().join("model"));
    assert_eq!(settings.methods[0].params["layer"], ParamValue::Integer(2));

    let path = world.folder.path().join("runs.toml");
    std::fs::write(&path, settings.to_toml().unwrap()).unwrap();
    let again = Settings::load(&path, &[]).unwrap();
    assert_eq!(again, settings);
    assert_eq!(again.hash().unwrap(), settings.hash().unwrap());
    assert_eq!(again.patience, Patience::seconds(2.0).unwrap());
    let elsewhere = Settings { out: "/elsewhere".into(), patience: Patience::default(), ..again.clone() };
    assert_eq!(elsewhere.hash().unwrap(), settings.hash().unwrap());
    assert_ne!(Settings { seed: 6, ..again }.hash().unwrap(), settings.hash().unwrap());
}
