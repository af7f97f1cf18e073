//! Models in float16: opened, tapped, differentiated, edited, rolled back and exported as those in float32 are.

use engraft_plugin_api::{
    BlockSite, Change, Delta, GenerateRequest, GradientRequest, KlDirection, Place, Poke, Role, RunRequest, Site, Tap,
    Tensor, Term, WeightRef, Wrt,
};
use safetensors::SafeTensors;

use super::case::Case;
use super::proposal;
use crate::graph::testing::{rows, zoo};
use crate::graph::{Attr, DType, Graph, Patch};
use crate::model::{Model, OpenOptions};
use crate::runtime;

fn cases() -> impl Iterator<Item = Case> {
    rows().into_iter().filter(|row| row.name.contains("f16")).map(Case::open)
}

impl Case {
    fn everywhere(&self) -> Vec<Place> {
        let of_row = |(row, ids): (usize, &Vec<u32>)| (0..ids.len()).map(move |pos| Place { row, pos });
        self.ids.iter().enumerate().flat_map(of_row).collect()
    }

    fn logits_of(&self, model: &Model, under: Vec<Change>) -> Vec<f32> {
        let request = RunRequest { rows: self.ids.clone(), logits: self.everywhere(), under, ..RunRequest::default() };
        model.run(&request).unwrap().logits.into_f32().unwrap()
    }

    fn logits(&self, under: Vec<Change>) -> Vec<f32> {
        self.logits_of(&self.model, under)
    }
}

/// The norm of the difference over the norm of `b`.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b))) / norm(&mut b.iter().map(|&b| f64::from(b)))
}

/// A number rounded to float16 is off by 2^-11 of itself at most. What three blocks round, weights among them, adds up
/// to a few times that; ten times is allowed.
const ROUNDED: f64 = 10.0 / 2048.0;

#[test]
fn logits_and_taps_are_pytorchs_but_for_rounding() {
    let mut cases_met = 0;
    for case in cases() {
        let name = &case.row.name;
        let found = relative(&case.logits(Vec::new()), &case.recorded("half.logits").unwrap());
        assert!(found <= ROUNDED, "{name}: {found}");
        let sites: Vec<Site> = case.model.anatomy().sites.keys().copied().collect();
        let all = sites.iter().map(|&site| Tap { site, places: None });
        let last = sites.iter().filter(|s| !matches!(s, Site::Block(_, BlockSite::Pattern)));
        let last = last.map(|&site| Tap { site, places: Some(vec![Place { row: 1, pos: 4 }]) });
        let taps = all.chain(last).collect();
        let reply = case.model.run(&RunRequest { rows: case.ids.clone(), taps, ..RunRequest::default() }).unwrap();
        let mut met = 0;
        for (site, tap) in sites.iter().zip(&reply.taps) {
            let Some(record) = case.recorded(&site.to_string()) else { continue };
            let found = relative(tap.as_f32().unwrap(), &record);
            assert!(found <= ROUNDED, "{name} {site}: {found}");
            met += 1;
        }
        assert!(met >= 45 && reply.taps.len() > sites.len() + 40, "{name}: {met} sites");
        cases_met += 1;
    }
    assert!(cases_met >= 8);
}

impl Case {
    fn nll(&self) -> Vec<Term> {
        let weight = 1.0 / self.ids.len() as f32;
        let last = self.ids.iter().enumerate().map(|(row, ids)| Place { row, pos: ids.len() - 1 });
        last.map(|place| Term::Nll { place, token: 17, weight }).collect()
    }

    fn zeros(&self, site: Site, places: Vec<Place>) -> Poke {
        let width: usize = crate::hooks::site_width(self.model.anatomy(), site).iter().product();
        Poke { site, places, values: Tensor::zeros([1, width]) }
    }
}

