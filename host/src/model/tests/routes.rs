//! Routes: what becomes of requests by the answers of methods, what methods are asked, and what goes wrong.

use std::sync::{Arc, Mutex};

use engraft_plugin_api::{
    Change, GenerateRequest, GradientRequest, ModuleCall, ModuleGraph, ModuleId, ModuleSource, Params, Place, Role,
    Route, RouteQuery, RunRequest, Term, WeightRef,
};

use super::{difference, last, low_rank};
use crate::base::{Error, Hash, Result};
use crate::graph::testing::rows as zoo_rows;
use crate::graph::{Attr, DType, Dim, Graph, Initializer, Patch};
use crate::model::{Active, Attached, Continuation, Model, OpenOptions, Proposal, Routing, View, codes};
use crate::runtime;
use crate::weights::PatchId;

fn open(options: &OpenOptions) -> Model {
    let row = zoo_rows().into_iter().find(|row| row.name == "gpt2-dynamo-23-cache").unwrap();
    Model::open(&row.folder, &runtime::for_tests(), options).unwrap()
}

/// A method made of a function.
struct By<F>(F);

impl<F: Fn(&Routing<'_>, &RouteQuery<'_>) -> Result<Route> + Send + Sync> Attached for By<F> {
    fn route(&self, routing: &Routing<'_>, query: &RouteQuery<'_>) -> Result<Route> {
        (self.0)(routing, query)
    }
}

fn attach(
    model: &Model,
    method: &str,
    route: impl Fn(&Routing<'_>, &RouteQuery<'_>) -> Result<Route> + Send + Sync + 'static,
) {
    model.attach(method, &Params::default(), Arc::new(By(route)));
}

fn proposal(method: &str, changes: Vec<Change>) -> Proposal {
    let (method, version) = (method.to_owned(), "0".to_owned());
    Proposal { method, version, params: Params::default(), artefact: None, requests: Vec::new(), changes }
}

/// A patch of `plain`, two of `a`, one of `b`, and another of `a`; all change weights, all but the first route.
fn commit(model: &Model) -> Vec<PatchId> {
    let weight = WeightRef::Block(1, Role::MlpOut);
    let of = |(number, method): (u8, &str)| {
        let own = low_rank(model, weight, 0.1 + 0.05 * f32::from(number));
        let changes = if number == 0 { vec![own] } else { vec![own, Change::Route, Change::State(vec![number])] };
        model.commit(proposal(method, changes)).unwrap()
    };
    (0..).zip(["plain", "a", "a", "b", "a"]).map(of).collect()
}

/// A network in which every token has a row of logits, so many wide.
fn table(model: &Model, vocab: usize) -> (ModuleId, impl Fn(u32) -> Vec<f32>) {
    let values: Vec<f32> = (0..vocab * vocab).map(|i| 3.0 * (0.37 * i as f32).sin()).collect();
    let empty = Graph::empty(17);
    let mut d = Patch::new(&empty);
    let ids = d.input("input_ids", DType::I64, vec![Dim::symbol("rows"), Dim::symbol("columns")]).unwrap();
    let rows = d.constant(Initializer::f32("table", &[vocab, vocab], &values));
    let logits = d.op("Gather", &[&rows, &ids], &[("axis", Attr::Int(0))]).unwrap();
    d.tap(&logits, DType::F32).unwrap();
    let graph = ModuleGraph::Bytes(d.apply().unwrap().to_bytes().unwrap());
    let key = format!("a/table-{vocab}");
    let source = ModuleSource { graph, weights: Vec::new() };
    model.module(&ModuleCall::Open { key: key.clone(), source }, None).unwrap();
    (ModuleId(key), move |token| values[token as usize * vocab..][..vocab].to_vec())
}

fn probabilities(logits: &[f32]) -> Vec<f64> {
    let parts: Vec<f64> = logits.iter().map(|&v| f64::from(v).exp()).collect();
    let sum: f64 = parts.iter().sum();
    parts.into_iter().map(|p| p / sum).collect()
}

