//! Whole models against what PyTorch recorded: every way of exporting the tiny GPT-2, the gradient of its loss with
//! respect to every recorded site and weight. Weights are read through an Identity each, so that a tied matrix has one
//! gradient for each of its uses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use engraft::anatomy::{Anatomy, Columns, Storage};
use engraft::autodiff::check::Evaluate;
use engraft::autodiff::{LossNodes, Seed, gradients, nll};
use engraft::graph::{DType, Dim, Graph, Patch, Shapes, Slice, dump};
use engraft_plugin_api::Tensor;
use safetensors::SafeTensors;

use crate::kit::{Compiled, distance, floats};

const FIXTURES: [&str; 7] = [
    "gpt2-dynamo-mask",
    "gpt2-dynamo-nomask",
    "gpt2-dynamo-raw",
    "gpt2-dynamo-sdpa",
    "gpt2-torchscript-mask",
    "gpt2-torchscript-nomask",
    "gpt2-torchscript-opset14",
];
const TOLERANCE: f64 = 1e-4;

fn zoo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/zoo")
}

/// What PyTorch recorded: tensors of floats, and the token ids.
struct Records {
    floats: BTreeMap<String, Tensor>,
    ids: Tensor,
}

fn records() -> Records {
    let bytes = std::fs::read(zoo().join("gpt2.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut floats = BTreeMap::new();
    for (name, view) in file.tensors() {
        if view.dtype() == safetensors::Dtype::F32 {
            let values = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            floats.insert(name, Tensor::f32(view.shape().to_vec(), values).unwrap());
        }
    }
    let ids = file.tensor("ids").unwrap();
    let values = ids.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
    Records { floats, ids: Tensor::i64(ids.shape().to_vec(), values).unwrap() }
}

/// A fixture whose loss is built: the places' logits are picked and each use of a weight goes through an Identity.
struct Model {
    graph: Graph,
    anatomy: Anatomy,
    /// The edge through which each (reader, slot) reads its weight.
    uses: BTreeMap<(String, usize), String>,
    picked: String,
}

fn model(name: &str) -> Model {
    let base = Graph::load(&zoo().join(name)).unwrap();
    let anatomy = Anatomy::of(&base, &Shapes::infer(&base).unwrap()).unwrap();
    let mut patch = Patch::new(&base);
    let mut uses = BTreeMap::new();
    for weight in anatomy.weights.values() {
        if !uses.contains_key(&weight.reader) {
            let through = patch.op("Identity", &[&weight.initializer], &[]).unwrap();
            patch.reroute(&weight.reader.0, weight.reader.1, &through).unwrap();
            uses.insert(weight.reader.clone(), through);
        }
    }
    patch.input("places", DType::I64, vec![Dim::symbol("m"), Dim::Known(2)]).unwrap();
    let picked = patch.op("GatherND", &["logits", "places"], &[]).unwrap();
    patch.tap(&picked, DType::F32).unwrap();
    Model { graph: patch.apply().unwrap(), anatomy, uses, picked }
}

/// The graph with a loss and the gradients of `wrt`.
fn differentiated(model: &Model, wrt: &[&str]) -> (Graph, LossNodes, Vec<Option<String>>) {
    let mut patch = Patch::new(&model.graph);
    patch.input("targets", DType::I64, vec![Dim::symbol("m")]).unwrap();
    patch.input("weights", DType::F32, vec![Dim::symbol("m")]).unwrap();
    let loss = nll(&mut patch, &model.picked, "targets", "weights").unwrap();
    let seeds = [Seed { edge: model.picked.clone(), cotangent: loss.cotangent.clone() }];
    let shapes = Shapes::infer(&model.graph).unwrap();
    let found = gradients(&mut patch, &shapes, &seeds, wrt).unwrap();
    patch.tap(&loss.terms, DType::F32).unwrap();
    for gradient in found.iter().flatten() {
        patch.tap(gradient, DType::F32).unwrap();
    }
    (patch.apply().unwrap(), loss, found)
}

fn feeds(records: &Records) -> Vec<(String, Tensor)> {
    let [rows, length] = records.ids.shape() else { panic!("the ids are a matrix") };
    let (rows, length) = (*rows as i64, *length as i64);
    let int = |dims: &[usize], values: Vec<i64>| Tensor::i64(dims.to_vec(), values).unwrap();
    let dims = records.ids.shape();
    vec![
        ("input_ids".into(), records.ids.clone()),
        ("attention_mask".into(), int(dims, vec![1; (rows * length) as usize])),
        ("position_ids".into(), int(dims, (0..rows).flat_map(|_| 0..length).collect())),
        ("places".into(), int(&[rows as usize, 2], (0..rows).flat_map(|r| [r, length - 1]).collect())),
        ("targets".into(), int(&[rows as usize], vec![17; rows as usize])),
        ("weights".into(), Tensor::f32([rows as usize], vec![1.0 / rows as f32; rows as usize]).unwrap()),
    ]
}

fn borrowed(feeds: &[(String, Tensor)]) -> Vec<(&str, &Tensor)> {
    feeds.iter().map(|(n, t)| (n.as_str(), t)).collect()
}

/// `[in, out]` columns of a gradient in the file's layout.
fn oriented(tensor: &Tensor, storage: Storage, columns: Option<Columns>) -> Vec<f32> {
    let values = floats(tensor);
    let width = *tensor.shape().last().unwrap();
    let matrix: Vec<Vec<f32>> = match storage {
        Storage::OutIn => (0..width).map(|c| values.chunks(width).map(|row| row[c]).collect()).collect(),
        _ => values.chunks(width).map(<[f32]>::to_vec).collect(),
    };
    let cut = |row: Vec<f32>| match columns {
        Some(columns) => columns.all().map(|c| row[c]).collect(),
        None => row,
    };
    matrix.into_iter().flat_map(cut).collect()
}

#[test]
fn every_export_has_the_gradients_that_pytorch_recorded() {
    let records = records();
    let feeds = feeds(&records);
    for fixture in FIXTURES {
        let model = model(fixture);
        let sites: Vec<(String, &str)> = model
            .anatomy
            .sites
            .iter()
            .map(|(site, found)| (format!("grad:{site}"), found.edge.as_str()))
            .filter(|(name, _)| records.floats.contains_key(name))
            .collect();
        let mut wrt: Vec<&str> = sites.iter().map(|(_, edge)| *edge).collect();
        wrt.extend(model.uses.values().map(String::as_str));
        let (graph, loss, found) = differentiated(&model, &wrt);
        let gradient: BTreeMap<&str, &String> =
            wrt.iter().zip(&found).map(|(edge, g)| (*edge, g.as_ref().unwrap())).collect();
        // No shape is left to be found out while the graph runs.
        assert!(
            found.iter().flatten().count() == wrt.len() && !dump(&graph, None).contains("engraft.NonZero"),
            "{fixture}"
        );
        for optimize in [true, false] {
            let compiled = Compiled::new(&graph, optimize).unwrap();
            let get = |edge: &str| compiled.run(&borrowed(&feeds), &[edge]).unwrap().remove(0);
            let terms = get(&loss.terms);
            let mean = floats(&terms).iter().sum::<f32>() / floats(&terms).len() as f32;
            assert!((mean - floats(&records.floats["loss"])[0]).abs() < 1e-4, "{fixture}: loss {mean}");
            let mut compared = 0;
            let mut check = |name: &str, got: &[f32]| {
                // A constant added to all scores changes nothing: the gradient of the keys' bias is rounding alone.
                let noise = name.ends_with("b_K") && got.iter().all(|v| v.abs() < 1e-6);
                let apart = if noise { 0.0 } else { distance(got, floats(&records.floats[name])) };
                assert!(apart <= TOLERANCE, "{fixture}: {name} is off by {apart:.1e}");
                compared += 1;
            };
            for (name, edge) in &sites {
                check(name, floats(&get(gradient[edge])));
            }
            for (weight, stored) in &model.anatomy.weights {
                let edge = model.uses[&stored.reader].as_str();
                check(&format!("grad:{weight}"), &oriented(&get(gradient[edge]), stored.storage, stored.columns));
            }
            assert!(compared > 80, "{fixture}: only {compared} gradients were compared");
        }
    }
}

/// The part from an edited site on: what lies before it is fed, and the gradient reads nothing of it.
#[test]
fn the_gradient_at_a_site_needs_nothing_before_the_site() {
    let records = records();
    let feeds = feeds(&records);
    for fixture in FIXTURES {
        let model = model(fixture);
        let site = "blocks.1.mlp.out".parse().unwrap();
        let cut = model.anatomy.site(site).unwrap();
        let residual = model.anatomy.site("blocks.1.resid_mid".parse().unwrap()).unwrap();
        let (graph, loss, found) = differentiated(&model, &[cut]);
        let gradient = found[0].as_ref().unwrap();
        let slice =
            Slice::between(&graph, &Shapes::infer(&model.graph).unwrap(), &[cut, residual], &[&loss.terms, gradient])
                .unwrap();
        assert_eq!(slice.fed.len(), 2);
        let early = |n: &str| n.contains("h.0.") || n.contains("h.1.");
        let weights: Vec<&str> = slice.graph.initializers().map(|i| i.name()).filter(|n| early(n)).collect();
        assert!(weights.iter().all(|n| !n.contains("c_fc") && !n.contains("c_attn")), "{fixture}: {weights:?}");
        let full = Compiled::new(&graph, true).unwrap();
        let mut tapped = Patch::new(&model.graph);
        tapped.tap(cut, DType::F32).unwrap();
        tapped.tap(residual, DType::F32).unwrap();
        let before = Compiled::new(&tapped.apply().unwrap(), true).unwrap();
        let given = before.run(&borrowed(&feeds), &[cut, residual]).unwrap();
        let mut fed = borrowed(&feeds);
        fed.extend([(cut, &given[0]), (residual, &given[1])]);
        let part = Compiled::new(&slice.graph, true).unwrap();
        let got = part.run(&fed, &[gradient]).unwrap().remove(0);
        let whole = full.run(&borrowed(&feeds), &[gradient]).unwrap().remove(0);
        assert!(distance(floats(&got), floats(&whole)) < 1e-6, "{fixture}");
        assert!(distance(floats(&got), floats(&records.floats["grad:blocks.1.mlp.out"])) <= TOLERANCE, "{fixture}");
    }
}
