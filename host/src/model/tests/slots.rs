//! Slots: what they add is what an MLP with more neurons would, on plain and gated MLPs; they are trained, taken out
//! and exported as any other change is.

use engraft_plugin_api::{
    Activation, BlockSite, Change, Delta, Fold, GenerateRequest, GradientRequest, Increment, Place, Poke, Role,
    RunRequest, Site, SlotGate, Slots, Tap, Tensor, Term, WeightRef, Wrt,
};
use ndarray::{Array1, Array2};

use super::case::far;
use super::proposal;
use crate::graph::testing::rows as zoo_rows;
use crate::model::{Model, OpenOptions};
use crate::runtime;
use crate::weights::{Patch, SLOTS_AT_MOST, waves};

/// Plain and gated, merged axes and packed gates, with a cache and without, tanh, erf, sigmoid and ReLU in parts and
/// in one, opset 14 to 23.
const ROWS: [&str; 12] = [
    "gpt2-dynamo-mask",
    "gpt2-dynamo-23-cache",
    "gpt2-torchscript-opset14",
    "gpt2-dynamo-f16",
    "llama-dynamo",
    "llama-torchscript-cache",
    "gemma2-dynamo-raw",
    "phi3-dynamo",
    "opt-dynamo",
    "gptneox-torchscript",
    "falcon-new-dynamo",
    "bloom-torchscript",
];

fn open(name: &str) -> Model {
    let row = zoo_rows().into_iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}"));
    Model::open(&row.folder, &runtime::for_tests(), &OpenOptions::default()).unwrap()
}

fn rows(model: &Model) -> Vec<Vec<u32>> {
    let vocab = model.anatomy().vocab as u32;
    (0..2).map(|r| (0..6 - r).map(|i| (7 * i + 11 * r + 3) % vocab).collect()).collect()
}

fn everywhere(rows: &[Vec<u32>]) -> Vec<Place> {
    let of_row = |(row, ids): (usize, &Vec<u32>)| (0..ids.len()).map(move |pos| Place { row, pos });
    rows.iter().enumerate().flat_map(of_row).collect()
}

fn logits(model: &Model, under: Vec<Change>) -> Vec<f32> {
    let rows = rows(model);
    let request = RunRequest { logits: everywhere(&rows), rows, under, ..RunRequest::default() };
    model.run(&request).unwrap().logits.into_f32().unwrap()
}

fn slots(model: &Model, layer: usize, n: usize, gated: bool, seed: f32) -> Slots {
    waves(layer, model.anatomy().d_model, n, gated, seed)
}

fn gated(model: &Model) -> bool {
    model.anatomy().weights.contains_key(&WeightRef::Block(1, Role::MlpGate))
}

/// The value of a site at every place, `[places, width]`, under changes.
fn tapped(model: &Model, site: Site, under: Vec<Change>) -> Array2<f32> {
    let rows = rows(model);
    let taps = vec![Tap { site, places: Some(everywhere(&rows)) }];
    let reply = model.run(&RunRequest { rows, taps, under, ..RunRequest::default() }).unwrap();
    reply.taps[0].matrix().unwrap().to_owned()
}

