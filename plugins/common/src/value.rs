//! The search for a target value: which vector δ, added at a site at the fact token, makes the model say the target
//! (ROME, eq. 4; the same search serves every locate-then-edit method).
//!
//! L(δ) = mean over rows of −(1/T) Σ log p(target) + kl · KL(p_δ ‖ p_0) after "S is a" + wd · ‖δ‖ / ‖v₀‖²

use engraft_plugin_api::{
    GradientReply, GradientRequest, KlDirection, Level, MethodError, ModelAccess, Place, Poke, Site, Tensor, Term, Wrt,
};

use crate::adam::Adam;
use crate::solve::norm;
use crate::subject::PromptRow;
use crate::target::ForcedRow;
use crate::{check_cancelled, reply_shape};

/// The settings of the search. The names are those of the reference implementation's hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueSearch {
    /// Iterations: the last one only measures, so that there are `steps − 1` updates.
    pub steps: usize,
    /// Adam's step size.
    pub lr: f64,
    /// Factor of ‖δ‖ / ‖v₀‖².
    pub weight_decay: f64,
    /// δ is kept within this many ‖v₀‖.
    pub clamp_norm_factor: f64,
    /// Factor of the divergence after "S is a".
    pub kl_factor: f64,
    /// The search ends, before an update, once the loss is below this, in nats.
    pub early_stop_loss: f64,
}

/// A row whose distribution should stay as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct KlAnchor {
    /// The row; δ is added and the distribution read at its fact token.
    pub row: PromptRow,
    /// Log-probabilities there before the edit, `vocab` values.
    pub reference: Vec<f32>,
}

/// What is searched for.
#[derive(Clone, Copy, Debug)]
pub struct ValueProblem<'a> {
    /// The site that δ is added at.
    pub site: Site,
    /// The rows that teach the target.
    pub rows: &'a [ForcedRow],
    /// The target's tokens.
    pub target: &'a [u32],
    /// The row that holds the essence of the subject.
    pub anchor: Option<&'a KlAnchor>,
    /// v₀: the activation of the bare prompt at the site, before the edit.
    pub start: &'a [f32],
}

/// The parts of the loss at one iteration, in nats, each with its factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Losses {
    /// Of the target.
    pub nll: f64,
    /// Of the divergence.
    pub kl: f64,
    /// Of the norm.
    pub decay: f64,
}

