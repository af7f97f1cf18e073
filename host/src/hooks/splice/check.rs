//! What is refused of a splice: everything that can be seen before it runs.

use std::collections::HashSet;
use std::path::Path;

use engraft_plugin_api::change::splice::{GATE, MASK, POSITIONS, PROMPT_END, gate_of, read_of};
use engraft_plugin_api::{Fold, Site, Splice};

use super::{Fed, Graft, extents, stacked};
use crate::anatomy::Anatomy;
use crate::base::{Code, Error, Hash, Result};
use crate::graph::{DType, Dim, Graph, Location, Port, Shapes, upstream};
use crate::hooks::codes;
use crate::hooks::rig::pokable;

/// Reads and checks the graph of a splice.
pub(super) fn read(model: &Graph, anatomy: &Anatomy, splice: &Splice, id: Hash) -> Result<Graft> {
    let fault = Fault(splice);
    plain(&fault, splice)?;
    let written = anatomy.site(pokable(splice.writes)?)?;
    let index = model.index();
    let before = upstream(&index, [written], &HashSet::new());
    for &site in &splice.reads {
        let edge = anatomy.site(site)?;
        let comes = edge == written || index.producer_id(edge).is_none_or(|producer| before.contains(&producer));
        if !comes {
            let text = format!("reads `{site}`, which is not computed before what it writes");
            return fault.of(&codes::SPLICE_READ, text);
        }
    }
    let graph = Graph::parse(&splice.graph, Path::new("splice.onnx"));
    let graph =
        graph.map_err(|e| fault.error(&codes::SPLICE_GRAPH, "has a graph that cannot be read".into()).because(e))?;
    for initializer in graph.initializers() {
        if initializer.location()? != Location::Inline {
            let text = format!("keeps `{}` in another file", initializer.name());
            return fault.of(&codes::SPLICE_GRAPH, text);
        }
    }
    if let Some(node) = graph.nodes().iter().find(|node| !node.domain().is_empty()) {
        let text =
            format!("uses the operator `{}` of the domain `{}`: expected standard operators", node.op(), node.domain());
        return fault.of(&codes::SPLICE_OPERATOR, text);
    }
    if let Some(node) = graph.nodes().iter().find(|node| node.has_subgraph()) {
        return fault.of(&codes::SPLICE_GRAPH, format!("holds a graph within {}", node.label()));
    }
    let graph = graph
        .for_opset(model.opset())
        .map_err(|e| fault.error(&codes::SPLICE_OPERATOR, "cannot be put into this model's graph".into()).because(e))?;
    let extents = (0..splice.tables.len()).map(|i| table(&fault, &graph, splice, i)).collect::<Result<Vec<_>>>()?;
    let mut inputs = Vec::new();
    let mut ports = Vec::new();
    for declared in graph.inputs() {
        let (fed, dtype, dims) = input(&fault, anatomy, splice, &extents, &declared.name)?;
        let port = Port::new(&declared.name, dtype, dims);
        compare(&fault, &declared, &port)?;
        inputs.push((declared.name, fed));
        ports.push(port);
    }
    let graph = graph.with_inputs(&ports);
    output(&fault, anatomy, &graph)?;
    let graft = Graft { id, splice: splice.clone(), graph, inputs, tables: extents };
    tables(&graft, splice)?;
    Ok(graft)
}

/// The splice that an error is about.
struct Fault<'s>(&'s Splice);

impl Fault<'_> {
    fn error(&self, code: &'static Code, what: String) -> Error {
        Error::new(code, format!("the splice at `{}` {what}", self.0.writes))
    }

    fn of<T>(&self, code: &'static Code, what: String) -> Result<T> {
        Err(self.error(code, what))
    }
}

