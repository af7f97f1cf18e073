//! The identities that hold between the parts of a decoder, computed on recorded activations: what `inspect --check`
//! prints. An anatomy that names a wrong edge fails them.

use std::collections::BTreeMap;

use engraft_plugin_api::{BlockSite, Role, Site, Tensor, WeightRef};
use ndarray::{Array1, Array2, Array4, ArrayView2, ArrayView4, Axis, Ix4, s};
use serde::Serialize;

use super::codes;
use super::parts::Anatomy;
use crate::base::{Error, Result};

/// How far one identity is from holding in one place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Deviation {
    /// The identity in the vocabulary of sites and weights.
    pub identity: &'static str,
    /// The block, for identities inside one.
    pub layer: Option<usize>,
    /// The largest absolute difference between both sides.
    pub error: f32,
    /// The largest absolute value of the left side; the error is to be judged against it.
    pub scale: f32,
}

/// Checks every identity whose parts the graph has.
///
/// `tokens` and `positions` are what the run was given, `i64[batch, pos]`, without padding: a query that attends
/// nowhere has no weights that sum to 1. `taps` runs the model and returns the activations at the sites in order;
/// it is asked once for the ends and once for every block, so that one block's activations are held at a time.
/// `weights` returns a weight as methods see it: `[in, out]`, vectors `[out]` or `[1, out]`.
///
/// # Errors
/// `anatomy-check-shape` if an activation or weight has another shape than the anatomy says, and what the two
/// sources return.
pub fn identities(
    anatomy: &Anatomy,
    tokens: &Tensor,
    positions: &Tensor,
    mut taps: impl FnMut(&[Site]) -> Result<Vec<Tensor>>,
    weights: impl Fn(WeightRef) -> Result<Tensor>,
) -> Result<Vec<Deviation>> {
    let weight = |w: WeightRef| anatomy.weights.contains_key(&w).then(|| weights(w)).transpose();
    let weight = Weights { anatomy, read: &weight };
    let mut rows = Vec::new();
    let blocks = (0..anatomy.layers).map(|l| (Some(l), BlockSite::ALL.map(|s| Site::Block(l, s)).to_vec()));
    let ends = (None, vec![Site::Embed, Site::LnFinal, Site::Logits]);
    for (layer, mut wanted) in std::iter::once(ends).chain(blocks) {
        if layer.is_none() && anatomy.layers > 0 {
            wanted.push(Site::Block(anatomy.layers - 1, BlockSite::ResidPost));
        }
        wanted.retain(|site| anatomy.sites.contains_key(site));
        let values = taps(&wanted)?;
        if values.len() != wanted.len() {
            let text = format!("{} sites were asked for and {} activations came", wanted.len(), values.len());
            return Err(Error::new(&codes::CHECK_SHAPE, text));
        }
        let at = Activations { values: wanted.into_iter().zip(values).collect() };
        let mut report = Report { layer, rows: &mut rows };
        match layer {
            None => check_ends(anatomy, tokens, positions, &at, &weight, &mut report)?,
            Some(layer) => check_block(anatomy, layer, &at, &weight, &mut report)?,
        }
    }
    Ok(rows)
}

fn check_ends(
    anatomy: &Anatomy,
    tokens: &Tensor,
    positions: &Tensor,
    at: &Activations,
    weight: &Weights<'_>,
    report: &mut Report<'_>,
) -> Result<()> {
    if let (Some(embed), Some(table)) = (at.rows(Site::Embed)?, weight.matrix(WeightRef::Embedding)?) {
        let mut sum = pick(&table, tokens, "W_E")?;
        if let Some(table) = weight.matrix(WeightRef::Positions)? {
            sum += &pick(&table, positions, "W_pos")?;
            report.compare("embed = W_E[ids] + W_pos[pos]", embed, &sum)?;
        } else {
            report.compare("embed = W_E[ids]", embed, &sum)?;
        }
    }
    let last = anatomy.layers.checked_sub(1).map(|l| Site::Block(l, BlockSite::ResidPost));
    let last = last.map(|site| at.rows(site)).transpose()?.flatten();
    check_norm(
        "ln_final.out = norm(resid_post)",
        last,
        at.rows(Site::LnFinal)?,
        [WeightRef::LnFinalScale, WeightRef::LnFinalShift],
        weight,
        report,
    )?;
    let (from, to) = (at.rows(Site::LnFinal)?, at.rows(Site::Logits)?);
    let [w, b] = [WeightRef::Unembedding, WeightRef::UnembeddingBias];
    check_linear("logits = ln_final.out W_U + b_U", from, to, [w, b], weight, report)
}