/// The activation function of a model, as its own neurons show it: `mlp.pre` and what is made of it.
fn bent(model: &Model, x: &Array2<f32>) -> Array2<f32> {
    // An overwritten `mlp.pre` gives the function at any number; in a gated MLP the other factor is 1.
    let (d_mlp, site) = (model.anatomy().d_mlp, |s| Site::Block(1, s));
    let ids = vec![rows(model)[0][..1].to_vec()];
    let at = vec![Place { row: 0, pos: 0 }];
    let mut out = Vec::new();
    for chunk in x.iter().copied().collect::<Vec<f32>>().chunks(d_mlp) {
        let poke = |s, values: Vec<f32>| Poke {
            site: site(s),
            places: at.clone(),
            values: Tensor::f32([1, d_mlp], values).unwrap(),
        };
        let mut padded = chunk.to_vec();
        padded.resize(d_mlp, 0.0);
        let mut overwrites = vec![poke(BlockSite::MlpPre, padded)];
        if model.anatomy().sites.contains_key(&site(BlockSite::MlpPreLinear)) {
            overwrites.push(poke(BlockSite::MlpPreLinear, vec![1.0; d_mlp]));
        }
        let taps = vec![Tap { site: site(BlockSite::MlpPost), places: Some(at.clone()) }];
        let reply = model.run(&RunRequest { rows: ids.clone(), overwrites, taps, ..RunRequest::default() }).unwrap();
        out.extend_from_slice(&reply.taps[0].as_f32().unwrap()[..chunk.len()]);
    }
    Array2::from_shape_vec(x.raw_dim(), out).unwrap()
}

/// What slots add by hand.
fn by_hand(model: &Model, slots: &Slots, x: &Array2<f32>) -> Array2<f32> {
    let matrix = |t: &Tensor| t.matrix().unwrap().to_owned();
    let affine =
        |keys: &Tensor, bias: &Tensor| x.dot(&matrix(keys)) + &Array1::from_vec(bias.as_f32().unwrap().to_vec());
    let act = |x: Array2<f32>| match slots.activation {
        Activation::Relu => x.mapv(|v| v.max(0.0)),
        Activation::Model => bent(model, &x),
    };
    let linear = affine(&slots.keys, &slots.bias);
    let hidden = match &slots.gate {
        Some(gate) => act(affine(&gate.keys, &gate.bias)) * linear,
        None => act(linear),
    };
    hidden.dot(&matrix(&slots.values))
}

#[test]
fn slots_are_the_neurons_of_a_wider_mlp() {
    for name in ROWS {
        let model = open(name);
        let near = 2e-4_f32.max(8.0 * model.roundoff());
        let block = |s| Site::Block(1, s);
        let before = tapped(&model, block(BlockSite::MlpProj), Vec::new());
        let input = &model.anatomy().weight(WeightRef::Block(1, Role::MlpIn)).unwrap().input;
        let reads = model.anatomy().sites.iter().find(|(_, found)| Some(&found.edge) == input.as_ref());
        let x = tapped(&model, *reads.unwrap_or_else(|| panic!("{name} reads {input:?}")).0, Vec::new());
        let first = slots(&model, 1, 5, gated(&model), 1.0);
        let plain = slots(&model, 1, 3, !gated(&model), 2.0);
        let relu = Slots { activation: Activation::Relu, ..slots(&model, 1, 4, gated(&model), 3.0) };
        let more = slots(&model, 1, 2, gated(&model), 4.0);
        let mut expected = before.clone();
        let mut under = Vec::new();
        for one in [first, plain, relu, more] {
            let alone = by_hand(&model, &one, &x);
            let largest = |m: &Array2<f32>| m.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            assert!(largest(&alone) > 0.02 * largest(&before), "{name}: slots say nothing");
            expected += &alone;
            under.push(Change::Slots(one));
            let found = tapped(&model, block(BlockSite::MlpProj), under.clone());
            let found = far(found.as_slice().unwrap(), expected.as_slice().unwrap());
            assert!(found <= near, "{name} {}: {found}", under.len());
        }
        // mlp.post is as it was.
        let post = |under| tapped(&model, block(BlockSite::MlpPost), under);
        assert_eq!(post(Vec::new()), post(under));
    }
}

