//! Continuations against PyTorch's records and against passes over whole rows, on every export of the zoo that caches.

use std::path::{Path, PathBuf};

use engraft_plugin_api::{
    Change, Decoding, Delta, GenerateRequest, GradientRequest, Params, Place, Role, RunRequest, Sampling, Site, Tensor,
    Term, WeightRef, Wrt,
};
use safetensors::SafeTensors;

use super::choose::choose;
use crate::graph::{Attr, DType, Patch, Shapes, Slice, export};
use crate::model::{Model, OpenOptions, Proposal};
use crate::runtime;

fn zoo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/zoo")
}

fn model(name: &str) -> Model {
    Model::open(&zoo().join(name), &runtime::for_tests(), &OpenOptions::default()).unwrap()
}

/// Rows of a family's record.
fn record(family: &str, name: &str) -> Vec<Vec<u32>> {
    let bytes = std::fs::read(zoo().join(format!("{family}.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let flat: Vec<u32> = tensor.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b) as u32).collect();
    flat.chunks(*tensor.shape().last().unwrap()).map(<[u32]>::to_vec).collect()
}

/// The exports whose graphs cache keys and values, with the names of their families.
fn cached() -> Vec<(String, String)> {
    let names = std::fs::read_dir(zoo()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|n| n.ends_with("-optimum") || n.ends_with("-cache")).collect();
    names.sort();
    let family = |name: &str| {
        let mut ends = name.match_indices('-').map(|(at, _)| name[..at].to_owned());
        ends.rfind(|f| zoo().join(format!("{f}.safetensors")).is_file()).unwrap()
    };
    names.into_iter().map(|name| (name.clone(), family(&name))).collect()
}

#[test]
fn greedy_tokens_are_pytorchs_for_equal_and_for_ragged_rows() {
    let all = cached();
    assert!(all.len() > 30, "{all:?}");
    for (name, family) in all {
        let model = model(&name);
        let inputs = &model.anatomy().inputs;
        assert_eq!(inputs.cache.len(), 2 * model.anatomy().layers, "{name}");
        let ids = record(&family, "ids");
        let lengths = record(&family, "ragged.lengths").concat();
        let ragged: Vec<Vec<u32>> = ids.iter().zip(lengths).map(|(row, n)| row[..n as usize].to_vec()).collect();
        for (rows, wanted) in [(ids, "greedy"), (ragged, "ragged.greedy")] {
            let wanted = record(&family, wanted);
            let max_new = wanted[0].len();
            let request = GenerateRequest { rows, max_new, ..GenerateRequest::default() };
            assert_eq!(model.generate(&request).unwrap(), wanted, "{name}");
        }
    }
}

/// The same by one pass over the whole row for each token.
fn row_by_row(model: &Model, request: &GenerateRequest) -> Vec<Vec<u32>> {
    let mut all = Vec::new();
    for (number, prompt) in request.rows.iter().enumerate() {
        let mut row = prompt.clone();
        for step in 0..request.max_new {
            let logits = vec![Place { row: 0, pos: row.len() - 1 }];
            let under = request.under.clone();
            let run = RunRequest { rows: vec![row.clone()], logits, under, ..RunRequest::default() };
            let logits = model.run(&run).unwrap().logits;
            let token = choose(logits.as_f32().unwrap(), &request.decoding, number, step).unwrap();
            if request.stop.contains(&token) {
                break;
            }
            row.push(token);
            if model.anatomy().context.is_some_and(|context| row.len() >= context) {
                break;
            }
        }
        all.push(row.split_off(prompt.len()));
    }
    all
}

fn low_rank(model: &Model, weight: WeightRef, scale: f32) -> Change {
    let [i, o] = model.anatomy().weight(weight).unwrap().shape;
    let wave = |n: usize, f: f32| (0..n).map(|k| scale * (f * (k as f32 + 1.0)).sin()).collect();
    let left = Tensor::f32([i, 1], wave(i, 0.7)).unwrap();
    let right = Tensor::f32([1, o], wave(o, 1.3)).unwrap();
    Change::Weight { weight, delta: Delta::LowRank { left, right } }
}

/// Positions by table, by rotation and by slope; sliding windows; rows together and rows by length.
const VARIED: [&str; 6] = [
    "gpt2-optimum",
    "gpt2-dynamo-23-cache",
    "llama-dynamo-cache",
    "mistral-torchscript-cache",
    "gemma3-optimum",
    "bloom-optimum",
];

#[test]
fn a_cache_changes_no_token_whatever_is_drawn_patched_or_ended() {
    for name in VARIED {
        let model = model(name);
        let rows: Vec<Vec<u32>> =
            [3, 23, 1, 3, 17].iter().map(|&n| (0..n).map(|i| (i * i + 5 * n) % 128).collect()).collect();
        let sample = |top_k, top_p| Decoding::Sample(Sampling { temperature: 1.3, top_k, top_p, seed: 11 });
        let mut said = Vec::new();
        for (decoding, patched) in [
            (Decoding::Greedy, false),
            (sample(None, None), false),
            (sample(Some(40), Some(0.9)), true),
            (sample(None, Some(0.8)), true),
        ] {
            let under = if patched { vec![low_rank(&model, WeightRef::Embedding, 0.3)] } else { Vec::new() };
            // Two of the tokens that come end rows early, so that they leave the batch.
            let all: &[u32] = said.last().map_or(&[], Vec::as_slice);
            let stop = all.iter().copied().step_by(9).take(2).collect();
            let request = GenerateRequest {
                rows: rows.clone(),
                max_new: 12,
                decoding,
                stop,
                under,
                ..GenerateRequest::default()
            };
            let wanted = row_by_row(&model, &request);
            assert_eq!(model.generate(&request).unwrap(), wanted, "{name} {decoding:?}");
            said.push(wanted.concat());
            if patched && model.patches().is_empty() {
                let changes = vec![low_rank(&model, WeightRef::Block(1, Role::Value), 0.3)];
                let (method, version) = ("test".to_owned(), "0".to_owned());
                let proposal = Proposal {
                    method,
                    version,
                    params: Params::default(),
                    artefact: None,
                    requests: Vec::new(),
                    changes,
                };
                model.commit(proposal).unwrap();
            }
        }
        assert!(said.windows(2).all(|w| w[0] != w[1]), "{name}: every decoding says something else");
    }
}

#[test]
fn a_row_ends_with_the_context_and_others_go_on() {
    for name in ["gpt2-optimum", "gpt2-dynamo-mask"] {
        let model = model(name);
        let context = model.anatomy().context.unwrap();
        let row = |n: usize| (0..n as u32).map(|i| (i * 7 + 3) % 128).collect::<Vec<u32>>();
        let rows = vec![row(context - 4), row(5), row(context - 20)];
        let request = GenerateRequest { rows, max_new: 30, ..GenerateRequest::default() };
        let said = model.generate(&request).unwrap();
        assert_eq!(said.iter().map(Vec::len).collect::<Vec<_>>(), [4, 30, 20], "{name}");
        assert_eq!(said, row_by_row(&model, &request), "{name}");
        let full = GenerateRequest { rows: vec![row(context)], max_new: 1, ..GenerateRequest::default() };
        assert_eq!(model.generate(&full).unwrap_err().code().id, "row-too-long");
        let texts = GenerateRequest { stop_texts: vec!["x".into()], ..request };
        assert_eq!(model.generate(&texts).unwrap_err().code().id, "tokenizer-missing");
    }
}

#[test]
fn an_operator_that_joins_the_cache_itself_is_the_same_model() {
    let name = "llama-dynamo-23-cache";
    let plain = model(name);
    let (graph, ports) = (plain.graph(), &plain.anatomy().inputs.cache);
    let mut patch = Patch::new(graph);
    patch.drop_outputs();
    let mut presents = Vec::new();
    for node in graph.nodes().iter().filter(|n| n.is("Attention")) {
        // Keys and values are repeated for the heads of a group before the operator; there they are joined now.
        let layer = presents.len() / 2;
        let mut inputs = vec![node.input(0).unwrap().to_owned()];
        inputs.extend([0, 1].map(|i| ports[2 * layer + i].fresh.clone().unwrap()));
        inputs.push(node.input(3).unwrap().to_owned());
        inputs.extend([0, 1].map(|i| ports[2 * layer + i].past.clone()));
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let scale = Attr::Float(node.float("scale").unwrap());
        let made = patch.op_many("Attention", &inputs, &[("scale", scale)], 3).unwrap();
        patch.shunt(node.output(0), &made[0]).unwrap();
        presents.extend(made[1..].to_vec());
    }
    presents.insert(0, plain.anatomy().site(Site::Logits).unwrap().to_owned());
    presents.iter().for_each(|edge| patch.tap(edge, DType::F32).unwrap());
    let whole = patch.apply().unwrap();
    let outputs: Vec<&str> = presents.iter().map(String::as_str).collect();
    let sliced = Slice::between(&whole, &Shapes::infer(&whole).unwrap(), &[], &outputs).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("joined");
    export(&sliced.graph, &[], &target).unwrap();
    let joined = Model::open(&target, &runtime::for_tests(), &OpenOptions::default()).unwrap();
    let found: Vec<_> = joined.anatomy().inputs.cache.iter().map(|p| (p.layer, p.kind, p.past.clone())).collect();
    assert_eq!(found, ports.iter().map(|p| (p.layer, p.kind, p.past.clone())).collect::<Vec<_>>());
    let rows = record("llama", "ids");
    let request = GenerateRequest { rows, max_new: 8, ..GenerateRequest::default() };
    assert_eq!(joined.generate(&request).unwrap(), record("llama", "greedy"));
    assert_eq!(row_by_row(&joined, &request), record("llama", "greedy"));
}

#[test]
fn passes_and_gradients_without_a_cache_are_those_of_the_plain_export() {
    let rows = record("llama", "ids");
    let place = Place { row: 1, pos: 6 };
    let request = GradientRequest {
        rows: rows.clone(),
        terms: vec![Term::Nll { place, token: 3, weight: 1.0 }],
        wrt: [Role::Key, Role::Value, Role::MlpOut].map(|r| Wrt::Weight(WeightRef::Block(0, r))).to_vec(),
        ..GradientRequest::default()
    };
    let run = RunRequest { rows, logits: vec![place], ..RunRequest::default() };
    let of = |name: &str| {
        let model = model(name);
        let mut all = vec![model.run(&run).unwrap().logits];
        all.extend(model.gradient(&request).unwrap().gradients.concat());
        all
    };
    let plain = of("llama-optimum-nocache");
    for name in ["llama-optimum", "llama-dynamo-cache", "llama-torchscript-cache"] {
        for (a, b) in plain.iter().zip(of(name)) {
            let (a, b) = (a.as_f32().unwrap(), b.as_f32().unwrap());
            let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let scale = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert!(scale > 0.0 && off <= 1e-4 * scale, "{name}: {off} of {scale}");
        }
    }
}
