//! The contract between the engraft host and its editing methods: plain data and one trait.

pub mod access;
pub mod change;
pub mod descriptor;
pub mod error;
pub mod method;
pub mod params;
pub mod request;
pub mod site;
pub mod tensor;
pub mod weight;

pub use access::{
    Decoding, GenerateRequest, GradientReply, GradientRequest, KlDirection, Level, ModelAccess, ModelFacts, Place,
    Poke, RunReply, RunRequest, SecondMoment, Tap, Term, Tokens, Wrt,
};
pub use change::{Change, Delta};
pub use descriptor::{Capabilities, Descriptor, Family};
pub use error::MethodError;
pub use method::{EditMethod, Plugin};
pub use params::{ParamKind, ParamSpec, ParamValue, Params};
pub use request::{EditRequest, Target};
pub use site::{BlockSite, Site};
pub use tensor::{Data, Tensor};
pub use weight::{Role, WeightRef};
