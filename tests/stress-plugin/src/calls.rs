//! The calls besides `edit`: each does little, as it should, until a fault is asked for.

use std::sync::atomic::{AtomicU64, Ordering};

use engraft_plugin_api::{
    Artefact, Checkpoint, InterceptCall, MethodError, ModelAccess, Route, RouteQuery, Tensor, TrainData,
};

/// The length of what is learnt, in bytes.
pub const LEARNT: usize = 8;

/// How many steps a training takes.
const STEPS: u64 = 4;

/// What tells one call from another, which no method may look at.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Another number at every call.
pub fn another() -> u64 {
    CALLS.fetch_add(1, Ordering::SeqCst)
}

fn failed() -> MethodError {
    MethodError::new("stress-error", "stress was told to fail")
}

/// Mixes the data into a number, a step at a time.
pub fn train(fault: &str, access: &dyn ModelAccess, data: &TrainData) -> Result<Artefact, MethodError> {
    match fault {
        "panic-train" => panic!("stress was told to panic"),
        "error-train" => return Err(failed()),
        _ => {}
    }
    let (mut step, mut learnt) = (0, access.random("init"));
    if let Some(checkpoint) = &data.resume {
        let bytes = checkpoint.bytes.as_slice().try_into();
        let bytes = bytes.map_err(|_| MethodError::new("stress-checkpoint", "the checkpoint is damaged"))?;
        (step, learnt) = (checkpoint.step, u64::from_le_bytes(bytes));
        if fault == "forgetful-train" {
            learnt = 0;
        }
    }
    while step < STEPS {
        if access.cancelled() && fault != "deaf-train" {
            return Err(MethodError::cancelled());
        }
        for record in &data.train {
            learnt = learnt.rotate_left(7) ^ record.request.prompt.len() as u64 ^ step;
        }
        step += 1;
        access.metric(step, "loss", 1.0 / step as f64);
        access.progress(step, STEPS, "training");
        access.checkpoint(&Checkpoint { step, bytes: learnt.to_le_bytes().to_vec() })?;
    }
    if fault == "unsteady-train" {
        learnt ^= another();
    }
    let mut artefact = Artefact::new(&access.facts(), data, learnt.to_le_bytes().to_vec());
    if fault == "unbound-artefact" {
        artefact.base = "another".into();
    }
    Ok(artefact)
}

/// Shows a patch to the requests that name its subject.
pub fn route(
    fault: &str,
    milliseconds: u64,
    access: &dyn ModelAccess,
    query: &RouteQuery<'_>,
) -> Result<Route, MethodError> {
    match fault {
        "panic-route" => panic!("stress was told to panic"),
        "block-route" => std::thread::sleep(std::time::Duration::from_millis(milliseconds)),
        "error-route" => return Err(failed()),
        "wrong-route" => return Ok(Route::Changes(vec![query.patches.len()])),
        "outside-route" => return Ok(Route::Prompt(vec![u32::MAX])),
        "unsteady-route" if another() % 2 == 1 => return Ok(Route::Base),
        _ => {}
    }
    let text = access.decode(&query.tokens)?;
    let named = |state: &[u8]| std::str::from_utf8(state).is_ok_and(|subject| text.contains(subject));
    Ok(Route::Changes((0..query.patches.len()).filter(|&i| named(query.patches[i].state)).collect()))
}

/// Adds 1 to the first number at the prompt's last token, in rows that see a patch.
pub fn intercept(fault: &str, milliseconds: u64, call: &InterceptCall<'_>) -> Result<Option<Tensor>, MethodError> {
    match fault {
        "panic-intercept" => panic!("stress was told to panic"),
        "error-intercept" => return Err(failed()),
        "block-intercept" => std::thread::sleep(std::time::Duration::from_millis(milliseconds)),
        "wrong-intercept" => return Ok(Some(Tensor::zeros([1]))),
        _ => {}
    }
    let mut values = call.activation.to_owned();
    for (row, context) in call.rows.iter().enumerate() {
        let seen = fault == "trespassing-intercept" || !context.patches.is_empty();
        if let Some(column) = call.column(row, context.prompt_end).filter(|_| seen) {
            values.outer_iter_mut().nth(row).into_iter().for_each(|mut row| {
                row.outer_iter_mut()
                    .nth(column)
                    .into_iter()
                    .for_each(|mut at| at.iter_mut().take(1).for_each(|v| *v += 1.0));
            });
        }
    }
    if fault == "nan-intercept" {
        values.fill(f32::NAN);
    }
    Ok(Some(Tensor::from_array(&values)))
}
