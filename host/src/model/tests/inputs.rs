//! Inputs and outputs as exporters differ in them: other element types, extents that a file fixes, logits without an
//! axis for the rows.

use std::path::Path;

use engraft_plugin_api::{
    BlockSite, GenerateRequest, GradientRequest, Place, Poke, Role, RunRequest, Site, Tap, Tensor, WeightRef, Wrt,
};

use super::{difference, low_rank, nll, proposal, relative};
use crate::graph::testing::{rows, zoo};
use crate::graph::{Attr, DType, Dim, Graph, Patch};
use crate::model::{Model, OpenOptions};
use crate::runtime;

const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "position_ids"];

fn opened(folder: &Path) -> Model {
    Model::open(folder, &runtime::for_tests(), &OpenOptions::default()).unwrap()
}

/// A model of the zoo that reads each of its inputs through one of another type or other extents; the old ones stay,
/// and nothing reads them.
fn through(name: &str, types: [DType; 3], dims: impl Fn(&str) -> Vec<Dim>) -> tempfile::TempDir {
    let graph = Graph::load(&rows().into_iter().find(|row| row.name == name).unwrap().folder).unwrap();
    let mut patch = Patch::new(&graph);
    for (name, dtype) in INPUTS.into_iter().zip(types) {
        let other = patch.input(&format!("{name}.other"), dtype, dims(name)).unwrap();
        let cast = patch.op("Cast", &[&other], &[("to", Attr::Int(i64::from(DType::I64.0)))]).unwrap();
        patch.shunt(name, &cast).unwrap();
    }
    saved(patch.apply().unwrap())
}

fn symbols(name: &str) -> Vec<Dim> {
    ["rows", "columns"].map(|axis| Dim::symbol(&format!("{name}.{axis}"))).into()
}

/// A graph in a folder of its own, with its data.
fn saved(graph: Graph) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, path) in graph.external_paths() {
        std::fs::copy(path, folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("model.onnx"), graph.to_bytes().unwrap()).unwrap();
    folder
}

/// Everything that is asked of a model: logits under a patch, gradients at a window and over whole rows, and a text.
fn asked(model: &Model) -> (Vec<f32>, Vec<Vec<f32>>, Vec<Vec<u32>>) {
    let rows = vec![vec![5, 9, 11, 2, 60, 71, 8, 12], vec![1, 2, 7]];
    let site = Site::Block(1, BlockSite::MlpProj);
    let places = vec![Place { row: 0, pos: 7 }, Place { row: 1, pos: 2 }];
    let adds = vec![Poke { site, places: places.clone(), values: Tensor::zeros([1, model.anatomy().d_model]) }];
    let gradient = |adds: Vec<Poke>, wrt| {
        let request =
            GradientRequest { terms: nll(&rows), rows: rows.clone(), adds, wrt: vec![wrt], ..Default::default() };
        model.gradient(&request).unwrap().gradients.remove(0).remove(0).into_f32().unwrap()
    };
    let gradients =
        vec![gradient(adds, Wrt::Add(0)), gradient(Vec::new(), Wrt::Weight(WeightRef::Block(1, Role::MlpOut)))];
    let id = model.commit(proposal(vec![low_rank(model, WeightRef::Unembedding, 0.1)])).unwrap();
    let request = RunRequest { rows: rows.clone(), logits: places, ..RunRequest::default() };
    let logits = model.run(&request).unwrap().logits.into_f32().unwrap();
    let request = GenerateRequest { rows, max_new: 5, ..GenerateRequest::default() };
    let said = model.generate(&request).unwrap();
    model.rollback(&id).unwrap();
    (logits, gradients, said)
}

#[track_caller]
fn same(found: &Model, plain: &Model) {
    let (found, plain) = (asked(found), asked(plain));
    assert!(difference(&found.0, &plain.0) < 1e-5);
    assert!(found.1.iter().zip(&plain.1).all(|(a, b)| relative(a, b) < 1e-5));
    assert_eq!(found.2, plain.2);
}

#[test]
fn inputs_are_fed_in_the_type_that_the_graph_asks_for() {
    use DType as D;
    for name in ["llama-torchscript-cache", "gpt2-optimum"] {
        let plain = opened(&rows().into_iter().find(|row| row.name == name).unwrap().folder);
        for types in
            [[D::I32, D::I32, D::I32], [D::I64, D::BOOL, D::I32], [D::I32, D::F32, D::F32], [D::I64, D::F16, D::F16]]
        {
            let folder = through(name, types, symbols);
            let model = opened(folder.path());
            assert_eq!(model.anatomy().inputs.idle.len(), 3);
            same(&model, &plain);
        }
        let folder = through(name, [D::I64, D(2), D::I64], symbols);
        let error = Model::open(folder.path(), &runtime::for_tests(), &OpenOptions::default()).map(drop).unwrap_err();
        assert_eq!(error.code().id, "model-dtype");
        assert!(error.message().contains("`attention_mask.other`") && error.message().contains("uint8"), "{error}");
    }
}