#[test]
fn any_of_several_is_taken_out_to_the_bit() {
    for name in ["gpt2-dynamo-mask", "llama-dynamo-cache", "gemma2-dynamo", "llama-dynamo-f16"] {
        let model = open(name);
        let base = (logits(&model, Vec::new()), model.state_hash());
        let changes = |seed: f32| {
            let relu = Slots { activation: Activation::Relu, ..slots(&model, 0, 3, gated(&model), seed + 0.5) };
            vec![Change::Slots(slots(&model, 1, 2, gated(&model), seed)), Change::Slots(relu)]
        };
        let commit = |seed: f32| model.commit(proposal(changes(seed))).unwrap();
        let first = commit(1.0);
        let one = (logits(&model, Vec::new()), model.state_hash());
        let second = commit(2.0);
        let two = logits(&model, Vec::new());
        let third = commit(3.0);
        assert!(one.0 != base.0 && two != one.0 && logits(&model, Vec::new()) != two, "{name}");
        assert_eq!(model.commit(proposal(changes(2.0))).unwrap_err().code().id, "patch-applied");
        model.rollback(&second).unwrap();
        // As if the second had never been: what a model says that has seen the first and the third alone.
        let other = open(name);
        for seed in [1.0, 3.0] {
            other.commit(proposal(changes(seed))).unwrap();
        }
        assert_eq!(logits(&model, Vec::new()), logits(&other, Vec::new()), "{name}");
        assert_eq!(model.state_hash(), other.state_hash());
        assert_eq!(model.rollback(&second).unwrap_err().code().id, "patch-unknown");
        model.rollback(&third).unwrap();
        assert_eq!((logits(&model, Vec::new()), model.state_hash()), one, "{name}");
        model.rollback(&first).unwrap();
        assert_eq!((logits(&model, Vec::new()), model.state_hash()), base, "{name}");
    }
}

#[test]
fn a_journal_and_a_file_bring_slots_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = zoo_rows().into_iter().find(|row| row.name == "llama-dynamo").unwrap().folder;
    let options = OpenOptions { journal: Some(folder.path().join("journal")), ..OpenOptions::default() };
    let (id, expected, state) = {
        let model = Model::open(&path, &runtime::for_tests(), &options).unwrap();
        let part = Increment { name: "count".into(), fold: Fold::Sum, value: Tensor::f32([1], vec![2.0]).unwrap() };
        let slots = Change::Slots(slots(&model, 1, 4, true, 1.0));
        let id = model.commit(proposal(vec![Change::State(vec![1, 2]), slots, Change::Statistic(part)])).unwrap();
        model.patches()[0].1.save(&folder.path().join("patch")).unwrap();
        (id, logits(&model, Vec::new()), model.state_hash())
    };
    let model = Model::open(&path, &runtime::for_tests(), &options).unwrap();
    assert_eq!((logits(&model, Vec::new()), model.state_hash()), (expected.clone(), state));
    assert_eq!(model.patches()[0].0, id);
    let other = open("llama-dynamo");
    assert_eq!(other.apply(Patch::load(&folder.path().join("patch")).unwrap()).unwrap(), id);
    assert_eq!(logits(&other, Vec::new()), expected);
}

#[test]
fn ten_thousand_run_and_one_more_is_refused() {
    let model = open("gpt2-dynamo-mask");
    let base = logits(&model, Vec::new());
    let small = |n, seed| {
        let slots = slots(&model, 1, n, false, seed);
        let values = slots.values.as_f32().unwrap().iter().map(|v| v / 1000.0).collect();
        Slots { values: Tensor::f32(slots.values.shape(), values).unwrap(), ..slots }
    };
    let id = model.commit(proposal(vec![Change::Slots(small(SLOTS_AT_MOST - 1, 1.0))])).unwrap();
    let relu = Change::Slots(Slots { activation: Activation::Relu, ..small(1, 2.0) });
    let full = logits(&model, vec![relu.clone()]);
    assert!(full.iter().all(|v| v.is_finite()) && full != base);
    let rows = rows(&model);
    let request = RunRequest {
        logits: everywhere(&rows),
        rows,
        under: vec![relu.clone(), Change::Slots(small(1, 3.0))],
        ..RunRequest::default()
    };
    assert_eq!(model.run(&request).unwrap_err().code().id, "slots-too-many");
    let both = vec![relu, Change::Slots(small(1, 3.0))];
    assert_eq!(model.commit(proposal(both)).unwrap_err().code().id, "slots-too-many");
    model.rollback(&id).unwrap();
    assert_eq!(logits(&model, Vec::new()), base);
}

