//! Every export of every tiny family against what PyTorch recorded, without knowing what is what in the graph: a recorded
//! activation is looked for among the values of all edges, and the gradient there must be the recorded one; a recorded
//! gradient of a weight must be among the gradients of all weights, as stored, transposed, or as some of the columns.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use engraft::autodiff::check::Evaluate;
use engraft::autodiff::{Seed, gradients, nll};
use engraft::graph::{DType, Dim, Graph, Patch, Shapes, dump};
use engraft_plugin_api::Tensor;
use safetensors::SafeTensors;

use crate::kit::{Compiled, distance, floats, random};

/// The target token, after the last position of each row.
const TARGET: i64 = 17;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/zoo")
}

/// What PyTorch recorded of a family: tensors of floats, and the token ids.
struct Records {
    floats: BTreeMap<String, Tensor>,
    ids: Tensor,
}

impl Records {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut floats = BTreeMap::new();
        for (name, view) in file.tensors().into_iter().filter(|(_, v)| v.dtype() == safetensors::Dtype::F32) {
            let values = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            floats.insert(name, Tensor::f32(view.shape().to_vec(), values).unwrap());
        }
        let ids = file.tensor("ids").unwrap();
        let values = ids.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
        Self { floats, ids: Tensor::i64(ids.shape().to_vec(), values).unwrap() }
    }
}

/// The exports, each with the records of the family whose name its own begins with.
fn exports() -> Vec<(String, PathBuf)> {
    let entries: Vec<PathBuf> = std::fs::read_dir(root()).unwrap().map(|e| e.unwrap().path()).collect();
    let stem = |p: &Path| p.file_stem().unwrap().to_string_lossy().into_owned();
    let families: Vec<&PathBuf> =
        entries.iter().filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect();
    let mut rows: Vec<(String, PathBuf)> = Vec::new();
    for folder in entries.iter().filter(|p| p.join("model.onnx").is_file()) {
        let name = stem(folder);
        let of = families.iter().filter(|f| name.starts_with(&format!("{}-", stem(f)))).max_by_key(|f| stem(f).len());
        rows.extend(of.map(|f| (name, (*f).clone())));
    }
    rows.sort();
    rows
}

/// What the graph is fed: the recorded rows, whole, with nothing before them.
fn feeds(graph: &Graph, ids: &Tensor) -> Vec<(String, Tensor)> {
    let [rows, length] = ids.shape() else { panic!("the ids are a matrix") };
    let (rows, length) = (*rows, *length);
    let matrix = |values: Vec<i64>| Tensor::i64([rows, length], values).unwrap();
    let mut out = Vec::new();
    for input in graph.inputs() {
        let value = if input.dtype.is_float() {
            // The past: one of no token.
            let dims = input.dims.unwrap();
            let extent = |(i, d): (usize, &Dim)| d.known().unwrap_or(if i == 0 { rows } else { 0 });
            random(&dims.iter().enumerate().map(extent).collect::<Vec<_>>(), 1)
        } else if input.name.contains("mask") {
            matrix(vec![1; rows * length])
        } else if input.name.contains("position") {
            matrix((0..rows).flat_map(|_| 0..length as i64).collect())
        } else {
            ids.clone()
        };
        out.push((input.name, value));
    }
    let last = (0..rows as i64).flat_map(|r| [r, length as i64 - 1]).collect();
    out.push(("places".into(), Tensor::i64([rows, 2], last).unwrap()));
    out.push(("targets".into(), Tensor::i64([rows], vec![TARGET; rows]).unwrap()));
    out.push(("weights".into(), Tensor::f32([rows], vec![1.0 / rows as f32; rows]).unwrap()));
    out
}

/// The graph with each use of a weight through an Identity, those edges, and the logits at the places.
fn opened(base: &Graph) -> (Graph, Vec<String>, String) {
    let mut patch = Patch::new(base);
    let mut uses = Vec::new();
    for node in base.nodes() {
        for (slot, edge) in node.inputs().iter().enumerate() {
            if base.initializer(edge).is_some_and(|i| i.dtype().is_float() && i.len() > 8) {
                let through = patch.op("Identity", &[edge], &[]).unwrap();
                patch.reroute(node.output(0), slot, &through).unwrap();
                uses.push(through);
            }
        }
    }
    patch.input("places", DType::I64, vec![Dim::symbol("m"), Dim::Known(2)]).unwrap();
    let picked = patch.op("GatherND", &["logits", "places"], &[]).unwrap();
    patch.tap(&picked, base.outputs()[0].dtype).unwrap();
    (patch.apply().unwrap(), uses, picked)
}

