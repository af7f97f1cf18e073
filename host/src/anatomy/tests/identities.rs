//! The identities between the weights that the anatomy finds in a graph and what PyTorch recorded of the activations.

use std::collections::BTreeSet;

use engraft_plugin_api::{BlockSite, Role, Site, Tensor, WeightRef};
use safetensors::SafeTensors;

use super::anatomy;
use crate::anatomy::check::{Deviation, identities};
use crate::anatomy::{Columns, Storage, WeightEdge};
use crate::graph::testing::{Row, rows};
use crate::graph::{DType, Graph};

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

/// Checks the weights of a graph of the zoo as its anatomy finds them against PyTorch's records of the activations.
fn deviations(row: &Row, change: impl Fn(WeightRef, Tensor) -> Tensor) -> Vec<Deviation> {
    deviations_of(row, [].into(), |_, value| value, change)
}

/// The same with blocks that are said to have sinks, and the activations changed.
fn deviations_of(
    row: &Row,
    sinks: BTreeSet<usize>,
    seen: impl Fn(Site, Tensor) -> Tensor,
    change: impl Fn(WeightRef, Tensor) -> Tensor,
) -> Vec<Deviation> {
    let graph = Graph::load(&row.folder).unwrap();
    let mut found = anatomy(&graph).unwrap();
    found.sinks = sinks;
    let bytes = std::fs::read(&row.record).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    // A parallel block has no `resid_mid`, and what PyTorch's modules do not hold was not recorded.
    found.sites.retain(|site, _| file.tensor(&site.to_string()).is_ok());
    let taps = |sites: &[Site]| {
        let read = |site: &Site| {
            let view = file.tensor(&site.to_string()).unwrap();
            let values = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            seen(*site, Tensor::f32(view.shape(), values).unwrap())
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
fn the_identities_hold_between_the_weights_of_the_zoo_and_pytorchs_records() {
    let mut wrong = Vec::new();
    for row in rows() {
        let name = &row.name;
        let half = Graph::load(&row.folder).unwrap().initializers().any(|i| i.dtype() == DType::F16);
        let tolerance = if half { 3e-3 } else { 1e-5 };
        let rows = deviations(&row, |_, value| value);
        assert!(rows.len() >= 16, "{name}: {} identities", rows.len());
        let far = rows.into_iter().filter(|row| row.error.is_nan() || row.error > tolerance * row.scale.max(1.0));
        wrong.extend(far.map(|row| format!("{name}: {row:?}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_identities_notice_one_wrong_weight() {
    let wrong = WeightRef::Block(1, Role::Key);
    for (name, identity) in [
        ("gpt2-dynamo-mask", "attn.k = ln1.out W_K + b_K"),
        ("gptneox-torchscript", "attn.k = ln1.out W_K + b_K"),
        ("olmo2-dynamo", "attn.k = resid_pre W_K + b_K"),
    ] {
        let row = rows().into_iter().find(|row| row.name == name).unwrap();
        let rows = deviations(&row, |weight, value| {
            if weight != wrong {
                return value;
            }
            let shape = value.shape().to_vec();
            Tensor::f32(shape, value.into_f32().unwrap().into_iter().rev().collect()).unwrap()
        });
        let failing: Vec<_> = rows.iter().filter(|r| r.error > 1e-3 * r.scale).map(|r| (r.identity, r.layer)).collect();
        assert_eq!(failing, [(identity, Some(1))], "{name}");
    }
}

#[test]
fn weights_of_attention_of_which_a_sink_takes_a_part_need_only_look_back() {
    let row = rows().into_iter().find(|row| row.name == "gpt2-dynamo-mask").unwrap();
    let failing = |sinks: &[usize], factor: f32, turned: bool| {
        let seen = |site, value: Tensor| {
            if site != Site::Block(1, BlockSite::Pattern) {
                return value;
            }
            let shape = value.shape().to_vec();
            let mut values: Vec<f32> = value.into_f32().unwrap().into_iter().map(|weight| factor * weight).collect();
            if turned {
                values.reverse();
            }
            Tensor::f32(shape, values).unwrap()
        };
        let rows = deviations_of(&row, sinks.iter().copied().collect(), seen, |_, value| value);
        let failing = rows.iter().filter(|r| r.error > 1e-3 * r.scale).map(|r| r.identity.trim_start_matches("attn."));
        failing.collect::<Vec<_>>()
    };
    assert_eq!(failing(&[], 0.5, false), ["pattern sums to 1", "z = attn.pattern attn.v"]);
    assert_eq!(failing(&[1], 0.5, false), ["z = attn.pattern attn.v"]);
    assert_eq!(failing(&[1], 0.5, true), ["pattern looks back only", "z = attn.pattern attn.v"]);
}
