//! The figures of BENCHMARKS.md, as ratios within one run.
//!
//! `cargo build --release --workspace && cargo bench -p engraft [-- edit | step | forward | slots | memory | generate |
//! anatomy | intercept | splice | switch]`. With
//! `ENGRAFT_BENCH_MODEL` naming a GPT-2-small-shaped model (`examples/bench/make_gpt2_small.py` makes one), the larger
//! figures are measured too; `generate` wants a model with cached keys and values (the same with `--cache`), named by
//! `ENGRAFT_BENCH_CACHED`; `anatomy` wants one that `examples/bench/make_llama.py` makes, named by `ENGRAFT_BENCH_LLAMA`.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use engraft::anatomy::Anatomy;
use engraft::base::Cancel;
use engraft::data::{self, DataKind};
use engraft::graph::{Attr, DType, Dim, Graph, Patch, Shapes};
use engraft::model::{Active, Attached, Model, OpenOptions, Proposal};
use engraft::plugins::{Access, Attachment, Method, Registry, SearchPath};
use engraft::runtime::{Program, ProgramOptions, Runtime, RuntimeSettings, Value, memory, silent};
use engraft_plugin_api::{
    Activation, BlockSite, Change, Delta, EditRequest, Fold, GenerateRequest, GradientRequest, Increment,
    InterceptCall, Params, Place, Poke, Role, RunRequest, Site, Slots, Splice, Tap, Target, Tensor, Term, WeightRef,
    Wrt,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    if let Some(what) = wanted.iter().find_map(|w| w.strip_prefix("child-")) {
        return child(what);
    }
    let runtime = Runtime::open(&RuntimeSettings::default(), silent())?;
    println!("ONNX Runtime: {}", runtime.description());
    if chosen("edit") {
        edit(&runtime)?;
    }
    if chosen("generate") {
        match std::env::var_os("ENGRAFT_BENCH_CACHED") {
            Some(cached) => generate(&runtime, Path::new(&cached))?,
            None => println!("ENGRAFT_BENCH_CACHED is not set: generation over a cache is left out"),
        }
    }
    if chosen("anatomy") {
        match std::env::var_os("ENGRAFT_BENCH_LLAMA") {
            Some(llama) => anatomy(Path::new(&llama))?,
            None => println!("ENGRAFT_BENCH_LLAMA is not set: the Llama-shaped model is left out"),
        }
    }
    if chosen("intercept") {
        call(&runtime)?;
    }
    if chosen("switch") {
        switch(&runtime, "the atlas", &atlas().join("model"))?;
        if let Some(large) = large() {
            switch(&runtime, "a GPT-2-small-shaped model", &large)?;
        }
    }
    if let Some(large) = large() {
        if chosen("intercept") {
            intercept(&runtime, &large)?;
        }
        if chosen("step") {
            step(&runtime, &large)?;
        }
        if chosen("forward") {
            forward(&runtime, &large)?;
        }
        if chosen("slots") {
            slots(&runtime, &large)?;
        }
        if chosen("splice") {
            splice(&runtime, &large)?;
        }
        if chosen("memory") {
            memory_of_three()?;
        }
    } else {
        println!("ENGRAFT_BENCH_MODEL is not set: the figures of the GPT-2-small-shaped model are left out");
    }
    Ok(())
}

fn large() -> Option<PathBuf> {
    std::env::var_os("ENGRAFT_BENCH_MODEL").map(PathBuf::from)
}

fn atlas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/atlas")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn seconds(mut what: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let began = Instant::now();
    what()?;
    Ok(began.elapsed().as_secs_f64())
}

/// ROME as it is shipped.
fn rome(params: &str) -> Outcome<Method> {
    plugin("rome", params)
}

/// A method of the release build of a plugin, beside this benchmark's profile folder.
fn plugin(name: &str, params: &str) -> Outcome<Method> {
    let mut folder = std::env::current_exe()?;
    folder.pop();
    let search = SearchPath::new([folder.clone(), folder.join("..")]);
    let library = Registry::new(search).load(name, Path::new("."), &[])?;
    Ok(library.create(library.configure(&params.parse()?)?)?)
}

