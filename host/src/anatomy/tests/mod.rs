//! Every fixture's anatomy against a golden file, names that do not matter, and graphs that are refused.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use engraft_plugin_api::{BlockSite, Role, Site, Tensor, WeightRef};
use safetensors::SafeTensors;

use super::check::{Deviation, identities};
use super::{Anatomy, Columns, Storage, Table, WeightEdge};
use crate::graph::testing::{ZOO, renamed, zoo};
use crate::graph::{DType, Dim, Graph, Patch, Shapes};

fn tests_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

fn fixture(name: &str) -> Graph {
    Graph::load(&zoo(name)).unwrap()
}

fn anatomy(graph: &Graph) -> crate::base::Result<Anatomy> {
    Anatomy::of(graph, &Shapes::infer(graph).unwrap())
}

fn text(anatomy: &Anatomy) -> String {
    let table = Table::of(anatomy);
    let mut out = format!(
        "layers {} d_model {} d_mlp {} heads {} kv_heads {} d_head {} vocab {} context {:?} epsilon {:?}\nids {} mask {:?} positions {:?}\n",
        table.layers,
        table.d_model,
        table.d_mlp,
        table.heads,
        table.kv_heads,
        table.d_head,
        table.vocab,
        table.context,
        anatomy.epsilon,
        table.ids,
        table.mask,
        table.positions
    );
    for row in &table.rows {
        let edge = row.edge.as_deref().unwrap_or("absent");
        writeln!(out, "{} {} = {edge}\n    {}", row.name, row.shape, row.evidence).unwrap();
        if let Some(w) = row.name.parse().ok().and_then(|name: WeightRef| anatomy.weights.get(&name)) {
            let (reader, slot) = &w.reader;
            writeln!(out, "    read by {reader}:{slot}, from {:?} to {:?}", w.input, w.output).unwrap();
        }
    }
    out
}

