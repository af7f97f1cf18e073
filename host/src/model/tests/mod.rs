//! The model against PyTorch's records, on every export of the tiny GPT-2.

mod activation;
mod arranged;
mod case;
mod delegates;
mod halves;
mod inputs;
mod intercepted;
mod journals;
mod lean;
mod routes;
mod slots;
mod splices;
mod sums;
mod visible;

use std::path::{Path, PathBuf};

use engraft_plugin_api::{
    BlockSite, Change, Delta, GradientRequest, Params, Place, Poke, Role, RunRequest, Site, Tap, Tensor, Term,
    WeightRef, Wrt,
};
use safetensors::SafeTensors;

use super::{Model, OpenOptions, Proposal};
use crate::graph::testing::{ZOO, rows, zoo};
use crate::graph::{Dim, Graph, Patch, Shapes};
use crate::runtime;

fn model(name: &str) -> Model {
    Model::open(&zoo(name), &runtime::for_tests(), &OpenOptions::default()).unwrap()
}

/// PyTorch's records.
struct Records(Vec<u8>);

impl Records {
    fn open() -> Self {
        Self(std::fs::read(zoo("dynamo-mask").with_file_name("gpt2.safetensors")).unwrap())
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    fn rows(&self) -> Vec<Vec<u32>> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let ids = file.tensor("ids").unwrap();
        let flat: Vec<u32> = ids.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b) as u32).collect();
        flat.chunks(ids.shape()[1]).map(<[u32]>::to_vec).collect()
    }
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b))) / norm(&mut b.iter().map(|&b| f64::from(b)))
}

fn last(rows: &[Vec<u32>]) -> Vec<Place> {
    rows.iter().enumerate().map(|(row, r)| Place { row, pos: r.len() - 1 }).collect()
}

fn nll(rows: &[Vec<u32>]) -> Vec<Term> {
    let weight = 1.0 / rows.len() as f32;
    last(rows).into_iter().map(|place| Term::Nll { place, token: 17, weight }).collect()
}

#[test]
fn gradients_over_a_window_are_those_over_whole_rows() {
    let rows = vec![vec![5, 9, 11, 2, 3, 60, 71, 8, 12], vec![1, 2, 7, 7, 90], vec![4, 4, 31, 17, 100, 3, 2, 14, 1]];
    let place = |row, pos| Place { row, pos };
    for export in ZOO {
        let model = model(export);
        let sites = [(0, BlockSite::MlpProj), (0, BlockSite::K), (1, BlockSite::ResidPost), (2, BlockSite::Z)];
        for site in sites.map(|(layer, site)| Site::Block(layer, site)).into_iter().chain([Site::Embed]) {
            let width: usize = crate::hooks::site_width(model.anatomy(), site).iter().product();
            let values = (0..3 * width).map(|i| ((i * 37 % 11) as f32 - 5.0) * 0.05).collect();
            let values = Tensor::f32([3, width], values).unwrap();
            let adds = vec![Poke { site, places: vec![place(0, 6), place(1, 3), place(2, 7)], values }];
            let term = |row, pos, token| Term::Nll { place: place(row, pos), token, weight: 0.3 };
            let request = GradientRequest {
                rows: rows.clone(),
                adds,
                terms: vec![term(0, 8, 17), term(0, 6, 3), term(1, 4, 9), term(2, 8, 1)],
                wrt: vec![Wrt::Add(0)],
                under: vec![low_rank(&model, WeightRef::Block(2, Role::Output), 0.1)],
                ..GradientRequest::default()
            };
            let windowed = model.gradient(&request).unwrap();
            // A term of no weight at a site keeps the rows whole.
            let zero = Term::Seed { site: Site::Embed, place: place(0, 0), vector: vec![0.0; 32], weight: 0.0 };
            let mut whole = request.clone();
            whole.terms.push(zero);
            let whole = model.gradient(&whole).unwrap();
            assert!((windowed.loss - whole.loss).abs() < 1e-5, "{export} {site}: {} {}", windowed.loss, whole.loss);
            let (a, b) = (windowed.gradients[0][0].as_f32().unwrap(), whole.gradients[0][0].as_f32().unwrap());
            assert!(b.iter().any(|v| *v != 0.0) && relative(a, b) < 1e-5, "{export} {site}: {}", relative(a, b));
        }
    }
}

/// The rows that are computed whole, by how their names begin, and why.
const WHOLE: [(&str, &str); 2] = [
    ("opt-", "`blocks.0.mlp.out` has other axes in the graph"),
    ("mpt-dynamo", "the positions of `slice_3` cannot be cut to a window"),
];

