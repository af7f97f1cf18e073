//! Second moments E[x xᵀ] of a site over a text file, streamed, kept in a file bound to model, site and corpus.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use engraft_plugin_api::{SecondMoment, Site, Tensor};
use ndarray::{Array2, ArrayView2};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};

use super::codes;
use crate::base::{Error, Hash, Result, atomic};

/// The running sum of one site. Sums are kept in float64.
pub struct Moment {
    sum: Array2<f64>,
    tokens: u64,
}

impl Moment {
    /// An empty sum of vectors of `width` channels.
    pub fn new(width: usize) -> Self {
        Self { sum: Array2::zeros((width, width)), tokens: 0 }
    }

    /// Adds the outer products of the rows of `x`, `[n, width]`.
    pub fn add(&mut self, x: ArrayView2<'_, f32>) {
        // A block of rows is summed in float32, the blocks in float64.
        for block in x.axis_chunks_iter(ndarray::Axis(0), 1024) {
            let product = block.t().dot(&block);
            self.sum.zip_mut_with(&product, |s, &p| *s += f64::from(p));
            self.tokens += block.nrows() as u64;
        }
    }

    /// The mean.
    pub fn finish(&self) -> SecondMoment {
        let n = self.tokens.max(1) as f64;
        SecondMoment { matrix: Tensor::from_array(&self.sum.mapv(|v| (v / n) as f32)), tokens: self.tokens }
    }
}

/// The documents of a corpus: its non-empty lines.
///
/// # Errors
/// `corpus-unreadable`
pub fn documents(corpus: &Path) -> Result<(Vec<String>, Hash)> {
    let unreadable =
        |why: &str| Error::new(&codes::CORPUS_UNREADABLE, format!("the corpus `{}` {why}", corpus.display()));
    let bytes = std::fs::read(corpus).map_err(|e| unreadable("cannot be read").because(e))?;
    let hash = Hash::of(&bytes);
    let text =
        String::from_utf8(atomic::unmarked(&bytes).to_vec()).map_err(|e| unreadable("is not UTF-8").because(e))?;
    let lines: Vec<String> = text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect();
    if lines.is_empty() { Err(unreadable("holds no text")) } else { Ok((lines, hash)) }
}

/// Second moments on disk.
#[derive(Clone, Debug)]
pub struct SecondMoments {
    folder: PathBuf,
}

const KEY: &str = "engraft";

impl SecondMoments {
    /// The files of a folder, which is made when something is written.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where the statistic of a site is kept.
    pub fn path(&self, model: &Hash, site: Site, corpus: &Hash) -> PathBuf {
        self.folder.join(format!("{}-{site}-{}.safetensors", model.short(), corpus.short()))
    }

    /// Reads a statistic, if it is there.
    ///
    /// # Errors
    /// `statistics-foreign` if the file says that it belongs to something else, or is damaged.
    pub fn read(&self, model: &Hash, site: Site, corpus: &Hash) -> Result<Option<SecondMoment>> {
        let path = self.path(model, site, corpus);
        if !path.is_file() {
            return Ok(None);
        }
        let foreign = |why: String| {
            Error::new(&codes::MOMENT_FOREIGN, format!("the statistics `{}` {why}", path.display()))
                .help("delete the file to gather them again")
        };
        let bytes = atomic::read_bytes(&path)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| foreign("are damaged".into()).because(e))?;
        let text = header.metadata().as_ref().and_then(|m| m.get(KEY)).cloned().unwrap_or_default();
        let wanted = description(model, site, corpus);
        let (found, tokens) = text.rsplit_once(" tokens ").unwrap_or((&text, "0"));
        if found != wanted {
            return Err(foreign(format!("are of `{found}`, expected `{wanted}`")));
        }
        let tokens = tokens.parse().map_err(|_| foreign("do not say how many tokens they are of".into()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| foreign("are damaged".into()).because(e))?;
        let view = tensors.tensor("second_moment").map_err(|e| foreign("are damaged".into()).because(e))?;
        let values = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        let matrix = Tensor::f32(view.shape(), values).map_err(|e| foreign("are damaged".into()).because(e))?;
        Ok(Some(SecondMoment { matrix, tokens }))
    }

    /// Keeps a statistic.
    ///
    /// # Errors
    /// `file-write` or `disk-full`
    pub fn write(&self, model: &Hash, site: Site, corpus: &Hash, moment: &SecondMoment) -> Result<()> {
        std::fs::create_dir_all(&self.folder).map_err(|e| atomic::write_error(&self.folder, e))?;
        let path = self.path(model, site, corpus);
        let values = moment.matrix.as_f32().unwrap_or(&[]);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let damaged = |e: safetensors::SafeTensorError| {
            Error::new(&codes::MOMENT_FOREIGN, format!("the statistics of `{site}` cannot be written")).because(e)
        };
        let view = TensorView::new(Dtype::F32, moment.matrix.shape().to_vec(), &bytes).map_err(damaged)?;
        let text = format!("{} tokens {}", description(model, site, corpus), moment.tokens);
        let out =
            serialize([("second_moment", view)], Some(HashMap::from([(KEY.to_owned(), text)]))).map_err(damaged)?;
        atomic::write_bytes(&path, &out)
    }
}

fn description(model: &Hash, site: Site, corpus: &Hash) -> String {
    format!("model {model} site {site} corpus {corpus}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_the_mean_of_outer_products_and_survives_its_file() {
        let mut moment = Moment::new(2);
        moment.add(ndarray::array![[1.0f32, 2.0], [3.0, -1.0]].view());
        let found = moment.finish();
        assert_eq!(found.matrix.as_f32().unwrap(), [5.0, -0.5, -0.5, 2.5]);
        let folder = tempfile::tempdir().unwrap();
        let store = SecondMoments::new(folder.path().join("statistics"));
        let (model, other, corpus) = (Hash::of(b"m"), Hash::of(b"o"), Hash::of(b"c"));
        assert_eq!(store.read(&model, Site::LnFinal, &corpus).unwrap(), None);
        store.write(&model, Site::LnFinal, &corpus, &found).unwrap();
        assert_eq!(store.read(&model, Site::LnFinal, &corpus).unwrap(), Some(found));
        std::fs::rename(store.path(&model, Site::LnFinal, &corpus), store.path(&other, Site::LnFinal, &corpus))
            .unwrap();
        assert_eq!(store.read(&other, Site::LnFinal, &corpus).unwrap_err().code().id, "statistics-foreign");
    }
}
