//! The forward pass with slots in one block.

use engraft::model::{Model, OpenOptions};
use engraft::runtime::Runtime;
use engraft_plugin_api::{Activation, Change, Slots, Tensor};
use std::path::Path;

use crate::tools::{Outcome, Passes, commit};

/// The logits of the last positions of four rows of 35 tokens: a model with slots in one block against the same model
/// without, and all logits of both against the runtime's defaults.
pub(crate) fn slots(runtime: &Runtime, large: &Path) -> Outcome<()> {
    let none = Model::open(large, runtime, &OpenOptions::default())?;
    let passes = Passes::new(runtime, large, none.anatomy().vocab)?;
    let (all, last) = (&passes.all, &passes.last);
    for n in [100, 10_000] {
        let with = Model::open(large, runtime, &OpenOptions::default())?;
        commit(&with, vec![neurons(&with, n)?])?;
        let times = passes.timed(25, &[(&none, all), (&with, all), (&none, last), (&with, last)])?;
        println!(
            "{n} slots in one block, 4 x 35, plain session {:.3} s: all logits {:.3}x of the plain session and {:.3}x of \
             none; the last positions' {:.3}x of none",
            times.plain(),
            times.ratio(2, 0),
            times.ratio(2, 1),
            times.ratio(4, 3)
        );
    }
    Ok(())
}

/// Slots in the middle block.
fn neurons(model: &Model, n: usize) -> Outcome<Change> {
    let width = model.anatomy().d_model;
    let wave = |n: usize, size: f32| (0..n).map(|k| size * (0.7 * k as f32).sin()).collect::<Vec<f32>>();
    Ok(Change::Slots(Slots {
        layer: model.anatomy().layers / 2,
        keys: Tensor::f32([width, n], wave(width * n, 0.1))?,
        bias: Tensor::zeros([n]),
        values: Tensor::f32([n, width], wave(n * width, 1e-3))?,
        gate: None,
        activation: Activation::Model,
    }))
}