/// One ROME edit on atlas with the bare prompt and 5 prefixes, 20 steps; and with the shipped preset.
fn edit(runtime: &Runtime) -> Outcome<()> {
    let model = Model::open(&atlas().join("model"), runtime, &OpenOptions::default())?;
    let requests: Vec<EditRequest> =
        data::load(DataKind::CounterFact, &atlas().join("counterfact_train.json"), Some(30))?
            .records
            .into_iter()
            .map(|r| r.request)
            .collect();
    let prefixes: Vec<String> = model.facts()?.prefixes.into_iter().take(5).map(|p| format!("{p:?}")).collect();
    let six = format!("prefixes = 'fixed'\nprefix_list = [{}]\n", prefixes.join(", "));
    for (name, params) in [
        ("6 templates, all 20 steps, layer 0", format!("layer = 0\nearly_stop_loss = 0.0\n{six}")),
        ("6 templates, all 20 steps, layer 1", format!("layer = 1\nearly_stop_loss = 0.0\n{six}")),
        ("6 templates, early stop, layer 0", format!("layer = 0\n{six}")),
        ("11 templates (the preset), layer 0", "layer = 0\nprefixes = 'fixed'".to_owned()),
    ] {
        let method = rome(&params)?;
        let mut one = |request: &EditRequest| -> Outcome<f64> {
            let access = Access::new(&model, Cancel::new(), 0);
            seconds(|| method.edit(&access, std::slice::from_ref(request)).map(drop).map_err(Into::into))
        };
        one(&requests[0])?;
        let times = requests.iter().map(&mut one).collect::<Outcome<Vec<_>>>()?;
        println!("one ROME edit on atlas, {name}: {:.3} s (median of {})", median(times), requests.len());
    }
    let Some(large) = large() else { return Ok(()) };
    let model = Model::open(&large, runtime, &OpenOptions::default())?;
    let long = |i: usize| format!("{:?}", format!("{} {{}}", "ab cd efg".repeat(2 + i % 2)));
    let list: Vec<String> = (0..10).map(long).collect();
    let params = format!(
        "layer = 5\ncovariance = 'none'\nearly_stop_loss = 0.0\nprefixes = 'fixed'\nprefix_list = [{}]",
        list.join(", ")
    );
    let method = rome(&params)?;
    let target = Target { new: "xyz".into(), old: None };
    let request = EditRequest { id: "1".into(), prompt: "The {} is".into(), subject: Some("abc def".into()), target };
    let access = Access::new(&model, Cancel::new(), 0);
    let tokens = model.tokenizer()?.encode(&format!("{} The abc def is", "ab cd efg".repeat(2)))?.ids.len();
    let one = || seconds(|| method.edit(&access, std::slice::from_ref(&request)).map(drop).map_err(Into::into));
    one()?;
    let times = vec![one()?, one()?, one()?];
    println!(
        "one ROME edit on the large model, 11 templates of about {tokens} tokens, 20 steps: {:.2} s",
        median(times)
    );
    Ok(())
}

fn rows(n: usize, length: usize, vocab: usize) -> Vec<Vec<u32>> {
    (0..n).map(|r| (0..length).map(|i| ((r * 7919 + i * 104_729) % vocab) as u32).collect()).collect()
}

/// A gradient step from the middle layer against the plain forward pass of the same rows.
fn step(runtime: &Runtime, large: &Path) -> Outcome<()> {
    let model = Model::open(large, runtime, &OpenOptions::default())?;
    let (vocab, layers, width) = (model.anatomy().vocab, model.anatomy().layers, model.anatomy().d_model);
    let rows = rows(12, 35, vocab);
    let site = Site::Block(layers / 2, BlockSite::MlpProj);
    let place = |row, pos| Place { row, pos };
    let places: Vec<Place> = (0..12).map(|row| place(row, 30)).collect();
    let terms = (0..12)
        .flat_map(|row| [33, 34].map(|pos| Term::Nll { place: place(row, pos), token: 17, weight: 1.0 / 24.0 }))
        .collect();
    let mut request = GradientRequest {
        rows: rows.clone(),
        adds: vec![Poke { site, places, values: Tensor::zeros([1, width]) }],
        terms,
        wrt: vec![Wrt::Add(0)],
        ..GradientRequest::default()
    };
    let taps = vec![Tap { site: Site::Logits, places: None }];
    let whole = RunRequest { rows: rows.clone(), taps, ..RunRequest::default() };
    let (mut steps, mut passes) = (Vec::new(), Vec::new());
    for i in 0..9 {
        request.adds[0].values = Tensor::f32([1, width], vec![1e-3 * i as f32; width])?;
        steps.push(seconds(|| model.gradient(&request).map(drop).map_err(Into::into))?);
        passes.push(seconds(|| model.run(&whole).map(drop).map_err(Into::into))?);
    }
    let (step, pass) = (median(steps.split_off(1)), median(passes.split_off(1)));
    println!(
        "gradient step from layer {}: {step:.3} s, forward pass {pass:.3} s, ratio {:.2}",
        layers / 2,
        step / pass
    );
    Ok(())
}

fn plain(runtime: &Runtime, large: &Path) -> Outcome<Program> {
    let path = Graph::find(large)?;
    let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
    let options = ProgramOptions { prepack: true, ..ProgramOptions::default() };
    Ok(Program::compile(runtime, &std::fs::read(&path)?, &folder, &options)?)
}

