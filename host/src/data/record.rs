//! One record of any data set.

use engraft_plugin_api::EditRequest;

/// A request and what it is measured by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Unique within the data set; the same as the request's.
    pub id: String,
    /// What is edited: all that a method sees of the record.
    pub request: EditRequest,
    /// The request's prompt with its subject filled in.
    pub prompt: String,
    /// What the fact says of its subject, in the data set's own spelling, where it tells.
    pub relation: Option<String>,
    /// What the edit is measured by: never seen by a method.
    pub probes: Probes,
}

/// The prompts that measure an edit besides its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// The same fact asked in other words; the edit should hold there.
    pub paraphrases: Vec<Probe>,
    /// Facts of other subjects; the edit should not touch them.
    pub neighbours: Vec<Probe>,
    /// Facts that follow from the edited one.
    pub consequences: Vec<Probe>,
    /// Beginnings for the model to continue freely.
    pub generation: Vec<String>,
}

/// A prompt and what should follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The whole prompt, with no hole in it and no space at its end.
    pub prompt: String,
    /// What should follow, without a leading space: an edit's target for a paraphrase, the truth for a neighbour.
    pub expected: String,
    /// What should lose against it in a comparison of probabilities, without a leading space.
    pub rival: Option<String>,
}