#[test]
fn fixtures_are_read_as_their_golden_files_say() {
    for name in ZOO {
        let found = anatomy(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let path = tests_folder().join(format!("goldens/anatomy-{name}.txt"));
        let now = text(&found);
        if std::env::var_os("ENGRAFT_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &now).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        let differs = now.lines().zip(golden.lines()).position(|(a, b)| a != b);
        assert!(
            now == golden,
            "{name} differs from {} at line {differs:?}; ENGRAFT_BLESS=1 re-blesses",
            path.display()
        );
    }
}

#[test]
fn fixtures_have_every_site_and_weight_of_gpt2() {
    for name in ZOO {
        let graph = fixture(name);
        let found = anatomy(&graph).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!((found.layers, found.d_model, found.d_mlp, found.vocab), (3, 32, 128, 128), "{name}");
        assert_eq!((found.heads, found.kv_heads, found.d_head, found.context), (4, 4, 8, Some(64)), "{name}");
        // Per block all sites but `mlp.pre_linear` and all weights but the gate's two; the ends but `b_U`.
        assert_eq!((found.sites.len(), found.weights.len()), (3 + 3 * 16, 5 + 3 * 16), "{name}: {:?}", found.absent);
        assert_eq!(found.absent.len(), 3 * 3 + 1, "{name}: {:?}", found.absent);
        let masked = !name.ends_with("nomask");
        assert_eq!((found.inputs.mask.is_some(), found.inputs.positions.is_some()), (masked, masked), "{name}");
        for layer in 1..3 {
            let pre = found.site(Site::Block(layer, BlockSite::ResidPre)).unwrap();
            assert_eq!(pre, found.site(Site::Block(layer - 1, BlockSite::ResidPost)).unwrap());
        }
        assert_eq!(found.site(Site::Embed).unwrap(), found.site(Site::Block(0, BlockSite::ResidPre)).unwrap());
        let key = found.weight(WeightRef::Block(1, Role::Key)).unwrap();
        assert_eq!(
            (key.columns, key.shape, key.storage),
            (Some(Columns::block(32, 32)), [32, 32], Storage::InOut),
            "{name}"
        );
    }
}

#[test]
fn a_tied_unembedding_is_read_through_its_transpose() {
    let found = anatomy(&fixture("dynamo-raw")).unwrap();
    let (embed, unembed) = (&found.weights[&WeightRef::Embedding], &found.weights[&WeightRef::Unembedding]);
    assert_eq!(embed.initializer, unembed.initializer);
    assert_eq!((embed.uses, unembed.uses, unembed.storage, unembed.reader.1), (2, 2, Storage::OutIn, 0));
    assert_eq!((embed.shape, unembed.shape), ([128, 32], [32, 128]));
    assert_ne!(embed.reader.0, unembed.reader.0);
}

#[test]
fn names_do_not_matter() {
    for name in ZOO {
        let graph = fixture(name);
        // Names in another order than the given ones, and none of them telling anything.
        let scramble = |text: &str| format!("n{}", &blake3::hash(text.as_bytes()).to_hex()[..12]);
        let mut expected = anatomy(&graph).unwrap();
        let found = anatomy(&renamed(&graph, scramble)).unwrap();
        let edge = |text: &mut String| *text = scramble(text);
        edge(&mut expected.inputs.ids);
        expected.inputs.mask.iter_mut().for_each(edge);
        expected.inputs.positions.iter_mut().for_each(edge);
        expected.sites.values_mut().for_each(|s| edge(&mut s.edge));
        for weight in expected.weights.values_mut() {
            [&mut weight.initializer, &mut weight.reader.0].into_iter().for_each(edge);
            weight.input.iter_mut().chain(&mut weight.output).for_each(edge);
        }
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn copies_of_edges_do_not_matter() {
    for name in ZOO {
        let graph = fixture(name);
        let expected = anatomy(&graph).unwrap();
        let mut patch = Patch::new(&graph);
        let inner: BTreeSet<&str> =
            expected.sites.values().map(|s| s.edge.as_str()).filter(|&e| e != "logits").collect();
        for edge in inner {
            let copy = patch.op("Identity", &[edge], &[]).unwrap();
            patch.shunt(edge, &copy).unwrap();
        }
        let found = anatomy(&patch.apply().unwrap()).unwrap();
        assert_eq!(found.sites, expected.sites, "{name}");
        assert_eq!(found.inputs, expected.inputs, "{name}");
        for (weight, edge) in &expected.weights {
            assert_eq!(found.weights[weight].initializer, edge.initializer, "{name} {weight}");
            assert_eq!(found.weights[weight].columns, edge.columns, "{name} {weight}");
        }
    }
}

#[test]
fn a_graph_without_a_transformer_is_refused_with_what_was_found() {
    let graph = Graph::empty(20);
    let mut patch = Patch::new(&graph);
    let text = patch.input("text", DType::I64, vec![Dim::symbol("batch"), Dim::symbol("pos")]).unwrap();
    let table = patch.f32(&[6, 4], &[0.5; 24]);
    let matrix = patch.f32(&[4, 6], &[0.5; 24]);
    let rows = patch.op("Gather", &[&table, &text], &[]).unwrap();
    let out = patch.op("MatMul", &[&rows, &matrix], &[]).unwrap();
    patch.tap(&out, DType::F32).unwrap();
    let error = anatomy(&patch.apply().unwrap()).unwrap_err();
    assert_eq!(error.code().id, "anatomy-not-found");
    let message = error.message();
    assert!(message.contains("no residual stream") && message.contains("made by Gather"), "{message}");
    assert!(message.contains("found: the logits") && message.contains("0 blocks"), "{message}");
}

#[test]
fn two_possible_logits_are_both_named() {
    let graph = fixture("dynamo-mask");
    let found = anatomy(&graph).unwrap();
    let unembed = found.weight(WeightRef::Unembedding).unwrap();
    let mut patch = Patch::new(&graph);
    let second = patch.op("MatMul", &[unembed.input.as_deref().unwrap(), &unembed.initializer], &[]).unwrap();
    patch.tap(&second, DType::F32).unwrap();
    let error = anatomy(&patch.apply().unwrap()).unwrap_err();
    assert_eq!(error.code().id, "anatomy-ambiguous");
    assert!(error.message().contains("`logits`") && error.message().contains(&second), "{error}");
}

#[test]
fn an_input_that_is_not_understood_is_named() {
    let graph = fixture("dynamo-mask");
    let found = anatomy(&graph).unwrap();
    let mut patch = Patch::new(&graph);
    let cache = patch.input("past", DType::F32, vec![Dim::Known(1), Dim::Known(1), Dim::Known(32)]).unwrap();
    let mid = found.site(Site::Block(1, BlockSite::Ln2Out)).unwrap();
    let sum = patch.op("Add", &[mid, &cache], &[]).unwrap();
    patch.shunt(mid, &sum).unwrap();
    let (_, problems) = {
        let graph = patch.apply().unwrap();
        Anatomy::survey(&graph, &Shapes::infer(&graph).unwrap())
    };
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].code().id, "anatomy-input-unread");
    assert!(problems[0].message().contains("`past`"), "{}", problems[0]);
}

#[test]
fn a_fused_attention_leaves_its_inside_absent_with_the_reason() {
    let graph = fixture("dynamo-mask");
    let found = anatomy(&graph).unwrap();
    let site = |s| found.site(Site::Block(2, s)).unwrap();
    let mut patch = Patch::new(&graph);
    let packed = found.weight(WeightRef::Block(2, Role::Query)).unwrap().output.clone().unwrap();
    let whole = patch.op("Attention", &[&packed], &[]).unwrap();
    patch.shunt(site(BlockSite::Z), &whole).unwrap();
    let graph = patch.apply().unwrap();
    let (fused, problems) = Anatomy::survey(&graph, &Shapes::infer(&graph).unwrap());
    assert!(problems.is_empty(), "{problems:?}");
    let error = fused.site(Site::Block(2, BlockSite::Pattern)).unwrap_err();
    assert_eq!(error.code().id, "site-absent");
    assert!(error.message().contains("one Attention operator"), "{error}");
    assert_eq!(fused.site(Site::Block(2, BlockSite::AttnProj)).unwrap(), site(BlockSite::AttnProj));
    assert!(fused.site(Site::Block(1, BlockSite::Pattern)).is_ok());
}

/// A weight as methods see it, read from the file as the anatomy says.
fn value(graph: &Graph, weight: &WeightEdge) -> Tensor {
    let stored = graph.values(graph.initializer(&weight.initializer).unwrap()).unwrap();
    let values = stored.floats().unwrap();
    let outputs = match weight.storage {
        Storage::OutIn => stored.dims[0],
        _ => *stored.dims.last().unwrap(),
    };
    let columns = weight.columns.unwrap_or(Columns::block(0, outputs));
    let inputs = values.len() / outputs;
    let at = |i: usize, o: usize| match weight.storage {
        Storage::OutIn => values[o * inputs + i],
        _ => values[i * outputs + o],
    };
    let picked = (0..inputs).flat_map(|i| columns.all().map(move |o| at(i, o))).collect();
    Tensor::f32(weight.shape, picked).unwrap()
}

/// Checks the weights of a fixture as its anatomy finds them against PyTorch's records of the activations.
fn deviations(name: &str, change: impl Fn(WeightRef, Tensor) -> Tensor) -> Vec<Deviation> {
    let graph = fixture(name);
    let found = anatomy(&graph).unwrap();
    let bytes = std::fs::read(tests_folder().join("zoo/gpt2.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let taps = |sites: &[Site]| {
        let read = |site: &Site| {
            let view = file.tensor(&site.to_string()).unwrap();
            let values = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            Tensor::f32(view.shape(), values).unwrap()
        };
        Ok(sites.iter().map(read).collect())
    };
    let ids = file.tensor("ids").unwrap();
    let numbers = ids.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
    let tokens = Tensor::i64(ids.shape(), numbers).unwrap();
    let (batch, pos) = (ids.shape()[0], ids.shape()[1]);
    let positions = Tensor::i64(ids.shape(), (0..batch * pos).map(|i| (i % pos) as i64).collect()).unwrap();
    let weights = |w: WeightRef| Ok(change(w, value(&graph, found.weight(w)?)));
    identities(&found, &tokens, &positions, taps, weights).unwrap()
}

#[test]
fn the_identities_hold_between_the_weights_of_every_fixture_and_pytorchs_records() {
    for name in ZOO {
        let rows = deviations(name, |_, value| value);
        assert_eq!(rows.len(), 3 + 3 * 12, "{name}");
        for row in rows {
            assert!(row.error <= 1e-5 * row.scale.max(1.0), "{name}: {row:?}");
        }
    }
}

#[test]
fn the_identities_notice_one_wrong_weight() {
    let wrong = WeightRef::Block(1, Role::Key);
    let rows = deviations("dynamo-mask", |weight, value| {
        if weight != wrong {
            return value;
        }
        let shape = value.shape().to_vec();
        Tensor::f32(shape, value.into_f32().unwrap().into_iter().rev().collect()).unwrap()
    });
    let failing: Vec<_> = rows.iter().filter(|r| r.error > 1e-3 * r.scale).map(|r| (r.identity, r.layer)).collect();
    assert_eq!(failing, [("attn.k = ln1.out W_K + b_K", Some(1))]);
}
