//! Graphs that are not read, or not wholly: what was found, what stopped it, and what to do.

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::{anatomy, fixture};
use crate::anatomy::Anatomy;
use crate::graph::testing::in_domain;
use crate::graph::{Attr, DType, Dim, Graph, Patch, Shapes};

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

fn survey(graph: &Graph) -> (Anatomy, Vec<crate::base::Error>) {
    Anatomy::survey(graph, &Shapes::infer(graph).unwrap())
}

#[test]
fn operators_of_other_domains_are_named_with_what_was_found() {
    let graph = in_domain(&fixture("dynamo-mask"), "LayerNormalization", "com.microsoft");
    let (found, problems) = survey(&graph);
    assert_eq!(problems[0].code().id, "anatomy-operator-unread");
    let message = problems[0].message();
    assert!(
        message.contains("LayerNormalization of the domain com.microsoft") && message.contains("6 more"),
        "{message}"
    );
    assert!(problems[0].advice().is_some_and(|advice| advice.contains("plain ONNX")));
    assert!(found.site(Site::Logits).is_ok());
    let error = anatomy(&graph).unwrap_err();
    assert!(error.message().contains("found: the logits `logits`"), "{error}");
}

#[test]
fn an_operator_that_only_runtimes_have_is_named() {
    let graph = fixture("dynamo-mask");
    let found = anatomy(&graph).unwrap();
    let mid = found.site(Site::Block(1, BlockSite::Ln2Out)).unwrap();
    let mut patch = Patch::new(&graph);
    let scale = patch.f32(&[32], &[1.0; 32]);
    let normed = patch.op("SimplifiedLayerNormalization", &[mid, &scale], &[]).unwrap();
    patch.shunt(mid, &normed).unwrap();
    let error = anatomy(&patch.apply().unwrap()).unwrap_err();
    assert_eq!(error.code().id, "anatomy-operator-unread");
    assert!(error.message().contains("SimplifiedLayerNormalization"), "{error}");
}

#[test]
fn outputs_that_are_not_logits_are_listed() {
    let graph = fixture("dynamo-mask");
    let found = anatomy(&graph).unwrap();
    let mut patch = Patch::new(&graph);
    patch.drop_outputs();
    patch.tap(found.site(Site::LnFinal).unwrap(), DType::F32).unwrap();
    let error = anatomy(&patch.apply().unwrap()).unwrap_err();
    assert_eq!(error.code().id, "anatomy-not-found");
    assert!(error.message().contains("made by LayerNormalization"), "{error}");
    assert!(error.advice().is_some_and(|advice| advice.contains("language-modelling head")), "{error:?}");
}

#[test]
fn attention_that_looks_ahead_is_no_decoder() {
    let graph = fixture("dynamo-mask");
    let found = anatomy(&graph).unwrap();
    let mut patch = Patch::new(&graph);
    let index = graph.index();
    let softmax = index.producer(found.site(Site::Block(0, BlockSite::Pattern)).unwrap()).unwrap();
    let masked = softmax.input(0).unwrap();
    // Back over additions and choices to the product of queries and keys.
    let mut product = masked;
    while let Some(node) = index.producer(product).filter(|n| !n.is("MatMul")) {
        product = node.input(usize::from(node.is("Where"))).unwrap();
    }
    patch.shunt(masked, product).unwrap();
    let error = anatomy(&patch.apply().unwrap()).unwrap_err();
    assert_eq!(error.code().id, "anatomy-not-found");
    assert!(error.message().contains("block 0") && error.message().contains("earlier from later"), "{error}");
}

#[test]
fn a_stream_that_cannot_be_followed_to_the_tokens_is_not_cut_short() {
    let graph = fixture("dynamo-mask");
    let found = anatomy(&graph).unwrap();
    let post = found.site(Site::Block(0, BlockSite::ResidPost)).unwrap();
    let mut patch = Patch::new(&graph);
    let bent = patch.op("Tanh", &[post], &[]).unwrap();
    patch.shunt(post, &bent).unwrap();
    let error = anatomy(&patch.apply().unwrap()).unwrap_err();
    assert_eq!(error.code().id, "anatomy-not-found");
    assert!(error.message().contains("made by Tanh") && error.message().contains("stands before it"), "{error}");
}

#[test]
fn logits_of_the_last_position_only_are_absent_with_the_reason() {
    let graph = fixture("dynamo-mask");
    let found = anatomy(&graph).unwrap();
    let last = found.site(Site::LnFinal).unwrap();
    let mut patch = Patch::new(&graph);
    let place = patch.i64(&[1], &[-1]);
    let one = patch.op("Gather", &[last, &place], &[("axis", Attr::Int(1))]).unwrap();
    patch.shunt(last, &one).unwrap();
    let (cut, problems) = survey(&patch.apply().unwrap());
    assert!(problems.is_empty(), "{problems:?}");
    assert!(cut.site(Site::Logits).unwrap_err().message().contains("leaves positions out"));
    assert_eq!(cut.site(Site::LnFinal).unwrap(), last);
    assert_eq!(cut.sites.len(), found.sites.len() - 1);
}

#[test]
fn values_that_are_clipped_are_no_product_of_the_pattern_with_v() {
    let graph = fixture("dynamo-mask");
    let found = anatomy(&graph).unwrap();
    assert!(found.altered_values.is_empty());
    let v = found.site(Site::Block(1, BlockSite::V)).unwrap();
    let mut patch = Patch::new(&graph);
    let [low, high] = [-0.5, 0.5].map(|bound| patch.f32(&[], &[bound]));
    let clipped = patch.op("Clip", &[v, &low, &high], &[]).unwrap();
    patch.shunt(v, &clipped).unwrap();
    let clipped = anatomy(&patch.apply().unwrap()).unwrap();
    assert_eq!(clipped.altered_values, [1].into());
    let site = &clipped.sites[&Site::Block(1, BlockSite::V)];
    assert!(site.edge == v && site.evidence.contains("Clip"), "{}", site.evidence);
}
