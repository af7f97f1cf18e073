//! The forward pass, without and with a patch.

use engraft::model::{Model, OpenOptions};
use engraft::runtime::{Runtime, Value};
use engraft_plugin_api::{Change, Delta, Place, Role, RunRequest, Tensor, WeightRef};
use std::path::Path;

use crate::tools::{Outcome, commit, feed, median, plain, rows, seconds};

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
    let program = plain(runtime, large)?;
    let rows = rows(4, 35, model.anatomy().vocab);
    let feeds = feed(&program, &rows)?;
    let feeds: Vec<(&str, &Value)> = feeds.iter().map(|(n, v)| (n.as_str(), v)).collect();
    let fetch: Vec<String> = program.outputs().iter().map(|p| p.name.clone()).collect();
    let fetch: Vec<&str> = fetch.iter().map(String::as_str).collect();
    let places = (0..4).flat_map(|row| (0..35).map(move |pos| Place { row, pos })).collect();
    let all = RunRequest { rows: rows.clone(), logits: places, ..RunRequest::default() };
    let logits = (0..4).map(|row| Place { row, pos: 34 }).collect();
    let last = RunRequest { rows, logits, ..RunRequest::default() };
    let mut times = vec![Vec::new(); 4];
    for _ in 0..13 {
        times[0].push(seconds(|| program.run(&feeds, &fetch).map(drop).map_err(Into::into))?);
        times[1].push(seconds(|| model.run(&all).map(drop).map_err(Into::into))?);
        times[2].push(seconds(|| patched.run(&all).map(drop).map_err(Into::into))?);
        times[3].push(seconds(|| model.run(&last).map(drop).map_err(Into::into))?);
    }
    let ratio = |i: usize| median(times[i][1..].iter().zip(&times[0][1..]).map(|(a, b)| a / b).collect());
    println!(
        "forward pass, 4 x 35, plain session {:.3} s; all logits without patch {:.3}x, with a rank-1 patch {:.3}x; \
         logits of the last positions only {:.3}x",
        median(times[0].clone()),
        ratio(1),
        ratio(2),
        ratio(3)
    );
    Ok(())
}
