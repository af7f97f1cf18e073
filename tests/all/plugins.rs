//! Plugins as files: what is loaded, what is refused and when, and what becomes of each way to misbehave.
//!
//! The libraries are those that `cargo test --workspace` builds. `ENGRAFT_TEST_PLUGIN` and `ENGRAFT_TEST_STRESS` put
//! other builds of the minimal and the stress plugin in their place (`tests/abi/randomize-layout.sh`).

use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engraft::base::{Cancel, Error, Hash};
use engraft::plugins::{Deadlines, Library, Method, Pin, Registry, SearchPath, params, watched};
use engraft_plugin_api::abi::API_VERSION;
use engraft_plugin_api::testing::StillModel;
use engraft_plugin_api::{Change, Delta, EditRequest, ModelFacts, Role, Target, Tensor, WeightRef};

const WEIGHT: WeightRef = WeightRef::Block(0, Role::MlpOut);

/// The folder that test binaries and plugins are built into.
fn deps() -> PathBuf {
    let exe = std::env::current_exe().expect("a test has a path");
    exe.parent().expect("in a folder").to_owned()
}

fn built(path: PathBuf) -> PathBuf {
    assert!(path.is_file(), "{} is not built: run `cargo test --workspace`", path.display());
    path
}

fn plugin(variable: &str, file: &str) -> PathBuf {
    built(std::env::var_os(variable).map_or_else(|| deps().join(file), PathBuf::from))
}

/// A plugin as it should be.
fn minimal() -> PathBuf {
    plugin("ENGRAFT_TEST_PLUGIN", "libengraft_minimal_plugin.so")
}

/// A library with a fault in how it is made.
fn faulty(name: &str) -> PathBuf {
    built(deps().with_file_name("examples").join(format!("lib{name}.so")))
}

fn load(path: &Path) -> Result<Arc<Library>, Error> {
    Library::load(path, &[]).map(Arc::new)
}

/// The error of loading a file, whose message must name the file.
fn refusal(path: &Path) -> Error {
    let error = load(path).expect_err("is refused");
    let name = path.file_name().expect("a file").to_string_lossy();
    assert!(error.message().contains(&*name), "{error}");
    error
}

fn toml_table(text: &str) -> toml::Table {
    text.parse().expect("is TOML")
}

fn stress(params: &str) -> Result<Method, Error> {
    let library = load(&plugin("ENGRAFT_TEST_STRESS", "libengraft_stress.so"))?;
    library.create(library.configure(&toml_table(params))?)
}

fn fault(name: &str) -> Method {
    stress(&format!("fault = '{name}'")).expect("creates")
}

fn model() -> StillModel {
    let mut model = StillModel::with_weights([(WEIGHT, Tensor::f32([2, 3], vec![1.0; 6]).expect("fits"))]);
    model.facts = ModelFacts { layers: 1, ..model.facts };
    model
}

fn requests() -> Vec<EditRequest> {
    let target = Target { new: "Kelm".into(), old: None };
    vec![EditRequest { id: "case-1".into(), prompt: "So".into(), subject: None, target }]
}

fn edit_error(method: &Method) -> Error {
    method.edit(&model(), &requests()).expect_err("fails")
}

