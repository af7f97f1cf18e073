//! A step of an optimiser against a forward pass.

use engraft::model::{Model, OpenOptions};
use engraft::runtime::Runtime;
use engraft_plugin_api::{BlockSite, GradientRequest, Place, Poke, RunRequest, Site, Tap, Tensor, Term, Wrt};
use std::path::Path;

use crate::tools::{Outcome, median, rows, seconds};

/// A gradient step from the middle layer against the plain forward pass of the same rows.
pub(crate) fn step(runtime: &Runtime, large: &Path) -> Outcome<()> {
    let model = Model::open(large, runtime, &OpenOptions::default())?;
    let (vocab, layers, width) = (model.anatomy().vocab, model.anatomy().layers, model.anatomy().d_model);
    let rows = rows(12, 35, vocab);
    let site = Site::Block(layers / 2, BlockSite::MlpProj);
    let place = |row, pos| Place { row, pos };
    let places: Vec<Place> = (0..12).map(|row| place(row, 30)).collect();
    let terms = (0..12)
        .flat_map(|row| [33, 34].map(|pos| Term::Nll { place: place(row, pos), token: 17, weight: 1.0 / 24.0 }))
        .collect();
    let mut request = GradientRequest {
        rows: rows.clone(),
        adds: vec![Poke { site, places, values: Tensor::zeros([1, width]) }],
        terms,
        wrt: vec![Wrt::Add(0)],
        ..GradientRequest::default()
    };
    let taps = vec![Tap { site: Site::Logits, places: None }];
    let whole = RunRequest { rows: rows.clone(), taps, ..RunRequest::default() };
    let (mut steps, mut passes) = (Vec::new(), Vec::new());
    for i in 0..9 {
        request.adds[0].values = Tensor::f32([1, width], vec![1e-3 * i as f32; width])?;
        steps.push(seconds(|| model.gradient(&request).map(drop).map_err(Into::into))?);
        passes.push(seconds(|| model.run(&whole).map(drop).map_err(Into::into))?);
    }
    let (step, pass) = (median(steps.split_off(1)), median(passes.split_off(1)));
    println!(
        "gradient step from layer {}: {step:.3} s, forward pass {pass:.3} s, ratio {:.2}",
        layers / 2,
        step / pass
    );
    Ok(())
}
