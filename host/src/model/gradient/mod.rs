//! A loss and its gradients: only what depends on the variables is differentiated, and what comes before them is
//! computed once and fed.
//!
//! A request is split into its structure (the [`GradientPlan`], compiled once) and its values. The compiled pair is a
//! *prefix*, which computes every edge that crosses from the constant part into the dependent part, and a *step*,
//! which reads those edges, the variables and the loss's numbers. The results of the last few prefixes are kept by
//! content, so that the steps of an optimisation run the step alone.

mod answer;
mod compile;
mod loss;
mod window;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use engraft_plugin_api::{Change, Delta, GradientReply, GradientRequest, Wrt};

use super::codes;
use super::edit::splice::set_ends;
use super::intercept::ends;
use super::open::Model;
use super::run::Seen;
use super::run::feed;
use super::run::visible::Visible;
use crate::base::{Cancel, Error, Hash, Result};
use crate::hooks::{Branch, Rig};
use crate::runtime::Value;
use crate::weights::slot_key;
use compile::Variable;
pub(super) use compile::{CompiledGradient, GradientPlan};
use loss::Loss;

/// The results of the last prefixes, by content.
#[derive(Default)]
pub(in crate::model) struct Prefixes(Mutex<VecDeque<(Hash, Arc<Vec<Value>>)>>);

/// How many prefixes are kept.
const KEPT: usize = 2;

impl Prefixes {
    fn get(&self, key: Hash, compute: impl FnOnce() -> Result<Vec<Value>>) -> Result<Arc<Vec<Value>>> {
        let guard = || self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, found)) = guard().iter().find(|(k, _)| *k == key) {
            return Ok(found.clone());
        }
        let computed = Arc::new(compute()?);
        let mut kept = guard();
        kept.truncate(KEPT - 1);
        kept.push_front((key, computed.clone()));
        Ok(computed)
    }
}

impl Model {
    /// The loss and its gradients. Every row sees every patch; nothing is routed.
    ///
    /// # Shapes
    /// See [`GradientRequest`] and [`GradientReply`].
    ///
    /// # Errors
    /// As [`Model::run`], and `gradient-missing` if an operator on the way has no rule.
    pub fn gradient(&self, request: &GradientRequest) -> Result<GradientReply> {
        self.gradient_until(request, None)
    }

    /// As [`Model::gradient`], stopping soon when cancelled.
    ///
    /// # Errors
    /// As [`Model::gradient`], and `interrupted`.
    pub fn gradient_until(&self, request: &GradientRequest, cancel: Option<&Cancel>) -> Result<GradientReply> {
        self.gradient_seen(request, &self.seen(&request.under)?, cancel)
    }

    /// As [`Model::gradient_until`] on the base model, whatever patches are active.
    ///
    /// # Errors
    /// As [`Model::gradient_until`].
    pub fn gradient_base(&self, request: &GradientRequest, cancel: Option<&Cancel>) -> Result<GradientReply> {
        self.gradient_seen(request, &self.seen_on_base(&request.under)?, cancel)
    }

