//! The shipped model against PyTorch: logits and gradients of both exports, and ROME's weight changes.

use std::collections::BTreeMap;

use engraft::base::Cancel;
use engraft::data::{self, DataKind};
use engraft::plugins::Access;
use engraft_plugin_api::{
    BlockSite, Change, Delta, GradientRequest, Place, Poke, Role, RunRequest, Site, Tap, Tensor, Term, WeightRef, Wrt,
};
use engraft_tests::{Records, atlas, cosine, difference, library, method, open, relative};

const EXPORTS: [&str; 2] = ["model/model.onnx", "model/model_torchscript.onnx"];

#[test]
fn logits_and_activations_are_pytorchs_on_both_exports() {
    let records = Records::open(&atlas().join("reference/forward.safetensors"));
    let rows = records.rows();
    for export in EXPORTS {
        let model = open(&atlas().join(export));
        let names: Vec<String> = records.names().into_iter().filter(|n| n.starts_with("resid_post.")).collect();
        let mut sites = vec![Site::Embed, Site::Logits];
        sites
            .extend(names.iter().map(|n| Site::Block(n["resid_post.".len()..].parse().unwrap(), BlockSite::ResidPost)));
        let taps = sites.iter().map(|&site| Tap { site, places: None }).collect();
        let reply = model.run(&RunRequest { rows: rows.clone(), taps, ..RunRequest::default() }).unwrap();
        let mut recorded = vec!["embed".to_owned(), "logits".to_owned()];
        recorded.extend(names);
        for (name, tap) in recorded.iter().zip(&reply.taps) {
            let (longest, shape) = (tap.shape()[1], records.shape(name));
            let (wanted, found) = (records.f32(name), tap.as_f32().unwrap());
            let width = shape[2];
            for (row, tokens) in rows.iter().enumerate() {
                let a = &found[row * longest * width..][..tokens.len() * width];
                let b = &wanted[row * shape[1] * width..][..tokens.len() * width];
                assert!(difference(a, b) <= 1e-4, "{export} {name}: {}", difference(a, b));
            }
        }
    }
}

#[test]
fn gradients_are_pytorchs_on_both_exports() {
    let records = Records::open(&atlas().join("reference/gradients.safetensors"));
    let rows = records.rows();
    let weight = 1.0 / rows.len() as f32;
    let terms: Vec<Term> = rows
        .iter()
        .zip(records.i64("target"))
        .enumerate()
        .map(|(row, (tokens, target))| Term::Nll {
            place: Place { row, pos: tokens.len() - 1 },
            token: target as u32,
            weight,
        })
        .collect();
    for export in EXPORTS {
        let model = open(&atlas().join(export));
        let mut checked = 0;
        for name in records.names() {
            let Some(part) = name.strip_prefix("grad.blocks.") else { continue };
            let full = format!("blocks.{part}");
            let base = GradientRequest { rows: rows.clone(), terms: terms.clone(), ..GradientRequest::default() };
            let wanted = records.f32(&name);
            let reply = if let Ok(weight) = full.parse::<WeightRef>() {
                model.gradient(&GradientRequest { wrt: vec![Wrt::Weight(weight)], ..base }).unwrap()
            } else {
                let site: Site = full.parse().unwrap();
                let places = rows.iter().enumerate();
                let places: Vec<Place> =
                    places.flat_map(|(row, r)| (0..r.len()).map(move |pos| Place { row, pos })).collect();
                let adds = vec![Poke { site, places, values: Tensor::zeros([1, 128]) }];
                model.gradient(&GradientRequest { adds, wrt: vec![Wrt::Add(0)], ..base }).unwrap()
            };
            assert!((reply.loss - records.f32("loss")[0]).abs() < 1e-4, "{export}: {}", reply.loss);
            let found = reply.gradients[0][0].as_f32().unwrap();
            let wanted: Vec<f32> = if found.len() == wanted.len() {
                wanted
            } else {
                let (longest, width) = (records.shape(&name)[1], records.shape(&name)[2]);
                let row =
                    |(r, tokens): (usize, &Vec<u32>)| wanted[r * longest * width..][..tokens.len() * width].to_vec();
                rows.iter().enumerate().flat_map(row).collect()
            };
            assert!(relative(found, &wanted) <= 1e-4, "{export} {name}: {}", relative(found, &wanted));
            checked += 1;
        }
        assert_eq!(checked, 9, "{export}");
        // The embedding's own use, without the unembedding that is tied to it.
        let wrt = vec![Wrt::Weight(WeightRef::Embedding)];
        let request = GradientRequest { rows: rows.clone(), terms: terms.clone(), wrt, ..GradientRequest::default() };
        let reply = model.gradient(&request).unwrap();
        let all = reply.gradients[0][0].matrix().unwrap().to_owned();
        let used: Vec<f32> = records.i64("grad.tied.rows").iter().flat_map(|&r| all.row(r as usize).to_vec()).collect();
        assert!(relative(&used, &records.f32("grad.W_E.rows")) <= 1e-4, "{export} W_E");
    }
}

#[test]
fn romes_changes_are_those_of_the_pytorch_second_opinion() {
    let model = open(&atlas().join("model"));
    let data = data::load(DataKind::CounterFact, &atlas().join("counterfact.json"), None).unwrap();
    let requests: BTreeMap<&str, _> = data.records.iter().map(|r| (r.id.as_str(), &r.request)).collect();
    let records = Records::open(&atlas().join("reference/rome.safetensors"));
    let mut checked = 0;
    for (setting, params) in [
        ("rome_second_moment", "key_policy = 'rome'"),
        ("r_rome_second_moment", "key_policy = 'r_rome'"),
        ("rome_none", "covariance = 'none'"),
    ] {
        let method = method(&library("engraft_rome"), &format!("layer = 0\nprefixes = 'fixed'\n{params}"));
        for name in records.names() {
            let Some(case) = name.strip_prefix(&format!("{setting}.")).and_then(|n| n.strip_suffix(".left")) else {
                continue;
            };
            let request = requests[case];
            let changes = method.edit(&Access::new(&model, Cancel::new(), 1), std::slice::from_ref(request)).unwrap();
            let [Change::Weight { weight, delta: Delta::LowRank { left, right } }] = changes.as_slice() else {
                panic!("{setting} {case}: one low-rank change, found {}", changes.len())
            };
            assert_eq!(*weight, WeightRef::Block(0, Role::MlpOut));
            let wanted = |part: &str| records.f32(&format!("{setting}.{case}.{part}"));
            // The cosine of outer products is the product of the cosines.
            let left = cosine(left.as_f32().unwrap(), &wanted("left"));
            let right = cosine(right.as_f32().unwrap(), &wanted("right"));
            assert!(left * right >= 0.999, "{setting} {case}: {left} · {right}");
            checked += 1;
        }
    }
    assert!(checked >= 50, "{checked} records");
}
