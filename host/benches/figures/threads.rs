//! Requests at once, while patches are applied and rolled back.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engraft::model::{Model, OpenOptions};
use engraft::runtime::Runtime;
use engraft_plugin_api::{Change, Delta, Place, Role, RunRequest, Tensor, WeightRef};

use crate::tools::{Outcome, commit, rows};

/// How long requests are counted.
const SPAN: Duration = Duration::from_secs(4);

/// Requests a second of 1, 2 and 4 threads while another thread commits and rolls back a patch, with as many sessions as
/// they need and with one. Every answer is that of the model before or after, to the bit.
pub(crate) fn threads(runtime: &Runtime, what: &str, folder: &Path) -> Outcome<()> {
    for (sessions, name) in [(None, "as many sessions as they need"), (Some(1), "one session")] {
        let model = Model::open(folder, runtime, &OpenOptions { sessions, ..OpenOptions::default() })?;
        let weight = WeightRef::Block(1, Role::MlpOut);
        let [inputs, outputs] = model.anatomy().weight(weight)?.shape;
        let delta = |f: f32| -> Outcome<Vec<Change>> {
            let left = Tensor::f32([inputs, 1], (0..inputs).map(|i| 0.1 * (f * i as f32).sin()).collect())?;
            let right = Tensor::f32([1, outputs], (0..outputs).map(|i| 0.1 * (f * i as f32).cos()).collect())?;
            Ok(vec![Change::Weight { weight, delta: Delta::LowRank { left, right } }])
        };
        commit(&model, delta(0.3)?)?;
        let request = RunRequest {
            rows: rows(1, 16, model.anatomy().vocab),
            logits: vec![Place { row: 0, pos: 15 }],
            ..RunRequest::default()
        };
        let before = model.run(&request)?.logits;
        let id = commit(&model, delta(0.7)?)?;
        let after = model.run(&request)?.logits;
        model.rollback(&id)?;
        let mut rates = Vec::new();
        for (asking, editing) in [(1, false), (1, true), (2, true), (4, true)] {
            rates.push(rate(&model, &request, [&before, &after], asking, editing.then_some(&delta))?);
        }
        let [alone, one, two, four] = rates[..] else { return Err("four rates".into()) };
        println!(
            "{what}, requests of 16 tokens, {name}: 1 thread {:.0} a second; while another thread commits and rolls back \
             ({:.1} times a second), 1 thread {:.2}x of it, 2 threads {:.2}x, 4 threads {:.2}x ({:.1} and {:.1} times a \
             second)",
            alone.0,
            one.1,
            one.0 / alone.0,
            two.0 / alone.0,
            four.0 / alone.0,
            two.1,
            four.1
        );
    }
    Ok(())
}

/// Requests, and commits with rollbacks, a second.
fn rate(
    model: &Model,
    request: &RunRequest,
    known: [&Tensor; 2],
    asking: usize,
    editing: Option<&(impl Fn(f32) -> Outcome<Vec<Change>> + Sync)>,
) -> Outcome<(f64, f64)> {
    let (asked, done, wrong) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let began = Instant::now();
    let mut edits = 0;
    std::thread::scope(|scope| -> Outcome<()> {
        for _ in 0..asking {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let right = model.run(request).is_ok_and(|reply| known.contains(&&reply.logits));
                    wrong.fetch_or(!right, Ordering::Relaxed);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut edit = || -> Outcome<()> {
            while began.elapsed() < SPAN {
                match editing {
                    Some(changes) => {
                        let id = commit(model, changes(0.7).map_err(|e| e.to_string())?)?;
                        model.rollback(&id)?;
                        edits += 1;
                    }
                    None => std::thread::sleep(SPAN / 100),
                }
            }
            Ok(())
        };
        let outcome = edit();
        done.store(true, Ordering::Relaxed);
        outcome
    })?;
    let took = began.elapsed().as_secs_f64();
    if wrong.load(Ordering::Relaxed) {
        return Err("an answer was neither that before nor that after".into());
    }
    Ok((asked.load(Ordering::Relaxed) as f64 / took, f64::from(edits) / took))
}
