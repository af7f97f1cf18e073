//! Edges that have other axes than the site they hold, or than a side branch needs: two nodes are put in, there and
//! back, and between them lies an edge that has the wanted ones.

use std::collections::BTreeMap;

use engraft_plugin_api::{Site, WeightRef};

use super::rig::site_width;
use crate::anatomy::{Anatomy, Axes};
use crate::base::Result;
use crate::graph::{Attr, Graph, Patch};

/// The graph and the anatomy with edges in the axes of these sites, and in three axes around these weights; None if
/// they have them already.
///
/// # Errors
/// `graph-patch-invalid`
pub(super) fn arrange(
    graph: &Graph,
    anatomy: &Anatomy,
    sites: impl Iterator<Item = Site>,
    weights: impl Iterator<Item = WeightRef>,
) -> Result<Option<(Graph, Anatomy)>> {
    let mut edges: BTreeMap<&str, (Axes, Vec<usize>)> = BTreeMap::new();
    for site in sites {
        let found = anatomy.sites.get(&site).filter(|found| found.axes != Axes::Named);
        edges.extend(found.map(|found| (found.edge.as_str(), (found.axes, site_width(anatomy, site)))));
    }
    for place in weights.filter_map(|weight| anatomy.weights.get(&weight)) {
        let ends = [&place.input, &place.output].into_iter().zip(place.merged).filter(|(_, merged)| *merged);
        let ends = ends.filter_map(|(edge, _)| edge.as_deref());
        edges.extend(ends.map(|edge| (edge, (Axes::PositionsMerged, Vec::new()))));
    }
    if edges.is_empty() {
        return Ok(None);
    }
    let mut arranged = anatomy.clone();
    let mut patch = Patch::new(graph);
    for (edge, (axes, widths)) in edges {
        let (named, back) = around(&mut patch, anatomy, edge, axes, &widths)?;
        patch.shunt(edge, &back)?;
        for found in arranged.sites.values_mut().filter(|found| found.edge == edge) {
            (found.edge, found.axes) = (named.clone(), Axes::Named);
        }
        for place in arranged.weights.values_mut() {
            for (i, end) in [&mut place.input, &mut place.output].into_iter().enumerate() {
                if end.as_deref() != Some(edge) {
                    continue;
                }
                if axes == Axes::PositionsMerged {
                    (*end, place.merged[i]) = (Some(named.clone()), false);
                } else if i == 0 {
                    *end = Some(back.clone());
                }
            }
        }
        let fresh = arranged.inputs.cache.iter_mut().filter_map(|port| port.fresh.as_mut());
        fresh.filter(|fresh| *fresh == edge).for_each(|fresh| fresh.clone_from(&back));
    }
    Ok(Some((patch.apply()?, arranged)))
}

/// The edge in the wanted axes, and the one in the old axes that is made of it.
fn around(
    patch: &mut Patch<'_>,
    anatomy: &Anatomy,
    edge: &str,
    axes: Axes,
    widths: &[usize],
) -> Result<(String, String)> {
    match axes {
        Axes::Named => Ok((edge.to_owned(), edge.to_owned())),
        Axes::HeadsFirst => {
            let turn = [("perm", Attr::Ints(vec![0, 2, 1, 3]))];
            let named = patch.op("Transpose", &[edge], &turn)?;
            let back = patch.op("Transpose", &[&named], &turn)?;
            Ok((named, back))
        }
        Axes::HeadsApart => {
            let axis = patch.i64(&[1], &[3]);
            let named = patch.op("Squeeze", &[edge, &axis], &[])?;
            let back = patch.op("Unsqueeze", &[&named, &axis], &[])?;
            Ok((named, back))
        }
        Axes::HeadsMerged => {
            let split: Vec<i64> = [0, 0].into_iter().chain(widths.iter().map(|&w| w as i64)).collect();
            let split = patch.i64(&[split.len()], &split);
            let named = patch.op("Reshape", &[edge, &split], &[])?;
            let merged = patch.i64(&[3], &[0, 0, -1]);
            let back = patch.op("Reshape", &[&named, &merged], &[])?;
            Ok((named, back))
        }
        Axes::PositionsMerged => {
            let rows = patch.op("Shape", &[&anatomy.inputs.ids], &[])?;
            let rest = patch.i64(&[1], &[-1]);
            let split = patch.op("Concat", &[&rows, &rest], &[("axis", Attr::Int(0))])?;
            let named = patch.op("Reshape", &[edge, &split], &[])?;
            // As the old edge is reshaped: its own extents, whatever the width.
            let extents = patch.op("Shape", &[edge], &[])?;
            let back = patch.op("Reshape", &[&named, &extents], &[])?;
            Ok((named, back))
        }
    }
}
