//! Which patches the rows of a request see: rows of one batch with different ones are what models are that hold only
//! those, whatever the kinds of changes, and nothing is compiled for another choice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engraft_plugin_api::change::splice::gate_of;
use engraft_plugin_api::{
    BlockSite, Change, Delta, Fold, GenerateRequest, Increment, InterceptCall, Params, Place, Poke, Role, RunReply,
    RunRequest, Site, Splice, Tap, Tensor, WeightRef,
};
use ndarray::Axis;

use super::{dense, difference, low_rank, proposal};
use crate::base::Result;
use crate::graph::testing::rows as zoo_rows;
use crate::graph::{DType, Dim, Graph, Patch};
use crate::model::{Active, Attached, Continuation, Model, OpenOptions, View};
use crate::runtime;
use crate::weights::{PatchId, waves};

/// Linear maps and `Gemm`, packed and not, with a cache and without, tied and not, and one in float16.
const EXPORTS: [&str; 5] =
    ["gpt2-dynamo-mask", "gpt2-dynamo-23-cache", "llama-dynamo-cache", "gptneox-torchscript", "gpt2-dynamo-f16"];

fn open(name: &str) -> Model {
    let row = zoo_rows().into_iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}"));
    let model = Model::open(&row.folder, &runtime::for_tests(), &OpenOptions::default()).unwrap();
    model.attach("test", &Params::default(), Arc::new(Adding));
    model
}

/// Adds 1/4 to every number of a row for each patch that the row sees, and to all others what they must not keep.
struct Adding;

impl Attached for Adding {
    fn intercept(&self, call: &InterceptCall<'_>) -> Result<Option<Tensor>> {
        let mut new = call.activation.to_owned();
        for (mut row, of) in new.outer_iter_mut().zip(&call.rows) {
            row += if of.patches.is_empty() { 1000.0 } else { 0.25 * of.patches.len() as f32 };
        }
        Ok(Some(Tensor::from_array(&new)))
    }
}

/// Adds to the embeddings the entries of `own` that a row sees, and the sum `all`.
fn splice(model: &Model, scale: f32) -> Splice {
    let (width, site) = (model.anatomy().d_model, Site::Embed);
    let empty = Graph::empty(17);
    let mut d = Patch::new(&empty);
    let symbol = Dim::symbol;
    let (n, width_of) = (symbol("n"), Dim::Known(width));
    let x = d.input(&site.to_string(), DType::F32, vec![symbol("batch"), symbol("time"), width_of.clone()]).unwrap();
    let own = d.input("own", DType::F32, vec![n.clone(), width_of.clone()]).unwrap();
    let seen = d.input(&gate_of("own"), DType::F32, vec![symbol("batch"), n]).unwrap();
    let all = d.input("all", DType::F32, vec![width_of]).unwrap();
    let mixed = d.op("MatMul", &[&seen, &own], &[]).unwrap();
    let added = d.op("Add", &[&mixed, &all], &[]).unwrap();
    let axis = d.i64(&[1], &[1]);
    let added = d.op("Unsqueeze", &[&added, &axis], &[]).unwrap();
    let end = d.op("Add", &[&x, &added], &[]).unwrap();
    d.tap(&end, DType::F32).unwrap();
    let graph = d.apply().unwrap().to_bytes().unwrap();
    let wave = |f: f32| (0..width).map(|i| scale * (f * i as f32).sin()).collect::<Vec<f32>>();
    let table = |name: &str, fold, value| Increment { name: name.into(), fold, value };
    let own = table("own", Fold::Stack, Tensor::f32([1, width], wave(0.7)).unwrap());
    let all = table("all", Fold::Sum, Tensor::f32([width], wave(1.1)).unwrap());
    Splice { graph, reads: vec![site], writes: site, tables: vec![own, all], whole_rows: false, order: 0 }
}