const PROMPT: [u32; 4] = [5, 9, 11, 2];

fn score(model: &Model, prompt: &[u32], view: &View) -> Vec<f32> {
    let continuation = Continuation { prompt: prompt.to_vec(), tokens: vec![4, 9, 30] };
    model.score_seeing(&[continuation], view, None).unwrap().remove(0).log_probs
}

fn say(model: &Model, prompt: &[u32], view: &View) -> Vec<u32> {
    let request = GenerateRequest { rows: vec![prompt.to_vec()], max_new: 6, ..GenerateRequest::default() };
    model.generate_seeing(&request, view, None).unwrap().remove(0)
}

/// A request that sees these patches, and asks no method.
fn seeing(ids: &[PatchId], numbers: &[usize]) -> View {
    View { routed: false, ..View::only(numbers.iter().map(|&i| ids[i].clone())) }
}

#[test]
fn answers_restrict_what_is_seen_replace_the_prompt_or_let_another_network_speak() {
    let model = open(&OpenOptions::default());
    for method in ["a", "b"] {
        attach(&model, method, |_, _| Ok(Route::Base));
    }
    let ids = commit(&model);
    let other = vec![7, 1, 60, 22, 3, 8];
    let cases = [
        (Route::Base, Route::Base, vec![0], None),
        (Route::Changes(vec![]), Route::Changes(vec![0]), vec![0, 3], None),
        (Route::Changes(vec![2, 0]), Route::Base, vec![0, 1, 4], None),
        (Route::Changes(vec![0, 1, 2]), Route::Changes(vec![0]), vec![0, 1, 2, 3, 4], None),
        (Route::Prompt(other.clone()), Route::Changes(vec![0]), vec![0], Some(&other)),
        (Route::Changes(vec![1]), Route::Prompt(other.clone()), vec![0, 2], Some(&other)),
    ];
    let mut met = Vec::new();
    for (a, b, seen, prompt) in cases {
        for (method, route) in [("a", a.clone()), ("b", b.clone())] {
            attach(&model, method, move |_, _| Ok(route.clone()));
        }
        let (prompt, plain) = (prompt.map_or(&PROMPT[..], Vec::as_slice), seeing(&ids, &seen));
        let found = score(&model, &PROMPT, &View::default());
        assert_eq!(found, score(&model, prompt, &plain), "{a:?} {b:?}");
        assert_eq!(say(&model, &PROMPT, &View::default()), say(&model, prompt, &plain), "{a:?} {b:?}");
        assert!(!met.contains(&found), "{a:?} {b:?}");
        met.push(found);
    }
    // Unrouted, a request sees what it may see.
    assert_eq!(score(&model, &PROMPT, &View::unrouted()), score(&model, &PROMPT, &seeing(&ids, &[0, 1, 2, 3, 4])));
    attach(&model, "b", |_, _| Ok(Route::Base));

    let (module, line) = table(&model, model.anatomy().vocab);
    for mix in [0.0, 0.25, 1.0] {
        let (id, tokens) = (module.clone(), other.clone());
        attach(&model, "a", move |_, _| Ok(Route::Delegate { module: id.clone(), tokens: tokens.clone(), mix }));
        let own = score(&model, &PROMPT, &seeing(&ids, &[0]));
        let found = score(&model, &PROMPT, &View::default());
        for (number, (before, token)) in [3, 4, 9].into_iter().zip([4, 9, 30]).enumerate() {
            let before = if number == 0 { *other.last().unwrap() } else { before };
            let its = probabilities(&line(before))[token];
            let wanted = (1.0 - f64::from(mix)) * f64::from(own[number]).exp() + f64::from(mix) * its;
            assert!((f64::from(found[number]) - wanted.ln()).abs() < 1e-4, "{mix} {number}");
        }
        let said = say(&model, &PROMPT, &View::default());
        let mut row = PROMPT.to_vec();
        for (step, &token) in said.iter().enumerate() {
            let request = RunRequest { logits: last(&[row.clone()]), rows: vec![row.clone()], ..RunRequest::default() };
            let own = model.run_seeing(&request, &seeing(&ids, &[0]).active, None).unwrap().logits;
            let before = if step == 0 { *other.last().unwrap() } else { row[row.len() - 1] };
            let both = probabilities(own.as_f32().unwrap()).into_iter().zip(probabilities(&line(before)));
            let mixed: Vec<f64> = both.map(|(a, b)| (1.0 - f64::from(mix)) * a + f64::from(mix) * b).collect();
            let best = mixed.iter().copied().fold(0.0, f64::max);
            assert!(mixed[token as usize] > best - 1e-6, "{mix} {step}");
            row.push(token);
        }
        assert_eq!(said.len(), 6);
    }
}