#[test]
fn a_mask_that_is_added_to_scores_is_not_taken_for_one_of_ones() {
    let graph = Graph::load(&rows().into_iter().find(|row| row.name == "gpt2-dynamo-nomask").unwrap().folder).unwrap();
    let scores = graph.nodes().iter().find(|node| node.is("Softmax")).unwrap().input(0).unwrap().to_owned();
    let mut patch = Patch::new(&graph);
    let mask = patch.input("bias", DType::F32, symbols("bias")).unwrap();
    let axes = patch.i64(&[2], &[1, 2]);
    let wide = patch.op("Unsqueeze", &[&mask, &axes], &[]).unwrap();
    let sum = patch.op("Add", &[&scores, &wide], &[]).unwrap();
    patch.shunt(&scores, &sum).unwrap();
    // It is the only mask.
    let folder = saved(patch.apply().unwrap());
    let error = Model::open(folder.path(), &runtime::for_tests(), &OpenOptions::default()).map(drop).unwrap_err();
    assert_eq!(error.code().id, "anatomy-input-unread");
    assert!(error.message().contains("the mask `bias` hides no token from"), "{error}");
}

#[test]
fn rows_of_a_fixed_shape_are_run_and_others_refused() {
    let name = "llama-dynamo";
    let plain = opened(&rows().into_iter().find(|row| row.name == name).unwrap().folder);
    let fixed = |_: &str| vec![Dim::Known(2), Dim::Known(6)];
    let folder = through(name, [DType::I64; 3], fixed);
    let model = opened(folder.path());
    assert_eq!(model.anatomy().context, Some(6));
    let rows = vec![vec![5, 9, 11, 2, 60, 71], vec![1, 2, 7]];
    let places = vec![Place { row: 0, pos: 5 }, Place { row: 1, pos: 2 }];
    let run = |model: &Model, rows: &[Vec<u32>]| {
        let request = RunRequest { rows: rows.to_vec(), logits: places.clone(), ..RunRequest::default() };
        model.run(&request).map(|reply| reply.logits.into_f32().unwrap())
    };
    assert!(difference(&run(&model, &rows).unwrap(), &run(&plain, &rows).unwrap()) < 1e-5);
    let gradient = |model: &Model| {
        let wrt = vec![Wrt::Weight(WeightRef::Block(1, Role::MlpOut)), Wrt::Add(0)];
        let site = Site::Block(1, BlockSite::MlpProj);
        let adds = vec![Poke { site, places: places.clone(), values: Tensor::zeros([1, model.anatomy().d_model]) }];
        let request =
            GradientRequest { terms: nll(&rows), rows: rows.clone(), adds, wrt, ..GradientRequest::default() };
        model.gradient(&request).unwrap().gradients.concat()
    };
    for (a, b) in gradient(&model).iter().zip(&gradient(&plain)) {
        assert!(relative(a.as_f32().unwrap(), b.as_f32().unwrap()) < 1e-5);
    }
    // A patch is proven on rows that fit.
    model.commit(proposal(vec![low_rank(&model, WeightRef::Block(0, Role::MlpOut), 0.1)])).unwrap();
    for (wrong, words) in [
        (vec![rows[1].clone(), rows[1].clone()], "exactly 6 tokens in the longest row, found 3"),
        (vec![vec![1; 7], vec![1; 7]], "exactly 6 tokens in the longest row, found 7"),
        (vec![vec![1; 6]], "exactly 2 rows, found 1"),
    ] {
        let error = run(&model, &wrong).unwrap_err();
        assert_eq!(error.code().id, "row-extent");
        assert!(error.message().contains("`input_ids.other`") && error.message().contains(words), "{error}");
    }
    let request = GenerateRequest { rows, max_new: 2, ..GenerateRequest::default() };
    let error = model.generate(&request).unwrap_err();
    assert!(error.code().id == "row-extent" && error.message().contains("cannot be continued"), "{error}");
}

#[test]
fn logits_without_an_axis_for_the_rows_are_read() {
    let plain = opened(&zoo("dynamo-mask"));
    let folders = ["ln_final.out", "logits"].map(|flat| {
        let mut patch = Patch::new(plain.graph());
        patch.drop_outputs();
        let site: Site = flat.parse().unwrap();
        let edge = plain.anatomy().site(site).unwrap();
        let width = if site == Site::Logits { plain.anatomy().vocab } else { plain.anatomy().d_model };
        let shape = patch.i64(&[2], &[-1, width as i64]);
        let merged = patch.op("Reshape", &[edge, &shape], &[]).unwrap();
        let logits = match site {
            Site::Logits => merged,
            _ => {
                let head = plain.anatomy().weight(WeightRef::Unembedding).unwrap();
                let matrix = patch.current_input(&head.reader.0, head.reader.1).unwrap();
                patch.op("MatMul", &[&merged, &matrix], &[]).unwrap()
            }
        };
        patch.tap(&logits, DType::F32).unwrap();
        saved(patch.apply().unwrap().live())
    });
    for folder in &folders {
        let model = opened(folder.path());
        same(&model, &plain);
        let taps = vec![Tap { site: Site::Logits, places: None }];
        let request = RunRequest { rows: vec![vec![5, 9], vec![3, 4]], taps, ..RunRequest::default() };
        assert_eq!(model.run(&request).unwrap().taps[0].shape(), [2, 2, plain.anatomy().vocab]);
    }
}