#[test]
fn gradients_are_pytorchs_within_what_float16_carries() {
    for case in cases() {
        let name = &case.row.name;
        for (layer, site) in [(0, BlockSite::K), (1, BlockSite::MlpPost), (1, BlockSite::ResidPost)] {
            let site = Site::Block(layer, site);
            let request = GradientRequest {
                rows: case.ids.clone(),
                adds: vec![case.zeros(site, case.everywhere())],
                terms: case.nll(),
                wrt: vec![Wrt::Add(0)],
                ..GradientRequest::default()
            };
            let reply = case.model.gradient(&request).unwrap_or_else(|e| panic!("{name} {site}: {e:?}"));
            let loss = case.recorded("loss").unwrap()[0];
            assert!((reply.loss - loss).abs() <= 10.0 / 2048.0 * loss, "{name} {site}: {} {loss}", reply.loss);
            let record = case.recorded(&format!("grad:{site}")).unwrap();
            let found = relative(reply.gradients[0][0].as_f32().unwrap(), &record);
            assert!(found <= 3e-2, "{name} {site}: {found}");
        }
        let weights: Vec<WeightRef> = case.model.anatomy().weights.keys().copied().collect();
        let pair = WeightRef::Block(1, Role::MlpOut);
        let wrt = weights.iter().map(|&w| Wrt::Weight(w)).chain([Wrt::Pairs(pair)]).collect();
        let request = GradientRequest { rows: case.ids.clone(), terms: case.nll(), wrt, ..GradientRequest::default() };
        let reply = case.model.gradient(&request).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        for (weight, gradient) in weights.iter().zip(&reply.gradients) {
            let record = case.recorded(&format!("grad:{weight}")).unwrap();
            let found = relative(gradient[0].as_f32().unwrap(), &record);
            // Softmax does not see what is added to every key: the gradient of `b_K` is rounding alone.
            let rounding =
                matches!(weight, WeightRef::Block(_, Role::KeyBias)) && record.iter().all(|g| g.abs() < 1e-6);
            assert!(found <= 3e-2 || rounding, "{name} {weight}: {found}");
        }
        let [x, d] = reply.gradients[weights.len()].as_slice() else { panic!("two factors") };
        let flat = |t: &Tensor| {
            let width = t.shape()[2];
            ndarray::Array2::from_shape_vec((t.len() / width, width), t.as_f32().unwrap().to_vec()).unwrap()
        };
        let product = flat(x).t().dot(&flat(d));
        let record = case.recorded(&format!("grad:{pair}")).unwrap();
        let found = relative(product.as_standard_layout().as_slice().unwrap(), &record);
        assert!(found <= 3e-2, "{name} pairs: {found}");
    }
}

#[test]
fn every_kind_of_term_and_a_window_of_positions_work() {
    for case in cases() {
        let name = &case.row.name;
        let site = Site::Block(1, BlockSite::MlpProj);
        let places: Vec<Place> = (0..case.ids.len()).map(|row| Place { row, pos: case.ids[row].len() - 2 }).collect();
        let vocab = case.model.anatomy().vocab;
        let mut terms = case.nll();
        let reference = vec![-(vocab as f32).ln(); vocab];
        for direction in [KlDirection::FromCurrent, KlDirection::FromReference] {
            terms.push(Term::Kl { place: places[0], reference: reference.clone(), direction, weight: 0.3 });
        }
        let adds = vec![case.zeros(site, places.clone())];
        let request = GradientRequest {
            rows: case.ids.clone(),
            adds,
            terms,
            wrt: vec![Wrt::Add(0)],
            ..GradientRequest::default()
        };
        let windowed = case.model.gradient(&request).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        // A seed at a site keeps the rows whole, and its own gradient is its vector.
        let width = request.adds[0].values.len();
        let vector: Vec<f32> = (0..width).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut seeded = request.clone();
        seeded.terms = vec![Term::Seed { site, place: places[0], vector: vector.clone(), weight: 1e-3 }];
        let seeded = case.model.gradient(&seeded).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let expected: Vec<f32> = vector.iter().map(|v| v * 1e-3).collect();
        let found = relative(&seeded.gradients[0][0].as_f32().unwrap()[..width], &expected);
        assert!(found <= 1e-3, "{name}: {found}");
        let mut whole = request.clone();
        whole.terms.push(Term::Seed { site, place: places[0], vector: vec![0.0; width], weight: 0.0 });
        let whole = case.model.gradient(&whole).unwrap();
        assert!((windowed.loss - whole.loss).abs() <= 1e-2 * whole.loss.abs(), "{name}: {}", windowed.loss);
        let [a, b] = [&windowed, &whole].map(|reply| reply.gradients[0][0].as_f32().unwrap());
        let found = relative(a, b);
        assert!(found <= 3e-2, "{name}: {found}");
        // A window fits where it does in the same export in float32.
        let Some(wide) = name.strip_suffix("-f16").map(|wide| case.row.folder.with_file_name(wide)) else { continue };
        if wide.join("model.onnx").is_file() {
            let wide = Model::open(&wide, &runtime::for_tests(), &OpenOptions::default()).unwrap();
            assert_eq!(case.model.window_refusal(), wide.window_refusal(), "{name}");
        }
    }
}