/// Seven patches: four kinds of changes that gates take apart, and some with a part in sums.
fn patches(model: &Model) -> Vec<Vec<Change>> {
    let at = |role| WeightRef::Block(1, role);
    let site = Site::Block(1, BlockSite::ResidPost);
    let weight = WeightRef::Embedding;
    let width = model.anatomy().d_model;
    let values = Tensor::f32([2, width], (0..2 * width).map(|i| 0.3 * (i as f32).cos()).collect()).unwrap();
    let norm = model.anatomy().weights.keys().copied().find(|w| model.anatomy().weights[w].shape[0] == 1).unwrap();
    vec![
        vec![low_rank(model, at(Role::MlpOut), 0.2), dense(&low_rank(model, at(Role::MlpIn), 0.05))],
        vec![low_rank(model, at(Role::MlpOut), -0.1), low_rank(model, WeightRef::Unembedding, 0.1)],
        vec![Change::Slots(waves(0, width, 3, false, 1.0))],
        vec![dense(&low_rank(model, at(Role::MlpIn), -0.08)), Change::Slots(waves(0, width, 2, false, 2.0))],
        vec![Change::Intercept { sites: vec![site], whole_rows: false }, low_rank(model, norm, 0.3)],
        vec![
            Change::Weight { weight, delta: Delta::Rows { rows: vec![0, 9], values } },
            Change::Splice(splice(model, 0.2)),
        ],
        vec![Change::Splice(splice(model, -0.5))],
    ]
}

fn sets() -> Vec<Vec<usize>> {
    vec![vec![], vec![0], vec![1, 2], vec![0, 3], vec![4, 5], vec![0, 1, 2, 3, 4, 5, 6], vec![5, 6], vec![6]]
}

fn rows() -> Vec<Vec<u32>> {
    (0..8).map(|r: u32| (0..3 + r % 3).map(|i| if i == 1 { 9 } else { (7 * i + 11 * r + 3) % 100 }).collect()).collect()
}

fn commit(model: &Model, patches: &[Vec<Change>]) -> Vec<PatchId> {
    patches.iter().map(|changes| model.commit(proposal(changes.clone())).unwrap()).collect()
}

/// All patches of a set as one.
fn together(model: &Model, patches: &[Vec<Change>], set: &[usize]) {
    let changes: Vec<Change> = set.iter().flat_map(|&i| patches[i].clone()).collect();
    commit(model, if changes.is_empty() { &[] } else { std::slice::from_ref(&changes) });
}

fn view(ids: &[PatchId], sets: &[Vec<usize>]) -> View {
    let one = |set: &Vec<usize>| match set.len() == ids.len() {
        true => Active::All,
        false => Active::Only(set.iter().map(|&i| ids[i].clone()).collect()),
    };
    View { active: sets.iter().map(one).collect(), ..View::default() }
}

/// A request that reads all that can be read, at every row, in an order of its own.
fn everything(model: &Model, rows: &[Vec<u32>]) -> RunRequest {
    let last = |(row, ids): (usize, &Vec<u32>)| Place { row, pos: ids.len() - 1 };
    let mut places: Vec<Place> = rows.iter().enumerate().map(last).collect();
    places.reverse();
    let width = model.anatomy().d_model;
    let values = (0..rows.len() * width).map(|i| 0.02 * (i as f32).sin()).collect();
    let values = Tensor::f32([rows.len(), width], values).unwrap();
    let (pattern, resid) = (Site::Block(2, BlockSite::Pattern), Site::Block(1, BlockSite::ResidPost));
    let mut taps = vec![Tap { site: resid, places: None }, Tap { site: resid, places: Some(places.clone()) }];
    if model.anatomy().sites.contains_key(&pattern) {
        taps.push(Tap { site: pattern, places: None });
    }
    RunRequest {
        rows: rows.to_vec(),
        taps,
        adds: vec![Poke { site: Site::Embed, places: places.clone(), values }],
        logits: places,
        ..RunRequest::default()
    }
}