impl Losses {
    /// The loss that is minimised.
    pub fn total(&self) -> f64 {
        self.nll + self.kl + self.decay
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundValue {
    /// δ
    pub delta: Vec<f32>,
    /// v* = v₀ + δ
    pub target: Vec<f32>,
    /// One entry for each iteration.
    pub losses: Vec<Losses>,
}

/// Minimises the loss by Adam with one `gradient` call an iteration.
///
/// # Errors
/// `cancelled`; `loss-not-finite`; errors of the host.
pub fn find_value(
    access: &dyn ModelAccess,
    search: &ValueSearch,
    problem: &ValueProblem<'_>,
) -> Result<FoundValue, MethodError> {
    let width = problem.start.len();
    let start_norm = norm(problem.start);
    let radius = search.clamp_norm_factor * start_norm;
    let decay = search.weight_decay / (start_norm * start_norm);
    let mut request = gradient_request(search, problem)?;
    let mut adam = Adam::new(width, search.lr);
    let (mut delta, mut gradient) = (vec![0.0f32; width], vec![0.0f32; width]);
    let mut losses = Vec::with_capacity(search.steps);
    for step in 0..search.steps {
        check_cancelled(access)?;
        access.progress(step as u64, search.steps as u64, "searching the target value");
        let reply = access.gradient(&request)?;
        let length = norm(&delta);
        let now = measured(&request, &reply, decay * length);
        if !now.total().is_finite() {
            let message =
                format!("the loss of the value search at {} became {} at step {step}", problem.site, now.total());
            return Err(MethodError::new("loss-not-finite", message).help("a smaller `v_lr` or clamp may help"));
        }
        losses.push(now);
        if now.total() < search.early_stop_loss || step + 1 == search.steps {
            break;
        }
        sum_places(&reply, request.adds[0].places.len(), &mut gradient)?;
        if length > 0.0 {
            // ∂‖δ‖/∂δ = δ/‖δ‖, and 0 at δ = 0 as torch has it
            let factor = (decay / length) as f32;
            gradient.iter_mut().zip(&delta).for_each(|(g, d)| *g += factor * d);
        }
        adam.step(&mut delta, &gradient);
        project(&mut delta, radius);
        request.adds[0].values = Tensor::f32([1, width], delta.clone())?;
    }
    if let (Some(first), Some(last)) = (losses.first(), losses.last()) {
        let (from, to, share) = (first.total(), last.total(), norm(&delta) / start_norm);
        let message =
            format!("value search: {} iterations, loss {from:.3} to {to:.3}, |delta| {share:.2} |v0|", losses.len());
        access.log(Level::Debug, &message);
    }
    let target = problem.start.iter().zip(&delta).map(|(v, d)| v + d).collect();
    Ok(FoundValue { delta, target, losses })
}

/// The request of every iteration; only the values of the one poke change between them.
fn gradient_request(search: &ValueSearch, problem: &ValueProblem<'_>) -> Result<GradientRequest, MethodError> {
    let (rows, count) = (problem.rows, problem.target.len());
    let mut places: Vec<Place> = rows.iter().enumerate().map(|(row, r)| Place { row, pos: r.fact }).collect();
    let mut terms = Vec::with_capacity(rows.len() * count + 1);
    let weight = (1.0 / (rows.len() * count) as f64) as f32;
    for (row, forced) in rows.iter().enumerate() {
        let taught = forced.places(row, count).zip(problem.target);
        terms.extend(taught.map(|(place, &token)| Term::Nll { place, token, weight }));
    }
    if let Some(anchor) = problem.anchor {
        let place = Place { row: rows.len(), pos: anchor.row.fact };
        places.push(place);
        terms.push(Term::Kl {
            place,
            reference: anchor.reference.clone(),
            direction: KlDirection::FromCurrent,
            weight: search.kl_factor as f32,
        });
    }
    let ids = rows.iter().map(|r| &r.ids).chain(problem.anchor.map(|a| &a.row.ids));
    Ok(GradientRequest {
        rows: ids.cloned().collect(),
        adds: vec![Poke { site: problem.site, places, values: Tensor::zeros([1, problem.start.len()]) }],
        terms,
        wrt: vec![Wrt::Add(0)],
        ..GradientRequest::default()
    })
}

/// The parts of the loss; every term of the request has its unweighted value in the reply.
fn measured(request: &GradientRequest, reply: &GradientReply, decay: f64) -> Losses {
    let mut out = Losses { nll: 0.0, kl: 0.0, decay };
    for (term, &value) in request.terms.iter().zip(&reply.terms) {
        match term {
            Term::Kl { weight, .. } => out.kl += f64::from(weight * value),
            Term::Nll { weight, .. } | Term::Seed { weight, .. } => out.nll += f64::from(weight * value),
        }
    }
    out
}

/// The gradient of one vector that stands at `places` places, which is the sum over them: the first variable of a
/// reply, summed into `gradient`.
///
/// # Errors
/// `reply-shape` if the reply has another shape than `[places, gradient.len()]`.
pub fn sum_places(reply: &GradientReply, places: usize, gradient: &mut [f32]) -> Result<(), MethodError> {
    let expected = [places, gradient.len()];
    let tensor = reply.gradients.first().and_then(|g| g.first());
    let tensor = tensor
        .filter(|t| t.shape() == expected)
        .ok_or_else(|| reply_shape("gradient of an added vector", &expected, tensor.map_or(&[], |t| t.shape())))?;
    gradient.fill(0.0);
    for row in tensor.as_f32()?.chunks_exact(expected[1]) {
        gradient.iter_mut().zip(row).for_each(|(g, r)| *g += r);
    }
    Ok(())
}

/// Shortens a vector that is longer than `radius`.
fn project(delta: &mut [f32], radius: f64) {
    let length = norm(delta);
    if length > radius {
        let factor = (radius / length) as f32;
        delta.iter_mut().for_each(|d| *d *= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::{FactToken, prompt_row, subject_row};
    use crate::target::{forced_row, target_ids};
    use crate::testing::{Mock, request};
    use engraft_plugin_api::BlockSite;

    const SETTINGS: ValueSearch = ValueSearch {
        steps: 20,
        lr: 0.5,
        weight_decay: 0.05,
        clamp_norm_factor: 8.0,
        kl_factor: 0.0625,
        early_stop_loss: 0.05,
    };

    fn find(mock: &Mock, settings: &ValueSearch) -> Result<FoundValue, MethodError> {
        let request = request("The mother of {} is", Some("Ada Vorn"), "Kelm Ada");
        let site = Site::Block(0, BlockSite::MlpProj);
        let fact = FactToken::SubjectLast;
        let prompt = prompt_row(mock, &request, "{}", fact, 64)?;
        let target = target_ids(mock, &request)?;
        let row = subject_row(mock, &request, "{} is a", fact, 64)?;
        let reading = crate::read(mock, std::slice::from_ref(&prompt), &[site], Some(&row))?;
        let anchor = KlAnchor { row, reference: reading.anchor };
        let rows = [forced_row(&request, &prompt, &target, 64)?];
        let start = reading.sites[0].row(0).to_vec();
        let problem = ValueProblem { site, rows: &rows, target: &target, anchor: Some(&anchor), start: &start };
        find_value(mock, settings, &problem)
    }

    #[test]
    fn the_loss_falls_and_the_last_iteration_only_measures() {
        let mock = Mock::new(1);
        let found = find(&mock, &ValueSearch { early_stop_loss: 0.0, ..SETTINGS }).expect("finds");
        assert_eq!((found.losses.len(), mock.calls().gradients), (20, 20));
        assert_eq!((found.losses[0].decay, found.losses[0].kl.abs() < 1e-6), (0.0, true));
        assert!(found.losses[19].nll < 0.5 * found.losses[0].nll, "{:?}", found.losses);
        let one = find(&Mock::new(1), &ValueSearch { steps: 1, ..SETTINGS }).expect("finds");
        assert!(one.delta.iter().all(|&d| d == 0.0), "steps - 1 updates");
    }

    #[test]
    fn the_search_stops_early_and_stays_in_the_ball() {
        let found = find(&Mock::new(1), &ValueSearch { early_stop_loss: 4.0, ..SETTINGS }).expect("finds");
        let count = found.losses.len();
        assert!(count < 20 && found.losses[count - 1].total() < 4.0 && found.losses[count - 2].total() >= 4.0);
        let narrow = find(&Mock::new(1), &ValueSearch { clamp_norm_factor: 0.3, ..SETTINGS }).expect("finds");
        let start: Vec<f32> = narrow.target.iter().zip(&narrow.delta).map(|(t, d)| t - d).collect();
        let share = norm(&narrow.delta) / norm(&start);
        assert!((0.29..=0.3 + 1e-6).contains(&share), "{share}");
    }

    #[test]
    fn cancelling_is_noticed_between_steps() {
        let mock = Mock::new(1).cancelled_after(5);
        assert_eq!(find(&mock, &SETTINGS).map_err(|e| e.code), Err("cancelled".into()));
        assert!(mock.calls().gradients <= 5);
    }
}