fn wave(n: usize, f: f32, scale: f32) -> Vec<f32> {
    (0..n).map(|k| scale * (f * (k as f32 + 1.0)).sin()).collect()
}

fn low_rank(model: &Model, weight: WeightRef) -> Change {
    let [inputs, outputs] = model.anatomy().weight(weight).unwrap().shape;
    let delta = Delta::LowRank {
        left: Tensor::f32([inputs, 1], wave(inputs, 0.7, 0.2)).unwrap(),
        right: Tensor::f32([1, outputs], wave(outputs, 1.3, 0.2)).unwrap(),
    };
    Change::Weight { weight, delta }
}

#[test]
fn edits_are_committed_rolled_back_to_the_bit_and_exported() {
    for case in cases() {
        let (name, model) = (&case.row.name, &case.model);
        let base = case.logits(Vec::new());
        let last = case.model.anatomy().layers - 1;
        let wanted = [
            WeightRef::Embedding,
            WeightRef::Block(0, Role::Key),
            WeightRef::Block(0, Role::Ln1Scale),
            WeightRef::Block(1, Role::MlpOut),
            WeightRef::Block(last, Role::Output),
            WeightRef::Unembedding,
        ];
        let (mut ids, mut narrows) = (Vec::new(), 0);
        for weight in wanted {
            let change = low_rank(model, weight);
            let trial = case.logits(vec![change.clone()]);
            let Change::Weight { delta: Delta::LowRank { left, right }, .. } = &change else { panic!("low rank") };
            let product = left.matrix().unwrap().dot(&right.matrix().unwrap());
            let dense = Change::Weight { weight, delta: Delta::Dense(Tensor::from_array(&product)) };
            // The one adds a delta unrounded, the other rounds it with the weight.
            let found = relative(&case.logits(vec![dense]), &trial);
            assert!(found <= ROUNDED, "{name} {weight}: {found}");
            assert!(relative(&trial, &base) > ROUNDED, "{name} {weight} changes little");
            let before = case.logits(Vec::new());
            let id = model.commit(proposal(vec![change])).unwrap_or_else(|e| panic!("{name} {weight}: {e:?}"));
            // Some scales of norms are kept in float32.
            let narrow = model.anatomy().weight(weight).unwrap().dtype == DType::F16;
            narrows += usize::from(narrow);
            match model.rounding(&id).as_slice() {
                [] => assert!(!narrow, "{name} {weight}"),
                [one] => {
                    assert!(one.weight == weight && one.kept_in == "float16" && one.changed > 0, "{name}: {one:?}");
                    assert!(narrow && one.loss > 0.0 && one.loss < 0.1, "{name}: {one:?}");
                }
                more => panic!("{name} {weight}: {more:?}"),
            }
            ids.push((id, before));
        }
        let edited = case.logits(Vec::new());
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("edited");
        let rounding = model.export(&target).unwrap();
        assert!(rounding.len() == narrows && narrows + 1 >= wanted.len(), "{name}");
        let exported = Model::open(&target, &runtime::for_tests(), &OpenOptions::default()).unwrap();
        let found = relative(&case.logits_of(&exported, Vec::new()), &edited);
        assert!(found <= ROUNDED, "{name}: {found}");
        for weight in wanted {
            let dtype = model.anatomy().weight(weight).unwrap().dtype;
            assert_eq!(exported.anatomy().weight(weight).unwrap().dtype, dtype, "{name} {weight}");
            let kept = |&v: &f32| if dtype == DType::F16 { half::f16::from_f32(v).to_f32() } else { v };
            let once: Vec<f32> = model.weight(weight).unwrap().as_f32().unwrap().iter().map(kept).collect();
            assert_eq!(exported.weight(weight).unwrap().as_f32().unwrap(), once, "{name} {weight}");
        }
        for (id, before) in ids.iter().rev() {
            model.rollback(id).unwrap();
            assert!(case.logits(Vec::new()) == *before, "{name} is not what it was");
        }
        assert!(base == case.logits(Vec::new()) && model.patches().is_empty(), "{name}");
    }
}