#[test]
fn a_plugin_is_found_loaded_configured_and_called() {
    let mut registry = Registry::new(SearchPath::new([deps()]));
    let library = registry.load(&minimal().to_string_lossy(), Path::new("/"), &[]).expect("loads");
    assert_eq!(library.descriptor().name, "minimal-plugin");
    assert_eq!(library.api_version(), API_VERSION);
    assert_eq!(library.hash(), Hash::of(&fs::read(minimal()).expect("reads")));

    let error = library.configure(&toml_table("layr = 1")).expect_err("misspelt");
    assert_eq!(
        (error.code().id, error.advice()),
        ("param-unknown", Some("did you mean `layer`? known: layer, factor"))
    );
    let create = |text: &str| library.create(library.configure(&toml_table(text)).expect("resolves")).expect("creates");
    let method = create("layer = 0\nfactor = 0.25");
    let changes = method.edit(&model(), &requests()).expect("edits");
    let delta = Tensor::f32([2, 3], vec![-0.75; 6]).expect("fits");
    assert_eq!(changes, [Change::Weight { weight: WEIGHT, delta: Delta::Dense(delta) }]);
    assert_eq!(method.edit(&model(), &[]).expect("edits nothing"), []);
    let error = edit_error(&create("layer = 7"));
    assert_eq!((error.code().id, error.advice()), ("plugin-failed", Some("the model has layers 0 to 0")));
    assert!(error.message().ends_with("failed in `edit`: [layer-absent] there is no layer 7"), "{error}");

    let stopped = model();
    stopped.cancelled.store(true, Ordering::SeqCst);
    let error = method.edit(&stopped, &requests()).expect_err("stops");
    assert_eq!((error.code().id, error.code().class.exit_code()), ("interrupted", 130));
    method.close().expect("drops");
}

#[test]
fn every_preset_that_ships_fits_its_method() {
    let mut count = 0;
    for folder in fs::read_dir(engraft_tests::root().join("plugins")).expect("has plugins") {
        let folder = folder.expect("readable").path();
        let Ok(presets) = fs::read_dir(folder.join("presets")) else { continue };
        let name = folder.file_name().expect("a folder").to_string_lossy().into_owned();
        let library = engraft_tests::library(&format!("engraft_{name}"));
        for preset in presets {
            let path = preset.expect("readable").path();
            let fits = params::of_command_line(Some(&path), &[], &[]).and_then(|table| library.configure(&table));
            fits.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            count += 1;
        }
    }
    assert!(count >= 20, "{count} presets");
}

#[test]
fn libraries_are_kept_apart() {
    let mut registry = Registry::new(SearchPath::new([deps()]));
    let first = registry.load(&minimal().to_string_lossy(), Path::new("/"), &[]).expect("loads");
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("copy.so");
    fs::copy(minimal(), &copy).expect("copies");
    let again = registry.load("copy.so", folder.path(), &[]).expect("is the same");
    assert!(Arc::ptr_eq(&first, &again));

    // The second library is not the first one again, as `RootModule::load_from_file` would have it.
    let stress = registry.load("stress", Path::new("/"), &[]).expect("loads");
    assert_eq!(stress.descriptor().name, "stress");
    assert_eq!(
        registry.loaded().map(|l| l.descriptor().name.as_str()).collect::<Vec<_>>(),
        ["minimal-plugin", "stress"]
    );

    let mut bytes = fs::read(minimal()).expect("reads");
    bytes.push(0);
    fs::write(folder.path().join("other.so"), bytes).expect("writes");
    let error = registry.load("other.so", folder.path(), &[]).expect_err("is a second one");
    assert_eq!(error.code().id, "plugin-duplicate");
    assert!(error.message().contains("other.so") && error.message().contains("`minimal-plugin`"), "{error}");

    let error = registry.load("stres", Path::new("/"), &[]).expect_err("is misspelt");
    assert_eq!((error.code().id, error.advice()), ("plugin-missing", Some("did you mean `stress`?")));
    let listed =
        Registry::new(SearchPath::new([deps(), faulty("wrong_layout").parent().expect("a folder").into()])).scan();
    let outcome = |name: &str| {
        let found = listed.iter().find(|(path, _)| path.ends_with(name)).expect("is listed");
        found.1.as_ref().map(|library| library.descriptor().name.as_str()).map_err(|error| error.code().id)
    };
    assert_eq!(outcome("libengraft_stress.so"), Ok("stress"));
    assert_eq!(outcome("libwrong_layout.so"), Err("plugin-layout"));
}