fn nll(rows: &[Vec<u32>]) -> Vec<Term> {
    let last = rows.iter().enumerate().map(|(row, ids)| Place { row, pos: ids.len() - 1 });
    last.map(|place| Term::Nll { place, token: 17, weight: 0.5 }).collect()
}

/// The slots with another tensor in place of one.
fn with(slots: &Slots, number: usize, new: Tensor) -> Slots {
    let mut out = slots.clone();
    let gate = || slots.gate.clone().unwrap();
    match number {
        0 => out.keys = new,
        1 => out.bias = new,
        2 => out.values = new,
        3 => out.gate = Some(SlotGate { keys: new, ..gate() }),
        _ => out.gate = Some(SlotGate { bias: new, ..gate() }),
    }
    out
}

#[test]
fn gradients_of_trial_slots_agree_with_differences() {
    for name in ["gpt2-torchscript-mask", "llama-dynamo", "phi3-dynamo", "opt-dynamo"] {
        let model = open(name);
        let rows = rows(&model);
        // Those committed, and others of the same trial, share the branch.
        model.commit(proposal(vec![Change::Slots(slots(&model, 1, 3, gated(&model), 5.0))])).unwrap();
        let beside = Change::Slots(slots(&model, 1, 2, gated(&model), 6.0));
        let own = slots(&model, 1, 4, gated(&model), 1.0);
        let request = |own: &Slots| GradientRequest {
            rows: rows.clone(),
            under: vec![beside.clone(), Change::Slots(own.clone())],
            terms: nll(&rows),
            wrt: vec![Wrt::Trial(1), Wrt::Trial(0)],
            ..GradientRequest::default()
        };
        let reply = model.gradient(&request(&own)).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(reply.gradients[0].len(), own.tensors().len());
        assert_eq!(reply.gradients[1][0].shape(), [model.anatomy().d_model, 2]);
        for (number, (tensor, gradient)) in own.tensors().into_iter().zip(&reply.gradients[0]).enumerate() {
            assert_eq!(tensor.shape(), gradient.shape(), "{name} {number}");
            // Along the gradient itself the slope is its norm.
            let g = gradient.as_f32().unwrap();
            let norm = g.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
            assert!(norm > 1e-4, "{name} {number}: {norm}");
            let step = 1e-2 / norm.max(1.0);
            let moved = |sign: f64| {
                let along = |(t, g): (&f32, &f32)| (f64::from(*t) + sign * step * f64::from(*g) / norm) as f32;
                let new = tensor.as_f32().unwrap().iter().zip(g).map(along).collect();
                let new = with(&own, number, Tensor::f32(tensor.shape(), new).unwrap());
                f64::from(model.gradient(&request(&new)).unwrap().loss)
            };
            let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
            assert!((slope - norm).abs() <= 0.03 * norm, "{name} {number}: {slope} {norm}");
        }
    }
}

#[test]
fn gradients_of_slots_in_float16_are_those_in_float32() {
    let gradients = |name: &str| {
        let model = open(name);
        let rows = rows(&model);
        let request = GradientRequest {
            terms: nll(&rows),
            rows,
            under: vec![Change::Slots(slots(&model, 1, 4, gated(&model), 1.0))],
            wrt: vec![Wrt::Trial(0)],
            ..GradientRequest::default()
        };
        model.gradient(&request).unwrap_or_else(|e| panic!("{name}: {e:?}")).gradients.remove(0)
    };
    for family in ["gpt2-dynamo-f16 gpt2-dynamo-mask", "llama-dynamo-f16 llama-dynamo"] {
        let (half, full) = family.split_once(' ').unwrap();
        for (i, (a, b)) in gradients(half).iter().zip(&gradients(full)).enumerate() {
            let found = far(a.as_f32().unwrap(), b.as_f32().unwrap());
            assert!(found <= 3e-2, "{half} {i}: {found}");
        }
    }
}

