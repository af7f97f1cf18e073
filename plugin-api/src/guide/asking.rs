//! What a method may ask of the host: data in, data out, and nothing that is asked changes the model.
//!
//! Every call is one of [`ModelAccess`](crate::ModelAccess). All may be made from any thread, and each may fail with an
//! error of the host, which goes back to the host with `?`: its code begins with `host-`, and the user sees who failed.
//!
//! # Runs
//!
//! A [`RunRequest`](crate::RunRequest) is rows of tokens with what is read, replaced and added on their way. Sites are
//! named, not found: [`facts`](crate::ModelAccess::facts) lists those of this model, and a site that a model lacks is an
//! error that says why. Positions count from 0 at each row's first token; rows are padded on the right, by the host.
//!
//! ```
//! use engraft_plugin_api::*;
//!
//! /// What the MLP of a layer gives at the last token of a subject, and the logits after the prompt.
//! fn look(access: &dyn ModelAccess, layer: usize, request: &EditRequest) -> Result<(Tensor, Tensor), MethodError> {
//!     let (prompt, span) = request.fill("{}")?;
//!     let tokens = access.tokenize(&prompt)?;
//!     let absent = || MethodError::new("look-subject", "there is no subject, or no token of it");
//!     let subject = span.and_then(|span| tokens.last_in(&span)).ok_or_else(absent)?;
//!     let end = tokens.ids.len() - 1;
//!     let site = Site::Block(layer, BlockSite::MlpProj);
//!     let mut reply = access.run(&RunRequest {
//!         rows: vec![tokens.ids],
//!         taps: vec![Tap { site, places: Some(vec![Place { row: 0, pos: subject }]) }],
//!         logits: vec![Place { row: 0, pos: end }],
//!         ..RunRequest::default()
//!     })?;
//!     Ok((reply.taps.remove(0), reply.logits))
//! }
//!
//! // A model at rest runs nothing: tests of a plugin's own see that the request gets so far.
//! let target = Target { new: "Kelm".into(), old: None };
//! let request = EditRequest { id: "1".into(), prompt: "{} is in".into(), subject: Some("Vorn".into()), target };
//! let error = look(&testing::StillModel::default(), 0, &request).expect_err("is at rest");
//! assert_eq!(error.code, "host-still");
//! # Ok::<(), MethodError>(())
//! ```
//!
//! # Gradients
//!
//! A [`GradientRequest`](crate::GradientRequest) is a run with a loss: terms of likelihood, divergence from recorded
//! distributions, or seeds at sites, each with its weight. It is differentiated with respect to what
//! [`Wrt`](crate::Wrt) names: vectors added at a site (how ROME searches its value), a weight (KE), the two factors of a
//! linear weight's gradient (MEND), or the tensors of a trial change.
//!
//! **Trial changes** are what makes training short: `under` is a list of changes that this call alone evaluates as if
//! they were committed. The loop is the method's: ask for the loss and its gradient, move the tensors, ask again.
//! Interceptions and routes have a method called, and a trial change does not say which: they act in patches that are
//! committed, and are refused here.
//!
//! ```
//! use engraft_plugin_api::*;
//!
//! /// One step of descent on a dense delta of a weight; returns the loss before it, in nats.
//! fn step(
//!     access: &dyn ModelAccess, weight: WeightRef, delta: &mut Tensor, row: &[u32], token: u32, rate: f32,
//! ) -> Result<f32, MethodError> {
//!     let place = Place { row: 0, pos: row.len().saturating_sub(1) };
//!     let reply = access.gradient(&GradientRequest {
//!         rows: vec![row.to_vec()],
//!         under: vec![Change::Weight { weight, delta: Delta::Dense(delta.clone()) }],
//!         terms: vec![Term::Nll { place, token, weight: 1.0 }],
//!         wrt: vec![Wrt::Trial(0)],
//!         ..GradientRequest::default()
//!     })?;
//!     let slope = reply.gradients[0][0].as_f32()?;
//!     let moved = delta.as_f32()?.iter().zip(slope).map(|(d, g)| d - rate * g).collect();
//!     *delta = Tensor::f32(delta.shape(), moved)?;
//!     Ok(reply.loss)
//! }
//!
//! let mut delta = Tensor::zeros([2, 2]);
//! let still = testing::StillModel::default();
//! let error = step(&still, WeightRef::Block(0, Role::MlpOut), &mut delta, &[1], 2, 0.1).expect_err("is at rest");
//! assert_eq!((error.code.as_str(), delta), ("host-still", Tensor::zeros([2, 2])));
//! # Ok::<(), MethodError>(())
//! ```
//!
//! # Statistics
//!
//! [`second_moment`](crate::ModelAccess::second_moment) is E\[x xᵀ\] of a site over the experiment's corpus, computed once
//! and kept. [`patches`](crate::ModelAccess::patches) are the method's own active patches with their states;
//! [`statistic`](crate::ModelAccess::statistic) is the fold over what they added to a running sum or a stack
//! ([`changes`](super::changes#sums-over-edits)).
//!
//! # Networks of the method's own
//!
//! An encoder, a classifier, an editor network: a [`Module`](crate::Module) is an ONNX graph that the host runs and
//! differentiates on the model's device; no plugin links a tensor library for it. It is opened once for a model under a
//! key, so that a method keeps nothing. The loss is the method's own arithmetic: its gradient with respect to the
//! outputs goes back as seeds. Where weights are replaced step by step, nothing is compiled again.
//!
//! ```
//! use engraft_plugin_api::*;
//!
//! /// One step of descent on a classifier's weights; returns the mean loss before it, in nats.
//! fn step(module: &Module<'_>, x: Tensor, truth: &[f32], rate: f32) -> Result<f32, MethodError> {
//!     let feeds = vec![("x".to_owned(), x)];
//!     let logits = module.run(feeds.clone(), &["logit"])?.remove(0);
//!     let n = truth.len() as f32;
//!     let p: Vec<f32> = logits.as_f32()?.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect();
//!     // d/dz of the cross-entropy is p − y.
//!     let seed = Tensor::f32(logits.shape(), p.iter().zip(truth).map(|(p, y)| (p - y) / n).collect())?;
//!     let names = ["w", "b"];
//!     let wrt = names.map(|name| ModuleVariable::Weight(name.into())).to_vec();
//!     let (_, slopes) = module.gradient(feeds, &[], vec![("logit".into(), seed)], wrt)?;
//!     let old = module.weights(&names)?;
//!     let moved = old.into_iter().zip(slopes).map(|((name, w), g)| {
//!         let new = w.as_f32()?.iter().zip(g.as_f32()?).map(|(w, g)| w - rate * g).collect();
//!         Ok((name, Tensor::f32(w.shape(), new)?))
//!     });
//!     module.set(moved.collect::<Result<_, MethodError>>()?)?;
//!     Ok(p.iter().zip(truth).map(|(p, y)| -(y * p.ln() + (1.0 - y) * (1.0 - p).ln())).sum::<f32>() / n)
//! }
//! # let still = testing::StillModel::default();
//! # let source = || Ok(ModuleSource { graph: ModuleGraph::Bytes(vec![]), weights: vec![] });
//! # assert_eq!(Module::open(&still, "scope", source).err().map(|e| e.code), Some("host-still".into()));
//! # let _ = step;
//! ```
//!
//! # Being a good guest
//!
//! Ask [`cancelled`](crate::ModelAccess::cancelled) in every loop; a host that asked waits some seconds and then leaves the
//! call behind. Draw from [`random`](crate::ModelAccess::random), by name, never from a clock: the same seed gives the same
//! changes. Say how far a long call is ([`progress`](crate::ModelAccess::progress)), and print nothing: the standard output
//! belongs to the host; messages go to [`log`](crate::ModelAccess::log).
