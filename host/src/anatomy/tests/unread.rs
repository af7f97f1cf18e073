//! Decoders that are nearly what is read: each is refused, or a part of it is absent, with what was found and expected.

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::spellings::{plain, truth};
use super::{anatomy, fixture};
use crate::anatomy::Anatomy;
use crate::graph::testing::decoders::{D, HEADS, IDS, LAYERS, MASK, Packed, Positions, Style, VOCAB, WIDTH};
use crate::graph::testing::{changed, quantised};
use crate::graph::{Attr, DType, Dim, Graph, Patch};

/// The plain decoder, changed, and its anatomy before.
fn with(style: Style, change: impl FnOnce(&mut Patch<'_>, &Anatomy)) -> Graph {
    let graph = style.build().graph;
    let found = anatomy(&graph).unwrap();
    let mut patch = Patch::new(&graph);
    change(&mut patch, &found);
    patch.apply().unwrap()
}

/// Checks that a graph is refused with a code and words, and advice.
fn refused(graph: &Graph, code: &str, words: &[&str]) {
    let error = anatomy(graph).unwrap_err();
    assert_eq!(error.code().id, code, "{error}");
    words.iter().for_each(|word| assert!(error.message().contains(word), "{word}: {error}"));
    assert!(error.advice().is_some(), "{error}");
}

fn weight(role: Role) -> WeightRef {
    WeightRef::Block(1, role)
}

fn site(found: &Anatomy, site: BlockSite) -> String {
    found.site(Site::Block(1, site)).unwrap().to_owned()
}

#[test]
fn a_stream_with_a_prefix_is_refused() {
    let graph = with(plain(), |patch, found| {
        let embed = found.site(Site::Embed).unwrap();
        let prefix = patch.f32(&[1, 2, D], &[0.3; 2 * D]);
        let joined = patch.op("Concat", &[&prefix, embed], &[("axis", Attr::Int(1))]).unwrap();
        patch.shunt(embed, &joined).unwrap();
    });
    refused(&graph, "anatomy-not-found", &["pos + 2 positions", "has pos", "Concat"]);
}

#[test]
fn masks_of_another_sense_are_refused() {
    let turned = with(plain(), |patch, _| {
        let one = patch.i64(&[], &[1]);
        let turned = patch.op("Sub", &[&one, MASK], &[]).unwrap();
        patch.shunt(MASK, &turned).unwrap();
    });
    refused(&turned, "anatomy-input-unread", &["for which it is 1", "expected 1 where a token is"]);
    let bare = with(plain(), |patch, _| {
        let index = patch.graph().index();
        let (cast, _) = index.consumers(MASK).next().unwrap();
        let (none, _) = index.consumers(cast.output(0)).next().unwrap();
        let (far, _) = index.consumers(none.output(0)).next().unwrap();
        patch.shunt(far.output(0), cast.output(0)).unwrap();
    });
    refused(&bare, "anatomy-input-unread", &["hides no token", "0 in the padding"]);
}

#[test]
fn graphs_in_training_mode_are_refused() {
    let dropping = |given: bool| {
        with(plain(), |patch, found| {
            let out = site(found, BlockSite::AttnProj);
            let ratio = patch.f32(&[], &[0.1]);
            let mode = match given {
                true => patch.input("learning", DType::BOOL, Vec::new()).unwrap(),
                false => truth(patch, true),
            };
            let dropped = patch.op("Dropout", &[&out, &ratio, &mode], &[]).unwrap();
            patch.shunt(&out, &dropped).unwrap();
        })
    };
    refused(&dropping(false), "anatomy-training", &["Dropout", "training mode"]);
    refused(&dropping(true), "anatomy-training", &["Dropout", "`learning`"]);
}

#[test]
fn a_mixture_of_experts_is_named() {
    let graph = with(plain(), |patch, found| {
        let (read, out) = (site(found, BlockSite::Ln2Out), site(found, BlockSite::MlpProj));
        let router = patch.f32(&[D, 4], &[0.1; 4 * D]);
        let scores = patch.op("MatMul", &[&read, &router], &[]).unwrap();
        let shares = patch.op("Softmax", &[&scores], &[("axis", Attr::Int(-1))]).unwrap();
        let last = patch.i64(&[1], &[-1]);
        let best = patch.op("ReduceMax", &[&shares, &last], &[]).unwrap();
        let weighed = patch.op("Mul", &[&out, &best], &[]).unwrap();
        patch.shunt(&out, &weighed).unwrap();
    });
    let found = anatomy(&graph).unwrap();
    assert!(found.weight(WeightRef::Block(0, Role::MlpOut)).is_ok() && found.weight(weight(Role::Output)).is_ok());
    for role in [Role::MlpIn, Role::MlpOut] {
        let error = found.weight(weight(role)).unwrap_err();
        assert!(error.message().contains("mixture of experts") && error.message().contains("Softmax"), "{error}");
    }
}

#[test]
fn quantised_weights_are_named() {
    let graph = Style { packed: Packed::Apart, ..plain() }.build().graph;
    let before = anatomy(&graph).unwrap();
    let name = |role| before.weight(weight(role)).unwrap().initializer.as_str();
    let part = anatomy(&quantised(&graph, &[name(Role::Key), name(Role::MlpOut), name(Role::MlpIn)])).unwrap();
    for role in [Role::Key, Role::MlpOut, Role::MlpIn] {
        let error = part.weight(weight(role)).unwrap_err();
        assert!(error.message().contains("quantised weights"), "{role:?}: {error}");
    }
    assert!(part.weight(weight(Role::Query)).is_ok());
    let head = before.weight(WeightRef::Unembedding).unwrap();
    let turned = graph.initializer(&head.initializer).unwrap().name();
    refused(&quantised(&graph, &[turned]), "anatomy-operator-unread", &["MatMul", "quantised weights"]);
}

#[test]
fn adapters_beside_a_projection_are_named() {
    let beside = |role, input: BlockSite, from: usize, to: usize| {
        with(Style { packed: Packed::Apart, ..plain() }, |patch, found| {
            let out = found.weight(weight(role)).unwrap().output.clone().unwrap();
            let [a, b] = [[from, 2], [2, to]].map(|dims| patch.f32(&dims, &vec![0.1; dims[0] * dims[1]]));
            let low = patch.op("MatMul", &[&site(found, input), &a], &[]).unwrap();
            let high = patch.op("MatMul", &[&low, &b], &[]).unwrap();
            let factor = patch.f32(&[], &[0.5]);
            let scaled = patch.op("Mul", &[&high, &factor], &[]).unwrap();
            let sum = patch.op("Add", &[&out, &scaled], &[]).unwrap();
            patch.shunt(&out, &sum).unwrap();
        })
    };
    let shape = |role| anatomy(&plain().build().graph).unwrap().weight(weight(role)).unwrap().shape;
    for (role, input) in
        [(Role::Query, BlockSite::Ln1Out), (Role::MlpIn, BlockSite::Ln2Out), (Role::MlpOut, BlockSite::MlpPost)]
    {
        let [from, to] = shape(role);
        let found = anatomy(&beside(role, input, from, to)).unwrap_or_else(|e| panic!("{role:?}: {e}"));
        let error = found.weight(weight(role)).unwrap_err();
        assert!(error.message().contains("low rank 2") && error.message().contains("merge"), "{role:?}: {error}");
    }
}

#[test]
fn a_product_that_is_scaled_is_named() {
    let graph = changed(&fixture("torchscript-mask"), |model| {
        for node in model.graph.as_mut().unwrap().node.iter_mut().filter(|n| n.op_type == "Gemm") {
            node.attribute.iter_mut().filter(|a| a.name == "alpha").for_each(|a| a.f = 0.5);
        }
    });
    let error = anatomy(&graph).unwrap().weight(weight(Role::MlpOut)).cloned().unwrap_err();
    assert!(error.message().contains("alpha 0.5"), "{error}");
}

#[test]
fn embedded_tokens_in_place_of_ids_are_named() {
    for positions in [Positions::Learned, Positions::Rotary] {
        let graph = with(Style { positions, ..plain() }, |patch, found| {
            let dims = vec![Dim::symbol("batch"), Dim::symbol("pos"), Dim::Known(D)];
            let given = patch.input("embedded", DType::F32, dims).unwrap();
            let table = found.weight(WeightRef::Embedding).unwrap();
            patch.shunt(table.output.as_deref().unwrap(), &given).unwrap();
        });
        refused(&graph, "anatomy-not-found", &["`embedded`", "embedded tokens, expected token ids"]);
    }
}

#[test]
fn ids_that_are_changed_before_they_are_looked_up_are_named() {
    let graph = with(plain(), |patch, _| {
        let [low, high] = [0, 20].map(|bound| patch.i64(&[], &[bound]));
        let kept = patch.op("Clip", &[IDS, &low, &high], &[]).unwrap();
        patch.shunt(IDS, &kept).unwrap();
    });
    refused(&graph, "anatomy-not-found", &["Clip", "expected by the token ids themselves"]);
}

#[test]
fn heads_that_are_not_over_the_vocabulary_are_named() {
    let head = |width: usize, kept: bool| {
        with(plain(), |patch, found| {
            let matrix = patch.f32(&[D, width], &vec![0.1; D * width]);
            let out = patch.op("MatMul", &[found.site(Site::LnFinal).unwrap(), &matrix], &[]).unwrap();
            if !kept {
                patch.drop_outputs();
            }
            patch.tap(&out, DType::F32).unwrap();
        })
    };
    refused(&head(1, false), "anatomy-not-found", &["one number for each position", "expected logits"]);
    refused(&head(5, false), "anatomy-not-found", &["5 wide", "[30, 8]", "one logit for each token"]);
    // Beside logits a value is one output more.
    assert!(anatomy(&head(1, true)).unwrap().site(Site::Logits).is_ok());
}

#[test]
fn a_vocabulary_that_is_cut_behind_the_unembedding_leaves_the_logits_absent() {
    let graph = with(plain(), |patch, found| {
        let logits = found.site(Site::Logits).unwrap();
        let [begin, end, axis] = [0, VOCAB as i64 - 3, -1].map(|n| patch.i64(&[1], &[n]));
        let cut = patch.op("Slice", &[logits, &begin, &end, &axis], &[]).unwrap();
        patch.drop_outputs();
        patch.tap(&cut, DType::F32).unwrap();
    });
    let error = anatomy(&graph).unwrap().site(Site::Logits).map(str::to_owned).unwrap_err();
    assert!(error.message().contains("Slice") && error.message().contains("part of the vocabulary"), "{error}");
}

#[test]
fn masks_and_lengths_of_other_kinds_are_named() {
    let squares = with(plain(), |patch, found| {
        let dims = vec![Dim::symbol("batch"), Dim::Known(1), Dim::symbol("pos"), Dim::symbol("pos")];
        let seen = patch.input("seen", DType::BOOL, dims).unwrap();
        let softmax = patch.graph().index().producer(&site(found, BlockSite::Pattern)).unwrap();
        let scores = softmax.input(0).unwrap();
        let low = patch.f32(&[], &[-1e9]);
        let masked = patch.op("Where", &[&seen, scores, &low], &[]).unwrap();
        patch.shunt(scores, &masked).unwrap();
    });
    refused(&squares, "anatomy-input-unread", &["`seen` (bool [batch, 1, pos, pos])", "expected the padding mask"]);
    let lengths = with(plain(), |patch, _| {
        let lengths = patch.input("lengths", DType::I64, vec![Dim::symbol("batch")]).unwrap();
        let shape = patch.op("Shape", &[IDS], &[]).unwrap();
        let [begin, one] = [0, 1].map(|n| patch.i64(&[], &[n]));
        let axis = patch.i64(&[1], &[1]);
        let length = patch.op("Gather", &[&shape, &one], &[]).unwrap();
        let places = patch.op("Range", &[&begin, &length, &one], &[]).unwrap();
        let ends = patch.op("Unsqueeze", &[&lengths, &axis], &[]).unwrap();
        let inside = patch.op("Less", &[&places, &ends], &[]).unwrap();
        let mask = patch.op("Cast", &[&inside], &[("to", Attr::Int(7))]).unwrap();
        patch.shunt(MASK, &mask).unwrap();
    });
    refused(&lengths, "anatomy-input-unread", &["`lengths` (int64 [batch])", "how long each row is"]);
    let places = with(plain(), |patch, found| {
        let places = patch.input("places", DType::I64, vec![Dim::symbol("pos")]).unwrap();
        let positions = found.inputs.positions.clone().unwrap();
        let shape = patch.op("Shape", &[IDS], &[]).unwrap();
        let wide = patch.op("Expand", &[&places, &shape], &[]).unwrap();
        patch.shunt(&positions, &wide).unwrap();
    });
    refused(&places, "anatomy-input-unread", &["`places`", "of all rows at once"]);
}

#[test]
fn mixed_values_that_are_normed_before_they_are_projected_are_told() {
    let before = anatomy(&plain().build().graph).unwrap();
    let reads = before.weight(weight(Role::Output)).unwrap().input.clone().unwrap();
    let found = anatomy(&with(plain(), |patch, _| {
        let scale = patch.f32(&[HEADS * WIDTH], &[1.5; HEADS * WIDTH]);
        let normed = patch.op("LayerNormalization", &[&reads, &scale], &[("axis", Attr::Int(-1))]).unwrap();
        patch.shunt(&reads, &normed).unwrap();
    }))
    .unwrap();
    assert_eq!(found.altered_values, [1].into());
    let z = &found.sites[&Site::Block(1, BlockSite::Z)];
    assert!(z.edge != reads && z.evidence.contains("after layer norm"), "{}: {}", z.edge, z.evidence);
    assert_eq!(found.weight(weight(Role::Output)).unwrap().input.as_ref(), Some(&z.edge));
    for kept in [BlockSite::Ln1Out, BlockSite::Q, BlockSite::K, BlockSite::V, BlockSite::Pattern] {
        assert_eq!(site(&found, kept), site(&before, kept), "{kept:?}");
    }
}

#[test]
fn a_key_beside_those_of_the_positions_takes_a_part_of_the_weights() {
    let before = anatomy(&plain().build().graph).unwrap();
    assert!(before.sinks.is_empty());
    let pattern = site(&before, BlockSite::Pattern);
    let found = anatomy(&with(plain(), |patch, _| {
        let scores = patch.graph().index().producer(&pattern).unwrap().input(0).unwrap().to_owned();
        let [last, begin, end] = [-1, 0, -1].map(|n| patch.i64(&[1], &[n]));
        let sink = patch.op("ReduceMax", &[&scores, &last], &[]).unwrap();
        let all = patch.op("Concat", &[&scores, &sink], &[("axis", Attr::Int(-1))]).unwrap();
        let weights = patch.op("Softmax", &[&all], &[]).unwrap();
        let kept = patch.op("Slice", &[&weights, &begin, &end, &last], &[]).unwrap();
        patch.shunt(&pattern, &kept).unwrap();
    }))
    .unwrap();
    assert_eq!(found.sinks, [1].into());
    let place = &found.sites[&Site::Block(1, BlockSite::Pattern)];
    assert!(place.edge != pattern && place.evidence.contains("takes a part of it"), "{}", place.evidence);
}

#[test]
fn keys_of_several_maps_leave_the_number_of_value_heads_known() {
    let found = anatomy(&with(plain(), |patch, found| {
        for layer in 0..LAYERS {
            let [k, input] = [BlockSite::K, BlockSite::Ln1Out].map(|s| found.site(Site::Block(layer, s)).unwrap());
            let matrix = patch.f32(&[D, 2 * WIDTH], &[0.1; 2 * D * WIDTH]);
            let more = patch.op("MatMul", &[input, &matrix], &[]).unwrap();
            let shape = patch.i64(&[4], &[0, 0, 2, WIDTH as i64]);
            let more = patch.op("Reshape", &[&more, &shape], &[]).unwrap();
            let sum = patch.op("Add", &[k, &more], &[]).unwrap();
            patch.shunt(k, &sum).unwrap();
        }
    }))
    .unwrap();
    let reason = found.site(Site::Block(1, BlockSite::K)).unwrap_err();
    assert!(reason.message().contains("2 linear maps make them together"), "{reason}");
    assert_eq!(found.kv_heads, plain().kv);
}
