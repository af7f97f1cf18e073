//! What an MLP computes between its maps: `mlp.post` at a token must follow from `mlp.pre` (and `mlp.pre_linear`) at that
//! token and nothing else. No activation function is named: what one token had is put at another, and must give there
//! what it gave.

use engraft_plugin_api::{BlockSite, Place, Poke, Site, Tensor};
use ndarray::{Array2, ArrayView2};

use super::{Deviation, Report, shape};
use crate::anatomy::parts::Anatomy;
use crate::base::Result;

/// Checks the blocks whose `mlp.post` and `mlp.pre` were found.
///
/// `run` runs rows of one length, without padding, overwrites sites, and returns the activations at others; it is asked
/// twice for each block.
///
/// # Errors
/// `anatomy-check-shape` if an activation has another shape than the anatomy says, and what `run` returns.
pub fn activations(
    anatomy: &Anatomy,
    mut run: impl FnMut(&[Poke], &[Site]) -> Result<Vec<Tensor>>,
) -> Result<Vec<Deviation>> {
    let mut rows = Vec::new();
    for layer in 0..anatomy.layers {
        let [pre, linear, post] =
            [BlockSite::MlpPre, BlockSite::MlpPreLinear, BlockSite::MlpPost].map(|site| Site::Block(layer, site));
        if !anatomy.sites.contains_key(&pre) || !anatomy.sites.contains_key(&post) {
            continue;
        }
        let gated = anatomy.sites.contains_key(&linear);
        let reads = if gated { vec![pre, linear] } else { vec![pre] };
        let all: Vec<Site> = reads.iter().copied().chain([post]).collect();
        let before = run(&[], &all)?;
        let [.., length, _] = *before[0].shape() else { continue };
        let moved = before.iter().map(moved).collect::<Result<Vec<_>>>()?;
        let places: Vec<Place> =
            (0..moved[0].nrows()).map(|token| Place { row: token / length, pos: token % length }).collect();
        let overwrite = |(&site, values): (&Site, &Array2<f32>)| Poke {
            site,
            places: places.clone(),
            values: Tensor::from_array(&values.view().into_dyn()),
        };
        let overwrites: Vec<Poke> = reads.iter().zip(&moved).map(overwrite).collect();
        let after = run(&overwrites, &[post])?;
        let identity = match gated {
            true => "mlp.post follows from mlp.pre, mlp.pre_linear",
            false => "mlp.post follows from mlp.pre",
        };
        Report { layer: Some(layer), rows: &mut rows }.compare(identity, tokens(&after[0])?, &moved[reads.len()])?;
    }
    Ok(rows)
}

/// One row a token.
fn tokens(tensor: &Tensor) -> Result<ArrayView2<'_, f32>> {
    let width = tensor.shape().last().copied().unwrap_or(0);
    ArrayView2::from_shape((tensor.len() / width.max(1), width), tensor.as_f32().map_err(shape)?).map_err(shape)
}

/// Every token with what the next one had, the last with what the first had.
fn moved(tensor: &Tensor) -> Result<Array2<f32>> {
    let from = tokens(tensor)?;
    let n = from.nrows();
    Ok(Array2::from_shape_fn(from.dim(), |(token, i)| from[[(token + 1) % n, i]]))
}