fn feed(program: &Program, rows: &[Vec<u32>]) -> Outcome<Vec<(String, Value)>> {
    let shape = [rows.len(), rows[0].len()];
    let of = |f: &dyn Fn(usize, u32) -> i64| {
        Value::i64(&shape, rows.iter().flat_map(|r| r.iter().enumerate().map(|(i, &t)| f(i, t))).collect())
    };
    let mut feeds = Vec::new();
    for port in program.inputs() {
        let value = match port.name.as_str() {
            "input_ids" => of(&|_, t| i64::from(t))?,
            "attention_mask" => of(&|_, _| 1)?,
            _ => of(&|i, _| i as i64)?,
        };
        feeds.push((port.name.clone(), value));
    }
    Ok(feeds)
}

fn rank_one(model: &Model) -> Outcome<Vec<Change>> {
    let weight = WeightRef::Block(model.anatomy().layers / 2, Role::MlpOut);
    let [inputs, outputs] = model.anatomy().weight(weight)?.shape;
    let delta = Delta::LowRank {
        left: Tensor::f32([inputs, 1], vec![1e-3; inputs])?,
        right: Tensor::f32([1, outputs], vec![1e-2; outputs])?,
    };
    Ok(vec![Change::Weight { weight, delta }])
}

/// All logits of four rows of 35 tokens: ours without and with a patch, against the runtime's defaults.
fn forward(runtime: &Runtime, large: &Path) -> Outcome<()> {
    let model = Model::open(large, runtime, &OpenOptions::default())?;
    let patched = Model::open(large, runtime, &OpenOptions::default())?;
    let (method, version) = ("bench".to_owned(), "1".to_owned());
    let changes = rank_one(&patched)?;
    patched.commit(Proposal {
        method,
        version,
        params: Params::default(),
        artefact: None,
        requests: Vec::new(),
        changes,
    })?;
    let program = plain(runtime, large)?;
    let rows = rows(4, 35, model.anatomy().vocab);
    let feeds = feed(&program, &rows)?;
    let feeds: Vec<(&str, &Value)> = feeds.iter().map(|(n, v)| (n.as_str(), v)).collect();
    let fetch: Vec<String> = program.outputs().iter().map(|p| p.name.clone()).collect();
    let fetch: Vec<&str> = fetch.iter().map(String::as_str).collect();
    let places = (0..4).flat_map(|row| (0..35).map(move |pos| Place { row, pos })).collect();
    let all = RunRequest { rows: rows.clone(), logits: places, ..RunRequest::default() };
    let logits = (0..4).map(|row| Place { row, pos: 34 }).collect();
    let last = RunRequest { rows, logits, ..RunRequest::default() };
    let mut times = vec![Vec::new(); 4];
    for _ in 0..13 {
        times[0].push(seconds(|| program.run(&feeds, &fetch).map(drop).map_err(Into::into))?);
        times[1].push(seconds(|| model.run(&all).map(drop).map_err(Into::into))?);
        times[2].push(seconds(|| patched.run(&all).map(drop).map_err(Into::into))?);
        times[3].push(seconds(|| model.run(&last).map(drop).map_err(Into::into))?);
    }
    let ratio = |i: usize| median(times[i][1..].iter().zip(&times[0][1..]).map(|(a, b)| a / b).collect());
    println!(
        "forward pass, 4 x 35, plain session {:.3} s; all logits without patch {:.3}x, with a rank-1 patch {:.3}x; \
         logits of the last positions only {:.3}x",
        median(times[0].clone()),
        ratio(1),
        ratio(2),
        ratio(3)
    );
    Ok(())
}

/// Adds to every number of what it is shown, or looks on.
struct Adding(f32);

impl Attached for Adding {
    fn intercept(&self, call: &InterceptCall<'_>) -> engraft::base::Result<Option<Tensor>> {
        Ok((self.0 != 0.0).then(|| Tensor::from_array(&call.activation.mapv(|v| v + self.0))))
    }
}

/// A model in whose middle block a method is called.
fn intercepted(runtime: &Runtime, folder: &Path, method: Arc<dyn Attached>) -> Outcome<Model> {
    let model = Model::open(folder, runtime, &OpenOptions::default())?;
    let params = Params::default();
    model.attach("bench", &params, method);
    let sites = vec![Site::Block(model.anatomy().layers / 2, BlockSite::ResidPost)];
    let (method, version) = ("bench".to_owned(), "1".to_owned());
    let changes = vec![Change::Intercept { sites, whole_rows: false }];
    model.commit(Proposal { method, version, params, artefact: None, requests: Vec::new(), changes })?;
    Ok(model)
}