#[test]
fn rows_of_one_call_have_routes_of_their_own_and_methods_are_asked_once_for_each() {
    let model = open(&OpenOptions::default());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    let (module, _) = table(&model, model.anatomy().vocab);
    attach(&model, "a", move |routing, query| {
        let seen: Vec<(String, Vec<u8>)> = query.patches.iter().map(|p| (p.id.to_owned(), p.state.to_vec())).collect();
        let own: Vec<String> = routing.patches().into_iter().map(|patch| patch.id).collect();
        assert_eq!(own, seen.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>());
        noted.lock().unwrap().push((query.tokens.clone(), seen));
        let delegate = |mix| Route::Delegate { module: module.clone(), tokens: vec![8, 8], mix };
        Ok(match query.tokens[0] {
            0 => Route::Base,
            1 => Route::Changes(vec![0]),
            2 => Route::Prompt(vec![3, 1, 4, 1, 5]),
            3 => delegate(0.5),
            _ => delegate(1.0),
        })
    });
    attach(&model, "b", |_, _| Ok(Route::Base));
    let ids = commit(&model);
    let rows: Vec<Vec<u32>> = (0..7).map(|r| (0..3 + r % 2).map(|i| (r + 9 * i) % 100).collect()).collect();
    let last = View::only([ids[2].clone(), ids[3].clone()]).active.remove(0);
    let mut active = vec![Active::All; 7];
    (active[5], active[6]) = (last, Active::Only(vec![ids[0].clone(), ids[3].clone()]));
    let view = View { active: active.clone(), routed: true };
    let request = GenerateRequest { rows: rows.clone(), max_new: 4, ..GenerateRequest::default() };
    let said = model.generate_seeing(&request, &view, None).unwrap();
    let twice = [&rows[..], &rows[..]].concat();
    let all: Vec<Continuation> =
        twice.iter().map(|prompt| Continuation { prompt: prompt.clone(), tokens: vec![4, 9] }).collect();
    let both = View { active: [&active[..], &active[..]].concat(), routed: true };
    assert_eq!(asked.lock().unwrap().len(), 6, "the last row may see no patch of the method");
    let scores = model.score_seeing(&all, &both, None).unwrap();
    {
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 12, "equal requests are asked for once");
        let of_a = [&ids[1], &ids[2], &ids[4]].map(ToString::to_string);
        assert_eq!(asked[0].0, rows[0]);
        assert_eq!(asked[0].1, of_a.into_iter().zip([vec![1], vec![2], vec![4]]).collect::<Vec<_>>());
        assert_eq!(asked[5].1, [(ids[2].to_string(), vec![2])]);
    }
    for r in 0..7 {
        let one = View { active: vec![active[r].clone()], routed: true };
        assert_eq!(say(&model, &rows[r], &one)[..4], said[r], "{r}");
        let alone = model.score_seeing(&all[r..=r], &one, None).unwrap().remove(0);
        for found in [&scores[r], &scores[r + 7]] {
            assert!(difference(&found.log_probs, &alone.log_probs) < 1e-4, "{r}");
        }
    }
    let differ: std::collections::BTreeSet<String> = scores.iter().map(|s| format!("{:?}", s.log_probs)).collect();
    assert!(differ.len() >= 6, "{differ:?}");
}

