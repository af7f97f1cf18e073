//! The contract between the engraft host and its editing methods: plain data and one trait.
//!
//! A method implements [`EditMethod`]: it asks the host what it needs through [`ModelAccess`] and returns [`Change`]s.
//! It never touches the model; the host checks the changes, applies them, proves their effect and can undo them. A
//! [`Plugin`] describes the method and creates it; [`export_method!`] makes the library that is being built a plugin.
//!
//! # A whole plugin
//!
//! It adds `strength` to one column of an MLP's output matrix, which is a delta of rank one. The crate needs
//! `crate-type = ["cdylib"]` and no dependency but this one.
//!
//! ```
//! use engraft_plugin_api::*;
//!
//! struct Nudge {
//!     layer: usize,
//!     strength: f32,
//! }
//!
//! impl EditMethod for Nudge {
//!     fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
//!         let weight = WeightRef::Block(self.layer, Role::MlpOut);
//!         let mut changes = Vec::new();
//!         for request in requests {
//!             if access.cancelled() {
//!                 return Err(MethodError::cancelled());
//!             }
//!             let [rows, columns] = access.weight(weight)?.shape()[..] else {
//!                 return Err(MethodError::new("nudge-shape", "the weight is not a matrix").label("weight", weight));
//!             };
//!             let column = request.target.new.len() % columns;
//!             let mut right = vec![0.0; columns];
//!             right[column] = self.strength;
//!             changes.push(Change::Weight {
//!                 weight,
//!                 delta: Delta::LowRank {
//!                     left: Tensor::f32([rows, 1], vec![1.0; rows])?,
//!                     right: Tensor::f32([1, columns], right)?,
//!                 },
//!             });
//!         }
//!         Ok(changes)
//!     }
//! }
//!
//! impl Plugin for Nudge {
//!     fn describe() -> Descriptor {
//!         Descriptor {
//!             name: "nudge".into(),
//!             version: env!("CARGO_PKG_VERSION").into(),
//!             family: Family::InternalModification,
//!             summary: "Adds a constant to one column of an MLP.".into(),
//!             paper: "none".into(),
//!             capabilities: Capabilities { batch: true, ..Capabilities::default() },
//!             params: vec![
//!                 ParamSpec::required("layer", ParamKind::Layer, "the layer to edit"),
//!                 ParamSpec::new(
//!                     "strength",
//!                     ParamKind::Number { min: -1.0, max: 1.0 },
//!                     ParamValue::Number(0.01),
//!                     "what is added",
//!                 ),
//!             ],
//!         }
//!     }
//!
//!     fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
//!         Ok(Box::new(Nudge { layer: params.index("layer")?, strength: params.number("strength")? as f32 }))
//!     }
//! }
//!
//! export_method!(Nudge);
//!
//! // What follows is the plugin's test: the same functions that a host calls in the library, and a model at rest.
//! # fn main() -> Result<(), MethodError> {
//! let module = abi::ForeignModule::of::<Nudge>();
//! let given = [("layer".to_owned(), ParamValue::Integer(0))].into();
//! let method = module.create(&Params::resolve(&given, &module.describe()?.params)?)?;
//!
//! let weight = WeightRef::Block(0, Role::MlpOut);
//! let model = testing::StillModel::with_weights([(weight, Tensor::zeros([3, 2]))]);
//! let request = EditRequest {
//!     id: "1".into(),
//!     prompt: "{} lives in".into(),
//!     subject: Some("Ada Vorn".into()),
//!     target: Target { new: "Kelm".into(), old: None },
//! };
//!
//! let changes = method.edit(&model, &[request])?;
//! let Change::Weight { weight: edited, delta: Delta::LowRank { left, right } } = &changes[0] else { panic!() };
//! assert_eq!((*edited, left.shape(), right.as_f32()?), (weight, &[3, 1][..], &[0.01, 0.0][..]));
//! assert!(method.edit(&model, &[])?.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! [`guide`] goes on from here: neurons, splices, routing, interception and training.
//!
//! # What plugins may rely on
//!
//! The contract is version 1, and closed: the types at the border are laid out as they are, for good. A plugin built with
//! any 1.x of this crate loads in every host of any 1.x ([`fits`](abi::ApiVersion::fits)); which compiler built either does
//! not matter. What grows is data: new kinds of changes, calls and facts, each with a code where the other side does not
//! know it (`abi-op`, `change-unsupported`). Another layout would be a version 2, which hosts would read beside this one. A panic becomes an error of the call; a crash, an abort or a hang of
//! native code cannot be contained, so plugins are trusted code. Libraries are never unloaded.

pub mod abi;
pub mod access;
pub mod change;
pub mod descriptor;
pub mod error;
pub mod guide;
pub mod method;
pub mod params;
pub mod request;
pub mod site;
pub mod tensor;
pub mod testing;
pub mod weight;

pub use access::{
    Decoding, GenerateRequest, GradientReply, GradientRequest, KlDirection, Level, ModelAccess, ModelFacts, Module,
    ModuleCall, ModuleGraph, ModuleId, ModuleReply, ModuleSource, ModuleVariable, OwnPatch, Place, Poke, RunReply,
    RunRequest, Sampling, SecondMoment, Tap, Term, Tokens, Wrt,
};
pub use change::{Activation, Change, Delta, Fold, Increment, SlotGate, Slots, Splice};
pub use descriptor::{Calls, Capabilities, Descriptor, Family};
pub use error::MethodError;
pub use method::{
    ActivePatch, Artefact, Checkpoint, EditMethod, Example, InterceptCall, InterceptRow, Plugin, Route, RouteQuery,
    TrainData, TrainRecord,
};
pub use ndarray;
pub use params::{ParamKind, ParamSpec, ParamValue, Params};
pub use request::{EditRequest, Target};
pub use site::{BlockSite, Site};
pub use tensor::{Data, Floats, Tensor};
pub use weight::{Role, WeightRef};