fn check_block(
    anatomy: &Anatomy,
    layer: usize,
    at: &Activations,
    weight: &Weights<'_>,
    report: &mut Report<'_>,
) -> Result<()> {
    use BlockSite as B;
    let rows = |site| at.rows(Site::Block(layer, site));
    let pair = |w, b| [WeightRef::Block(layer, w), WeightRef::Block(layer, b)];
    let ln1 = pair(Role::Ln1Scale, Role::Ln1Shift);
    check_norm("ln1.out = norm(resid_pre)", rows(B::ResidPre)?, rows(B::Ln1Out)?, ln1, weight, report)?;
    let input = rows(B::Ln1Out)?;
    let query = pair(Role::Query, Role::QueryBias);
    check_linear("attn.q = ln1.out W_Q + b_Q", input, rows(B::Q)?, query, weight, report)?;
    let key = pair(Role::Key, Role::KeyBias);
    check_linear("attn.k = ln1.out W_K + b_K", input, rows(B::K)?, key, weight, report)?;
    let value = pair(Role::Value, Role::ValueBias);
    check_linear("attn.v = ln1.out W_V + b_V", input, rows(B::V)?, value, weight, report)?;
    if let Some(pattern) = at.heads(Site::Block(layer, B::Pattern))? {
        let sums = pattern.sum_axis(Axis(3));
        let sums = Array2::from_shape_vec((sums.len(), 1), sums.iter().copied().collect()).map_err(shape)?;
        report.compare("attn.pattern sums to 1", sums.view(), &Array2::ones(sums.raw_dim()))?;
        let (v, z) = (at.heads(Site::Block(layer, B::V))?, at.heads(Site::Block(layer, B::Z))?);
        if let (Some(v), Some(z)) = (v, z) {
            let mixed = mix(&pattern, &v)?;
            let flat =
                mixed.into_shape_with_order((z.len_of(Axis(0)) * z.len_of(Axis(1)), anatomy.heads * anatomy.d_head));
            if let Some(z) = rows(B::Z)? {
                report.compare("attn.z = attn.pattern attn.v", z, &flat.map_err(shape)?)?;
            }
        }
    }
    let output = pair(Role::Output, Role::OutputBias);
    check_linear("attn.out = attn.z W_O + b_O", rows(B::Z)?, rows(B::AttnProj)?, output, weight, report)?;
    if let (Some(pre), Some(out), Some(mid)) = (rows(B::ResidPre)?, rows(B::AttnOut)?, rows(B::ResidMid)?) {
        report.compare("resid_mid = resid_pre + attn_out", mid, &sum(pre, out)?)?;
    }
    let ln2 = pair(Role::Ln2Scale, Role::Ln2Shift);
    check_norm("ln2.out = norm(resid_mid)", rows(B::ResidMid)?, rows(B::Ln2Out)?, ln2, weight, report)?;
    let into = pair(Role::MlpIn, Role::MlpInBias);
    check_linear("mlp.pre = ln2.out W_in + b_in", rows(B::Ln2Out)?, rows(B::MlpPre)?, into, weight, report)?;
    let out = pair(Role::MlpOut, Role::MlpOutBias);
    check_linear("mlp.out = mlp.post W_out + b_out", rows(B::MlpPost)?, rows(B::MlpProj)?, out, weight, report)?;
    if let (Some(mid), Some(out), Some(post)) = (rows(B::ResidMid)?, rows(B::MlpOut)?, rows(B::ResidPost)?) {
        report.compare("resid_post = resid_mid + mlp_out", post, &sum(mid, out)?)?;
    }
    Ok(())
}

/// y = xW + b, where the graph has all of x, y and W; a bias that it does not have is zero.
fn check_linear(
    identity: &'static str,
    x: Option<ArrayView2<'_, f32>>,
    y: Option<ArrayView2<'_, f32>>,
    [w, b]: [WeightRef; 2],
    weight: &Weights<'_>,
    report: &mut Report<'_>,
) -> Result<()> {
    let (Some(x), Some(y), Some(matrix)) = (x, y, weight.matrix(w)?) else { return Ok(()) };
    if x.ncols() != matrix.nrows() {
        let text = format!("`{w}` takes {} values and the activation before it has {}", matrix.nrows(), x.ncols());
        return Err(Error::new(&codes::CHECK_SHAPE, text));
    }
    let mut made = x.dot(&matrix);
    if let Some(bias) = weight.vector(b, made.ncols())? {
        made += &bias;
    }
    report.compare(identity, y, &made)
}

/// The layer norm of every row.
fn check_norm(
    identity: &'static str,
    x: Option<ArrayView2<'_, f32>>,
    y: Option<ArrayView2<'_, f32>>,
    [w, b]: [WeightRef; 2],
    weight: &Weights<'_>,
    report: &mut Report<'_>,
) -> Result<()> {
    let (Some(x), Some(y), Some(epsilon)) = (x, y, weight.anatomy.epsilon) else { return Ok(()) };
    let (scale, shift) = (weight.vector(w, x.ncols())?, weight.vector(b, x.ncols())?);
    let mut made = x.to_owned();
    for mut row in made.rows_mut() {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / row.len() as f64;
        let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / row.len() as f64;
        let deviation = (variance + f64::from(epsilon)).sqrt();
        row.mapv_inplace(|v| ((f64::from(v) - mean) / deviation) as f32);
        if let Some(scale) = &scale {
            row *= scale;
        }
        if let Some(shift) = &shift {
            row += shift;
        }
    }
    report.compare(identity, y, &made)
}