#[test]
fn an_overwrite_with_its_own_value_changes_little_and_an_addition_adds() {
    for case in cases() {
        let (name, base) = (&case.row.name, case.logits(Vec::new()));
        let (site, place) = (Site::Block(1, BlockSite::ResidPost), Place { row: 0, pos: 10 });
        let tap = Tap { site, places: Some(vec![place]) };
        let read = |pokes: [Vec<Poke>; 2]| {
            let [overwrites, adds] = pokes;
            let (rows, logits) = (case.ids.clone(), case.everywhere());
            let request =
                RunRequest { rows, overwrites, adds, taps: vec![tap.clone()], logits, ..RunRequest::default() };
            let reply = case.model.run(&request).unwrap();
            (reply.taps[0].as_f32().unwrap().to_vec(), reply.logits.into_f32().unwrap())
        };
        let poke = |values: Vec<f32>| {
            let width = values.len();
            vec![Poke { site, places: vec![place], values: Tensor::f32([1, width], values).unwrap() }]
        };
        let (own, _) = read([Vec::new(), Vec::new()]);
        assert!(relative(&read([poke(own.clone()), Vec::new()]).1, &base) <= 1e-3, "{name}");
        let add = wave(own.len(), 0.9, 0.3);
        let sum: Vec<f32> = own.iter().zip(&add).map(|(a, b)| a + b).collect();
        let (found, logits) = read([Vec::new(), poke(add)]);
        assert!(relative(&found, &sum) <= 1e-3, "{name}");
        assert!(relative(&logits, &base) > ROUNDED, "{name}");
    }
}

#[test]
fn an_export_of_nothing_but_lost_deltas_is_refused() {
    let Some(case) = cases().find(|case| case.row.name.starts_with("llama")) else { panic!("no such row") };
    let weight = WeightRef::Block(1, Role::MlpOut);
    let shape = case.model.anatomy().weight(weight).unwrap().shape;
    let base = case.model.weight(weight).unwrap();
    // Less than half of the distance to the next number of float16.
    let below = |(i, &v): (usize, &f32)| {
        let bits = half::f16::from_f32(v).to_bits();
        let step = (half::f16::from_bits(bits + 1).to_f32() - v).abs();
        step * if i % 3 == 0 { 0.2 } else { -0.2 }
    };
    let values = base.as_f32().unwrap().iter().enumerate().map(below).collect();
    let delta = Delta::Rows { rows: (0..shape[0]).collect(), values: Tensor::f32(shape, values).unwrap() };
    let id = case.model.commit(proposal(vec![Change::Weight { weight, delta }])).unwrap();
    let rounding = case.model.rounding(&id);
    assert!(rounding[0].changed == 0 && (rounding[0].loss - 1.0).abs() < 1e-3, "{rounding:?}");
    let target = tempfile::tempdir().unwrap().path().join("edited");
    assert_eq!(case.model.export(&target).unwrap_err().code().id, "edit-no-effect");
    assert!(!target.exists());
}

#[test]
fn texts_go_on_with_and_without_cached_keys_in_float16() {
    let mut cached = 0;
    for case in cases() {
        let request = GenerateRequest { rows: case.ids.clone(), max_new: 8, ..GenerateRequest::default() };
        let found = case.model.generate(&request).unwrap_or_else(|e| panic!("{}: {e:?}", case.row.name)).concat();
        let file = SafeTensors::deserialize(&case.record).unwrap();
        let greedy = file.tensor("greedy").unwrap();
        let greedy = greedy.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b) as u32);
        assert_eq!(found, greedy.collect::<Vec<u32>>(), "{}", case.row.name);
        cached += usize::from(!case.model.anatomy().inputs.cache.is_empty());
    }
    assert!(cached >= 2);
}