#[test]
fn rows_of_one_batch_see_the_patches_that_were_chosen_for_them_and_no_others() {
    for name in EXPORTS {
        let model = open(name);
        let patches = patches(&model);
        let ids = commit(&model, &patches);
        let (rows, sets) = (rows(), sets());
        let request = everything(&model, &rows);
        let close = if name.ends_with("f16") { 6e-2 } else { 2e-4 };
        let mixed = model.run_seeing(&request, &view(&ids, &sets).active, None).unwrap();
        let compiled = model.compiled();
        let again = model.run_seeing(&request, &view(&ids, &sets).active, None).unwrap();
        let none = model.run_seeing(&request, &[Active::Only(vec![])], None).unwrap();
        let all = model.run(&request).unwrap();
        assert_eq!((&again, model.compiled()), (&mixed, compiled), "{name}");
        assert!(none != mixed && all != mixed && none != all, "{name}");
        let mut apart = 0.0f32;
        for (row, set) in sets.iter().enumerate() {
            // The same batch in a model that holds the row's patches alone.
            let alone = open(name);
            together(&alone, &patches, set);
            let wanted = alone.run(&request).unwrap();
            let of = |reply: &RunReply| {
                let line = |tensor: &Tensor, at: usize| -> Vec<f32> {
                    tensor.view().unwrap().index_axis(Axis(0), at).iter().copied().collect()
                };
                let last = rows.len() - 1 - row;
                let tap = |(tensor, tap): (&Tensor, &Tap)| line(tensor, if tap.places.is_none() { row } else { last });
                let taps = reply.taps.iter().zip(&request.taps).flat_map(tap);
                taps.chain(line(&reply.logits, last)).collect::<Vec<f32>>()
            };
            // What stands in the padding of an attention pattern is no promise.
            let short = request.taps.len() == 3 && rows[row].len() < 5;
            let without = |mut all: Vec<f32>| {
                if short {
                    let pattern = mixed.taps[2].len() / rows.len();
                    let n = all.len() - mixed.logits.shape()[1];
                    all.drain(n - pattern..n);
                }
                all
            };
            let (found, wanted) = (without(of(&mixed)), without(of(&wanted)));
            assert!(difference(&found, &wanted) < close, "{name} {set:?}: {}", difference(&found, &wanted));
            apart = apart.max(difference(&found, &without(of(&model.run(&request).unwrap()))));
            // The row by itself in the model that holds them all.
            let one = RunRequest { logits: vec![Place { row: 0, pos: rows[row].len() - 1 }], ..Default::default() };
            let one = RunRequest { rows: vec![rows[row].clone()], ..one };
            let chosen = view(&ids, &sets[row..=row]);
            let single = model.run_seeing(&one, &chosen.active, None).unwrap().logits.into_f32().unwrap();
            let alone = alone.run(&one).unwrap().logits.into_f32().unwrap();
            assert!(difference(&single, &alone) < close, "{name} {set:?}: {}", difference(&single, &alone));
        }
        assert!(apart > 0.1, "{name}: {apart}");
    }
}

#[test]
fn scores_and_texts_are_those_of_models_that_hold_the_chosen_patches() {
    for name in ["gpt2-dynamo-23-cache", "gptneox-torchscript"] {
        let model = open(name);
        let patches = patches(&model);
        let ids = commit(&model, &patches);
        let (rows, sets) = (rows(), sets());
        let view = view(&ids, &sets);
        let request = GenerateRequest { rows: rows.clone(), max_new: 5, ..GenerateRequest::default() };
        let said = model.generate_seeing(&request, &view, None).unwrap();
        let scored = |prompt: &Vec<u32>| Continuation { prompt: prompt.clone(), tokens: vec![4, 9] };
        let continuations: Vec<Continuation> = rows.iter().map(scored).collect();
        let scores = model.score_seeing(&continuations, &view, None).unwrap();
        let mut texts = BTreeSet::new();
        for (row, set) in sets.iter().enumerate() {
            let alone = open(name);
            together(&alone, &patches, set);
            assert_eq!(said[row], alone.generate(&request).unwrap()[row], "{name} {set:?}");
            let wanted = &alone.score(&continuations).unwrap()[row];
            assert!(difference(&scores[row].log_probs, &wanted.log_probs) < 2e-4, "{name} {set:?}");
            texts.insert(format!("{:?}", scores[row].predicted));
        }
        assert!(texts.len() > 2, "{texts:?}");
    }
}