#[test]
fn other_gradients_and_generation_see_slots() {
    for name in ["gpt2-dynamo-mask", "llama-dynamo-cache"] {
        let model = open(name);
        let rows = vec![rows(&model)[0].clone()];
        let change = Change::Slots(slots(&model, 1, 4, gated(&model), 1.0));
        // An addition at the last position lets only a window be computed; one at the first does not.
        let site = Site::Block(0, BlockSite::ResidPost);
        let at = |pos| Poke {
            site,
            places: vec![Place { row: 0, pos }],
            values: Tensor::zeros([1, model.anatomy().d_model]),
        };
        let request = |adds: Vec<Poke>, under: Vec<Change>| GradientRequest {
            rows: rows.clone(),
            wrt: (0..adds.len()).map(Wrt::Add).collect(),
            adds,
            under,
            terms: nll(&rows),
            ..GradientRequest::default()
        };
        let gradient = |adds, under| model.gradient(&request(adds, under)).unwrap();
        let window = gradient(vec![at(5)], vec![change.clone()]);
        let whole = gradient(vec![at(5), at(0)], vec![change.clone()]);
        let flat = |r: &engraft_plugin_api::GradientReply| r.gradients[0][0].as_f32().unwrap().to_vec();
        assert!(far(&flat(&window), &flat(&whole)) <= 1e-4, "{name}");
        assert!((window.loss - whole.loss).abs() < 1e-4);
        assert!(far(&flat(&window), &flat(&gradient(vec![at(5)], Vec::new()))) > 1e-3, "{name}");
        let strong = slots(&model, 1, 4, gated(&model), 1.0);
        let louder = strong.values.as_f32().unwrap().iter().map(|v| 30.0 * v).collect();
        let change = Change::Slots(with(&strong, 2, Tensor::f32(strong.values.shape(), louder).unwrap()));
        let answer = |under: Vec<Change>| {
            let request = GenerateRequest { rows: rows.clone(), max_new: 6, under, ..GenerateRequest::default() };
            model.generate(&request).unwrap()
        };
        let trial = answer(vec![change.clone()]);
        let base = answer(Vec::new());
        model.commit(proposal(vec![change])).unwrap();
        assert_eq!(answer(Vec::new()), trial, "{name}");
        assert_ne!(trial, base, "{name}");
    }
}

#[test]
fn an_export_holds_slots_as_plain_nodes() {
    for name in ["gpt2-dynamo-mask", "gpt2-torchscript-opset14", "llama-dynamo-cache", "opt-dynamo", "gpt2-dynamo-f16"]
    {
        let model = open(name);
        let folder = tempfile::tempdir().unwrap();
        let relu = Slots { activation: Activation::Relu, ..slots(&model, 1, 3, !gated(&model), 2.0) };
        let weight = WeightRef::Block(1, Role::MlpOut);
        let [inputs, outputs] = model.anatomy().weight(weight).unwrap().shape;
        let left = Tensor::f32([inputs, 1], (0..inputs).map(|i| (i as f32).sin()).collect()).unwrap();
        let delta = Delta::LowRank { left, right: Tensor::f32([1, outputs], vec![0.05; outputs]).unwrap() };
        let own = Change::Slots(slots(&model, 1, 40, gated(&model), 1.0));
        let changes = vec![own, Change::Weight { weight, delta }, Change::Slots(relu)];
        model.commit(proposal(changes)).unwrap();
        let target = folder.path().join("out");
        model.export(&target).unwrap();
        let again = Model::open(&target, &runtime::for_tests(), &OpenOptions::default()).unwrap();
        let found = far(&logits(&again, Vec::new()), &logits(&model, Vec::new()));
        assert!(found <= 1e-5_f32.max(4.0 * model.roundoff()), "{name}: {found}");
        // Where slots were, the MLP ends in a sum: it is not read, and that is said.
        let (gone, kept) = (Site::Block(1, BlockSite::MlpProj), Site::Block(0, BlockSite::MlpProj));
        let absent = |model: &Model, site: Site| model.anatomy().absent.contains_key(&site.to_string());
        assert!(absent(&again, gone) && !absent(&again, kept), "{name}");
    }
}

