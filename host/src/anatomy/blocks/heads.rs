//! Queries, keys and values: the linear map, or the part of one, that makes them, and the edge that holds them in
//! heads before rotary embedding and norms.

use super::sources::{self, Source};
use crate::anatomy::look::region::Region;
use crate::anatomy::look::view::View;
use crate::anatomy::parts::Axes;
use crate::anatomy::pieces::linear::{Linears, Projection};
use crate::anatomy::pieces::norms::{Norm, Norms};
use crate::graph::Node;

/// Queries, keys or values.
pub(super) struct Heads<'l, 'g> {
    pub projection: Projection<'l, 'g>,
    /// The edge that holds them, and in which axes.
    pub edge: Option<(&'g str, Axes)>,
    pub heads: usize,
    pub d_head: usize,
    /// The node that changes them before any edge holds them and nothing else.
    pub altered: Option<&'g Node>,
}

/// What the factor of a score or of the mixed values is computed from, in heads of a width.
///
/// # Errors
/// Why no one linear map makes it.
pub(super) fn read<'l, 'g>(
    view: &View<'g>,
    linears: &'l Linears<'g>,
    region: &Region<'g>,
    operand: &'g str,
    d_head: Option<usize>,
) -> Result<Heads<'l, 'g>, String> {
    let found = sources::find(view, linears, region, operand, true);
    let [source] = &found[..] else {
        let list: Vec<String> = found.iter().map(|s| format!("`{}`", s.linear.output)).collect();
        return Err(match list.len() {
            0 => "no linear map that is read makes them".to_owned(),
            n => format!("{n} linear maps make them together: {}", list.join(", ")),
        });
    };
    let projection =
        source.projection().ok_or("which outputs of their packed linear map they are could not be followed")?;
    // Where extents are not known, the axes of the nearest edge in heads have to do.
    let d_head = d_head.or_else(|| source.edge(|l| l.heads().or(l.heads_first())).map(|(_, (_, d))| d));
    let d_head = d_head.ok_or("the width of their heads is not known")?;
    let width = projection.width();
    if d_head == 0 || width % d_head != 0 {
        return Err(format!("they are {width} wide and multiplied in heads of {d_head}"));
    }
    let heads = width / d_head;
    Ok(Heads { projection, edge: edge(source, (heads, d_head)), heads, d_head, altered: source.altered })
}

fn edge<'g>(source: &Source<'_, 'g>, wanted: (usize, usize)) -> Option<(&'g str, Axes)> {
    let fits = |found: Option<(usize, usize)>| found.filter(|&f| f == wanted);
    let named = source.edge(|l| fits(l.heads())).map(|(edge, _)| (edge, Axes::Named));
    let first = || source.edge(|l| fits(l.heads_first())).map(|(edge, _)| (edge, Axes::HeadsFirst));
    let merged = || source.edge(|l| l.is_flat().then_some(())).map(|(edge, ())| (edge, Axes::HeadsMerged));
    let apart = || source.edge(|l| fits(l.heads_apart())).map(|(edge, _)| (edge, Axes::HeadsApart));
    named.or_else(first).or_else(apart).or_else(merged)
}

/// The norms between queries or keys and the scores.
pub(super) fn norms<'n, 'g>(
    view: &View<'g>,
    linears: &Linears<'g>,
    norms: &'n Norms<'g>,
    region: &Region<'g>,
    operand: &'g str,
) -> Vec<&'n Norm<'g>> {
    let mut found: Vec<&Norm<'g>> = Vec::new();
    view.upstream(operand, |edge| {
        let inside = region.has(edge) && linears.making(edge).is_none();
        found.extend(norms.making(edge).filter(|_| inside));
        !inside
    });
    found
}