/// All logits of four rows of 35 tokens with a method called at one site, against the runtime's defaults.
fn intercept(runtime: &Runtime, large: &Path) -> Outcome<()> {
    let program = plain(runtime, large)?;
    let model = Model::open(large, runtime, &OpenOptions::default())?;
    let adding = intercepted(runtime, large, Arc::new(Adding(1e-3)))?;
    let rows = rows(4, 35, model.anatomy().vocab);
    let feeds = feed(&program, &rows)?;
    let feeds: Vec<(&str, &Value)> = feeds.iter().map(|(n, v)| (n.as_str(), v)).collect();
    let fetch: Vec<&str> = program.outputs().iter().map(|p| p.name.as_str()).collect();
    let logits = (0..4).flat_map(|row| (0..35).map(move |pos| Place { row, pos })).collect();
    let request = RunRequest { rows, logits, ..RunRequest::default() };
    let mut times = vec![Vec::new(); 3];
    for _ in 0..15 {
        times[0].push(seconds(|| program.run(&feeds, &fetch).map(drop).map_err(Into::into))?);
        times[1].push(seconds(|| model.run(&request).map(drop).map_err(Into::into))?);
        times[2].push(seconds(|| adding.run(&request).map(drop).map_err(Into::into))?);
    }
    let ratio = |i: usize, to: usize| median(times[i][1..].iter().zip(&times[to][1..]).map(|(a, b)| a / b).collect());
    println!(
        "forward pass, 4 x 35, all logits: a method called at one site {:.3}x of the plain session ({:.3} s), {:.3}x of \
         the model without it",
        ratio(2, 0),
        median(times[0].clone()),
        ratio(2, 1)
    );
    Ok(())
}

/// The price of a call at one site: one row of 16 tokens through atlas with it and without.
fn call(runtime: &Runtime) -> Outcome<()> {
    let folder = atlas().join("model");
    let model = Model::open(&folder, runtime, &OpenOptions::default())?;
    let library = || -> Outcome<Arc<Method>> { Ok(Arc::new(plugin("stress", "")?)) };
    let ways: [(&str, Arc<dyn Attached>); 4] = [
        ("that looks on", Arc::new(Adding(0.0))),
        ("that adds", Arc::new(Adding(1e-3))),
        ("of a plugin that adds", Arc::new(Attachment::new(library()?).patience(None))),
        ("of a plugin that adds, watched", Arc::new(Attachment::new(library()?))),
    ];
    let rows = rows(1, 16, model.anatomy().vocab);
    let request = RunRequest { rows, logits: vec![Place { row: 0, pos: 15 }], ..RunRequest::default() };
    let pass = |model: &Model| seconds(|| model.run(&request).map(drop).map_err(Into::into));
    for (what, method) in ways {
        let called = intercepted(runtime, &folder, method)?;
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..400 {
            times[0].push(pass(&model)?);
            times[1].push(pass(&called)?);
        }
        let [without, with] = times.map(median);
        println!(
            "a call {what}, one row of 16 tokens: {:.0} us more than the pass of {:.0} us without",
            (with - without) * 1e6,
            without * 1e6
        );
    }
    Ok(())
}

/// The logits of the last positions of four rows of 35 tokens: a model with slots in one block against the same model
/// without, and all logits of both against the runtime's defaults.
fn slots(runtime: &Runtime, large: &Path) -> Outcome<()> {
    let program = plain(runtime, large)?;
    let none = Model::open(large, runtime, &OpenOptions::default())?;
    let rows = rows(4, 35, none.anatomy().vocab);
    let feeds = feed(&program, &rows)?;
    let feeds: Vec<(&str, &Value)> = feeds.iter().map(|(n, v)| (n.as_str(), v)).collect();
    let fetch: Vec<String> = program.outputs().iter().map(|p| p.name.clone()).collect();
    let fetch: Vec<&str> = fetch.iter().map(String::as_str).collect();
    let logits = (0..4).map(|row| Place { row, pos: 34 }).collect();
    let last = RunRequest { rows: rows.clone(), logits, ..RunRequest::default() };
    let places = (0..4).flat_map(|row| (0..35).map(move |pos| Place { row, pos })).collect();
    let all = RunRequest { rows, logits: places, ..RunRequest::default() };
    for n in [100, 10_000] {
        let with = Model::open(large, runtime, &OpenOptions::default())?;
        let (method, version) = ("bench".to_owned(), "1".to_owned());
        let changes = vec![neurons(&with, n)?];
        with.commit(Proposal {
            method,
            version,
            params: Params::default(),
            artefact: None,
            requests: Vec::new(),
            changes,
        })?;
        let mut times = vec![Vec::new(); 5];
        for _ in 0..25 {
            times[0].push(seconds(|| program.run(&feeds, &fetch).map(drop).map_err(Into::into))?);
            times[1].push(seconds(|| none.run(&all).map(drop).map_err(Into::into))?);
            times[2].push(seconds(|| with.run(&all).map(drop).map_err(Into::into))?);
            times[3].push(seconds(|| none.run(&last).map(drop).map_err(Into::into))?);
            times[4].push(seconds(|| with.run(&last).map(drop).map_err(Into::into))?);
        }
        let ratio =
            |i: usize, to: usize| median(times[i][1..].iter().zip(&times[to][1..]).map(|(a, b)| a / b).collect());
        println!(
            "{n} slots in one block, 4 x 35, plain session {:.3} s: all logits {:.3}x of the plain session and {:.3}x of \
             none; the last positions' {:.3}x of none",
            median(times[0].clone()),
            ratio(2, 0),
            ratio(2, 1),
            ratio(4, 3)
        );
    }
    Ok(())
}

