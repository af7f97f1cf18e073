//! Graphs that are not read, or not wholly: what was found, what stopped it, and what to do.

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::{anatomy, fixture};
use crate::anatomy::Anatomy;
use crate::graph::{DType, Dim, Graph, Patch, Shapes};

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