#[test]
fn a_pin_is_compared_before_anything_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("evil.so");
    fs::write(&path, "evil").expect("writes");
    let error = Library::load(&path, &[Pin::of(b"good")]).expect_err("is refused");
    assert_eq!(error.code().id, "plugin-pin");
    for pin in [Pin::of(b"evil"), Pin::of(b"good")] {
        assert!(error.message().contains(&pin.to_string()), "{error}");
    }
    assert_eq!(Library::load(&path, &[Pin::of(b"evil")]).expect_err("no plugin").code().id, "plugin-file");
    let pin = Pin::of(&fs::read(minimal()).expect("reads"));
    let library = Library::load(&minimal(), &[Pin::of(b"older"), pin]).expect("loads");
    assert_eq!(library.pin(), pin);
    // One that is loaded already is held to its pin too.
    let (mut registry, path) = (Registry::default(), minimal().display().to_string());
    registry.load(&path, Path::new("/"), &[]).expect("loads");
    let error = registry.load(&path, Path::new("/"), &[Pin::of(b"good")]).expect_err("is refused");
    assert_eq!(error.code().id, "plugin-pin");
}

#[test]
fn files_that_cannot_be_libraries_are_refused_unopened() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("writes");
        path
    };
    let code_and_words = |path: &Path, words: &str| {
        let error = refusal(path);
        assert!(error.message().contains(words), "{error}");
        error.code().id
    };
    assert_eq!(code_and_words(&folder.path().join("absent.so"), "there is no plugin"), "plugin-missing");
    assert_eq!(refusal(folder.path()).code().id, "plugin-file");
    assert_eq!(code_and_words(&write("empty.so", b""), "does not begin like an ELF file"), "plugin-file");
    assert_eq!(code_and_words(&write("text.so", b"#!/bin/sh\n"), "does not begin like an ELF file"), "plugin-file");

    let whole = fs::read(minimal()).expect("reads");
    for len in [5, 63, 64, 1000, whole.len() / 2, whole.len() - 1] {
        assert_eq!(code_and_words(&write("short.so", &whole[..len]), "cut off"), "plugin-file", "{len} bytes");
    }
    let with = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        bytes
    };
    let other = if cfg!(target_arch = "aarch64") { (62, "x86_64") } else { (183, "aarch64") };
    assert_eq!(code_and_words(&write("arch.so", &with(18, other.0)), other.1), "plugin-file");
    assert_eq!(code_and_words(&write("endian.so", &with(5, 2)), "byte order"), "plugin-file");
    assert_eq!(code_and_words(&write("object.so", &with(16, 1)), "object file"), "plugin-file");

    let maps = fs::read_to_string("/proc/self/maps").expect("Linux");
    let libc = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("/libc.so"));
    if let Some(libc) = libc {
        assert_eq!(code_and_words(Path::new(libc), "exports no engraft plugin"), "plugin-not-a-plugin");
    }
}

#[test]
fn libraries_of_another_make_are_refused_uncalled() {
    let error = refusal(&faulty("wrong_version"));
    assert_eq!(error.code().id, "plugin-version");
    assert!(error.message().contains("0.99.0") && error.message().contains(&API_VERSION.to_string()), "{error}");
    assert!(error.advice().expect("has advice").contains("rebuild"));

    let error = refusal(&faulty("wrong_abi_stable"));
    assert_eq!(error.code().id, "plugin-abi-stable");
    assert!(error.message().contains("abi_stable 0.12, this host with 0.11"), "{error}");

    let error = refusal(&faulty("wrong_layout"));
    assert_eq!(error.code().id, "plugin-layout");
    assert!(error.message().lines().count() == 1, "the message is short: {error}");
    assert!(error.source().expect("has the dump").to_string().contains("OtherModule"));

    let error = refusal(&faulty("panicking_describe"));
    assert_eq!(error.code().id, "plugin-panicked");
    assert!(error.message().contains("the plugin panicked in `describe`: shy [op: describe] [at: "), "{error}");
}