/// The extents of a table. The name that the graph gives to the number of entries is kept.
fn table(fault: &Fault<'_>, graph: &Graph, splice: &Splice, i: usize) -> Result<Vec<Dim>> {
    let table = &splice.tables[i];
    let mut dims: Vec<Dim> = table.value.shape().iter().map(|&d| Dim::Known(d)).collect();
    if !stacked(splice, i) {
        return Ok(dims);
    }
    let declared = graph.inputs().into_iter().find(|port| port.name == table.name).and_then(|port| port.dims);
    match (dims.first_mut(), declared.as_deref().and_then(<[_]>::first)) {
        (Some(_), Some(Dim::Known(n))) => {
            let text = format!(
                "has {n} entries of the table `{}` in its graph: expected a named extent, for it grows with each patch",
                table.name
            );
            return fault.of(&codes::SPLICE_INPUT, text);
        }
        (Some(first), Some(Dim::Symbol(name))) => *first = Dim::symbol(&format!("entries.{name}")),
        (Some(first), None) => *first = Dim::symbol(&format!("entries of {}", table.name)),
        (None, _) => {}
    }
    Ok(dims)
}

/// What an input is, with the type and the extents of what is fed.
fn input(
    fault: &Fault<'_>,
    anatomy: &Anatomy,
    splice: &Splice,
    tables: &[Vec<Dim>],
    name: &str,
) -> Result<(Fed, DType, Vec<Dim>)> {
    let [rows, columns] = ["rows", "columns"].map(Dim::symbol);
    match name {
        POSITIONS => return Ok((Fed::Positions, DType::I64, vec![rows, columns])),
        MASK => return Ok((Fed::Mask, DType::F32, vec![rows, columns])),
        PROMPT_END => return Ok((Fed::PromptEnd, DType::I64, vec![rows])),
        GATE => return Ok((Fed::Gate, DType::F32, vec![rows])),
        _ => {}
    }
    let called = |(i, site): &(usize, &Site)| site.to_string() == name || read_of(*i) == name;
    if let Some((_, &site)) = splice.reads.iter().enumerate().find(called) {
        return Ok((Fed::Site(site), DType::F32, extents(anatomy, site)));
    }
    for (i, table) in splice.tables.iter().enumerate() {
        if table.name == name {
            let dtype = if table.value.as_f32().is_ok() { DType::F32 } else { DType::I64 };
            return Ok((Fed::Table(i), dtype, tables[i].clone()));
        }
        if stacked(splice, i) && gate_of(&table.name) == name {
            return Ok((Fed::TableGate(i), DType::F32, vec![rows, tables[i][0].clone()]));
        }
    }
    let mut known: Vec<String> = splice.reads.iter().map(ToString::to_string).collect();
    known.extend((0..splice.reads.len()).map(read_of));
    known.extend(splice.tables.iter().map(|table| table.name.clone()));
    known.extend((0..tables.len()).filter(|&i| stacked(splice, i)).map(|i| gate_of(&splice.tables[i].name)));
    known.extend([POSITIONS, MASK, PROMPT_END, GATE].map(str::to_owned));
    let text = format!("has an input `{name}`, which nothing is fed to");
    Err(fault.error(&codes::SPLICE_INPUT, text).help(format!("its inputs may be: {}", known.join(", "))))
}

/// That what the graph declares of an input agrees with what is fed.
fn compare(fault: &Fault<'_>, declared: &Port, fed: &Port) -> Result<()> {
    let words = |port: &Port| match &port.dims {
        Some(dims) => {
            let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
            format!("{} [{}]", port.dtype.name(), dims.join(", "))
        }
        None => port.dtype.name().to_owned(),
    };
    let differ = |(a, b): (&Dim, &Dim)| a.known().zip(b.known()).is_some_and(|(a, b)| a != b);
    // A number for rows or columns would hold for some requests only.
    let fixed = |(a, b): (&Dim, &Dim)| a.known().is_some() && b.known().is_none();
    let shapes = declared.dims.iter().zip(&fed.dims);
    let wrong =
        shapes.clone().any(|(a, b)| a.len() != b.len() || a.iter().zip(b).any(|pair| differ(pair) || fixed(pair)));
    if declared.dtype == fed.dtype && !wrong {
        return Ok(());
    }
    let text = format!("declares its input `{}` as {}, what is fed is {}", declared.name, words(declared), words(fed));
    fault.of(&codes::SPLICE_INPUT, text)
}

