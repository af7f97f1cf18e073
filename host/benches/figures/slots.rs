//! The forward pass with slots in one block.

use engraft::model::{Model, OpenOptions};
use engraft::runtime::{Runtime, Value};
use engraft_plugin_api::{Activation, Change, Place, RunRequest, Slots, Tensor};
use std::path::Path;

use crate::tools::{Outcome, commit, feed, median, plain, rows, seconds};

/// The logits of the last positions of four rows of 35 tokens: a model with slots in one block against the same model
/// without, and all logits of both against the runtime's defaults.
pub(crate) fn slots(runtime: &Runtime, large: &Path) -> Outcome<()> {
    let program = plain(runtime, large)?;
    let none = Model::open(large, runtime, &OpenOptions::default())?;
    let rows = rows(4, 35, none.anatomy().vocab);
    let feeds = feed(&program, &rows)?;
    let feeds: Vec<(&str, &Value)> = feeds.iter().map(|(n, v)| (n.as_str(), v)).collect();
    let fetch: Vec<String> = program.outputs().iter().map(|p| p.name.clone()).collect();
    let fetch: Vec<&str> = fetch.iter().map(String::as_str).collect();
    let logits = (0..4).map(|row| Place { row, pos: 34 }).collect();
    let last = RunRequest { rows: rows.clone(), logits, ..RunRequest::default() };
    let places = (0..4).flat_map(|row| (0..35).map(move |pos| Place { row, pos })).collect();
    let all = RunRequest { rows, logits: places, ..RunRequest::default() };
    for n in [100, 10_000] {
        let with = Model::open(large, runtime, &OpenOptions::default())?;
        commit(&with, vec![neurons(&with, n)?])?;
        let mut times = vec![Vec::new(); 5];
        for _ in 0..25 {
            times[0].push(seconds(|| program.run(&feeds, &fetch).map(drop).map_err(Into::into))?);
            times[1].push(seconds(|| none.run(&all).map(drop).map_err(Into::into))?);
            times[2].push(seconds(|| with.run(&all).map(drop).map_err(Into::into))?);
            times[3].push(seconds(|| none.run(&last).map(drop).map_err(Into::into))?);
            times[4].push(seconds(|| with.run(&last).map(drop).map_err(Into::into))?);
        }
        let ratio =
            |i: usize, to: usize| median(times[i][1..].iter().zip(&times[to][1..]).map(|(a, b)| a / b).collect());
        println!(
            "{n} slots in one block, 4 x 35, plain session {:.3} s: all logits {:.3}x of the plain session and {:.3}x of \
             none; the last positions' {:.3}x of none",
            median(times[0].clone()),
            ratio(2, 0),
            ratio(2, 1),
            ratio(4, 3)
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
