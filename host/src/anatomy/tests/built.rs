//! Random small decoders are read as they were built; where nothing tells two parts apart, both are named.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use engraft_plugin_api::{BlockSite, Site};

use super::anatomy;
use crate::anatomy::Columns;
use crate::graph::testing::decoders::{Activation, Decoder, Gate, HEADS, LAYERS, MASK, Run, Style, WIDTH};

/// The first name that two tables do not agree on, and what they say.
fn differing<K: Ord + Debug, V: PartialEq + Debug>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> Option<String> {
    let all: BTreeSet<&K> = a.keys().chain(b.keys()).collect();
    let wrong = all.into_iter().find(|name| a.get(name) != b.get(name))?;
    Some(format!("{wrong:?} is {:?}, expected {:?}", b.get(wrong), a.get(wrong)))
}

#[test]
fn built_decoders_are_read_as_they_were_built() {
    let mut wrong = Vec::new();
    for seed in 0..200 {
        let style = Style::random(seed);
        let Decoder { graph, sites, weights } = style.build();
        let found = match anatomy(&graph) {
            Ok(found) => found,
            Err(error) => {
                wrong.push(format!("{style:?}: {error:?}"));
                continue;
            }
        };
        let edges = found.sites.iter().map(|(site, at)| (*site, at.edge.clone())).collect();
        let columns = |c: &Columns| Run { first: c.first, width: c.width, runs: c.runs, stride: c.stride };
        let stored =
            found.weights.iter().map(|(w, at)| (*w, (at.initializer.clone(), at.columns.as_ref().map(columns))));
        let mask = (!style.masks_itself()).then_some(MASK);
        let shape = (found.heads, found.kv_heads, found.d_head, found.layers);
        wrong.extend(differing(&sites, &edges).map(|text| format!("{style:?}: {text}")));
        wrong.extend(differing(&weights, &stored.collect()).map(|text| format!("{style:?}: {text}")));
        if found.inputs.mask.as_deref() != mask || shape != (HEADS, style.kv, WIDTH, LAYERS) {
            wrong.push(format!("{style:?}: {:?}, {shape:?}", found.inputs));
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_gate_that_nothing_bends_is_ambiguous() {
    let style = Style { gate: Gate::Apart, activation: Activation::Missing, ..Style::random(3) };
    let Decoder { graph, sites, .. } = style.build();
    let error = anatomy(&graph).unwrap_err();
    assert_eq!(error.code().id, "anatomy-ambiguous");
    let named = |site| error.message().contains(&format!("`{}`", sites[&Site::Block(0, site)]));
    assert!(named(BlockSite::MlpPre) && named(BlockSite::MlpPreLinear), "{error}");
}
