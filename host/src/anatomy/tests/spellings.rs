//! Decoders whose graphs were rewritten as exporters and simplifiers do are read as they were before.

use std::collections::BTreeMap;

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::anatomy;
use crate::anatomy::{Anatomy, Columns};
use crate::graph::testing::decoders::{
    Activation, D, Gate, HEADS, IDS, LAYERS, MLP, Norm, Packed, Parallel, Place, Positions, Style, WIDTH,
};
use crate::graph::testing::with_constants;
use crate::graph::{Attr, DType, Graph, Initializer, Patch};

/// A decoder in small operators, with biases, its queries, keys and values in one matrix.
pub(super) fn plain() -> Style {
    Style {
        norm: Norm::Layer,
        from_one: false,
        place: Place::Before,
        parallel: Parallel::No,
        swapped: 0,
        packed: Packed::Blocks,
        kv: 2,
        biased: true,
        positions: Positions::Learned,
        head_norms: false,
        gate: Gate::None,
        activation: Activation::Gelu,
        transposed: false,
        scaled: false,
        capped: false,
        tied: false,
        window: None,
        fused: false,
        seed: 1,
    }
}

/// The weights with the tensors and columns that hold them.
fn stored(found: &Anatomy) -> BTreeMap<WeightRef, (String, Option<Columns>)> {
    found.weights.iter().map(|(w, at)| (*w, (at.initializer.clone(), at.columns))).collect()
}

fn block(layer: usize, site: BlockSite) -> Site {
    Site::Block(layer, site)
}

fn weight(layer: usize, role: Role) -> WeightRef {
    WeightRef::Block(layer, role)
}

/// A truth value of the file.
pub(super) fn truth(patch: &mut Patch<'_>, value: bool) -> String {
    let name = patch.fresh("truth");
    patch.constant(Initializer::inline(&name, DType::BOOL, &[], vec![u8::from(value)]))
}

#[test]
fn packed_outputs_that_are_clipped_before_they_are_taken_apart_are_told_apart() {
    for packed in [Packed::Blocks, Packed::Groups] {
        let graph = Style { packed, ..plain() }.build().graph;
        let before = anatomy(&graph).unwrap();
        let mut patch = Patch::new(&graph);
        let [low, high] = [-0.5, 0.5].map(|bound| patch.f32(&[], &[bound]));
        for layer in 0..LAYERS {
            let made = before.weight(weight(layer, Role::Query)).unwrap().output.clone().unwrap();
            let clipped = patch.op("Clip", &[&made, &low, &high], &[]).unwrap();
            patch.shunt(&made, &clipped).unwrap();
        }
        let found = anatomy(&patch.apply().unwrap()).unwrap();
        assert_eq!(stored(&found), stored(&before), "{packed:?}");
        assert_eq!((found.heads, found.kv_heads, found.d_head), (HEADS, 2, WIDTH));
        for site in [BlockSite::Q, BlockSite::K, BlockSite::V] {
            let error = found.site(block(1, site)).unwrap_err();
            assert!(error.message().contains("Clip") && error.message().contains("alters them"), "{error}");
        }
        assert!(found.site(block(1, BlockSite::Z)).is_ok() && found.site(block(1, BlockSite::Pattern)).is_ok());
    }
}

#[test]
fn packed_outputs_that_cannot_be_told_apart_are_absent() {
    let graph = Style { gate: Gate::Blocks, ..plain() }.build().graph;
    let before = anatomy(&graph).unwrap();
    let mut patch = Patch::new(&graph);
    let made = |role| before.weight(weight(1, role)).unwrap().output.clone().unwrap();
    for packed in [made(Role::Query), made(Role::MlpGate)] {
        // Which output is where behind a running sum, nothing tells.
        let last = patch.i64(&[], &[-1]);
        let sums = patch.op("CumSum", &[&packed, &last], &[]).unwrap();
        patch.shunt(&packed, &sums).unwrap();
    }
    let found = anatomy(&patch.apply().unwrap()).unwrap();
    for role in [Role::Query, Role::Key, Role::Value, Role::QueryBias, Role::MlpIn, Role::MlpGate, Role::MlpInBias] {
        let error = found.weight(weight(1, role)).unwrap_err();
        assert!(error.message().contains("could not be followed"), "{role:?}: {error}");
    }
    assert!(found.weight(weight(1, Role::Output)).is_ok() && found.weight(weight(1, Role::MlpOut)).is_ok());
    assert_eq!((found.heads, found.d_head), (HEADS, WIDTH));
}

