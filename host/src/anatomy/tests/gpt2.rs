//! The seven GPT-2 exports: every site and weight of a family that is known by heart, and names that do not matter.

use std::collections::BTreeSet;

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::{anatomy, fixture};
use crate::anatomy::{Columns, Storage};
use crate::graph::Patch;
use crate::graph::testing::{ZOO, renamed};

#[test]
fn fixtures_have_every_site_and_weight_of_gpt2() {
    for name in ZOO {
        let graph = fixture(name);
        let found = anatomy(&graph).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!((found.layers, found.d_model, found.d_mlp, found.vocab), (3, 32, 128, 128), "{name}");
        assert_eq!((found.heads, found.kv_heads, found.d_head, found.context), (4, 4, 8, Some(64)), "{name}");
        // Per block all sites but `mlp.pre_linear` and all weights but the gate's two and the four of other
        // norms; the ends but `b_U`.
        assert_eq!((found.sites.len(), found.weights.len()), (3 + 3 * 16, 5 + 3 * 16), "{name}: {:?}", found.absent);
        assert_eq!(found.absent.len(), 3 * (3 + 4) + 1, "{name}: {:?}", found.absent);
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