/// The first edge, in the order of the graph, that has the values of a tensor in their order.
struct Values(HashMap<usize, Vec<(String, Vec<f32>)>>);

impl Values {
    /// Runs the graph with every floating-point edge as an output, and checks their shapes on the way.
    fn of(name: &str, graph: &Graph, shapes: &Shapes, feeds: &[(&str, &Tensor)]) -> Self {
        let made = graph.nodes().iter().flat_map(|n| n.outputs()).filter(|e| !e.is_empty());
        let made: Vec<&String> = made.filter(|e| shapes.dtype(e).is_some_and(DType::is_float)).collect();
        let mut patch = Patch::new(graph);
        for edge in &made {
            patch.tap(edge, shapes.dtype(edge).unwrap()).unwrap();
        }
        let fetch: Vec<&str> = made.iter().map(|e| e.as_str()).collect();
        let found = Compiled::new(&patch.apply().unwrap(), false).unwrap().run(feeds, &fetch).unwrap();
        let mut out: HashMap<usize, Vec<_>> = HashMap::new();
        let mut sizes: HashMap<String, usize> = HashMap::new();
        for (edge, value) in fetch.into_iter().zip(found) {
            // The shapes are what was inferred: numbers are these numbers, and a name is always the same.
            let dims = shapes.dims(edge).unwrap_or_else(|| panic!("{name}: the shape of {edge} is not known"));
            assert_eq!(dims.len(), value.shape().len(), "{name}: {edge}");
            for (dim, &extent) in dims.iter().zip(value.shape()) {
                let known = dim.known().unwrap_or_else(|| *sizes.entry(dim.to_string()).or_insert(extent));
                assert_eq!(known, extent, "{name}: {edge} is {:?}, inferred as {dims:?}", value.shape());
            }
            out.entry(value.len()).or_default().push((edge.to_owned(), floats(&value).to_vec()));
        }
        Self(out)
    }

    fn find(&self, wanted: &Tensor, tolerance: f64) -> Option<&str> {
        let close = |values: &[f32]| {
            let first = (values.iter().zip(floats(wanted)).take(8)).all(|(a, b)| (a - b).abs() < 0.1 + 0.1 * b.abs());
            first && distance(values, floats(wanted)) < tolerance
        };
        self.0.get(&wanted.len())?.iter().find(|(_, values)| close(values)).map(|(edge, _)| edge.as_str())
    }
}

/// The columns `from..from + count` of a matrix, or of its transpose.
fn columns(matrix: &Tensor, turned: bool, from: usize, count: usize) -> Vec<f32> {
    let (rows, width, values) = (matrix.shape()[0], matrix.shape()[1], floats(matrix));
    if turned {
        (0..width).flat_map(|r| (from..from + count).map(move |c| values[c * width + r])).collect()
    } else {
        (0..rows).flat_map(|r| values[r * width + from..r * width + from + count].iter().copied()).collect()
    }
}

/// How far the recorded gradient of a weight is from the nearest gradient of a weight.
fn nearest(wanted: &Tensor, found: &[Tensor]) -> f64 {
    let mut best = f64::INFINITY;
    let mut offer = |values: &[f32]| best = best.min(distance(values, floats(wanted)));
    for got in found {
        match (wanted.shape(), got.shape()) {
            (&[inputs, outputs], &[rows, width]) => {
                for (turned, have, wide) in [(false, rows, width), (true, width, rows)] {
                    if have == inputs && wide >= outputs {
                        (0..=wide - outputs).step_by(8).for_each(|c| offer(&columns(got, turned, c, outputs)));
                    }
                }
            }
            _ if got.len() == wanted.len() => offer(floats(got)),
            _ => {}
        }
    }
    best
}

/// What need not be found: q, k and v where an export packs them head by head, and what fused attention keeps.
fn may_be_hidden(name: &str) -> bool {
    ["q", "k", "v", "W_Q", "W_K", "W_V", "b_Q", "b_K", "b_V", "pattern"]
        .iter()
        .any(|end| name.ends_with(&format!("attn.{end}")))
}