/// A codebook of 100 keys in the middle block, against the runtime's defaults.
fn splice(runtime: &Runtime, large: &Path) -> Outcome<()> {
    let program = plain(runtime, large)?;
    let [none, with] = [(); 2].map(|()| Model::open(large, runtime, &OpenOptions::default()));
    let (none, with) = (none?, with?);
    let rows = rows(4, 35, none.anatomy().vocab);
    let feeds = feed(&program, &rows)?;
    let feeds: Vec<(&str, &Value)> = feeds.iter().map(|(n, v)| (n.as_str(), v)).collect();
    let fetch: Vec<&str> = program.outputs().iter().map(|p| p.name.as_str()).collect();
    let last = (0..4).map(|row| Place { row, pos: 34 }).collect();
    let last = RunRequest { rows: rows.clone(), logits: last, ..RunRequest::default() };
    let places = (0..4).flat_map(|row| (0..35).map(move |pos| Place { row, pos })).collect();
    let all = RunRequest { rows, logits: places, ..RunRequest::default() };
    let commit = |seed: f32, keys: usize| -> Outcome<f64> {
        let (method, version) = ("bench".to_owned(), "1".to_owned());
        let changes = vec![codebook(&with, keys, seed)?];
        let proposal =
            Proposal { method, version, params: Params::default(), artefact: None, requests: Vec::new(), changes };
        seconds(|| with.commit(proposal.clone()).map(drop).map_err(Into::into))
    };
    let first = commit(0.0, 98)?;
    let more = [commit(1.0, 1)?, commit(2.0, 1)?];
    let mut times = vec![Vec::new(); 5];
    for _ in 0..25 {
        times[0].push(seconds(|| program.run(&feeds, &fetch).map(drop).map_err(Into::into))?);
        times[1].push(seconds(|| none.run(&all).map(drop).map_err(Into::into))?);
        times[2].push(seconds(|| with.run(&all).map(drop).map_err(Into::into))?);
        times[3].push(seconds(|| none.run(&last).map(drop).map_err(Into::into))?);
        times[4].push(seconds(|| with.run(&last).map(drop).map_err(Into::into))?);
    }
    let ratio = |i: usize, to: usize| median(times[i][1..].iter().zip(&times[to][1..]).map(|(a, b)| a / b).collect());
    println!(
        "a splice of 100 keys in one block, 4 x 35, plain session {:.3} s: all logits {:.3}x of the plain session and \
         {:.3}x of none; the last positions' {:.3}x of none; the first patch took {first:.2} s, the next {:.2} s",
        median(times[0].clone()),
        ratio(2, 0),
        ratio(2, 1),
        ratio(4, 3),
        more[0].min(more[1])
    );
    Ok(())
}

/// Requests that see another set of the loaded patches each time, against requests that see the same.
fn switch(runtime: &Runtime, what: &str, folder: &Path) -> Outcome<()> {
    let model = Model::open(folder, runtime, &OpenOptions::default())?;
    let [inputs, outputs] = model.anatomy().weight(WeightRef::Block(1, Role::MlpOut))?.shape;
    let wave = |n: usize, f: f32| (0..n).map(|i| 0.01 * (f * i as f32).sin()).collect::<Vec<f32>>();
    let delta = |number: usize| -> Outcome<Delta> {
        let f = 1.0 + number as f32;
        Ok(match number % 2 {
            0 => Delta::LowRank {
                left: Tensor::f32([inputs, 4], wave(inputs * 4, f))?,
                right: Tensor::f32([4, outputs], wave(outputs * 4, f))?,
            },
            _ => Delta::Dense(Tensor::f32([inputs, outputs], wave(inputs * outputs, f))?),
        })
    };
    let mut ids = Vec::new();
    for number in 0..6 {
        let weight = WeightRef::Block(number / 2, Role::MlpOut);
        let changes = vec![Change::Weight { weight, delta: delta(number)? }];
        let (method, version) = ("bench".to_owned(), "1".to_owned());
        let (params, requests) = (Params::default(), Vec::new());
        ids.push(model.commit(Proposal { method, version, params, artefact: None, requests, changes })?);
    }
    let rows = rows(1, 16, model.anatomy().vocab);
    let request = RunRequest { rows, logits: vec![Place { row: 0, pos: 15 }], ..RunRequest::default() };
    let sets: Vec<Vec<Active>> = [&[0, 1, 2][..], &[3, 4], &[1, 5], &[]]
        .iter()
        .map(|set| vec![Active::Only(set.iter().map(|&i: &usize| ids[i].clone()).collect())])
        .collect();
    let ask = |set: &[Active]| seconds(|| model.run_seeing(&request, set, None).map(drop).map_err(Into::into));
    let first = sets.iter().map(|set| ask(set)).collect::<Outcome<Vec<f64>>>()?;
    let (compiled, mut same, mut other) = (model.compiled(), Vec::new(), Vec::new());
    for round in 0..200 {
        // The last set again, and then another.
        same.push(ask(&sets[round % 4])?);
        other.push(ask(&sets[(round + 1) % 4])?);
    }
    println!(
        "{what}, six patches, three of them dense: a request of 16 tokens takes {:.3} ms with the set of the one before, \
         {:.3} ms with another ({:+.3} ms); the first of a set at most {:.3} ms; {} programs compiled meanwhile",
        1e3 * median(same.clone()),
        1e3 * median(other.clone()),
        1e3 * (median(other) - median(same)),
        1e3 * first.iter().skip(1).copied().fold(0.0, f64::max),
        model.compiled() - compiled
    );
    Ok(())
}