#[test]
fn copies_between_a_product_and_its_bias_do_not_matter() {
    let graph = plain().build().graph;
    let before = anatomy(&graph).unwrap();
    let mut patch = Patch::new(&graph);
    let products: Vec<&str> = graph.nodes().iter().filter(|n| n.is("MatMul")).map(|n| n.output(0)).collect();
    for (i, product) in products.into_iter().enumerate() {
        let copy = match i % 2 {
            0 => patch.op("Identity", &[product], &[]).unwrap(),
            _ => patch.op("Cast", &[product], &[("to", Attr::Int(1))]).unwrap(),
        };
        patch.shunt(product, &copy).unwrap();
    }
    let found = anatomy(&patch.apply().unwrap()).unwrap();
    let inside = |found: &Anatomy| {
        let sites = found.sites.iter().filter(|(s, _)| matches!(s, Site::Block(_, s) if *s != BlockSite::Pattern));
        sites.map(|(site, at)| (*site, at.edge.clone())).collect::<Vec<_>>()
    };
    assert_eq!(stored(&found), stored(&before));
    assert_eq!(inside(&found), inside(&before));
}

#[test]
fn biases_that_are_added_once_packed_outputs_are_taken_apart_are_read() {
    let graph = Style { gate: Gate::Blocks, biased: false, ..plain() }.build().graph;
    let before = anatomy(&graph).unwrap();
    let mut patch = Patch::new(&graph);
    let mut sums = BTreeMap::new();
    let (roles, index) = ([Role::Query, Role::Key, Role::Value], graph.index());
    let split =
        index.consumers(before.weight(weight(1, roles[0])).unwrap().output.as_deref().unwrap()).next().unwrap().0;
    let gated = [BlockSite::MlpPre, BlockSite::MlpPreLinear].map(|s| before.site(block(1, s)).unwrap());
    let parts = split.outputs().iter().map(String::as_str).chain(gated);
    let biases = [Role::QueryBias, Role::KeyBias, Role::ValueBias, Role::MlpGateBias, Role::MlpInBias];
    let widths = [HEADS * WIDTH, 2 * WIDTH, 2 * WIDTH, MLP, MLP];
    for ((part, role), width) in parts.zip(biases).zip(widths) {
        let bias = patch.f32(&[width], &vec![0.3; width]);
        let sum = patch.op("Add", &[part, &bias], &[]).unwrap();
        patch.shunt(part, &sum).unwrap();
        sums.insert(role, (bias, sum));
    }
    let found = anatomy(&patch.apply().unwrap()).unwrap();
    for (role, (bias, _)) in &sums {
        let at = found.weight(weight(1, *role)).unwrap();
        assert_eq!((&at.initializer, at.columns), (bias, None), "{role:?}");
    }
    for (role, at) in stored(&before) {
        assert_eq!(stored(&found)[&role], at, "{role}");
    }
    assert_eq!(found.site(block(1, BlockSite::MlpPre)).unwrap(), sums[&Role::MlpGateBias].1);
}

#[test]
fn dropout_that_is_off_does_not_matter() {
    let graph = plain().build().graph;
    let before = anatomy(&graph).unwrap();
    let mut patch = Patch::new(&graph);
    let (ratio, none, off, on) =
        (patch.f32(&[], &[0.1]), patch.f32(&[], &[0.0]), truth(&mut patch, false), truth(&mut patch, true));
    for (layer, site) in
        (0..LAYERS).flat_map(|l| [BlockSite::AttnProj, BlockSite::MlpProj, BlockSite::Q].map(|s| (l, s)))
    {
        let edge = before.site(block(layer, site)).unwrap();
        let inputs = if layer == 0 { [edge, &ratio, &off] } else { [edge, &none, &on] };
        let dropped = patch.op("Dropout", &inputs, &[]).unwrap();
        patch.shunt(edge, &dropped).unwrap();
    }
    let found = anatomy(&patch.apply().unwrap()).unwrap();
    assert_eq!(stored(&found), stored(&before));
    assert_eq!(found.sites, before.sites);
}

#[test]
fn norms_that_share_all_but_their_scales_are_two() {
    for norm in [Norm::LayerParts, Norm::RmsInverse] {
        let graph = Style { norm, parallel: Parallel::TwoNorms, ..plain() }.build().graph;
        let before = anatomy(&graph).unwrap();
        let mut patch = Patch::new(&graph);
        let index = graph.index();
        // The value that a norm's product with its scale reads.
        let shared = |layer, role: Role, site| {
            let scale = before.weight(weight(layer, role)).unwrap();
            let product = index.producer(&scale.reader.0).unwrap();
            assert!(product.is("Mul") && before.site(block(layer, site)).is_ok());
            product.input(1 - scale.reader.1).unwrap()
        };
        for layer in 0..LAYERS {
            let [one, two] = [(Role::Ln1Scale, BlockSite::Ln1Out), (Role::Ln2Scale, BlockSite::Ln2Out)]
                .map(|(role, site)| shared(layer, role, site));
            patch.shunt(two, one).unwrap();
        }
        let found = anatomy(&patch.apply().unwrap().live()).unwrap();
        assert_eq!(stored(&found), stored(&before), "{norm:?}");
        assert_eq!(found.sites, before.sites, "{norm:?}");
    }
}