#[test]
fn every_export_of_every_family_has_the_gradients_that_pytorch_recorded() {
    let rows = exports();
    let count = rows.len();
    assert!(count >= 7);
    let (mut wrong, mut late) = (Vec::new(), 0);
    for (name, family) in rows {
        let records = Records::read(&family);
        let base = Graph::load(&root().join(&name)).unwrap();
        let half = base.initializers().any(|i| i.dtype() == DType::F16);
        let tolerance = if half { 3e-2 } else { 1e-4 };
        let (graph, uses, picked) = opened(&base);
        let shapes = Shapes::infer(&graph).unwrap();
        let feeds = feeds(&base, &records.ids);
        let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let values = Values::of(&name, &graph, &shapes, &feeds);
        let named = |n: &String| n.strip_prefix("grad:").map(str::to_owned);
        let sites: Vec<(String, Option<&str>)> = records
            .floats
            .keys()
            .filter_map(named)
            .filter_map(|site| Some((site.clone(), values.find(records.floats.get(&site)?, tolerance))))
            .collect();

        let mut wrt: Vec<&str> = sites.iter().filter_map(|(_, edge)| *edge).collect();
        wrt.extend(uses.iter().map(String::as_str));
        let mut patch = Patch::new(&graph);
        patch.input("targets", DType::I64, vec![Dim::symbol("m")]).unwrap();
        patch.input("weights", DType::F32, vec![Dim::symbol("m")]).unwrap();
        let loss = nll(&mut patch, &picked, "targets", "weights").unwrap();
        let seeds = [Seed { edge: picked.clone(), cotangent: loss.cotangent }];
        let edges = gradients(&mut patch, &shapes, &seeds, &wrt).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (edge, of) in edges.iter().zip(&wrt).filter_map(|(e, of)| Some((e.as_ref()?, of))) {
            patch.tap(edge, shapes.dtype(of).unwrap()).unwrap();
        }
        patch.drop_outputs();
        let whole = patch.apply().unwrap();
        late += usize::from(dump(&whole, None).contains("engraft.NonZero"));
        let compiled = Compiled::new(&whole, true).unwrap();
        let fetch: BTreeSet<&str> = edges.iter().flatten().map(String::as_str).collect();
        let fetch: Vec<&str> = fetch.into_iter().collect();
        let made: HashMap<&str, Tensor> = fetch.iter().copied().zip(compiled.run(&feeds, &fetch).unwrap()).collect();
        let found = |edge: &Option<String>| edge.as_ref().map(|e| made[e.as_str()].clone());
        let by_edge: HashMap<&str, Option<Tensor>> = wrt.iter().copied().zip(edges.iter().map(found)).collect();
        let of_weights: Vec<Tensor> = uses.iter().filter_map(|u| by_edge[u.as_str()].clone()).collect();

        let (mut compared, mut hidden) = (0, Vec::new());
        let mut compare = |what: &str, apart: f64| {
            compared += 1;
            if apart > tolerance {
                wrong.push(format!("{name}: grad:{what} is off by {apart:.1e}"));
            }
        };
        for record in records.floats.keys().filter_map(named) {
            let wanted = &records.floats[&format!("grad:{record}")];
            if floats(wanted).iter().all(|v| v.abs() < 1e-6) {
                // A constant added to all scores changes nothing: the gradient of the keys' bias is rounding alone.
                continue;
            }
            match sites.iter().find(|(site, _)| *site == record) {
                Some((_, Some(edge))) => {
                    let apart = by_edge[edge].as_ref().map_or(f64::INFINITY, |g| distance(floats(g), floats(wanted)));
                    compare(&record, apart);
                }
                Some((_, None)) => hidden.push(record),
                None => match nearest(wanted, &of_weights) {
                    apart if apart > 0.5 && may_be_hidden(&record) => hidden.push(record),
                    apart => compare(&record, apart),
                },
            }
        }
        let lost: Vec<&String> = hidden.iter().filter(|n| !may_be_hidden(n)).collect();
        if compared < 20 || !lost.is_empty() {
            wrong.push(format!("{name}: only {compared} gradients compared; {lost:?} not found"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Hardly any shape is left to be found out while the graph runs.
    assert!(late <= count / 20, "{late} of {count}");
}
