//! Requests that see another set of the loaded patches than the one before.

use std::path::Path;

use engraft::model::{Active, Model, OpenOptions};
use engraft::runtime::Runtime;
use engraft_plugin_api::{Change, Delta, Place, Role, RunRequest, Tensor, WeightRef};

use crate::tools::{Outcome, commit, median, rows, seconds};

/// How many patches have a dense delta for one and the same weight.
const SHARING: usize = 7;

/// Another set each time against the same set, where no weight has more than one dense delta; and the first request of a
/// set among patches that share a weight, by what its sum is: of one delta, of two, or of two and prepared.
pub(crate) fn switch(runtime: &Runtime, what: &str, folder: &Path) -> Outcome<()> {
    let model = Model::open(folder, runtime, &OpenOptions::default())?;
    let [inputs, outputs] = model.anatomy().weight(WeightRef::Block(1, Role::MlpOut))?.shape;
    let wave = |n: usize, f: f32| (0..n).map(|i| 0.01 * (f * i as f32).sin()).collect::<Vec<f32>>();
    let low_rank = |f: f32| -> Outcome<Delta> {
        let (left, right) = (wave(inputs * 4, f), wave(outputs * 4, f));
        Ok(Delta::LowRank { left: Tensor::f32([inputs, 4], left)?, right: Tensor::f32([4, outputs], right)? })
    };
    let dense =
        |f: f32| -> Outcome<Delta> { Ok(Delta::Dense(Tensor::f32([inputs, outputs], wave(inputs * outputs, f))?)) };
    let add = |block: usize, delta: Delta| {
        commit(&model, vec![Change::Weight { weight: WeightRef::Block(block, Role::MlpOut), delta }])
    };
    let mut ids = Vec::new();
    for number in 0..6 {
        let f = 1.0 + number as f32;
        ids.push(add(number / 2, if number % 2 == 0 { low_rank(f)? } else { dense(f)? })?);
    }
    let set = |of: &[usize]| vec![Active::Only(of.iter().map(|&i| ids[i].clone()).collect())];
    let rows = rows(1, 16, model.anatomy().vocab);
    let request = RunRequest { rows, logits: vec![Place { row: 0, pos: 15 }], ..RunRequest::default() };
    let ask = |set: &[Active]| seconds(|| model.run_seeing(&request, set, None).map(drop).map_err(Into::into));
    let sets = [&[0, 1, 2][..], &[3, 4], &[1, 5], &[]].map(set);
    ask(&[])?;
    sets.iter().try_for_each(|set| ask(set).map(drop))?;
    let (compiled, mut same, mut other) = (model.compiled(), Vec::new(), Vec::new());
    for round in 0..200 {
        // The last set again, and then another.
        same.push(ask(&sets[round % 4])?);
        other.push(ask(&sets[(round + 1) % 4])?);
    }
    println!(
        "{what}, six patches, three of them dense: a request of 16 tokens takes {:.3} ms with the set of the one before, \
         {:.3} ms with another ({:+.3} ms); {} programs compiled and {} sums made \
         meanwhile",
        1e3 * median(same.clone()),
        1e3 * median(other.clone()),
        1e3 * (median(other) - median(same)),
        model.compiled() - compiled,
        model.sums_made()
    );

    let sharing = (0..SHARING).map(|i| add(1, dense(20.0 + i as f32)?)).collect::<Outcome<Vec<_>>>()?;
    let some = |of: &[usize]| vec![Active::Only(of.iter().map(|&i| sharing[i].clone()).collect())];
    let pairs: Vec<Vec<Active>> = (0..SHARING).flat_map(|a| (0..a).map(move |b| [a, b])).map(|of| some(&of)).collect();
    let (unprepared, prepared) = pairs.split_at(pairs.len() / 2);
    let singles: Vec<Vec<Active>> = (0..SHARING).map(|a| some(&[a])).collect();
    // Each after a request that sees all patches, and between two that see the same again.
    let more = |set: &Vec<Active>| -> Outcome<f64> {
        ask(&[])?;
        let first = ask(set)?;
        Ok(first - median((0..5).map(|_| ask(set)).collect::<Outcome<Vec<f64>>>()?))
    };
    let of = |sets: &[Vec<Active>]| -> Outcome<(f64, u64)> {
        let made = model.sums_made();
        let times = sets.iter().map(more).collect::<Outcome<Vec<f64>>>()?;
        Ok((1e3 * median(times), model.sums_made() - made))
    };
    let (single, pair) = (of(&singles)?, of(unprepared)?);
    let choices: Vec<Active> = prepared.iter().flatten().cloned().collect();
    let preparing = seconds(|| Ok(model.prepare(&choices)?))?;
    let ahead = of(prepared)?;
    println!(
        "{what}, {SHARING} patches more with a dense delta each for one weight: the first request of a set takes so much \
         more than the next ones, medians: of one delta {:+.3} ms ({} sums made), of two {:+.3} ms ({} sums made for {} \
         sets), of two that were prepared {:+.3} ms ({} sums made); preparing took {:.1} ms a set",
        single.0,
        single.1,
        pair.0,
        pair.1,
        unprepared.len(),
        ahead.0,
        ahead.1,
        1e3 * preparing / prepared.len() as f64
    );
    Ok(())
}
