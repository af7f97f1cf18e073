//! What a method says of itself before it is created.

use crate::params::ParamSpec;

/// The self-description of a method.
#[derive(Clone, Debug, PartialEq)]
pub struct Descriptor {
    /// The name users write in `plugin = "..."`: lower case, digits and dashes.
    pub name: String,
    /// The version of the plugin.
    pub version: String,
    /// Which family of the field the method belongs to.
    pub family: Family,
    /// One sentence.
    pub summary: String,
    /// The source: authors, year, title.
    pub paper: String,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Its parameters.
    pub params: Vec<ParamSpec>,
}

/// The two families of model editing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The model's weights stay; knowledge is added beside them.
    ExternalExtension,
    /// The model's weights change.
    InternalModification,
}

impl Family {
    /// The spelling in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExternalExtension => "external extension",
            Self::InternalModification => "internal modification",
        }
    }
}

/// What a method can do; a mode it cannot do is refused before anything runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Several requests in one call of `edit`.
    pub batch: bool,
    /// Edits on top of earlier edits.
    pub sequential: bool,
    /// Every request needs a subject.
    pub needs_subject: bool,
}

/// Which calls a method implements besides `edit`; no other is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// [`train`](crate::EditMethod::train), and [`create_trained`](crate::Plugin::create_trained) takes its artefact.
    pub train: bool,
    /// `edit`, `route` and `intercept` need an artefact.
    pub needs_artefact: bool,
    /// [`route`](crate::EditMethod::route).
    pub route: bool,
    /// [`intercept`](crate::EditMethod::intercept).
    pub intercept: bool,
}