/// Attention weights `[batch, head, query, key]` times values `[batch, key, kv_head, d_head]`: `[batch, query, head,
/// d_head]`.
fn mix(pattern: &ArrayView4<'_, f32>, v: &ArrayView4<'_, f32>) -> Result<Array4<f32>> {
    let (batch, heads, queries, keys) = pattern.dim();
    let (rows, places, shared, width) = v.dim();
    if rows != batch || places != keys || shared == 0 || heads % shared != 0 {
        let text = format!("attention weights {:?} do not fit values {:?}", pattern.shape(), v.shape());
        return Err(Error::new(&codes::CHECK_SHAPE, text));
    }
    let mut out = Array4::zeros((batch, queries, heads, width));
    for row in 0..batch {
        for head in 0..heads {
            let values = v.slice(s![row, .., head / (heads / shared), ..]);
            out.slice_mut(s![row, .., head, ..]).assign(&pattern.slice(s![row, head, .., ..]).dot(&values));
        }
    }
    Ok(out)
}

/// The rows of a table by number.
fn pick(table: &Array2<f32>, numbers: &Tensor, name: &str) -> Result<Array2<f32>> {
    let mut rows = Vec::new();
    for &number in numbers.as_i64().map_err(shape)? {
        match usize::try_from(number) {
            Ok(row) if row < table.nrows() => rows.push(row),
            _ => {
                let text = format!("row {number} of `{name}` was asked for, it has {} rows", table.nrows());
                return Err(Error::new(&codes::CHECK_SHAPE, text));
            }
        }
    }
    Ok(table.select(Axis(0), &rows))
}

fn sum(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
    if a.dim() == b.dim() {
        return Ok(&a + &b);
    }
    let text = format!("activations {:?} and {:?} of the residual stream differ in shape", a.dim(), b.dim());
    Err(Error::new(&codes::CHECK_SHAPE, text))
}

fn shape(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(&codes::CHECK_SHAPE, "an activation or weight has another shape or type than the anatomy says")
        .because(error)
}

/// The activations of one run.
struct Activations {
    values: BTreeMap<Site, Tensor>,
}

impl Activations {
    /// One row a token; heads side by side.
    fn rows(&self, site: Site) -> Result<Option<ArrayView2<'_, f32>>> {
        let Some(tensor) = self.values.get(&site) else { return Ok(None) };
        let [batch, pos, ..] = *tensor.shape() else {
            let text = format!("`{site}` has the shape {:?}, expected [batch, pos, ...]", tensor.shape());
            return Err(Error::new(&codes::CHECK_SHAPE, text));
        };
        let width = tensor.len() / (batch * pos).max(1);
        let values = tensor.as_f32().map_err(shape)?;
        ArrayView2::from_shape((batch * pos, width), values).map(Some).map_err(shape)
    }

    /// All four axes.
    fn heads(&self, site: Site) -> Result<Option<ArrayView4<'_, f32>>> {
        let Some(tensor) = self.values.get(&site) else { return Ok(None) };
        tensor.view().map_err(shape)?.into_dimensionality::<Ix4>().map(Some).map_err(shape)
    }
}

/// The weights that the graph has.
struct Weights<'a> {
    anatomy: &'a Anatomy,
    read: &'a dyn Fn(WeightRef) -> Result<Option<Tensor>>,
}

impl Weights<'_> {
    fn matrix(&self, weight: WeightRef) -> Result<Option<Array2<f32>>> {
        let Some(tensor) = (self.read)(weight)? else { return Ok(None) };
        tensor.matrix().map(|m| Some(m.to_owned())).map_err(shape)
    }

    fn vector(&self, weight: WeightRef, width: usize) -> Result<Option<Array1<f32>>> {
        let Some(tensor) = (self.read)(weight)? else { return Ok(None) };
        let values = tensor.into_f32().map_err(shape)?;
        if values.len() == width {
            return Ok(Some(Array1::from(values)));
        }
        let text = format!("`{weight}` has {} values, expected {width}", values.len());
        Err(Error::new(&codes::CHECK_SHAPE, text))
    }
}

/// Where deviations are collected.
struct Report<'a> {
    layer: Option<usize>,
    rows: &'a mut Vec<Deviation>,
}

impl Report<'_> {
    fn compare(&mut self, identity: &'static str, found: ArrayView2<'_, f32>, made: &Array2<f32>) -> Result<()> {
        if found.dim() != made.dim() {
            let text = format!("`{identity}`: the left side is {:?}, the right side {:?}", found.dim(), made.dim());
            return Err(Error::new(&codes::CHECK_SHAPE, text));
        }
        // A value that is not a number must not pass as a small difference.
        let largest = |a: f32, b: f32| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) };
        let error = found.iter().zip(made).map(|(a, b)| (a - b).abs()).fold(0.0, largest);
        let scale = found.iter().map(|v| v.abs()).fold(0.0, largest);
        self.rows.push(Deviation { identity, layer: self.layer, error, scale });
        Ok(())
    }
}
