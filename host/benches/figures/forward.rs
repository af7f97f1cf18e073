//! The forward pass, without and with a patch.

use engraft::model::{Model, OpenOptions};
use engraft::runtime::Runtime;
use engraft_plugin_api::{Change, Delta, Role, Tensor, WeightRef};
use std::path::Path;

use crate::tools::{Outcome, Passes, commit};

fn rank_one(model: &Model) -> Outcome<Vec<Change>> {
    let weight = WeightRef::Block(model.anatomy().layers / 2, Role::MlpOut);
    let [inputs, outputs] = model.anatomy().weight(weight)?.shape;
    let delta = Delta::LowRank {
        left: Tensor::f32([inputs, 1], vec![1e-3; inputs])?,
        right: Tensor::f32([1, outputs], vec![1e-2; outputs])?,
    };
    Ok(vec![Change::Weight { weight, delta }])
}

/// All logits of four rows of 35 tokens: ours without and with a patch, against the runtime's defaults.
pub(crate) fn forward(runtime: &Runtime, large: &Path) -> Outcome<()> {
    let model = Model::open(large, runtime, &OpenOptions::default())?;
    let patched = Model::open(large, runtime, &OpenOptions::default())?;
    commit(&patched, rank_one(&patched)?)?;
    let passes = Passes::new(runtime, large, model.anatomy().vocab)?;
    let (all, last) = (&passes.all, &passes.last);
    let times = passes.timed(13, &[(&model, all), (&patched, all), (&model, last)])?;
    println!(
        "forward pass, 4 x 35, plain session {:.3} s; all logits without patch {:.3}x, with a rank-1 patch {:.3}x; \
         logits of the last positions only {:.3}x",
        times.plain(),
        times.ratio(1, 0),
        times.ratio(2, 0),
        times.ratio(3, 0)
    );
    Ok(())
}