    fn gradient_seen(
        &self,
        request: &GradientRequest,
        seen: &Seen<'_>,
        cancel: Option<&Cancel>,
    ) -> Result<GradientReply> {
        let rows = &request.rows;
        let mut values = self.batch(rows)?;
        let visible = Visible::all(rows.len());
        let loss = Loss::of(&request.terms);
        let variables = self.variables(request)?;
        let plan = GradientPlan {
            rig: Rig {
                overwrites: request.overwrites.iter().map(|p| p.site).collect(),
                adds: request.adds.iter().map(|p| p.site).collect(),
                taps: Vec::new(),
                branches: feed::branches(&seen.overlay),
                slots: feed::slots(&seen.overlay),
                variables: variables
                    .iter()
                    .filter_map(|v| if let Variable::Weight(w) = v { Some(*w) } else { None })
                    .collect(),
                logits: !loss.nll.is_empty() || loss.kl.iter().any(|k| !k.is_empty()),
                seeds: loss.seeds.iter().map(|(site, _)| *site).collect(),
                cache: false,
                intercepts: seen.intercepts.sites(),
                splices: seen.grafts.clone(),
            },
            nll: !loss.nll.is_empty(),
            kl: [!loss.kl[0].is_empty(), !loss.kl[1].is_empty()],
            seeds: loss.seeds.iter().map(|(site, _)| *site).collect(),
            window: false,
            variables,
        };
        let ends = ends(rows, &request.prompt_ends)?;
        set_ends(&ends, &mut values)?;
        let called = self.called(&seen.intercepts, ends, &visible)?;
        let plan = match self.span(request, &plan, &loss)? {
            Some(span) => {
                span.set(&mut values)?;
                GradientPlan { window: true, ..plan }
            }
            None => plan,
        };
        let compiled = self.programs.gradient(&plan, || self.compile_gradient(&plan))?;
        self.pokes(&request.overwrites, &request.adds, rows, &mut values)?;
        values.extend(loss.values(self, rows)?);
        self.feed(seen, &visible, &mut values)?;
        if let Some(prefix) = &compiled.prefix {
            let names = || prefix.inputs().iter().map(|p| p.name.as_str());
            let compute = || {
                let fetch: Vec<&str> = compiled.fed.iter().map(String::as_str).collect();
                prefix.run_calling(&values.feeds(names()), &fetch, cancel, called.as_ref())
            };
            let fed = if called.is_some() {
                // What a method makes of an activation is known only by asking.
                Arc::new(compute()?)
            } else {
                let key = Hash::of_parts([values.hash(names())?.bytes().as_slice(), &compiled.id.to_le_bytes()]);
                self.programs.prefixes.get(key, compute)?
            };
            for (name, value) in compiled.fed.iter().zip(fed.iter()) {
                values.set(name, value.clone());
            }
        }
        let fetch: Vec<&str> = {
            let flat = compiled.gradients.iter().flatten().flatten();
            compiled.terms.iter().chain(flat).map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect()
        };
        let feeds = values.feeds(compiled.step.inputs().iter().map(|p| p.name.as_str()));
        let outputs = compiled.step.run_calling(&feeds, &fetch, cancel, called.as_ref())?;
        let output = |name: &str| fetch.iter().position(|f| *f == name).map(|i| &outputs[i]);

        let terms = self.terms(request, &loss, &plan, &compiled, &output)?;
        let total = request.terms.iter().zip(&terms).map(|(term, value)| term.weight() * value).sum();
        let mut gradients = Vec::with_capacity(request.wrt.len());
        for (wrt, edges) in request.wrt.iter().zip(&compiled.gradients) {
            let found = edges.iter().map(|e| e.as_deref().and_then(output)).collect::<Vec<_>>();
            gradients.push(self.answer(wrt, request, seen, &found)?);
        }
        Ok(GradientReply { loss: total, terms, gradients })
    }

    fn variables(&self, request: &GradientRequest) -> Result<Vec<Variable>> {
        let outside = |what: &str, i: usize, n: usize| {
            Error::new(&codes::TRIAL_UNKNOWN, format!("a gradient with respect to {what} {i}, of which there are {n}"))
        };
        let variable = |wrt: &Wrt| match *wrt {
            Wrt::Add(i) if i < request.adds.len() => Ok(Variable::Add(i)),
            Wrt::Add(i) => Err(outside("addition", i, request.adds.len())),
            Wrt::Weight(weight) => self.anatomy().weight(weight).map(|_| Variable::Weight(weight)),
            Wrt::Pairs(weight) => {
                let place = self.anatomy().weight(weight)?;
                match (&place.input, &place.output) {
                    (Some(_), Some(_)) => Ok(Variable::Pairs(weight)),
                    _ => Err(Error::new(&codes::TRIAL_UNKNOWN, format!("`{weight}` is not a linear map"))),
                }
            }
            Wrt::Trial(i) => match request.under.get(i) {
                Some(Change::Weight { weight, delta }) => {
                    let vector = self.anatomy().weight(*weight)?.shape[0] == 1;
                    let dense = vector || matches!(delta, Delta::Dense(_));
                    Ok(Variable::Branch(*weight, if dense { Branch::Dense } else { Branch::LowRank }))
                }
                Some(Change::Slots(slots)) => Ok(Variable::Slots(slot_key(slots))),
                Some(Change::Splice(splice)) => Ok(Variable::Splice(splice.writes, splice.order)),
                _ => Err(outside("trial change", i, request.under.len())),
            },
        };
        request.wrt.iter().map(variable).collect()
    }
}