/// A float32 graph of the zoo with these weights kept in another type and cast before they are read.
fn stored_as(dtype: DType, weights: &[WeightRef]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(zoo("dynamo-mask")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let plain = Model::open(folder.path(), &runtime::for_tests(), &OpenOptions::default()).unwrap();
    let mut patch = Patch::new(plain.graph());
    for &weight in weights {
        let place = plain.anatomy().weight(weight).unwrap();
        let base = plain.graph().initializer(&place.initializer).unwrap();
        let values = plain.graph().values(base).unwrap();
        let name = patch.fresh("kept");
        let kept =
            patch.constant(crate::model::edit::narrow::stored(&name, dtype, &base.dims(), values.floats().unwrap()));
        let cast = patch.op("Cast", &[&kept], &[("to", Attr::Int(1))]).unwrap();
        patch.reroute(&place.reader.0, place.reader.1, &cast).unwrap();
    }
    let graph: Graph = patch.apply().unwrap();
    std::fs::write(folder.path().join("model.onnx"), graph.to_bytes().unwrap()).unwrap();
    folder
}

const KEPT: [WeightRef; 3] =
    [WeightRef::Block(1, Role::MlpOut), WeightRef::Block(0, Role::Output), WeightRef::Unembedding];

#[test]
fn weights_in_float16_between_activations_in_float32_work() {
    let folder = stored_as(DType::F16, &KEPT);
    let model = Model::open(folder.path(), &runtime::for_tests(), &OpenOptions::default()).unwrap();
    let rows = vec![vec![5, 9, 11, 2], vec![1, 2, 7]];
    let places = vec![Place { row: 0, pos: 3 }, Place { row: 1, pos: 2 }];
    let logits = |model: &Model, under: Vec<Change>| {
        let request = RunRequest { rows: rows.clone(), logits: places.clone(), under, ..RunRequest::default() };
        model.run(&request).unwrap().logits.into_f32().unwrap()
    };
    let plain = Model::open(&zoo("dynamo-mask"), &runtime::for_tests(), &OpenOptions::default()).unwrap();
    let base = logits(&model, Vec::new());
    assert!(relative(&base, &logits(&plain, Vec::new())) <= ROUNDED);
    for weight in KEPT {
        assert_eq!(model.anatomy().weight(weight).unwrap().dtype, DType::F16, "{weight}");
        let change = low_rank(&model, weight);
        let (under, rows) = (vec![change.clone()], rows.clone());
        let terms = vec![Term::Nll { place: places[0], token: 17, weight: 1.0 }];
        let wrt = vec![Wrt::Weight(weight), Wrt::Trial(0)];
        let gradient = |model: &Model| {
            let (rows, under, terms, wrt) = (rows.clone(), under.clone(), terms.clone(), wrt.clone());
            model
                .gradient(&GradientRequest { rows, under, terms, wrt, ..GradientRequest::default() })
                .unwrap()
                .gradients
        };
        for (a, b) in gradient(&model).iter().flatten().zip(gradient(&plain).iter().flatten()) {
            assert!(relative(a.as_f32().unwrap(), b.as_f32().unwrap()) <= 3e-2, "{weight}");
        }
        plain.commit(proposal(vec![change.clone()])).unwrap();
        model.commit(proposal(vec![change])).unwrap();
    }
    let target = folder.path().join("edited");
    model.export(&target).unwrap();
    let exported = Model::open(&target, &runtime::for_tests(), &OpenOptions::default()).unwrap();
    assert!(relative(&logits(&exported, Vec::new()), &logits(&model, Vec::new())) <= ROUNDED);
    for (id, _) in model.patches() {
        model.rollback(&id).unwrap();
    }
    assert_eq!(base, logits(&model, Vec::new()));
}

#[test]
fn bfloat16_on_a_cpu_is_refused_with_advice() {
    let folder = stored_as(DType::BF16, &KEPT);
    let error = Model::open(folder.path(), &runtime::for_tests(), &OpenOptions::default()).map(drop).unwrap_err();
    assert_eq!(error.code().id, "model-dtype");
    let text = format!("{error:?}");
    assert!(text.contains("bfloat16") && text.contains("model.float()") && text.contains("cuda"), "{text}");
}
