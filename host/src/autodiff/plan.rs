//! Which nodes are differentiated, towards which of their inputs: those that lie between the variables and the seeds
//! along paths of floating-point data. Refuses what no rule covers.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::codes;
use super::facts::Facts;
use super::rules::{self, Rule};
use super::tape::Grad;
use crate::base::{Error, Result};
use crate::graph::Node;

/// A node to be differentiated.
pub(super) struct Visit<'g> {
    pub(super) node: &'g Node,
    pub(super) rule: Rule,
    /// The inputs that need a gradient.
    pub(super) wanted: Vec<usize>,
    /// The outputs through which a gradient can come.
    pub(super) live: Vec<usize>,
    /// The gradient of each output; filled in when the node's turn comes.
    pub(super) grads: Vec<Option<Grad>>,
}

impl Visit<'_> {
    /// The gradient of the first output.
    pub(super) fn grad(&self) -> Grad {
        self.grads.first().cloned().flatten().expect("a rule for one output is only visited when it has a gradient")
    }

    /// The edge of an input that is there.
    pub(super) fn input(&self, slot: usize) -> &str {
        self.node.input(slot).unwrap_or_default()
    }

    pub(super) fn output(&self) -> &str {
        self.node.output(0)
    }

    pub(super) fn wants(&self, slot: usize) -> bool {
        self.wanted.contains(&slot)
    }
}

/// The nodes on the way, in the order of the graph.
pub(super) struct Plan<'g> {
    pub(super) visits: Vec<Visit<'g>>,
    needed: HashSet<&'g str>,
}

impl<'g> Plan<'g> {
    /// Finds the nodes between `wrt` and `seeds`.
    pub(super) fn new(facts: &Facts<'g, '_>, seeds: &[&str], wrt: &[&str]) -> Result<Self> {
        let nodes = facts.graph.nodes();
        let edges = edges(facts);
        let inputs = facts.graph.inputs();
        // An input that nobody reads is an edge on which nothing depends.
        let find = |edge: &str, what: &str| match edges.get(edge) {
            Some(&found) => Ok(Some(found)),
            None if inputs.iter().any(|i| i.name == edge) => Ok(None),
            None => Err(Error::new(&codes::GRADIENT_EDGE, format!("{what} `{edge}`, which the graph does not have"))),
        };
        // From the variables on: which edges depend on them, and through which edge they first do.
        let mut dependent: HashMap<&str, Option<&str>> = HashMap::new();
        for edge in wrt {
            if let Some(edge) = find(edge, "a gradient was asked for with respect to")? {
                dependent.insert(edge, None);
            }
        }
        let mut slots: Vec<Vec<usize>> = Vec::with_capacity(nodes.len());
        for node in nodes {
            let carries = |slot: &usize| {
                node.input(*slot).is_some_and(|edge| dependent.contains_key(edge) && facts.may_be_float(edge))
            };
            let here: Vec<usize> = rules::data_slots(facts, node).into_iter().filter(carries).collect();
            if let Some(via) = here.first().and_then(|&slot| node.input(slot)) {
                for output in node.outputs().iter().filter(|o| !o.is_empty() && facts.may_be_float(o)) {
                    dependent.entry(output).or_insert(Some(via));
                }
            }
            slots.push(here);
        }
        // From the seeds back.
        let mut needed: HashSet<&str> = HashSet::new();
        for edge in seeds {
            let found = find(edge, "a cotangent was given for")?;
            needed.extend(found.filter(|edge| dependent.contains_key(edge)));
        }
        let mut refused = Vec::new();
        let mut visits = Vec::new();
        for (node, wanted) in nodes.iter().zip(slots).rev() {
            let live: Vec<usize> = (0..node.outputs().len()).filter(|&i| needed.contains(node.output(i))).collect();
            if live.is_empty() || wanted.is_empty() {
                continue;
            }
            needed.extend(wanted.iter().filter_map(|&slot| node.input(slot)));
            let Some(rule) = rules::find(node) else {
                refused.push((node, wanted, "there is no gradient rule for this operator".to_owned()));
                continue;
            };
            let visit = Visit { node, rule, wanted, live, grads: Vec::new() };
            match (visit.rule.check)(facts, &visit) {
                Ok(()) => visits.push(visit),
                Err(reason) => refused.push((node, visit.wanted, reason)),
            }
        }
        visits.reverse();
        match refused.last() {
            None => Ok(Self { visits, needed }),
            Some((node, wanted, reason)) => {
                let start = wanted.first().and_then(|&slot| node.input(slot)).unwrap_or_default();
                let path = path(&dependent, start);
                let text = format!("{} cannot be differentiated: {reason}; it is reached by {path}", node.label());
                let all: BTreeSet<&str> = refused.iter().map(|(node, ..)| node.op()).collect();
                let all = all.into_iter().collect::<Vec<_>>().join(", ");
                Err(Error::new(&codes::GRADIENT_MISSING, text).help(format!("operators in the way: {all}")))
            }
        }
    }

    /// True if the gradient of the edge matters.
    pub(super) fn needs(&self, edge: &str) -> bool {
        self.needed.contains(edge)
    }
}

fn edges<'g>(facts: &Facts<'g, '_>) -> HashSet<&'g str> {
    let graph = facts.graph;
    let inside = graph.nodes().iter().flat_map(|n| n.inputs().iter().chain(n.outputs()).map(String::as_str));
    inside.filter(|e| !e.is_empty()).chain(graph.initializers().map(|i| i.name())).collect()
}

/// The edges from a variable to `end`.
fn path(dependent: &HashMap<&str, Option<&str>>, end: &str) -> String {
    let mut steps = vec![end];
    while let Some(Some(before)) = dependent.get(steps[steps.len() - 1]) {
        steps.push(before);
    }
    steps.iter().rev().map(|e| format!("`{e}`")).collect::<Vec<_>>().join(" -> ")
}
