//! Sites whose edge has other axes than the site's name says: two nodes are put in, there and back, and between them
//! lies an edge that has the site's own.

use std::collections::BTreeSet;

use engraft_plugin_api::Site;

use super::rig::site_width;
use crate::anatomy::{Anatomy, Axes};
use crate::base::Result;
use crate::graph::{Attr, Graph, Patch};

/// The graph and the anatomy with edges in the axes of these sites; None if they have them already.
///
/// # Errors
/// `graph-patch-invalid`
pub(super) fn arrange(
    graph: &Graph,
    anatomy: &Anatomy,
    sites: impl Iterator<Item = Site>,
) -> Result<Option<(Graph, Anatomy)>> {
    let other = |site: &Site| anatomy.sites.get(site).is_some_and(|found| found.axes != Axes::Named);
    let sites: BTreeSet<Site> = sites.filter(other).collect();
    if sites.is_empty() {
        return Ok(None);
    }
    let mut arranged = anatomy.clone();
    let mut patch = Patch::new(graph);
    for site in sites {
        let Some(found) = arranged.sites.get_mut(&site) else { continue };
        let edge = found.edge.clone();
        // Another site of the same edge may stand before this one.
        let now = patch.current(&edge);
        let (named, back) = match found.axes {
            Axes::Named => continue,
            Axes::HeadsFirst => {
                let turn = [("perm", Attr::Ints(vec![0, 2, 1, 3]))];
                let named = patch.op("Transpose", &[&now], &turn)?;
                let back = patch.op("Transpose", &[&named], &turn)?;
                (named, back)
            }
            Axes::HeadsMerged => {
                let widths = site_width(anatomy, site).into_iter().map(|w| w as i64);
                let split: Vec<i64> = [0, 0].into_iter().chain(widths).collect();
                let split = patch.i64(&[split.len()], &split);
                let named = patch.op("Reshape", &[&now, &split], &[])?;
                let merged = patch.i64(&[3], &[0, 0, -1]);
                let back = patch.op("Reshape", &[&named, &merged], &[])?;
                (named, back)
            }
        };
        patch.shunt(&edge, &back)?;
        let inputs = arranged.weights.values_mut().filter_map(|w| w.input.as_mut());
        let fresh = arranged.inputs.cache.iter_mut().filter_map(|port| port.fresh.as_mut());
        inputs.chain(fresh).filter(|edge| **edge == now).for_each(|edge| edge.clone_from(&back));
        (found.edge, found.axes) = (named, Axes::Named);
    }
    Ok(Some((patch.apply()?, arranged)))
}
