//! Models whose edges have other axes than their sites, and whose weights lie between others in one tensor: taps and
//! edits go through all the same. (Gradients: `tests/all/zoo.rs`.)

use engraft_plugin_api::{Change, Delta, Place, Role, RunRequest, Site, Tap, Tensor, WeightRef};

use super::case::{Case, far};
use crate::anatomy::Axes;
use crate::graph::testing::rows;

/// Heads before positions and interleaved in one tensor; flattened positions; keys apart; a packed gate.
const ROWS: [&str; 4] = ["gptneox-torchscript", "opt-dynamo", "falcon-new-dynamo", "phi3-dynamo"];

fn cases() -> impl Iterator<Item = Case> {
    rows().into_iter().filter(|row| ROWS.contains(&row.name.as_str())).map(Case::open)
}

impl Case {
    fn last(&self) -> Vec<Place> {
        self.ids.iter().enumerate().map(|(row, ids)| Place { row, pos: ids.len() - 1 }).collect()
    }

    fn last_logits(&self, under: Vec<Change>) -> Tensor {
        let request = RunRequest { rows: self.ids.clone(), logits: self.last(), under, ..RunRequest::default() };
        self.model.run(&request).unwrap().logits
    }
}

#[test]
fn taps_in_other_axes_are_the_sites() {
    let mut met = std::collections::BTreeSet::new();
    for case in cases() {
        let name = &case.row.name;
        let sites: Vec<Site> = case.model.anatomy().sites.keys().copied().collect();
        let taps = sites.iter().map(|&site| Tap { site, places: None }).collect();
        let reply = case.model.run(&RunRequest { rows: case.ids.clone(), taps, ..RunRequest::default() }).unwrap();
        for (site, tap) in sites.iter().zip(&reply.taps) {
            let found = case.recorded(&site.to_string()).map(|record| far(tap.as_f32().unwrap(), &record));
            assert!(found.is_none_or(|far| far <= 1e-4), "{name} {site}: {found:?}");
            met.insert(format!("{:?}", case.model.anatomy().sites[site].axes));
        }
    }
    let all = [Axes::Named, Axes::HeadsFirst, Axes::HeadsApart, Axes::HeadsMerged, Axes::PositionsMerged];
    assert_eq!(met, all.map(|axes| format!("{axes:?}")).into());
}

#[test]
fn a_side_branch_and_a_dense_sum_of_one_delta_agree() {
    for case in cases() {
        let name = &case.row.name;
        let before = case.last_logits(Vec::new());
        for role in [Role::Query, Role::Key, Role::Value, Role::Output, Role::MlpIn, Role::MlpGate, Role::MlpOut] {
            let weight = WeightRef::Block(1, role);
            let Ok(place) = case.model.anatomy().weight(weight) else { continue };
            let [inputs, outputs] = place.shape;
            let wave = |n: usize, f: f32| (0..n).map(|k| (f * (k as f32 + 1.0)).sin()).collect::<Vec<f32>>();
            let (left, right) = (wave(inputs, 0.7), wave(outputs, 1.3));
            let product = left.iter().flat_map(|l| right.iter().map(move |r| l * r)).collect();
            let dense = Delta::Dense(Tensor::f32([inputs, outputs], product).unwrap());
            let left = Tensor::f32([inputs, 1], left).unwrap();
            let low = Delta::LowRank { left, right: Tensor::f32([1, outputs], right).unwrap() };
            let [low, dense] = [low, dense].map(|delta| case.last_logits(vec![Change::Weight { weight, delta }]));
            let found = far(low.as_f32().unwrap(), dense.as_f32().unwrap());
            assert!(found <= 1e-4, "{name} {weight}: {found}");
            assert!(far(low.as_f32().unwrap(), before.as_f32().unwrap()) > 1e-3, "{name} {weight} changes nothing");
        }
    }
}
