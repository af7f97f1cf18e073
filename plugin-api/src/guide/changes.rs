//! What a method may propose. All changes of one call of `edit` are one patch: committed together, rolled back together,
//! in any order with other patches.
//!
//! The host checks what it gets (shapes, finite numbers, known parts, size), proves by a probe that it takes effect,
//! and applies it in one step. A refused change is an error with a code; the model is as it was.
//!
//! # Weights
//!
//! Orientation is said once: `W[in, out]`, y = xW, whatever the file does; vectors count as `[1, out]`. A
//! [`Delta`](crate::Delta) is added to the weight, in three forms:
//!
//! | form | use it for | it costs |
//! |---|---|---|
//! | [`LowRank`](crate::Delta::LowRank) | ranks below in · out / (in + out) | `rank · (in + out)` numbers; swapped without a rebuild, and rows of one batch may see different ones |
//! | [`Rows`](crate::Delta::Rows) | a few rows: tokens of `W_E`, chosen neurons | `rows · out` numbers |
//! | [`Dense`](crate::Delta::Dense) | everything else | `in · out` numbers |
//!
//! A weight that several parts of the model share is changed for the part that is named alone.
//!
//! # Slots
//!
//! One neuron that answers to one vector, as T-Patcher begins with it: its pre-activation is 1 at its own query. As an
//! element of `under` in a [`GradientRequest`](crate::GradientRequest), with [`Wrt::Trial`](crate::Wrt::Trial), its
//! tensors are trained before they are proposed.
//!
//! ```
//! use engraft_plugin_api::*;
//!
//! fn neuron(layer: usize, query: &[f32], value: Vec<f32>) -> Result<Change, MethodError> {
//!     let (d, square) = (query.len(), query.iter().map(|q| q * q).sum::<f32>());
//!     Ok(Change::Slots(Slots {
//!         layer,
//!         keys: Tensor::f32([d, 1], query.iter().map(|q| q / square).collect())?,
//!         bias: Tensor::zeros([1]),
//!         values: Tensor::f32([1, d], value)?,
//!         gate: None,
//!         activation: Activation::Model,
//!     }))
//! }
//!
//! let Change::Slots(slots) = neuron(5, &[0.0, 2.0], vec![1.0, -1.0])? else { panic!() };
//! assert_eq!((slots.count(), slots.keys.as_f32()?, slots.check(2)), (1, &[0.0, 0.5][..], Ok(())));
//! # Ok::<(), MethodError>(())
//! ```
//!
//! # Splices
//!
//! A [`Splice`](crate::Splice) is an ONNX graph with fixed names for its inputs, made by whatever writes ONNX and
//! carried in the library (`include_bytes!`). What differs from edit to edit are its tables: patches whose splices have
//! the same graph share one, with their tables laid one after the other, so that the hundredth key compiles nothing.
//! Each row of a batch sees, by the gates, the entries of its own patches.
//!
//! The graph is put into the model's own, whose version of the standard operators may be another: write it for version
//! 13 with operators that are the same ever since (`ReduceSum` rather than `ReduceMean`), and it fits everywhere. The
//! first extent of a stacked table is a name in the graph; tables with the same name grow together. Keep values finite
//! everywhere, also where they are not chosen: a gradient flows through both sides of a `Where`.
//!
//! An input of the graph that is a site goes by the site's spelling, or by its number among `reads`
//! ([`read_of`](crate::change::splice::read_of)): with numbers one file serves at every layer.
//!
//! ```
//! use engraft_plugin_api::*;
//!
//! /// An entry of a codebook: one row in each of two tables.
//! fn entry(graph: &[u8], layer: usize, key: Vec<f32>, value: Vec<f32>) -> Result<Change, MethodError> {
//!     let site = Site::Block(layer, BlockSite::ResidPost);
//!     let row = |name: &str, row: Vec<f32>| {
//!         let value = Tensor::f32([1, row.len()], row)?;
//!         Ok::<_, MethodError>(Increment { name: name.into(), fold: Fold::Stack, value })
//!     };
//!     let tables = vec![row("keys", key)?, row("values", value)?];
//!     let (graph, reads) = (graph.to_vec(), vec![site]);
//!     Ok(Change::Splice(Splice { graph, reads, writes: site, tables, whole_rows: false, order: 0 }))
//! }
//!
//! let make = |key: f32| entry(b"the bytes of an ONNX model", 3, vec![key, 0.0], vec![0.0, 1.0]);
//! let (Change::Splice(one), Change::Splice(two)) = (make(1.0)?, make(2.0)?) else { panic!() };
//! assert!(one.check().is_ok() && one.joins(&two), "two entries of one codebook");
//! # Ok::<(), MethodError>(())
//! ```
//!
//! # States
//!
//! [`Change::State`](crate::Change::State) holds the method's own bytes for an edit. They travel with the patch, into files
//! and journals too, and come back to `route`, `intercept` and [`patches`](crate::ModelAccess::patches). Begin them with a
//! version of your own: a patch may be read by a later version of the plugin.
//!
//! # Sums over edits
//!
//! What follows from all edits together (the keys that AlphaEdit protects, a normaliser, a codebook) is no state of the
//! method: each patch says its part, and the host folds the parts of the patches that are active. Roll one back, and the
//! sum is as if the edit had never been.
//!
//! ```
//! use engraft_plugin_api::*;
//!
//! /// The keys of all edits before this one, and this one's own as a part of what the next ones see.
//! fn protect(access: &dyn ModelAccess, key: Vec<f32>) -> Result<(Option<Tensor>, Change), MethodError> {
//!     let earlier = access.statistic("keys")?;
//!     let value = Tensor::f32([1, key.len()], key)?;
//!     Ok((earlier, Change::Statistic(Increment { name: "keys".into(), fold: Fold::Stack, value })))
//! }
//!
//! let mut model = testing::StillModel::default();
//! assert_eq!(protect(&model, vec![1.0, 0.0])?.0, None);
//! model.statistics.insert("keys".into(), Tensor::f32([1, 2], vec![1.0, 0.0])?);
//! assert_eq!(protect(&model, vec![0.0, 1.0])?.0.map(|keys| keys.shape().to_vec()), Some(vec![1, 2]));
//! # Ok::<(), MethodError>(())
//! ```
