//! A graph compiled for a device. Its weights stay in their files, mapped and shared with every other program over the
//! same files: nothing is packed anew, and scratch memory comes from the runtime's one arena.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue};

use super::codes;
use super::environment::Runtime;
use super::memory;
use super::operator::{self, Called, RUN_INPUT, Underway};
use super::port::{self, Port};
use super::provider::Device;
use super::sessions::Sessions;
use super::value::Value;
use crate::base::{Cancel, Error, Result};

/// How a graph is compiled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProgramOptions {
    /// Where it runs.
    pub device: Device,
    /// Whether the runtime may rewrite the graph: fold constants and fuse operators.
    pub optimize: bool,
    /// Whether the runtime may keep a copy of the weights, packed for its products: memory for every program, in
    /// exchange for some speed where many short rows run.
    pub prepack: bool,
    /// Threads of this program alone; `None` shares the runtime's.
    pub threads: Option<usize>,
    /// Whether the graph has the operator of [`operator`].
    pub intercepts: bool,
    /// How many calls may run at once, at least one: as many sessions over the same files are made, when calls have to
    /// wait for each other.
    pub sessions: usize,
    /// What a session holds beside the mapped files, in bytes: another one is made only where twice that is free.
    pub session_bytes: u64,
}

impl Default for ProgramOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            optimize: true,
            prepack: false,
            threads: None,
            intercepts: false,
            sessions: 1,
            session_bytes: 0,
        }
    }
}