#[test]
fn a_patch_is_asked_about_of_the_method_with_the_artefact_that_made_it() {
    /// Gives its own prompt to requests whose patches it has seen, and keeps their names.
    struct Learnt {
        artefact: Option<Hash>,
        prompt: Vec<u32>,
        asked: Mutex<Vec<Vec<String>>>,
    }
    impl Attached for Learnt {
        fn route(&self, routing: &Routing<'_>, query: &RouteQuery<'_>) -> Result<Route> {
            let named: Vec<String> = query.patches.iter().map(|patch| patch.id.to_owned()).collect();
            self.asked.lock().unwrap().push(named);
            assert!(query.patches.len() <= routing.patches().len());
            Ok(if query.tokens[0] == self.prompt[0] { Route::Prompt(self.prompt.clone()) } else { Route::Base })
        }

        fn artefact(&self) -> Option<Hash> {
            self.artefact
        }
    }
    let model = open(&OpenOptions::default());
    let hashes = [None, Some(Hash::of(b"one")), Some(Hash::of(b"other"))];
    let learnt = |(number, artefact): (u32, Option<Hash>)| {
        let prompt = vec![40 + number, 7, 9 + number];
        Arc::new(Learnt { artefact, prompt, asked: Mutex::default() })
    };
    let makers: Vec<Arc<Learnt>> = (0..).zip(hashes).map(learnt).collect();
    let commit = |maker: &Learnt| {
        model
            .commit(Proposal { artefact: maker.artefact, ..proposal("a", vec![Change::Route, Change::State(vec![1])]) })
    };
    // Neither the untaught nor the otherwise taught method stands for one that is not attached.
    for maker in &makers[..2] {
        model.attach("a", &Params::default(), maker.clone());
    }
    assert_eq!(commit(&makers[2]).unwrap_err().code().id, "route-method");
    model.attach("a", &Params::default(), makers[2].clone());
    let ids: Vec<PatchId> = makers.iter().map(|maker| commit(maker).unwrap()).collect();
    for maker in &makers {
        let tokens = [maker.prompt[0], 3, 1];
        assert_eq!(score(&model, &tokens, &View::default()), score(&model, &maker.prompt, &View::unrouted()));
    }
    for (number, maker) in makers.iter().enumerate() {
        let asked = maker.asked.lock().unwrap();
        // The first that gives a prompt ends it: each is asked for its own request and those of later ones.
        assert_eq!(asked.len(), 3 - number);
        assert!(asked.iter().all(|named| *named == [ids[number].to_string()]), "{number}: {asked:?}");
    }
}

