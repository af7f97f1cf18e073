//! What a method may implement besides `edit`. Each call is announced in [`Plugin::calls`](crate::Plugin::calls), and a
//! call that is not announced is not made.
//!
//! All calls take `&self` and may come from several threads at once, for several models.
//!
//! # Interception
//!
//! The activation is lent, the new value is given. A pass computes some columns of each row: a prompt whole, later a
//! token at a time; [`column`](crate::InterceptCall::column) finds a position among them. Rows that see none of the
//! patches keep their values.
//!
//! ```
//! use engraft_plugin_api::*;
//!
//! /// Doubles the activation at the last token of the prompt, in rows that see a patch.
//! fn louder(call: &InterceptCall<'_>) -> Result<Option<Tensor>, MethodError> {
//!     let mut values = call.activation.to_owned();
//!     let mut changed = false;
//!     for (index, row) in call.rows.iter().enumerate().filter(|(_, row)| !row.patches.is_empty()) {
//!         if let Some(column) = call.column(index, row.prompt_end) {
//!             let mut row = values.index_axis_mut(ndarray::Axis(0), index);
//!             row.index_axis_mut(ndarray::Axis(0), column).mapv_inplace(|v| 2.0 * v);
//!             changed = true;
//!         }
//!     }
//!     Ok(changed.then(|| Tensor::from_array(&values)))
//! }
//!
//! let activation = Tensor::f32([2, 2, 1], vec![1.0, 2.0, 3.0, 4.0])?;
//! let positions = ndarray::array![[7i64, 8], [7, 8]];
//! let row = |patches| InterceptRow { prompt_end: 8, patches };
//! let call = InterceptCall {
//!     site: Site::LnFinal,
//!     activation: activation.view()?,
//!     positions: positions.view(),
//!     rows: vec![row(vec![]), row(vec![0])],
//!     patches: vec![ActivePatch { id: "1", state: &[] }],
//! };
//! assert_eq!(louder(&call)?.map(Tensor::into_f32), Some(Ok(vec![1.0, 2.0, 3.0, 8.0])));
//! # Ok::<(), MethodError>(())
//! ```
//!
//! # Routing
//!
//! A method that shows a fact to the requests that name its subject. A patch needs nothing but the fact; the request's
//! prompt is all that is looked at, and the answer holds until the request is done.
//!
//! ```
//! use engraft_plugin_api::*;
//!
//! struct Shown;
//!
//! impl EditMethod for Shown {
//!     fn edit(&self, _: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
//!         let [request] = requests else { return Ok(vec![]) };
//!         let subject = request.subject.as_deref().unwrap_or_default();
//!         let fact = format!("{subject}\n{} {}", request.filled()?, request.target.new);
//!         Ok(vec![Change::State(fact.into_bytes()), Change::Route])
//!     }
//!
//!     fn route(&self, access: &dyn ModelAccess, query: &RouteQuery<'_>) -> Result<Route, MethodError> {
//!         let prompt = access.decode(&query.tokens)?;
//!         let facts = query.patches.iter().filter_map(|patch| std::str::from_utf8(patch.state).ok()?.split_once('\n'));
//!         let told: String =
//!             facts.filter(|(subject, _)| prompt.contains(subject)).map(|(_, fact)| format!("New fact: {fact}\n")).collect();
//!         if told.is_empty() {
//!             return Ok(Route::Base);
//!         }
//!         Ok(Route::Prompt(access.tokenize(&(told + &prompt))?.ids))
//!     }
//! }
//!
//! # fn main() -> Result<(), MethodError> {
//! let model = testing::StillModel::default();
//! let tokens = |text: &str| model.tokenize(text).map(|tokens| tokens.ids);
//! let target = Target { new: "Kelm".into(), old: None };
//! let request = EditRequest { id: "1".into(), prompt: "{} is in".into(), subject: Some("Vorn".into()), target };
//! let changes = Shown.edit(&model, &[request])?;
//! let Change::State(state) = &changes[0] else { panic!() };
//!
//! let query = |text: &str| Ok(RouteQuery { tokens: tokens(text)?, patches: vec![ActivePatch { id: "1", state }] });
//! let shown = tokens("New fact: Vorn is in Kelm\nWhere is Vorn?")?;
//! assert_eq!(Shown.route(&model, &query("Where is Vorn?")?)?, Route::Prompt(shown));
//! assert_eq!(Shown.route(&model, &query("Where is Tor?")?)?, Route::Base);
//! # Ok(())
//! # }
//! ```
//!
//! # Training
//!
//! A training takes its seeds from [`random`](crate::ModelAccess::random), tells its losses, asks whether it is
//! cancelled, and keeps checkpoints from which it goes on to the same artefact, to the byte. Gradients of the model come
//! from [`gradient`](crate::ModelAccess::gradient); a network of the method's own is a [`Module`](crate::Module):
//! the method computes the loss from its outputs and hands the loss's gradient back as seeds.
//!
//! ```
//! use engraft_plugin_api::*;
//!
//! /// Learns how long prompts are.
//! fn train(access: &dyn ModelAccess, data: &TrainData) -> Result<Artefact, MethodError> {
//!     let (mut step, mut sum) = (0, 0u64);
//!     if let Some(checkpoint) = &data.resume {
//!         let damaged = || MethodError::new("length-checkpoint", "the checkpoint is damaged");
//!         step = checkpoint.step as usize;
//!         sum = u64::from_le_bytes(checkpoint.bytes.as_slice().try_into().map_err(|_| damaged())?);
//!     }
//!     for record in data.train.iter().skip(step) {
//!         if access.cancelled() {
//!             return Err(MethodError::cancelled());
//!         }
//!         sum += access.tokenize(&record.request.filled()?)?.ids.len() as u64;
//!         step += 1;
//!         access.metric(step as u64, "mean length", sum as f64 / step as f64);
//!         access.checkpoint(&Checkpoint { step: step as u64, bytes: sum.to_le_bytes().to_vec() })?;
//!     }
//!     Ok(Artefact::new(&access.facts(), data, sum.to_le_bytes().to_vec()))
//! }
//!
//! let model = testing::StillModel::default();
//! let record = |prompt: &str| TrainRecord {
//!     request: EditRequest {
//!         id: prompt.into(),
//!         prompt: prompt.into(),
//!         subject: None,
//!         target: Target { new: "x".into(), old: None },
//!     },
//!     in_scope: vec![],
//!     out_of_scope: vec![],
//! };
//! let mut data = TrainData { train: vec![record("one"), record("three")], ..TrainData::default() };
//! let artefact = train(&model, &data)?;
//! assert_eq!(artefact.bytes, 8u64.to_le_bytes());
//! data.resume = model.checkpoints.lock().expect("no panic").first().cloned();
//! assert_eq!(train(&model, &data)?, artefact);
//! # Ok::<(), MethodError>(())
//! ```
//!
//! The host checks that an artefact belongs to the model it is used on (`artefact-base`); what else is wrong with its
//! bytes, [`create_trained`](crate::Plugin::create_trained) has to find out.