/// A splice that looks for the key that is nearest to the activation at the end of the prompt, and puts the key's value
/// there if it is near enough. Every other key is met.
fn codebook(model: &Model, keys: usize, seed: f32) -> Outcome<Change> {
    let (width, site) = (model.anatomy().d_model, Site::Block(model.anatomy().layers / 2, BlockSite::ResidPost));
    let named = |names: &[&str], widths: &[usize]| -> Vec<Dim> {
        names.iter().map(|n| Dim::symbol(n)).chain(widths.iter().map(|&w| Dim::Known(w))).collect()
    };
    let empty = Graph::empty(13);
    let mut d = Patch::new(&empty);
    let x = d.input(&site.to_string(), DType::F32, named(&["rows", "columns"], &[width]))?;
    let table = d.input("keys", DType::F32, named(&["n"], &[width]))?;
    let values = d.input("values", DType::F32, named(&["n"], &[width]))?;
    let radii = d.input("radii", DType::F32, named(&["n"], &[]))?;
    let seen = d.input("keys.gate", DType::F32, named(&["rows", "n"], &[]))?;
    let positions = d.input("positions", DType::I64, named(&["rows", "columns"], &[]))?;
    let ends = d.input("prompt_end", DType::I64, named(&["rows"], &[]))?;
    let [one, two, last] = [1, 2, -1].map(|axis| d.i64(&[1], &[axis]));
    let cast = |to: DType| [("to", Attr::Int(i64::from(to.0)))];
    let ends = d.op("Unsqueeze", &[&ends, &one], &[])?;
    let here = d.op("Equal", &[&positions, &ends], &[])?;
    let picked = d.op("Cast", &[&here], &cast(DType::F32))?;
    let picked = d.op("Unsqueeze", &[&picked, &one], &[])?;
    let query = d.op("MatMul", &[&picked, &x], &[])?;
    let apart = d.op("Sub", &[&query, &table], &[])?;
    let apart = d.op("Mul", &[&apart, &apart], &[])?;
    let apart = d.op("ReduceSum", &[&apart, &last], &[("keepdims", Attr::Int(0))])?;
    let (whole, far) = (d.f32(&[1], &[1.0]), d.f32(&[1], &[1e30]));
    let unseen = d.op("Sub", &[&whole, &seen], &[])?;
    let unseen = d.op("Mul", &[&unseen, &far], &[])?;
    let apart = d.op("Add", &[&apart, &unseen], &[])?;
    let nearest = d.op("ArgMin", &[&apart], &[("axis", Attr::Int(1)), ("keepdims", Attr::Int(1))])?;
    let least = d.op("GatherElements", &[&apart, &nearest], &[("axis", Attr::Int(1))])?;
    let radius = d.op("Gather", &[&radii, &nearest], &[])?;
    let radius = d.op("Mul", &[&radius, &radius], &[])?;
    let within = d.op("LessOrEqual", &[&least, &radius], &[])?;
    let at = d.op("And", &[&within, &here], &[])?;
    let at = d.op("Unsqueeze", &[&at, &two], &[])?;
    let value = d.op("Gather", &[&values, &nearest], &[])?;
    let new = d.op("Where", &[&at, &value, &x], &[])?;
    d.tap(&new, DType::F32)?;
    let wave = |n: usize, size: f32| (0..n).map(|k| size * (0.7 * k as f32 + seed).sin()).collect::<Vec<f32>>();
    let radii = (0..keys).map(|i| if i % 2 == 0 { 1e9 } else { 1e-9 }).collect();
    let part = |name: &str, value: Tensor| Increment { name: name.into(), fold: Fold::Stack, value };
    Ok(Change::Splice(Splice {
        graph: d.apply()?.to_bytes()?,
        reads: vec![site],
        writes: site,
        tables: vec![
            part("keys", Tensor::f32([keys, width], wave(keys * width, 1.0))?),
            part("values", Tensor::f32([keys, width], wave(keys * width, 0.1))?),
            part("radii", Tensor::f32([keys], radii)?),
        ],
        whole_rows: false,
        order: 0,
    }))
}