#[test]
fn a_choice_that_cannot_be_is_refused() {
    let model = open("gpt2-dynamo-mask");
    let ids = commit(&model, &patches(&model));
    let request = everything(&model, &rows());
    let code = |view: &View| model.run_seeing(&request, &view.active, None).map(drop).map_err(|e| e.code().id);
    model.rollback(&ids[1]).unwrap();
    assert_eq!(code(&View::only([ids[0].clone()])), Ok(()));
    assert_eq!(code(&View::only([ids[0].clone(), ids[1].clone()])), Err("patch-unknown"));
    assert_eq!(code(&View::only(["0123456789abcdef".parse().unwrap()])), Err("patch-unknown"));
    assert_eq!(code(&View { active: vec![Active::All; 3], routed: true }), Err("active-rows"));
    // Rows that are run apart have their places checked all the same.
    let mut wrong = request.clone();
    wrong.logits[0] = Place { row: 8, pos: 0 };
    let view: Vec<Active> = (0..8).map(|r| if r == 0 { Active::Only(vec![]) } else { Active::All }).collect();
    assert_eq!(model.run_seeing(&wrong, &view, None).unwrap_err().code().id, "place-outside");
    wrong = request.clone();
    wrong.adds[0].values = Tensor::zeros([7, model.anatomy().d_model]);
    assert_eq!(model.run_seeing(&wrong, &view, None).unwrap_err().code().id, "poke-shape");
}

#[test]
fn requests_see_wholly_the_old_or_wholly_the_new_while_patches_come_and_go() {
    let model = open("gpt2-dynamo-mask");
    let patches = patches(&model);
    let ids = commit(&model, &patches[..4]);
    let rows = rows();
    let request = RunRequest {
        logits: rows.iter().enumerate().map(|(row, ids)| Place { row, pos: ids.len() - 1 }).collect(),
        rows,
        ..RunRequest::default()
    };
    let view: Vec<Active> = (0..8).map(|r| Active::Only(ids[..r % 3].to_vec())).collect();
    let ask = |view: &[Active]| model.run_seeing(&request, view, None).unwrap().logits;
    let with = [ask(&[]), ask(&view)];
    model.rollback(&ids[3]).unwrap();
    let without = [ask(&[]), ask(&view)];
    assert!(difference(with[0].as_f32().unwrap(), without[0].as_f32().unwrap()) > 1e-2);
    let (done, met) = (AtomicBool::new(false), [AtomicBool::new(false), AtomicBool::new(false)]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let all = ask(&[]);
                    met[0].fetch_or(all == with[0], Ordering::Relaxed);
                    met[1].fetch_or(all == without[0], Ordering::Relaxed);
                    assert!(all == with[0] || all == without[0]);
                    let chosen = ask(&view);
                    assert!(chosen == with[1] || chosen == without[1]);
                }
            });
        }
        let both = || met.iter().all(|met| met.load(Ordering::Relaxed));
        for _ in (0..1000).take_while(|&cycle| cycle < 10 || !both()) {
            let id = model.commit(proposal(patches[3].clone())).unwrap();
            ask(&[]);
            model.rollback(&id).unwrap();
            ask(&[]);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(met.iter().all(|met| met.load(Ordering::Relaxed)));
}