#[test]
fn a_window_can_be_computed_in_the_models_of_the_zoo() {
    let mut wrong = String::new();
    for row in rows().iter().filter(|row| !row.name.ends_with("-f16")) {
        let model = Model::open(&row.folder, &runtime::for_tests(), &OpenOptions::default()).unwrap();
        let refusal = model.window_refusal();
        let expected = WHOLE.iter().find(|(begin, _)| row.name.starts_with(begin)).map(|(_, reason)| reason);
        let fits = match (&refusal, expected) {
            (Some(found), Some(reason)) => found.contains(reason),
            (found, expected) => found.is_none() && expected.is_none(),
        };
        if !fits {
            wrong.push_str(&format!("\n{}: {refusal:?}, expected {expected:?}", row.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn pairs_multiply_to_the_gradient_of_their_weight() {
    let records = Records::open();
    let rows = records.rows();
    for export in ["dynamo-mask", "torchscript-mask"] {
        let model = model(export);
        for role in [Role::MlpIn, Role::MlpOut, Role::Query, Role::Value, Role::Output] {
            let weight = WeightRef::Block(1, role);
            let wrt = vec![Wrt::Pairs(weight)];
            let request = GradientRequest { rows: rows.clone(), terms: nll(&rows), wrt, ..GradientRequest::default() };
            let reply = model.gradient(&request).unwrap();
            let [x, d] = reply.gradients[0].as_slice() else { panic!("two factors") };
            let flat = |t: &Tensor| {
                let width = t.shape()[2];
                ndarray::Array2::from_shape_vec((t.len() / width, width), t.as_f32().unwrap().to_vec()).unwrap()
            };
            let product = flat(x).t().dot(&flat(d));
            let found =
                relative(product.as_standard_layout().as_slice().unwrap(), &records.f32(&format!("grad:{weight}")));
            assert!(found <= 1e-4, "{export} {weight}: {found}");
        }
    }
}

fn low_rank(model: &Model, weight: WeightRef, scale: f32) -> Change {
    let [i, o] = model.anatomy().weight(weight).unwrap().shape;
    let wave = |n: usize, f: f32| (0..n).map(|k| scale * (f * (k as f32 + 1.0)).sin()).collect();
    let delta = Delta::LowRank {
        left: Tensor::f32([i, 1], wave(i, 0.7)).unwrap(),
        right: Tensor::f32([1, o], wave(o, 1.3)).unwrap(),
    };
    Change::Weight { weight, delta }
}

fn dense(change: &Change) -> Change {
    let Change::Weight { weight, delta: Delta::LowRank { left, right } } = change else { panic!("low rank") };
    let product = left.matrix().unwrap().dot(&right.matrix().unwrap());
    Change::Weight { weight: *weight, delta: Delta::Dense(Tensor::from_array(&product)) }
}

fn proposal(changes: Vec<Change>) -> Proposal {
    Proposal {
        method: "test".into(),
        version: "0".into(),
        params: Params::default(),
        artefact: None,
        requests: Vec::new(),
        changes,
    }
}

fn logits(model: &Model, rows: &[Vec<u32>], under: Vec<Change>) -> Vec<f32> {
    let logits = last(rows);
    let request = RunRequest { rows: rows.to_vec(), logits, under, ..RunRequest::default() };
    model.run(&request).unwrap().logits.into_f32().unwrap()
}

const EDITABLE: [WeightRef; 8] = [
    WeightRef::Block(1, Role::MlpOut),
    WeightRef::Block(1, Role::MlpIn),
    WeightRef::Block(0, Role::Key),
    WeightRef::Block(2, Role::Output),
    WeightRef::Embedding,
    WeightRef::Positions,
    WeightRef::Unembedding,
    WeightRef::Block(1, Role::MlpOutBias),
];

#[test]
fn a_patch_rides_as_factors_or_dense_and_any_rollback_is_exact() {
    let rows = Records::open().rows();
    for export in ["dynamo-mask", "dynamo-raw", "torchscript-opset14"] {
        let model = model(export);
        let base = logits(&model, &rows, Vec::new());
        let mut ids = Vec::new();
        let mut states = vec![(model.state_hash(), base.clone())];
        for weight in EDITABLE {
            let change = low_rank(&model, weight, 0.1);
            let trial = logits(&model, &rows, vec![change.clone()]);
            let as_dense = logits(&model, &rows, vec![dense(&change)]);
            assert!(difference(&trial, &as_dense) < 1e-4, "{export} {weight}");
            ids.push(model.commit(proposal(vec![change])).unwrap());
            states.push((model.state_hash(), logits(&model, &rows, Vec::new())));
        }
        assert!(states.windows(2).all(|w| w[0] != w[1]));
        for id in ids.iter().rev() {
            assert_eq!(states.last().unwrap(), &(model.state_hash(), logits(&model, &rows, Vec::new())), "{export}");
            states.pop();
            model.rollback(id).unwrap();
        }
        assert_eq!(logits(&model, &rows, Vec::new()), base);
        assert!(model.patches().is_empty());
        assert_eq!(model.history().len(), 2 * ids.len());
    }
}

#[test]
fn rolling_back_one_of_many_is_never_having_made_it() {
    let rows = Records::open().rows();
    let model = model("dynamo-mask");
    let weight = WeightRef::Block(1, Role::MlpOut);
    let changes: Vec<Change> = (1..=3).map(|i| low_rank(&model, weight, 0.05 * i as f32)).collect();
    let commit = |i: usize| model.commit(proposal(vec![changes[i].clone()])).unwrap();
    let ids = [commit(0), commit(1), commit(2)];
    model.rollback(&ids[1]).unwrap();
    let without = (model.state_hash(), logits(&model, &rows, Vec::new()));
    model.rollback(&ids[2]).unwrap();
    commit(2);
    assert_eq!(without, (model.state_hash(), logits(&model, &rows, Vec::new())));
}

#[test]
fn an_exported_model_is_the_patched_one_and_the_base_is_untouched() {
    let rows = Records::open().rows();
    for export in ["dynamo-raw", "torchscript-nomask", "torchscript-opset14"] {
        let base = zoo(export);
        let bytes = || -> Vec<Vec<u8>> {
            let mut files: Vec<PathBuf> = std::fs::read_dir(&base).unwrap().map(|e| e.unwrap().path()).collect();
            files.sort();
            files.iter().map(|f| std::fs::read(f).unwrap()).collect()
        };
        let before = bytes();
        let model = model(export);
        let unembedding = model.weight(WeightRef::Unembedding).unwrap();
        for weight in EDITABLE.into_iter().filter(|w| *w != WeightRef::Unembedding) {
            model.commit(proposal(vec![low_rank(&model, weight, 0.1)])).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("edited");
        model.export(&target).unwrap();
        assert_eq!(model.export(&target).unwrap_err().code().id, "export-exists");
        let exported = Model::open(&target, &runtime::for_tests(), &OpenOptions::default()).unwrap();
        let found = difference(&logits(&exported, &rows, Vec::new()), &logits(&model, &rows, Vec::new()));
        assert!(found < 1e-4, "{export}: {found}");
        // The embedding was edited; the unembedding that shares its tensor was not.
        assert_eq!(exported.weight(WeightRef::Unembedding).unwrap(), unembedding, "{export}");
        assert_eq!(before, bytes(), "{export}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{export}");
        // An export is a base model like any other, whose edits lie in a file of their own.
        exported.commit(proposal(vec![low_rank(&exported, WeightRef::Block(0, Role::MlpOut), 0.1)])).unwrap();
        let second = folder.path().join("again");
        exported.export(&second).unwrap();
        let again = Model::open(&second, &runtime::for_tests(), &OpenOptions::default()).unwrap();
        let found = difference(&logits(&again, &rows, Vec::new()), &logits(&exported, &rows, Vec::new()));
        assert!(found < 1e-4, "{export}: {found}");
        assert!(second.join("edits.data").is_file() && second.join("more-edits.data").is_file());
    }
}

#[test]
fn a_model_whose_weights_had_to_move_is_the_same_model() {
    let rows = Records::open().rows();
    let cache = tempfile::tempdir().unwrap();
    let housing = Some((cache.path().join("models"), 256));
    let plain = model("torchscript-nomask");
    let moved = Model::open_housed(plain.path(), &runtime::for_tests(), &OpenOptions::default(), housing).unwrap();
    assert_eq!(std::fs::read_dir(cache.path().join("models")).unwrap().count(), 1);
    assert_eq!((moved.hash().unwrap(), moved.folder()), (plain.hash().unwrap(), plain.folder()));
    let change = low_rank(&plain, WeightRef::Embedding, 0.1);
    for under in [Vec::new(), vec![change]] {
        assert_eq!(logits(&moved, &rows, under.clone()), logits(&plain, &rows, under));
    }
}

#[cfg(unix)]
#[test]
fn a_model_in_a_download_cache_runs_and_keeps_its_hash() {
    let rows = Records::open().rows();
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/1"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    let plain = model("dynamo-mask");
    for (name, blob) in [("model.onnx", "aa"), ("model.onnx.data", "bb"), ("config.json", "cc")] {
        std::fs::copy(plain.folder().join(name), blobs.join(blob)).unwrap();
        std::os::unix::fs::symlink(PathBuf::from("../../blobs").join(blob), snapshot.join(name)).unwrap();
    }
    let linked = Model::open(&snapshot, &runtime::for_tests(), &OpenOptions::default()).unwrap();
    assert_eq!(linked.hash().unwrap(), plain.hash().unwrap());
    assert_eq!(logits(&linked, &rows, Vec::new()), logits(&plain, &rows, Vec::new()));
}

#[test]
fn gradients_of_trial_changes_agree_with_differences() {
    let rows = Records::open().rows();
    let model = model("torchscript-mask");
    for weight in EDITABLE {
        let change = low_rank(&model, weight, 0.1);
        for change in [change.clone(), dense(&change)] {
            let Change::Weight { delta, .. } = &change else { continue };
            let request = |change: Change| GradientRequest {
                rows: rows.clone(),
                under: vec![change],
                terms: nll(&rows),
                wrt: vec![Wrt::Trial(0)],
                ..GradientRequest::default()
            };
            let reply = model.gradient(&request(change.clone())).unwrap();
            for (number, (tensor, gradient)) in delta.tensors().into_iter().zip(&reply.gradients[0]).enumerate() {
                assert_eq!(tensor.shape(), gradient.shape(), "{weight}");
                // Along the gradient itself the slope is its norm.
                let g = gradient.as_f32().unwrap();
                let norm = g.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
                let step = 2e-2 / norm.max(1e-6);
                let moved = |sign: f64| {
                    let along = |(t, g): (&f32, &f32)| (f64::from(*t) + sign * step * f64::from(*g) / norm) as f32;
                    let new = tensor.as_f32().unwrap().iter().zip(g).map(along).collect();
                    let new = Tensor::f32(tensor.shape(), new).unwrap();
                    let delta = match (delta, number) {
                        (Delta::LowRank { right, .. }, 0) => Delta::LowRank { left: new, right: right.clone() },
                        (Delta::LowRank { left, .. }, _) => Delta::LowRank { left: left.clone(), right: new },
                        _ => Delta::Dense(new),
                    };
                    f64::from(model.gradient(&request(Change::Weight { weight, delta })).unwrap().loss)
                };
                let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
                assert!((slope - norm).abs() <= 0.02 * norm, "{weight} {number}: {slope} {norm}");
            }
        }
    }
}

#[test]
fn overwriting_a_site_with_its_own_value_changes_nothing_and_with_another_row_s_value_does() {
    let rows = Records::open().rows();
    for export in ["dynamo-mask", "torchscript-opset14"] {
        let model = model(export);
        let base = logits(&model, &rows, Vec::new());
        let place = Place { row: 0, pos: 4 };
        for kind in [BlockSite::MlpProj, BlockSite::MlpPost, BlockSite::ResidPost, BlockSite::Q, BlockSite::Z] {
            let site = Site::Block(1, kind);
            let tap = |place| Tap { site, places: Some(vec![place]) };
            let read = RunRequest {
                rows: rows.clone(),
                taps: vec![tap(place), tap(Place { row: 1, pos: 4 })],
                ..RunRequest::default()
            };
            let taps = model.run(&read).unwrap().taps;
            let poked = |tap: &Tensor| {
                let values = Tensor::f32([1, tap.len()], tap.as_f32().unwrap().to_vec()).unwrap();
                let request = RunRequest {
                    rows: rows.clone(),
                    overwrites: vec![Poke { site, places: vec![place], values }],
                    logits: last(&rows),
                    ..RunRequest::default()
                };
                model.run(&request).unwrap().logits.into_f32().unwrap()
            };
            assert!(difference(&poked(&taps[0]), &base) < 1e-5, "{export} {site}");
            let vocab = model.anatomy().vocab;
            let other = poked(&taps[1]);
            assert!(difference(&other[..vocab], &base[..vocab]) > 1e-4 || kind == BlockSite::Q, "{export} {site}");
            assert!(difference(&other[vocab..], &base[vocab..]) < 1e-5, "{export} {site}");
        }
    }
}

#[test]
fn defects_of_requests_are_named() {
    let model = model("dynamo-mask");
    let run = |request: RunRequest| model.run(&request).map(drop).unwrap_err().code().id;
    let rows = vec![vec![1, 2, 3]];
    assert_eq!(run(RunRequest { rows: vec![vec![]], ..RunRequest::default() }), "row-empty");
    assert_eq!(run(RunRequest { rows: vec![vec![1; 65]], ..RunRequest::default() }), "row-too-long");
    assert_eq!(run(RunRequest { rows: vec![vec![128]], ..RunRequest::default() }), "token-outside");
    let logits = vec![Place { row: 0, pos: 3 }];
    assert_eq!(run(RunRequest { rows: rows.clone(), logits, ..RunRequest::default() }), "place-outside");
    let site = Site::Block(1, BlockSite::MlpProj);
    let tap = Tap { site: Site::Block(9, BlockSite::MlpProj), places: None };
    assert_eq!(run(RunRequest { rows: rows.clone(), taps: vec![tap], ..RunRequest::default() }), "site-absent");
    let poke = |site, n: usize, width| Poke {
        site,
        places: vec![Place { row: 0, pos: 1 }; n],
        values: Tensor::zeros([1, width]),
    };
    let with = |poke| {
        let taps = vec![Tap { site: Site::LnFinal, places: None }];
        RunRequest { rows: rows.clone(), taps, adds: vec![poke], ..RunRequest::default() }
    };
    assert_eq!(run(with(poke(site, 1, 31))), "poke-shape");
    assert_eq!(run(with(poke(site, 2, 32))), "place-outside");
    assert_eq!(run(with(poke(Site::Block(0, BlockSite::Pattern), 1, 32))), "site-not-pokable");
    let nothing = Delta::LowRank { left: Tensor::zeros([128, 1]), right: Tensor::zeros([1, 32]) };
    let change = Change::Weight { weight: WeightRef::Block(1, Role::MlpOut), delta: nothing };
    assert_eq!(model.commit(proposal(vec![change])).unwrap_err().code().id, "edit-no-effect");
    assert!(model.patches().is_empty());
}

#[test]
fn scores_with_heads_and_rows_in_one_axis_are_cut_to_no_window() {
    let row = rows().into_iter().find(|row| row.name == "bloom-torchscript").unwrap();
    let graph = Graph::load(&row.folder).unwrap();
    let shapes = Shapes::infer(&graph).unwrap();
    let folded = |edge: &str| {
        let dims = shapes.dims(edge).unwrap_or_default();
        matches!(dims, [Dim::Symbol(first), Dim::Symbol(q), Dim::Symbol(k)] if first.contains('*') && q == k)
    };
    let scores = graph.nodes().iter().rfind(|node| node.is("MatMul") && folded(node.output(0))).unwrap().output(0);
    let mut patch = Patch::new(&graph);
    let extents = patch.op("Shape", &[scores], &[]).unwrap();
    let zeros = patch.op("ConstantOfShape", &[&extents], &[]).unwrap();
    let sum = patch.op("Add", &[scores, &zeros], &[]).unwrap();
    patch.shunt(scores, &sum).unwrap();
    let folder = tempfile::tempdir().unwrap();
    patch.apply().unwrap().save(&folder.path().join("model.onnx")).unwrap();
    let open = |folder: &Path| Model::open(folder, &runtime::for_tests(), &OpenOptions::default()).unwrap();
    let (plain, other) = (open(&row.folder), open(folder.path()));
    let refusal = other.window_refusal().unwrap();
    assert!(plain.window_refusal().is_none() && refusal.contains("first axis is not the rows"), "{refusal}");
    let site = Site::Block(1, BlockSite::MlpProj);
    let rows = vec![vec![5, 9, 11, 2, 3], vec![1, 2, 7, 7]];
    let adds = vec![Poke { site, places: vec![Place { row: 0, pos: 2 }], values: Tensor::zeros([1, 32]) }];
    let request =
        GradientRequest { terms: nll(&rows), rows, adds, wrt: vec![Wrt::Add(0)], ..GradientRequest::default() };
    let [a, b] = [plain, other].map(|model| model.gradient(&request).unwrap().gradients.remove(0).remove(0));
    assert!(relative(a.as_f32().unwrap(), b.as_f32().unwrap()) < 1e-5);
}