/// Slots in the middle block.
fn neurons(model: &Model, n: usize) -> Outcome<Change> {
    let width = model.anatomy().d_model;
    let wave = |n: usize, size: f32| (0..n).map(|k| size * (0.7 * k as f32).sin()).collect::<Vec<f32>>();
    Ok(Change::Slots(Slots {
        layer: model.anatomy().layers / 2,
        keys: Tensor::f32([width, n], wave(width * n, 0.1))?,
        bias: Tensor::zeros([n]),
        values: Tensor::f32([n, width], wave(n * width, 1e-3))?,
        gate: None,
        activation: Activation::Model,
    }))
}

/// Tokens per second over a cache against a bare loop over a session of the same file, one row and four.
fn generate(runtime: &Runtime, folder: &Path) -> Outcome<()> {
    const PROMPT: usize = 32;
    const NEW: usize = 24;
    let model = Model::open(folder, runtime, &OpenOptions::default())?;
    let path = Graph::find(folder)?;
    let bytes = std::fs::read(&path)?;
    let at = path.parent().unwrap_or(Path::new("."));
    let bare =
        |prepack| Program::compile(runtime, &bytes, at, &ProgramOptions { prepack, ..ProgramOptions::default() });
    let (mapped, packed) = (bare(false)?, bare(true)?);
    for n in [1, 4] {
        let rows = rows(n, PROMPT, model.anatomy().vocab);
        let request = GenerateRequest { rows: rows.clone(), max_new: NEW, ..GenerateRequest::default() };
        let said = model.generate(&request)?;
        let mut times = vec![Vec::new(); 3];
        for _ in 0..6 {
            times[0].push(seconds(|| model.generate(&request).map(drop).map_err(Into::into))?);
            for (program, times) in [&mapped, &packed].into_iter().zip(&mut times[1..]) {
                times.push(seconds(|| {
                    let same = bare_loop(program, &model, &rows, NEW)? == said;
                    if same { Ok(()) } else { Err("the bare loop says something else".into()) }
                })?);
            }
        }
        let rate = |i: usize| (n * NEW) as f64 / median(times[i][1..].to_vec());
        let ratio = |i: usize| median(times[i][1..].iter().zip(&times[0][1..]).map(|(a, b)| a / b).collect());
        println!(
            "generation over a cache, {n} x {PROMPT} + {NEW} greedy: {:.1} tokens/s, {:.3}x of a bare loop over the \
             mapped weights, {:.3}x of one over the runtime's defaults ({:.1} and {:.1} tokens/s)",
            rate(0),
            ratio(1),
            ratio(2),
            rate(1),
            rate(2)
        );
    }
    Ok(())
}

/// What one would write without engraft: the outputs of a pass are the inputs of the next.
fn bare_loop(program: &Program, model: &Model, rows: &[Vec<u32>], new: usize) -> Outcome<Vec<Vec<u32>>> {
    let inputs = &model.anatomy().inputs;
    let logits = model.anatomy().site(Site::Logits)?;
    let (n, vocab) = (rows.len(), model.anatomy().vocab);
    let mut past = Vec::new();
    for port in &inputs.cache {
        past.push(Value::f32(&port.shape(n, 0), Vec::new())?);
    }
    let fetch: Vec<&str> = std::iter::once(logits).chain(inputs.cache.iter().map(|p| p.present.as_str())).collect();
    let (mut fed, mut done, mut said) = (rows.to_vec(), 0, vec![Vec::new(); n]);
    for _ in 0..new {
        let length = fed[0].len();
        let ids = Value::i64(&[n, length], fed.concat().into_iter().map(i64::from).collect())?;
        let mask = Value::i64(&[n, done + length], vec![1; n * (done + length)])?;
        let positions =
            Value::i64(&[n, length], (0..n).flat_map(|_| (done..done + length).map(|p| p as i64)).collect())?;
        let mut feeds = vec![(inputs.ids.as_str(), &ids)];
        feeds.extend(inputs.mask.iter().map(|name| (name.as_str(), &mask)));
        feeds.extend(inputs.positions.iter().map(|name| (name.as_str(), &positions)));
        feeds.extend(inputs.cache.iter().map(|p| p.past.as_str()).zip(&past));
        let mut outputs = program.run(&feeds, &fetch)?;
        past = outputs.split_off(1);
        let values = outputs[0].as_f32()?;
        for row in 0..n {
            let at = ((row + 1) * length - 1) * vocab;
            let last = &values[at..at + vocab];
            let best = (0..vocab).fold(0, |best, i| if last[i] > last[best] { i } else { best });
            said[row].push(best as u32);
            fed[row] = vec![best as u32];
        }
        done += length;
    }
    Ok(said)
}