#[test]
fn weights_in_constant_nodes_are_weights() {
    let graph = Style { packed: Packed::Apart, gate: Gate::Apart, ..plain() }.build().graph;
    let before = anatomy(&graph).unwrap();
    // A tracer puts what is no parameter of a module, as a fixed table of positions, in such nodes alone.
    let table = &before.weight(WeightRef::Positions).unwrap().initializer;
    for moved in [
        with_constants(&graph, |tensor| tensor.data_type == DType::F32.0),
        with_constants(&graph, |tensor| tensor.name == *table),
    ] {
        let found = anatomy(&moved).unwrap();
        assert_eq!(stored(&found), stored(&before));
        assert_eq!(found.sites, before.sites);
        assert_eq!(found.context, before.context);
    }
}

/// The graph with all products by matrices over rows, `[batch · pos, width]`, which are set apart where heads are, not
/// before.
fn over_rows(graph: &Graph, found: &Anatomy) -> Graph {
    let mut patch = Patch::new(graph);
    let shape = patch.op("Shape", &[IDS], &[]).unwrap();
    let flat = |patch: &mut Patch<'_>, edge: &str, width: usize| {
        let dims = patch.i64(&[2], &[-1, width as i64]);
        patch.op("Reshape", &[edge, &dims], &[]).unwrap()
    };
    let apart = |patch: &mut Patch<'_>, edge: &str, widths: &[i64]| {
        let widths = patch.i64(&[widths.len()], widths);
        let dims = patch.op("Concat", &[&shape, &widths], &[("axis", Attr::Int(0))]).unwrap();
        patch.op("Reshape", &[edge, &dims], &[]).unwrap()
    };
    let index = graph.index();
    for layer in 0..LAYERS {
        let site = |s| found.site(block(layer, s)).unwrap();
        let place = |role| found.weight(weight(layer, role)).unwrap();
        let packed = place(Role::Query);
        let x = flat(&mut patch, site(BlockSite::Ln1Out), D);
        let bias = place(Role::QueryBias).initializer.clone();
        let y = patch.op("Gemm", &[&x, &packed.initializer, &bias], &[]).unwrap();
        let (heads, _) = index.consumers(packed.output.as_deref().unwrap()).next().unwrap();
        let stride = (HEADS / 2 + 2) * WIDTH;
        let heads_apart = apart(&mut patch, &y, &[2, stride as i64]);
        patch.shunt(heads.output(0), &heads_apart).unwrap();
        let z = flat(&mut patch, site(BlockSite::Z), HEADS * WIDTH);
        let (output, bias) = (place(Role::Output), place(Role::OutputBias).initializer.clone());
        let y = patch.op("Gemm", &[&z, &output.initializer, &bias], &[]).unwrap();
        let out = apart(&mut patch, &y, &[D as i64]);
        patch.shunt(output.output.as_deref().unwrap(), &out).unwrap();
    }
    patch.apply().unwrap().live()
}

#[test]
fn products_over_rows_that_are_set_apart_in_heads_at_once_are_read() {
    let graph = Style { packed: Packed::Groups, ..plain() }.build().graph;
    let before = anatomy(&graph).unwrap();
    let rows = over_rows(&graph, &before);
    let found = anatomy(&rows).unwrap();
    assert_eq!(stored(&found), stored(&before));
    let names = |found: &Anatomy| found.sites.keys().copied().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&before));
    let output = found.weight(weight(1, Role::Output)).unwrap();
    assert_eq!(output.input.as_deref(), Some(found.site(block(1, BlockSite::Z)).unwrap()));

    // What the heads are is not known, and yet the output projection can be run.
    let mut patch = Patch::new(&rows);
    let made = found.weight(weight(1, Role::Query)).unwrap().output.clone().unwrap();
    let last = patch.i64(&[], &[-1]);
    let sums = patch.op("CumSum", &[&made, &last], &[]).unwrap();
    patch.shunt(&made, &sums).unwrap();
    let hidden = anatomy(&patch.apply().unwrap()).unwrap();
    assert!(hidden.weight(weight(1, Role::Query)).is_err());
    assert!(hidden.weight(weight(1, Role::Output)).is_ok() && hidden.site(block(1, BlockSite::Z)).is_ok());

    // Where attention cannot be read, what it multiplies is no site that it could be run at.
    let mut patch = Patch::new(&rows);
    let pattern = found.site(block(1, BlockSite::Pattern)).unwrap();
    let bent = patch.op("Tanh", &[pattern], &[]).unwrap();
    patch.shunt(pattern, &bent).unwrap();
    let closed = anatomy(&patch.apply().unwrap()).unwrap();
    let error = closed.weight(weight(1, Role::Output)).unwrap_err();
    assert!(error.message().contains("expected [batch, pos, width]"), "{error}");
    assert!(closed.weight(weight(0, Role::Output)).is_ok());
}
