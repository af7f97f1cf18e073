//! Nodes that draw random numbers, as dropout does in training: a graph that has one gives another answer in every run.

use super::codes;
use super::look::view::View;
use crate::base::Error;
use crate::graph::Node;

const RANDOM: [&str; 6] =
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"];

/// What is wrong, if something is.
pub(super) fn problem(view: &View<'_>) -> Option<Error> {
    let drops = |node: &&Node| node.is("Dropout") && !view.keeps(node);
    let found: Vec<&Node> =
        view.graph.nodes().iter().filter(|n| drops(n) || RANDOM.iter().any(|op| n.is(op))).collect();
    let first = *found.first()?;
    let more = if found.len() > 1 { format!(" and {} more like it", found.len() - 1) } else { String::new() };
    let how = match first.input(2).filter(|_| first.is("Dropout")) {
        Some(mode) if view.is_fixed(mode) => format!("dropout is at work, its training mode `{mode}` is on"),
        Some(mode) => format!("dropout is at work where `{mode}` says so, which is not fixed"),
        None if first.is("Dropout") => "dropout is at work, which is not marked as a test's".to_owned(),
        None => "random numbers are drawn".to_owned(),
    };
    let text = format!("in {}{more} {how}: expected a graph that gives one answer", first.label());
    let advice =
        "export the model for inference: with torch, after `model.eval()` and with `training=TrainingMode.EVAL`";
    Some(Error::new(&codes::TRAINING, text).help(advice))
}