/// Loading a graph of Llama's shape and finding its parts; the memory of opening it, and of one pass after that where
/// its weights are there.
fn anatomy(folder: &Path) -> Outcome<()> {
    let path = Graph::find(folder)?;
    let (mut loads, mut finds, mut found) = (Vec::new(), Vec::new(), None);
    for _ in 0..9 {
        let mut graph = None;
        loads.push(seconds(|| {
            graph = Some(Graph::load(&path)?);
            Ok(())
        })?);
        let graph = graph.ok_or("no graph")?;
        finds.push(seconds(|| {
            found = Some(Anatomy::of(&graph, &Shapes::infer(&graph)?)?);
            Ok(())
        })?);
    }
    let layers = found.map_or(0, |a| a.layers);
    println!(
        "a graph of {layers} blocks: loaded in {:.3} s, shapes and anatomy in {:.3} s",
        median(loads),
        median(finds)
    );
    let out = std::process::Command::new(std::env::current_exe()?).arg("child-peak").output()?;
    print!("{}", String::from_utf8_lossy(&out.stdout));
    Ok(())
}

/// Opens the Llama-shaped model, runs one row of 16 tokens, and says what was resident at most.
fn peak() -> Outcome<()> {
    let folder = PathBuf::from(std::env::var_os("ENGRAFT_BENCH_LLAMA").ok_or("ENGRAFT_BENCH_LLAMA is not set")?);
    let runtime = Runtime::open(&RuntimeSettings::default(), silent())?;
    let model = Model::open(&folder, &runtime, &OpenOptions::default())?;
    let weights: u64 = model.graph().initializers().filter_map(|i| i.byte_len().ok()).sum();
    let of_weights = |bytes: Option<u64>| bytes.unwrap_or(0) as f64 / weights as f64;
    println!(
        "opening it: at most {:.3}x of its {:.2} GB of weights resident",
        of_weights(memory::peak_bytes()),
        weights as f64 / 1e9
    );
    if memory::available_bytes().is_some_and(|free| free > weights + weights / 2) {
        let rows = rows(1, 16, model.anatomy().vocab);
        model.run(&RunRequest { rows, logits: vec![Place { row: 0, pos: 15 }], ..RunRequest::default() })?;
        println!(
            "after a pass: at most {:.3}x resident, mapped files included; {:.3}x of it allocated",
            of_weights(memory::peak_bytes()),
            of_weights(memory::anonymous_bytes())
        );
    }
    Ok(())
}

/// RssAnon with three programs against one session of the runtime's defaults, each in a process of its own.
fn memory_of_three() -> Outcome<()> {
    let measure = |what: &str| -> Outcome<f64> {
        let out = std::process::Command::new(std::env::current_exe()?).arg(format!("child-{what}")).output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.trim().parse().map_err(|_| format!("the child said {text:?}").into())
    };
    let (one, three) = (measure("default")?, measure("three")?);
    println!("RssAnon: one default session {one:.0} MB, three programs {three:.0} MB, ratio {:.2}", three / one);
    Ok(())
}

fn child(what: &str) -> Outcome<()> {
    if what == "peak" {
        return peak();
    }
    let large = large().ok_or("ENGRAFT_BENCH_MODEL is not set")?;
    let runtime = Runtime::open(&RuntimeSettings::default(), silent())?;
    let keep: Box<dyn std::any::Any> = if what == "default" {
        let program = plain(&runtime, &large)?;
        let feeds = feed(&program, &rows(4, 35, 50_000))?;
        let feeds: Vec<(&str, &Value)> = feeds.iter().map(|(n, v)| (n.as_str(), v)).collect();
        let fetch = program.outputs()[0].name.clone();
        program.run(&feeds, &[&fetch])?;
        Box::new(program)
    } else {
        let model = Arc::new(Model::open(&large, &runtime, &OpenOptions::default())?);
        let rows = rows(4, 35, model.anatomy().vocab);
        let logits: Vec<Place> = (0..4).map(|row| Place { row, pos: 34 }).collect();
        model.run(&RunRequest { rows: rows.clone(), logits: logits.clone(), ..RunRequest::default() })?;
        let site = Site::Block(5, BlockSite::MlpPost);
        let taps = vec![Tap { site, places: None }];
        model.run(&RunRequest { rows: rows.clone(), taps, ..RunRequest::default() })?;
        let site = Site::Block(5, BlockSite::MlpProj);
        let values = Tensor::zeros([1, model.anatomy().d_model]);
        let terms = logits.iter().map(|&place| Term::Nll { place, token: 17, weight: 0.25 }).collect();
        model.gradient(&GradientRequest {
            rows,
            adds: vec![Poke { site, places: logits, values }],
            terms,
            wrt: vec![Wrt::Add(0)],
            ..GradientRequest::default()
        })?;
        Box::new(model)
    };
    println!("{}", memory::anonymous_bytes().unwrap_or(0) as f64 / 1e6);
    drop(keep);
    Ok(())
}
