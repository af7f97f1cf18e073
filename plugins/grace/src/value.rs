//! The search for a value: which vector, in place of the activation, makes the model say the target. All earlier
//! values stay as they are.
//!
//! L(v) = −(1/T) Σ log p(target), minimised by Adam from a value that is cold, warm or an earlier one.

use engraft_method_common::{Adam, ForcedRow, check_cancelled, sum_places};
use engraft_plugin_api::{GradientRequest, Level, MethodError, ModelAccess, Place, Poke, Tensor, Term, Wrt};

use crate::params::GraceParams;
use crate::splice::Replace;

/// Searches the value from `start`; `params.n_iter` updates at most.
///
/// # Errors
/// `cancelled`; `loss-not-finite`; errors of the host.
pub fn find_value(
    access: &dyn ModelAccess,
    params: &GraceParams,
    row: &ForcedRow,
    target: &[u32],
    start: Vec<f32>,
) -> Result<Vec<f32>, MethodError> {
    let (width, end) = (start.len(), row.read_from);
    let positions = match params.replace {
        Replace::Last => end..end + 1,
        Replace::Prompt => 0..end + 1,
        Replace::Answer => end..row.ids.len(), // the target's last token stands behind the row
        Replace::All => 0..row.ids.len(),
    };
    let places: Vec<Place> = positions.map(|pos| Place { row: 0, pos }).collect();
    let poke = |values| Poke { site: params.value, places: places.clone(), values };
    let weight = 1.0 / target.len() as f32;
    let taught = row.places(0, target.len()).zip(target);
    let mut request = GradientRequest {
        rows: vec![row.ids.clone()],
        prompt_ends: vec![end],
        // The value is what is added to nothing.
        overwrites: vec![poke(Tensor::zeros([1, width]))],
        adds: vec![poke(Tensor::f32([1, width], start.clone())?)],
        terms: taught.map(|(place, &token)| Term::Nll { place, token, weight }).collect(),
        wrt: vec![Wrt::Add(0)],
        ..GradientRequest::default()
    };
    let (mut value, mut gradient, mut adam) = (start, vec![0.0; width], Adam::new(width, params.lr));
    let (mut first, mut loss) = (None, 0.0);
    for step in 0..params.n_iter {
        check_cancelled(access)?;
        access.progress(step as u64, params.n_iter as u64, "searching the value");
        let reply = access.gradient(&request)?;
        loss = reply.loss;
        if !loss.is_finite() {
            let text = format!("the loss of the search for a value at {} became {loss} at step {step}", params.value);
            return Err(MethodError::new("loss-not-finite", text).help("a smaller `lr` may help"));
        }
        first.get_or_insert(loss);
        if f64::from(loss) < params.early_stop_loss {
            break;
        }
        sum_places(&reply, places.len(), &mut gradient)?; // one vector stands at all places
        adam.step(&mut value, &gradient);
        request.adds[0].values = Tensor::f32([1, width], value.clone())?;
    }
    let message = format!("value search: loss {:.3} to {loss:.3}", first.unwrap_or(loss));
    access.log(Level::Debug, &message);
    Ok(value)
}