/// A compiled graph. It can be used from any thread. Calls at once run at once, each in a session of its own, up to
/// [`ProgramOptions::sessions`]; beyond that they take turns. All sessions of a program give the same numbers, to the
/// bit: they are made of one graph with one set of options.
pub struct Program {
    sessions: Sessions<Session>,
    /// What each of them holds beside the mapped files, in bytes.
    session_bytes: u64,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl Program {
    /// Compiles the bytes of an ONNX file. `folder` is where its external data lies; those files are taken to be
    /// immutable while the program lives.
    ///
    /// # Errors
    /// `program-invalid` if the runtime refuses the graph or its data, `device-missing` if the device cannot be had.
    pub fn compile(runtime: &Runtime, model: &[u8], folder: &Path, options: &ProgramOptions) -> Result<Self> {
        let kept = if options.sessions > 1 { model.to_vec() } else { Vec::new() };
        let session = begin(runtime, model, folder, options)?;
        Ok(Self::of(session, runtime, folder, options, move || Ok(kept.clone())))
    }

    /// As [`Program::compile`] of a graph whose bytes can be had again, so that a program that may need more sessions
    /// does not keep them.
    ///
    /// # Errors
    /// As [`Program::compile`], and those of `model`.
    pub fn compile_from(
        runtime: &Runtime,
        model: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        folder: &Path,
        options: &ProgramOptions,
    ) -> Result<Self> {
        let session = begin(runtime, &model()?, folder, options)?;
        Ok(Self::of(session, runtime, folder, options, model))
    }

    fn of(
        (session, price): (Session, Duration),
        runtime: &Runtime,
        folder: &Path,
        options: &ProgramOptions,
        model: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let required = session.inputs().iter().map(|p| Port::new(p.name(), p.dtype(), false));
        let defaults = session.overridable_initializers();
        let inputs = required.chain(defaults.iter().map(|p| Port::new(p.name(), p.dtype(), true))).collect();
        let outputs = session.outputs().iter().map(|p| Port::new(p.name(), p.dtype(), false)).collect();
        let sessions = if options.sessions > 1 {
            let (runtime, folder, own) = (runtime.clone(), folder.to_owned(), options.clone());
            let make = move || Ok(begin(&runtime, &model()?, &folder, &own)?.0);
            Sessions::growing(session, price, options.sessions, make)
        } else {
            Sessions::one(session)
        };
        Self { sessions, session_bytes: options.session_bytes, inputs, outputs }
    }

    /// How many sessions it has by now: one, and as many more as calls at once have needed.
    pub fn sessions(&self) -> usize {
        self.sessions.made()
    }

    /// The inputs: those that every call feeds, then those with a default.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|p| p.name == name)
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&Port> {
        self.outputs.iter().find(|p| p.name == name)
    }

    /// Runs the graph and returns the outputs asked for, in the order asked for.
    ///
    /// # Errors
    /// `program-port` or `program-feed` if the call does not fit the graph, `program-run` if the runtime fails.
    pub fn run(&self, feeds: &[(&str, &Value)], fetch: &[&str]) -> Result<Vec<Value>> {
        self.run_until(feeds, fetch, None)
    }

    /// As [`run`](Self::run), but stops between two operators once the token is cancelled.
    ///
    /// # Errors
    /// As [`run`](Self::run), and `interrupted`.
    pub fn run_until(&self, feeds: &[(&str, &Value)], fetch: &[&str], cancel: Option<&Cancel>) -> Result<Vec<Value>> {
        self.run_fed(feeds, fetch, cancel)
    }

    /// As [`run_until`](Self::run_until) for a graph with the operator of [`operator`], which calls `called`; where
    /// the graph does not have it, nothing is called.
    ///
    /// # Errors
    /// As [`run_until`](Self::run_until), and the error of what was called.
    pub fn run_calling(
        &self,
        feeds: &[(&str, &Value)],
        fetch: &[&str],
        cancel: Option<&Cancel>,
        called: Option<&Arc<dyn Called>>,
    ) -> Result<Vec<Value>> {
        let Some(called) = called.filter(|_| self.input(RUN_INPUT).is_some()) else {
            return self.run_fed(feeds, fetch, cancel);
        };
        let underway = Underway::new(called.clone());
        let number = Value::i64(&[], vec![underway.number()])?;
        let feeds: Vec<(&str, &Value)> = feeds.iter().copied().chain([(RUN_INPUT, &number)]).collect();
        let outputs = self.run_fed(&feeds, fetch, cancel);
        match underway.failure() {
            Some(failure) => Err(failure),
            None => outputs,
        }
    }

    fn run_fed(&self, feeds: &[(&str, &Value)], fetch: &[&str], cancel: Option<&Cancel>) -> Result<Vec<Value>> {
        port::check(&self.inputs, &self.outputs, feeds, fetch)?;
        let failed = |e: ort::Error| match cancel.map(Cancel::check) {
            Some(Err(interrupted)) => interrupted,
            _ if exhausted(&e) => {
                Error::new(&codes::PROGRAM_MEMORY, "there is not enough memory to run the graph").because(e)
            }
            _ => Error::new(&codes::PROGRAM_RUN, "ONNX Runtime failed while the graph was running").because(e),
        };
        let selector = fetch.iter().fold(OutputSelector::no_default(), |selector, name| selector.with(*name));
        let options = Arc::new(Options(RunOptions::new().map_err(failed)?.with_outputs(selector)));
        let inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> =
            feeds.iter().map(|(name, value)| (Cow::Borrowed(*name), value.inner().into())).collect();
        let room = || memory::available_bytes().is_none_or(|free| free / 2 >= self.session_bytes);
        let mut lent = self.sessions.lend(cancel, room)?;
        let Some(session) = lent.session() else { return Err(failed(ort::Error::new("a session is gone"))) };
        let _watch = match cancel {
            Some(cancel) => {
                cancel.check()?;
                let options = options.clone();
                Some(cancel.on_cancel(move || options.stop()))
            }
            None => None,
        };
        let mut outputs = session.run_with_options(inputs, &options.0).map_err(failed)?;
        let take = |name: &&str| {
            let value = outputs
                .remove(name)
                .ok_or_else(|| Error::new(&codes::PROGRAM_RUN, format!("ONNX Runtime returned no output `{name}`")))?;
            Value::from_runtime(value)
        };
        fetch.iter().map(take).collect()
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("inputs", &self.inputs).field("outputs", &self.outputs).finish()
    }
}

/// True if the runtime ran out of memory: it has no code of its own for that.
fn exhausted(error: &ort::Error) -> bool {
    let words = error.to_string();
    ["bad_alloc", "Failed to allocate memory", "out of memory"].iter().any(|w| words.contains(w))
}

/// A session over a graph, and how long it took to make.
fn begin(runtime: &Runtime, model: &[u8], folder: &Path, options: &ProgramOptions) -> Result<(Session, Duration)> {
    let invalid = |e: ort::Error| match exhausted(&e) {
        true => Error::new(&codes::PROGRAM_MEMORY, "there is not enough memory to load the graph").because(e),
        false => Error::new(&codes::PROGRAM_INVALID, "ONNX Runtime refused the graph").because(e),
    };
    if model.is_empty() {
        return Err(Error::new(&codes::PROGRAM_INVALID, "the graph is empty: expected an ONNX model, found 0 bytes"));
    }
    let began = Instant::now();
    let mut builder = configure(runtime, folder, options)?;
    options.device.register(&mut builder)?;
    Ok((builder.commit_from_memory(model).map_err(invalid)?, began.elapsed()))
}

fn configure(runtime: &Runtime, folder: &Path, options: &ProgramOptions) -> Result<SessionBuilder> {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let Some(folder) = folder.to_str() else {
        let what =
            format!("the folder {} is not spelled in UTF-8: ONNX Runtime cannot find its files", folder.display());
        return Err(Error::new(&codes::PROGRAM_INVALID, what).help("rename the folder"));
    };
    let level = if options.optimize { GraphOptimizationLevel::All } else { GraphOptimizationLevel::Disable };
    let build = || -> ort::Result<SessionBuilder> {
        let builder = Session::builder(runtime.environment())?
            .with_optimization_level(level)?
            .with_prepacking(options.prepack)?
            .with_env_allocators()?
            .with_config_entry("session.model_external_initializers_file_folder_path", folder)?;
        let builder = if options.intercepts { builder.with_operators(operator::domain()?)? } else { builder };
        match options.threads {
            Some(threads) => Ok(builder.with_independent_thread_pool()?.with_intra_threads(threads)?),
            None => Ok(builder),
        }
    };
    build().map_err(|e| Error::new(&codes::PROGRAM_INVALID, "ONNX Runtime refused the options of a program").because(e))
}

/// The options of one run, by which another thread can stop it.
struct Options(RunOptions<HasSelectedOutputs>);

// SAFETY: the type is not shareable in general because a preallocated output could be written by two runs at once;
// these options hold none and serve one run. All that another thread does with them is `stop`, whose call into the
// runtime sets the flag that the runtime polls and is meant to be made during a run.
unsafe impl Sync for Options {}

impl Options {
    fn stop(&self) {
        // It only fails on null pointers; then the run simply goes on to its end.
        let _ = self.0.terminate();
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use engraft_plugin_api::Tensor;
    use half::f16;

    use super::*;
    use crate::runtime::environment::for_tests;
    use crate::runtime::tiny::{self, BOOL, F16, F32, I32, I64, Model};

    fn compile(model: &[u8], folder: &Path, optimize: bool) -> Result<Program> {
        Program::compile(&for_tests(), model, folder, &ProgramOptions { optimize, ..ProgramOptions::default() })
    }

    fn f32s(shape: &[usize], values: &[f32]) -> Value {
        Value::f32(shape, values.to_vec()).unwrap()
    }

    /// `y = (x · W) * scale`, `z = y + y`, with `W = [[1, 2], [3, 4], [5, 6]]` in an external file.
    fn affine() -> (Program, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let program = compile(&tiny::affine(folder.path()), folder.path(), true).unwrap();
        (program, folder)
    }

    #[test]
    fn external_weights_scalars_and_empty_batches_run() {
        let (program, _folder) = affine();
        let inputs: Vec<_> = program.inputs().iter().map(ToString::to_string).collect();
        assert_eq!(inputs, ["x: f32[batch, 3]", "scale: f32[]"]);
        let (x, scale) = (f32s(&[1, 3], &[1.0, 0.0, 2.0]), f32s(&[], &[0.5]));
        let out = program.run(&[("scale", &scale), ("x", &x)], &["z", "y"]).unwrap();
        assert_eq!(out[1].as_f32().unwrap(), [5.5, 7.0]);
        assert_eq!(out[0].to_tensor().unwrap(), Tensor::f32([1, 2], vec![11.0, 14.0]).unwrap());
        let out = program.run(&[("x", &f32s(&[0, 3], &[])), ("scale", &scale)], &["y"]).unwrap();
        assert_eq!((out[0].shape(), out[0].as_f32().unwrap()), (&[0, 2][..], &[][..]));
    }

    #[test]
    fn every_element_type_comes_back() {
        let kinds = [("h", F16), ("i", I32), ("b", BOOL), ("l", I64)];
        let mut model = Model::new();
        for (name, kind) in kinds {
            model = model.input(name, kind, &[]).node("Identity", &[name], &[&format!("{name}2")]);
            model = model.output(&format!("{name}2"), kind, &[]);
        }
        let program = compile(&model.bytes(), Path::new("."), true).unwrap();
        let one = |value: i64, dtype| Value::from_tensor(&Tensor::i64([], vec![value]).unwrap(), dtype).unwrap();
        use crate::runtime::DType;
        let h = Value::from_tensor(&Tensor::f32([], vec![1.5]).unwrap(), DType::F16).unwrap();
        let (i, b, l) = (one(-7, DType::I32), one(1, DType::Bool), one(i64::MIN, DType::I64));
        let out = program.run(&[("h", &h), ("i", &i), ("b", &b), ("l", &l)], &["h2", "i2", "b2", "l2"]).unwrap();
        assert_eq!(out[0].as_f16().unwrap(), [f16::from_f32(1.5)]);
        assert_eq!(out[0].to_tensor().unwrap().as_f32().unwrap(), [1.5]);
        assert_eq!(out[1].as_i32().unwrap(), [-7]);
        assert_eq!(out[2].as_bool().unwrap(), [true]);
        assert_eq!(out[3].to_tensor().unwrap().as_i64().unwrap(), [i64::MIN]);
        let tensor = Tensor::i64([], vec![1 << 40]).unwrap();
        assert_eq!(Value::from_tensor(&tensor, DType::I32).unwrap_err().code().id, "value-type");
        assert_eq!(Value::from_tensor(&tensor, DType::F32).unwrap_err().code().id, "value-type");
        assert_eq!(out[3].as_f32().unwrap_err().code().id, "value-type");
        assert_eq!(Value::f32(&[2], vec![0.0]).unwrap_err().code().id, "value-shape");
    }

    #[test]
    fn calls_that_do_not_fit_are_refused_with_the_reason() {
        let (program, _folder) = affine();
        let (x, scale) = (f32s(&[1, 3], &[0.0; 3]), f32s(&[], &[1.0]));
        let refused = |feeds: &[(&str, &Value)], fetch: &[&str], code: &str, words: &str| {
            let error = program.run(feeds, fetch).unwrap_err();
            assert_eq!(error.code().id, code, "{error}");
            assert!(error.message().contains(words), "{error}");
        };
        refused(&[("x", &x), ("scales", &scale)], &["y"], "program-port", "no input `scales`; it has: x, scale");
        refused(&[("x", &x)], &["y"], "program-port", "`scale: f32[]` is not fed");
        refused(&[("x", &x), ("x", &x), ("scale", &scale)], &["y"], "program-port", "fed twice");
        refused(&[("x", &x), ("scale", &scale)], &["logits"], "program-port", "no output `logits`; it has: y, z");
        refused(&[("x", &x), ("scale", &scale)], &["y", "y"], "program-port", "asked for twice");
        refused(&[("x", &x), ("scale", &scale)], &[], "program-port", "no output is asked for");
        let wide = f32s(&[1, 4], &[0.0; 4]);
        refused(&[("x", &wide), ("scale", &scale)], &["y"], "program-feed", "expected 3 at axis 1");
        refused(&[("x", &x), ("scale", &x)], &["y"], "program-feed", "expected rank 0");
        let whole = Value::i64(&[], vec![1]).unwrap();
        refused(&[("x", &x), ("scale", &whole)], &["y"], "program-feed", "expected elements of f32");

        let model = Model::new().input("a", F32, &["n"]).input("b", F32, &["n"]).output("c", F32, &["n"]);
        let sum = compile(&model.node("Add", &["a", "b"], &["c"]).bytes(), Path::new("."), true).unwrap();
        let error = sum.run(&[("a", &f32s(&[2], &[0.0; 2])), ("b", &f32s(&[1], &[0.0]))], &["c"]).unwrap_err();
        assert!(error.message().contains("expected 2 at axis 0, as `n` is in `a`"), "{error}");
    }

    #[test]
    fn bad_graphs_and_absent_devices_are_coded_errors() {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny::affine(folder.path());
        for bytes in [&b""[..], b"not a model", &model[..model.len() / 2]] {
            assert_eq!(compile(bytes, folder.path(), true).unwrap_err().code().id, "program-invalid");
        }
        std::fs::remove_file(folder.path().join("weights")).unwrap();
        assert_eq!(compile(&model, folder.path(), true).unwrap_err().code().id, "program-invalid");
        if !for_tests().library().to_string_lossy().contains("cuda") {
            let options = ProgramOptions { device: Device::Cuda(0), ..ProgramOptions::default() };
            let error = Program::compile(&for_tests(), &model, folder.path(), &options).unwrap_err();
            assert_eq!(error.code().id, "device-missing", "{error:?}");
        }
    }

    #[test]
    fn threads_share_a_program() {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny::affine(folder.path());
        for sessions in [1, 3] {
            let options = ProgramOptions { sessions, ..ProgramOptions::default() };
            let program = Program::compile(&for_tests(), &model, folder.path(), &options).unwrap();
            std::thread::scope(|scope| {
                for i in 0..4 {
                    let program = &program;
                    scope.spawn(move || {
                        let (x, scale) = (f32s(&[1, 3], &[i as f32, 0.0, 0.0]), f32s(&[], &[1.0]));
                        for _ in 0..50 {
                            let out = program.run(&[("x", &x), ("scale", &scale)], &["y"]).unwrap();
                            assert_eq!(out[0].as_f32().unwrap(), [i as f32, 2.0 * i as f32]);
                        }
                    });
                }
            });
            assert!((1..=sessions).contains(&program.sessions()));
        }
    }

    #[test]
    fn a_long_run_stops_when_it_is_cancelled() {
        let mut model = Model::new().input("x0", F32, &["n", "n"]).input("w", F32, &["n", "n"]);
        for i in 0..2000 {
            model = model.node("MatMul", &[&format!("x{i}"), "w"], &[&format!("x{}", i + 1)]);
        }
        let program = compile(&model.output("x2000", F32, &["n", "n"]).bytes(), Path::new("."), true).unwrap();
        let x = f32s(&[512, 512], &[0.0; 512 * 512]);
        let cancel = Cancel::new();
        let watcher = cancel.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            watcher.cancel();
        });
        let feeds = [("x0", &x), ("w", &x)];
        assert_eq!(program.run_until(&feeds, &["x2000"], Some(&cancel)).unwrap_err().code().id, "interrupted");
        thread.join().unwrap();
        assert_eq!(program.run_until(&feeds, &["x2000"], Some(&cancel)).unwrap_err().code().id, "interrupted");
    }

    #[test]
    fn a_language_model_gives_the_same_logits_with_and_without_optimization() {
        // Values can be made once a runtime is open.
        for_tests();
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/zoo/gpt2-dynamo-mask");
        let model = std::fs::read(folder.join("model.onnx")).unwrap();
        let (batch, length) = (2, 5);
        let ids = Value::i64(&[batch, length], (1..11).collect()).unwrap();
        let mask = Value::i64(&[batch, length], vec![1; 10]).unwrap();
        let positions = Value::i64(&[batch, length], (0..5).chain(0..5).collect()).unwrap();
        let logits: Vec<_> = [true, false]
            .map(|optimize| {
                let program = compile(&model, &folder, optimize).unwrap();
                let known = [("input_ids", &ids), ("attention_mask", &mask), ("position_ids", &positions)];
                let feeds: Vec<_> = known.into_iter().filter(|(name, _)| program.input(name).is_some()).collect();
                program.run(&feeds, &["logits"]).unwrap().remove(0)
            })
            .into();
        assert_eq!(logits[0].shape()[..2], [batch, length]);
        let (a, b) = (logits[0].as_f32().unwrap(), logits[1].as_f32().unwrap());
        assert!(a.iter().any(|v| *v != 0.0));
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4));
    }
}