#[test]
fn defects_are_named_and_change_nothing() {
    for name in ["gpt2-dynamo-mask", "llama-dynamo"] {
        let model = open(name);
        let base = logits(&model, Vec::new());
        let good = slots(&model, 1, 2, gated(&model), 1.0);
        let width = model.anatomy().d_model;
        let nan = Tensor::f32([2], vec![0.0, f32::NAN]).unwrap();
        let uneven = SlotGate { keys: Tensor::zeros([width, 3]), bias: Tensor::zeros([3]) };
        let part = Increment { name: "s".into(), fold: Fold::Sum, value: nan.clone() };
        let state = || Change::State(vec![1]);
        // Every number is finite, what they make is not.
        let tens = |t: &Tensor| Tensor::f32([2], vec![10.0; t.len()]).unwrap();
        let open = |g: &SlotGate| SlotGate { keys: Tensor::zeros([width, 2]), bias: tens(&g.bias) };
        let huge = Slots {
            keys: Tensor::zeros([width, 2]),
            bias: tens(&good.bias),
            values: Tensor::f32([2, width], vec![3e38; 2 * width]).unwrap(),
            gate: good.gate.as_ref().map(open),
            ..good.clone()
        };
        let rows: [(&str, Vec<Change>); 9] = [
            ("slots-shape", vec![Change::Slots(waves(1, width + 1, 2, gated(&model), 1.0))]),
            ("slots-shape", vec![Change::Slots(Slots { gate: Some(uneven), ..good.clone() })]),
            ("slots-not-finite", vec![Change::Slots(Slots { bias: nan, ..good.clone() })]),
            ("slots-too-many", vec![Change::Slots(slots(&model, 1, SLOTS_AT_MOST + 1, false, 1.0))]),
            ("slots-place", vec![Change::Slots(Slots { layer: 99, ..good.clone() })]),
            ("patch-state-twice", vec![state(), Change::Slots(good.clone()), state()]),
            ("statistic-part", vec![Change::Statistic(part)]),
            ("edit-no-effect", vec![Change::Slots(Slots { values: Tensor::zeros([2, width]), ..good.clone() })]),
            ("edit-not-finite", vec![Change::Slots(huge)]),
        ];
        for (code, changes) in rows {
            let error = model.commit(proposal(changes.clone())).unwrap_err();
            assert_eq!(error.code().id, code, "{name}: {error:?}");
            let logits = vec![Place { row: 0, pos: 0 }];
            let run = model.run(&RunRequest { rows: vec![vec![1]], logits, under: changes, ..RunRequest::default() });
            assert!(run.is_err() || code.starts_with("edit-"), "{name} {code}");
        }
        assert_eq!((logits(&model, Vec::new()), model.patches().len()), (base.clone(), 0));
        assert!(model.history().is_empty(), "{name}: what was refused is in the journal");
        // Slots that are silent at the probe are no defect, nor is a patch that only remembers.
        let deaf = Tensor::f32([2], vec![-1e4; 2]).unwrap();
        let deaf = Slots { bias: deaf, gate: None, activation: Activation::Relu, ..good };
        let ids = [vec![Change::Slots(deaf)], vec![state()]].map(|c| model.commit(proposal(c)).unwrap());
        assert_eq!(logits(&model, Vec::new()), base);
        ids.iter().for_each(|id| model.rollback(id).unwrap());
    }
}
