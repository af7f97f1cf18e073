//! What a host feeds to splices, derived from the inputs of a plain model: all but the ends of prompts.

use std::collections::HashMap;

use engraft_plugin_api::{Data, Tensor};

use super::{Fed, Graft};
use crate::anatomy::Anatomy;
use crate::base::{Error, Result};
use crate::graph::{Attr, DType, Initializer, Patch};
use crate::hooks::codes;
use crate::hooks::names::SplicePart;
use crate::hooks::types::Types;

/// What was derived already, shared by all splices.
#[derive(Default)]
pub(in crate::hooks) struct Plain {
    shape: Option<String>,
    mask: Option<String>,
    positions: Option<String>,
}

impl Plain {
    /// Rows and columns, `[2]`.
    fn shape(&mut self, patch: &mut Patch<'_>, anatomy: &Anatomy) -> Result<String> {
        kept(&mut self.shape, || patch.op("Shape", &[&anatomy.inputs.ids], &[]))
    }

    /// One number everywhere, `[rows, columns]`.
    fn filled(&mut self, patch: &mut Patch<'_>, anatomy: &Anatomy, number: i64) -> Result<String> {
        let (shape, number) = (self.shape(patch, anatomy)?, patch.i64(&[1], &[number]));
        patch.op("Expand", &[&number, &shape], &[])
    }

    /// The last columns of what counts cached positions too.
    fn newest(&mut self, patch: &mut Patch<'_>, anatomy: &Anatomy, edge: &str) -> Result<String> {
        if anatomy.inputs.cache.is_empty() {
            return Ok(edge.to_owned());
        }
        let (shape, one) = (self.shape(patch, anatomy)?, patch.i64(&[1], &[1]));
        let columns = patch.op("Gather", &[&shape, &one], &[])?;
        let first = patch.op("Neg", &[&columns], &[])?;
        let end = patch.i64(&[1], &[i64::MAX]);
        patch.op("Slice", &[edge, &first, &end, &one], &[])
    }

    /// 1 at tokens and 0 in the padding, of integers, `[rows, columns]`; none where the model has no mask.
    fn mask(&mut self, patch: &mut Patch<'_>, anatomy: &Anatomy) -> Result<Option<String>> {
        let Some(input) = &anatomy.inputs.mask else { return Ok(None) };
        if self.mask.is_none() {
            let whole = integers(patch, input)?;
            self.mask = Some(self.newest(patch, anatomy, &whole)?);
        }
        Ok(self.mask.clone())
    }

    /// The position of each column; -1 in the padding, `[rows, columns]`.
    fn positions(&mut self, patch: &mut Patch<'_>, anatomy: &Anatomy) -> Result<String> {
        if let Some(made) = &self.positions {
            return Ok(made.clone());
        }
        let mask = self.mask(patch, anatomy)?;
        let (one, axis) = (patch.i64(&[1], &[1]), patch.i64(&[], &[1]));
        let at = match (&anatomy.inputs.positions, &anatomy.inputs.mask) {
            (Some(positions), _) => integers(patch, positions)?,
            (None, Some(input)) => {
                let whole = integers(patch, input)?;
                let counted = patch.op("CumSum", &[&whole, &axis], &[])?;
                let counted = self.newest(patch, anatomy, &counted)?;
                patch.op("Sub", &[&counted, &one], &[])?
            }
            (None, None) => {
                let ones = self.filled(patch, anatomy, 1)?;
                let counted = patch.op("CumSum", &[&ones, &axis], &[])?;
                let own = patch.op("Sub", &[&counted, &one], &[])?;
                match anatomy.inputs.cache.first() {
                    Some(port) => {
                        let (shape, axis) =
                            (patch.op("Shape", &[&port.past], &[])?, patch.i64(&[1], &[port.axis as i64]));
                        let past = patch.op("Gather", &[&shape, &axis], &[])?;
                        patch.op("Add", &[&own, &past], &[])?
                    }
                    None => own,
                }
            }
        };
        let none = self.filled(patch, anatomy, -1)?;
        let made = match mask {
            Some(mask) => {
                let zero = patch.i64(&[1], &[0]);
                let token = patch.op("Greater", &[&mask, &zero], &[])?;
                patch.op("Where", &[&token, &at, &none], &[])?
            }
            // As wide as the rows, where one row of positions stands for all.
            None => patch.op("Max", &[&at, &none], &[])?,
        };
        self.positions = Some(made.clone());
        Ok(made)
    }
}