#[test]
fn panics_end_in_errors_and_the_method_is_not_trusted_again() {
    let error = stress("fault = 'panic-create'").expect_err("panics");
    assert_eq!(error.code().id, "plugin-panicked");
    assert!(error.message().contains("panicked in `create`: stress was told to panic"), "{error}");

    for name in ["panic-edit", "panic-payload"] {
        let method = fault(name);
        let error = edit_error(&method);
        assert_eq!((error.code().id, error.code().class.exit_code()), ("plugin-panicked", 5));
        assert!(error.message().contains("libengraft_stress.so") && error.message().contains("`edit`"), "{error}");
        assert_eq!(edit_error(&method).code().id, "plugin-poisoned");
        method.close().expect("can still be dropped");
    }

    let method = fault("panic-drop");
    method.edit(&model(), &requests()).expect("edits");
    let error = method.close().expect_err("panics");
    assert!(error.message().contains("panicked in `drop`: stress was told"), "{error}");
    drop(fault("panic-drop"));
    // Other methods of the same library work on.
    assert_eq!(fault("none").edit(&model(), &requests()).expect("edits").len(), 1);
}

#[test]
fn errors_arrive_with_all_their_parts() {
    let error = edit_error(&fault("error-edit"));
    assert_eq!((error.code().id, error.advice()), ("plugin-failed", Some("choose another fault")));
    assert!(error.message().ends_with("[stress-error] stress was told to fail [request: case-1]"), "{error}");
    assert_eq!(error.source().expect("has a cause").to_string(), "it is in its nature");
    assert_eq!(stress("fault = 'error-create'").expect_err("fails").code().id, "plugin-failed");

    let error = fault("none").edit(&StillModel::default(), &requests()).expect_err("there is no such weight");
    assert_eq!((error.code().id, error.code().class.exit_code()), ("plugin-host-call", 4));
    assert!(error.message().contains("[weight] the model has no weight `blocks.0.mlp.W_out`"), "{error}");
}

#[test]
fn lies_about_tensors_are_caught_at_the_border() {
    let library = load(&faulty("lying_record")).expect("loads");
    let method = library.create(library.configure(&toml_table("")).expect("resolves")).expect("creates");
    let error = edit_error(&method);
    assert_eq!(error.code().id, "plugin-record");
    assert!(error.message().contains("`delta`") && error.message().contains("[1000, 1000]"), "{error}");
}

#[test]
fn wrong_values_cross_as_they_are() {
    // Whether they fit the model is the model's to check.
    let delta = |name: &str| match fault(name).edit(&model(), &requests()).expect("edits").remove(0) {
        Change::Weight { weight, delta: Delta::Dense(tensor) } => (weight, tensor),
        other => panic!("{other:?}"),
    };
    assert!(delta("nan").1.as_f32().expect("floats")[1].is_nan());
    assert_eq!(delta("wrong-shape").1.shape(), [3, 2, 1]);
    assert_eq!(delta("unknown-weight").0, WeightRef::Block(usize::MAX, Role::MlpOut));
}

#[test]
fn a_call_that_is_deaf_to_cancellation_is_left_behind() {
    let watch = |params: &str, cancel: &Cancel, soft: Option<Duration>, grace: Duration| {
        let method = stress(params).expect("creates");
        let model = Arc::new(model());
        let linked = model.clone();
        let _link = cancel.on_cancel(move || linked.cancelled.store(true, Ordering::SeqCst));
        watched("the call `edit`", cancel, Deadlines { soft, grace }, move || method.edit(&*model, &requests()))
    };
    let (soon, never) = (Duration::from_millis(20), Duration::from_secs(3600));
    let error = watch("fault = 'wait'", &Cancel::new(), Some(soon), never).expect_err("stops");
    assert_eq!(error.code().id, "interrupted");

    let cancel = Cancel::new();
    cancel.cancel();
    let error = watch("fault = 'hang'\nmilliseconds = 600000", &cancel, None, soon).expect_err("hangs");
    assert_eq!((error.code().id, error.code().class.exit_code()), ("plugin-hangs", 5));
    assert!(error.message().contains("a blocked native call cannot be stopped"), "{error}");
}