#[test]
fn a_method_sees_the_base_model_and_its_faults_end_its_request_alone() {
    let folder = tempfile::tempdir().unwrap();
    let options = OpenOptions { journal: Some(folder.path().join("journal")), ..OpenOptions::default() };
    let model = open(&options);
    let plain = open(&OpenOptions::default());
    let row = vec![PROMPT.to_vec()];
    let request = RunRequest { logits: last(&row), rows: row, ..RunRequest::default() };
    let base = plain.run(&request).unwrap();
    let of_a = |changes| model.commit(proposal("a", changes));
    assert_eq!(of_a(vec![Change::Route]).unwrap_err().code().id, "route-method");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let request_of_base = request.clone();
    attach(&model, "a", move |routing, _| {
        noted.lock().unwrap().push(routing.model.run_base(&request_of_base, None)?);
        Ok(Route::Changes(vec![0]))
    });
    let before = model.state_hash();
    model.commit(proposal("plain", vec![low_rank(&model, WeightRef::Block(1, Role::MlpOut), 0.2)])).unwrap();
    let id = of_a(vec![Change::Route, low_rank(&model, WeightRef::Block(0, Role::MlpOut), 0.2)]).unwrap();
    let good = score(&model, &PROMPT, &View::default());
    assert_eq!(seen.lock().unwrap().as_slice(), [base]);

    let state = model.state_hash();
    let silent = of_a(vec![Change::Route]).unwrap();
    assert!(model.state_hash() != state && state != before);
    model.rollback(&silent).unwrap();
    assert_eq!(model.state_hash(), state);
    assert_eq!(model.export(&folder.path().join("out")).unwrap_err().code().id, "export-route");
    let trial = GenerateRequest {
        rows: vec![PROMPT.to_vec()],
        max_new: 1,
        under: vec![Change::Route],
        ..GenerateRequest::default()
    };
    let refused = |error: Error| assert_eq!(error.code().id, "route-trial", "{error:?}");
    refused(model.generate(&trial).unwrap_err());
    refused(model.generate_seeing(&trial, &View::unrouted(), None).unwrap_err());
    let (rows, under) = (vec![PROMPT.to_vec()], vec![Change::Route]);
    let logits = vec![Place { row: 0, pos: 0 }];
    let run = RunRequest { rows: rows.clone(), logits, under: under.clone(), ..RunRequest::default() };
    refused(model.run(&run).unwrap_err());
    refused(model.run_base(&run, None).unwrap_err());
    let nll = Term::Nll { place: Place { row: 0, pos: 0 }, token: 1, weight: 1.0 };
    let gradient = GradientRequest { rows, under, terms: vec![nll], ..GradientRequest::default() };
    refused(model.gradient(&gradient).unwrap_err());

    let vocab = model.anatomy().vocab;
    let long = vec![1; model.anatomy().context.unwrap() + 1];
    let (wide, _) = table(&model, vocab + 1);
    let delegate = |module: &ModuleId| Route::Delegate { module: module.clone(), tokens: vec![1], mix: 0.5 };
    let faults: Vec<(Result<Route>, &str, &str)> = vec![
        (Ok(Route::Changes(vec![1])), "route-invalid", "`a` answered what cannot be"),
        (Ok(Route::Prompt(vec![])), "route-invalid", "without tokens"),
        (Ok(Route::Prompt(vec![vocab as u32])), "route-invalid", "which the model lacks"),
        (Ok(Route::Prompt(long)), "row-too-long", "that `a` made"),
        (Ok(delegate(&wide)), "route-vocab", "`a` lets `a/table"),
        (Ok(delegate(&ModuleId("a/none".into()))), "module-unknown", "a/none"),
        (Err(Error::new(&codes::DECODING, "my words")), "decoding-invalid", "my words"),
    ];
    let refused = |code: &str, words: &str| {
        let continuation = Continuation { prompt: PROMPT.to_vec(), tokens: vec![4, 9] };
        let request = GenerateRequest { rows: vec![PROMPT.to_vec()], max_new: 2, ..GenerateRequest::default() };
        for error in [model.score(&[continuation]).unwrap_err(), model.generate(&request).unwrap_err()] {
            assert_eq!(error.code().id, code, "{error:?}");
            assert!(error.message().contains(words), "{error}");
        }
    };
    let keeps = || attach(&model, "a", |_, _| Ok(Route::Changes(vec![0])));
    for (route, code, words) in faults {
        attach(&model, "a", move |_, _| match &route {
            Ok(route) => Ok(route.clone()),
            Err(error) => Err(Error::new(error.code(), error.message())),
        });
        refused(code, words);
        keeps();
        assert_eq!(score(&model, &PROMPT, &View::default()), good, "{code}");
    }
    attach(&model, "a", |_, _| panic!("on purpose"));
    refused("route-panicked", "`a` panicked while it routed a request: on purpose");

    // A journal opens without the method; requests that may see its patches wait for it.
    drop(model);
    let model = open(&options);
    let prompt = [Continuation { prompt: PROMPT.to_vec(), tokens: vec![4] }];
    assert_eq!(model.score(&prompt).unwrap_err().code().id, "route-method");
    assert!(model.score_seeing(&prompt, &View::only([]), None).is_ok());
    attach(&model, "a", |_, _| Ok(Route::Changes(vec![0])));
    assert_eq!(score(&model, &PROMPT, &View::default()), good);
    model.rollback(&id).unwrap();
    assert!(difference(&score(&model, &PROMPT, &View::default()), &good) > 1e-3);
}