/// That the graph is made of operators that are followed, and that its one output has the extents of what is written.
fn output(fault: &Fault<'_>, anatomy: &Anatomy, graph: &Graph) -> Result<()> {
    let shapes = Shapes::infer(graph)
        .map_err(|e| fault.error(&codes::SPLICE_GRAPH, "has a graph that contradicts itself".into()).because(e))?;
    let followed = |edge: &str| shapes.dtype(edge).is_some();
    for node in graph.nodes() {
        if !node.outputs().iter().any(|edge| followed(edge)) {
            let text = format!(
                "uses the operator `{}` of the standard domain `ai.onnx`, which is not one that a splice can be made of",
                node.op()
            );
            return fault.of(&codes::SPLICE_OPERATOR, text);
        }
    }
    let [port] = &graph.outputs()[..] else {
        return fault.of(&codes::SPLICE_GRAPH, format!("has {} outputs: expected one", graph.outputs().len()));
    };
    let words = |dims: &[Dim]| dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let wanted = extents(anatomy, fault.0.writes);
    let dtype = shapes.dtype(&port.name).unwrap_or(port.dtype);
    if dtype != DType::F32 {
        return fault.of(&codes::SPLICE_OUTPUT, format!("makes {}: expected float32", dtype.name()));
    }
    match shapes.dims(&port.name) {
        Some(dims) if *dims == wanted[..] => Ok(()),
        Some(dims) => {
            let text = format!("makes values of [{}]: expected [{}]", words(dims), words(&wanted));
            Err(fault.error(&codes::SPLICE_OUTPUT, text).help(
                "let the last node combine the new value with an input that has the whole shape, as `Where` does",
            ))
        }
        None => {
            let text =
                format!("makes values whose extents do not follow from its inputs: expected [{}]", words(&wanted));
            fault.of(&codes::SPLICE_OUTPUT, text)
        }
    }
}

/// What can be seen of a splice without its graph.
fn plain(fault: &Fault<'_>, splice: &Splice) -> Result<()> {
    splice.check().map_err(|error| {
        let code = if error.code == "splice-empty" { &codes::SPLICE_GRAPH } else { &codes::SPLICE_INPUT };
        Error::new(code, error.message)
    })?;
    for table in &splice.tables {
        let why = match table.value.as_f32() {
            _ if table.name.is_empty() => "a table without a name".to_owned(),
            Ok(values) if values.iter().any(|v| !v.is_finite()) => {
                format!("a value in its table `{}` that is not finite", table.name)
            }
            _ if table.fold == Fold::Stack && table.value.shape().is_empty() => {
                format!("a table `{}` without an axis to be stacked along", table.name)
            }
            _ => continue,
        };
        return fault.of(&codes::SPLICE_TABLE, format!("has {why}"));
    }
    Ok(())
}

/// That the tables are whole, and that stacked ones whose first extent has one name have as many entries.
pub(super) fn tables(graft: &Graft, splice: &Splice) -> Result<()> {
    plain(&Fault(splice), splice)?;
    let count = |i: usize| splice.tables[i].value.shape().first().copied().unwrap_or(0);
    let of = |i: usize| graft.tables[i].first().filter(|dim| dim.known().is_none() && stacked(splice, i));
    for i in 0..splice.tables.len() {
        let same = (0..i).find(|&j| of(j).is_some() && of(j) == of(i) && count(j) != count(i));
        if let Some(j) = same {
            let (a, b) = (&splice.tables[j], &splice.tables[i]);
            let text = format!(
                "has {} entries of `{}` and {} of `{}`, which its graph gives one extent",
                count(j),
                a.name,
                count(i),
                b.name
            );
            return Fault(splice).of(&codes::SPLICE_TABLE, text);
        }
    }
    Ok(())
}