fn kept(slot: &mut Option<String>, make: impl FnOnce() -> Result<String>) -> Result<String> {
    match slot {
        Some(made) => Ok(made.clone()),
        None => Ok(slot.insert(make()?).clone()),
    }
}

fn integers(patch: &mut Patch<'_>, edge: &str) -> Result<String> {
    patch.op("Cast", &[edge], &[("to", Attr::Int(i64::from(DType::I64.0)))])
}

fn floats(patch: &mut Patch<'_>, edge: &str) -> Result<String> {
    patch.op("Cast", &[edge], &[("to", Attr::Int(i64::from(DType::F32.0)))])
}

impl Graft {
    /// Puts the splice into a plain model, with its tables as initializers, which are returned. Every row sees it.
    ///
    /// # Errors
    /// `splice-plain` if it asks for what a plain model is not told.
    pub(in crate::hooks) fn bake(
        &self,
        patch: &mut Patch<'_>,
        anatomy: &Anatomy,
        types: &Types,
        tables: &[Tensor],
        plain: &mut Plain,
    ) -> Result<Vec<Initializer>> {
        let refused = |what: &str| {
            let text = format!("the splice at `{}` {what}", self.splice.writes);
            Err(Error::new(&codes::SPLICE_PLAIN, text).help("roll its patches back before the export"))
        };
        if self.splice.whole_rows && !anatomy.inputs.cache.is_empty() {
            return refused("must see whole rows, and the model takes cached keys and values");
        }
        let (mut feeds, mut made) = (HashMap::new(), Vec::new());
        for (name, fed) in &self.inputs {
            let edge = match *fed {
                Fed::Site(site) => Self::read(patch, anatomy, types, site)?,
                Fed::Positions => plain.positions(patch, anatomy)?,
                Fed::Mask => {
                    let mask = match plain.mask(patch, anatomy)? {
                        Some(mask) => mask,
                        None => plain.filled(patch, anatomy, 1)?,
                    };
                    floats(patch, &mask)?
                }
                Fed::PromptEnd => return refused("asks for the end of the prompt, which a plain model is not told"),
                Fed::Gate => {
                    let (shape, first) = (plain.shape(patch, anatomy)?, patch.i64(&[1], &[0]));
                    let rows = patch.op("Gather", &[&shape, &first], &[])?;
                    let one = patch.f32(&[1], &[1.0]);
                    patch.op("Expand", &[&one, &rows], &[])?
                }
                Fed::Table(i) => {
                    let own = patch.fresh(&self.name(SplicePart::Table(i)).to_string());
                    let initializer = match tables[i].data() {
                        Data::F32(values) => Initializer::f32(&own, tables[i].shape(), values),
                        Data::I64(values) => Initializer::i64(&own, tables[i].shape(), values),
                    };
                    made.push(initializer.clone());
                    patch.constant(initializer)
                }
                Fed::TableGate(i) => {
                    let (shape, first) = (plain.shape(patch, anatomy)?, patch.i64(&[1], &[0]));
                    let rows = patch.op("Gather", &[&shape, &first], &[])?;
                    let n = tables[i].shape().first().copied().unwrap_or(0);
                    let n = patch.i64(&[1], &[n as i64]);
                    let shape = patch.op("Concat", &[&rows, &n], &[("axis", Attr::Int(0))])?;
                    let one = patch.f32(&[1], &[1.0]);
                    patch.op("Expand", &[&one, &shape], &[])?
                }
            };
            feeds.insert(name.clone(), edge);
        }
        let open = match plain.mask(patch, anatomy)? {
            Some(mask) => {
                let zero = patch.i64(&[1], &[0]);
                Some(patch.op("Greater", &[&mask, &zero], &[])?)
            }
            None => None,
        };
        self.put(patch, anatomy, types, &feeds, open.as_deref())?;
        Ok(made)
    }
}
