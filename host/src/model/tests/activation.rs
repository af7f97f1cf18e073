//! What `mlp.post` follows from, by moving activations from token to token: it holds, and half of it is noticed.

use engraft_plugin_api::{BlockSite, Poke, RunRequest, Site, Tap};

use super::*;
use crate::anatomy::Anatomy;
use crate::anatomy::check::{Deviation, activations};

fn deviations(model: &Model, anatomy: &Anatomy) -> Vec<Deviation> {
    let rows = vec![vec![5, 9, 11, 2, 3, 60], vec![1, 2, 7, 7, 90, 4]];
    let run = |overwrites: &[Poke], sites: &[Site]| {
        let taps = sites.iter().map(|&site| Tap { site, places: None }).collect();
        let request = RunRequest { rows: rows.clone(), taps, overwrites: overwrites.to_vec(), ..RunRequest::default() };
        model.run(&request).map(|reply| reply.taps)
    };
    activations(anatomy, run).unwrap()
}

#[test]
fn post_follows_from_what_it_is_made_of_and_from_no_less() {
    let wanted = ["gpt2-dynamo-mask", "llama-torchscript", "phi3-dynamo", "gemma-dynamo"];
    for row in rows().into_iter().filter(|row| wanted.contains(&row.name.as_str())) {
        let model = Model::open(&row.folder, &runtime::for_tests(), &OpenOptions::default()).unwrap();
        let found = deviations(&model, model.anatomy());
        assert_eq!(found.len(), model.anatomy().layers, "{}", row.name);
        assert!(found.iter().all(|d| d.scale > 0.0 && d.error <= 1e-6 * d.scale), "{}: {found:?}", row.name);
        let mut half = model.anatomy().clone();
        if half.sites.remove(&Site::Block(1, BlockSite::MlpPreLinear)).is_none() {
            continue;
        }
        let found = deviations(&model, &half);
        let far: Vec<_> = found.iter().filter(|d| d.error > 1e-3 * d.scale).map(|d| d.layer).collect();
        assert_eq!(far, [Some(1)], "{}: {found:?}", row.name);
    }
}
