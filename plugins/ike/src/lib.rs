//! IKE (Zheng et al. 2023): the model's weights stay, and a request that a new fact concerns is asked again with the
//! fact, and demonstrations of how to use one, before it. Without demonstrations it is the bare form (ICE).
//!
//! `keys` finds the fact that a request concerns, `demonstrations` builds what is shown with it, `prompt` writes the
//! prompt, `memory` is what a patch and an artefact hold, `method` has the calls.

mod demonstrations;
mod keys;
mod memory;
mod method;
mod params;
mod prompt;

pub use demonstrations::{Kind, kinds};
pub use keys::Keys;
pub use memory::{Fact, Lesson, Memory};
pub use method::Ike;
pub use params::{IkeParams, Scope};
pub use prompt::Template;

engraft_plugin_api::export_method!(Ike);
