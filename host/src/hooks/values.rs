//! What is fed to a program: named values, with the hash that tells two feeds apart.

use std::collections::BTreeMap;

use engraft_plugin_api::{Place, Poke, Site, Tensor};

use super::codes;
use super::names::Name;
use super::rig::site_width;
use crate::anatomy::Anatomy;
use crate::base::{Error, Hash, Hasher, Result};
use crate::runtime::{DType, Value};

/// Values by the name of the input they are for.
#[derive(Clone, Default)]
pub struct Values {
    values: BTreeMap<String, Value>,
}

impl Values {
    /// Sets an input.
    pub fn set(&mut self, name: impl ToString, value: Value) {
        self.values.insert(name.to_string(), value);
    }

    /// Takes over the inputs of another set.
    pub fn extend(&mut self, other: Values) {
        self.values.extend(other.values);
    }

    /// Takes over copies of the inputs of another set; values are shared, not copied.
    pub fn copy(&mut self, other: &Values) {
        self.values.extend(other.values.iter().map(|(k, v)| (k.clone(), v.clone())));
    }

    /// The value of an input.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// The values for the inputs of a program, which may read fewer than there are.
    pub fn feeds<'a>(&'a self, inputs: impl IntoIterator<Item = &'a str>) -> Vec<(&'a str, &'a Value)> {
        inputs.into_iter().filter_map(|name| self.values.get(name).map(|v| (name, v))).collect()
    }

    /// The hash of some of the values, to the bit.
    ///
    /// # Errors
    /// If a value is of a type that is not fed.
    pub fn hash<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Hash> {
        let mut hasher = Hasher::new();
        for name in names {
            let Some(value) = self.values.get(name) else { continue };
            hasher.part(name).part(format!("{:?}", value.shape()));
            match value.dtype() {
                _ if value.is_empty() => &mut hasher,
                DType::F32 => hasher.part(value.as_f32()?.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()),
                DType::F16 => hasher.part(value.as_f16()?.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()),
                DType::I32 => hasher.part(value.as_i32()?.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()),
                DType::Bool => hasher.part(value.as_bool()?.iter().map(|v| u8::from(*v)).collect::<Vec<u8>>()),
                _ => hasher.part(value.as_i64()?.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()),
            };
        }
        Ok(hasher.finish())
    }

    /// Places as `[n, 2]`.
    ///
    /// # Errors
    /// `place-outside`
    pub(crate) fn places(&mut self, name: Name, places: &[Place], rows: &[Vec<u32>]) -> Result<()> {
        let flat = places.iter().map(|p| check_place(p, rows).map(|()| [p.row as i64, p.pos as i64]));
        let flat = flat.collect::<Result<Vec<_>>>()?.concat();
        self.set(name, Value::i64(&[places.len(), 2], flat)?);
        Ok(())
    }

    /// A poke: its places, each at most once, and its values, one vector for each place.
    ///
    /// # Errors
    /// `place-outside` or `poke-shape`
    pub(crate) fn poke(
        &mut self,
        poke: &Poke,
        at: Name,
        name: Name,
        anatomy: &Anatomy,
        rows: &[Vec<u32>],
    ) -> Result<()> {
        let mut sorted = poke.places.clone();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|w| w[0] == w[1]) {
            let Place { row, pos } = twice[0];
            let text = format!("row {row}, position {pos} is named twice at `{}`", poke.site);
            return Err(Error::new(&codes::PLACE_OUTSIDE, text));
        }
        self.places(at, &poke.places, rows)?;
        self.set(name, vectors(poke.site, &poke.values, poke.places.len(), anatomy)?);
        Ok(())
    }
}

/// `[n, width]` or `[1, width]` values as the `[n, ...]` of a site.
fn vectors(site: Site, values: &Tensor, n: usize, anatomy: &Anatomy) -> Result<Value> {
    let dims = site_width(anatomy, site);
    let width: usize = dims.iter().product();
    let wrong = || {
        let text = format!("values of shape {:?} for {n} places of `{site}`, whose width is {width}", values.shape());
        Error::new(&codes::POKE_SHAPE, text)
    };
    let flat = values.as_f32().map_err(|_| wrong())?;
    let flat = match values.shape() {
        [k, w] if *k == n && *w == width => flat.to_vec(),
        [1, w] if *w == width => flat.repeat(n),
        _ => return Err(wrong()),
    };
    let shape: Vec<usize> = std::iter::once(n).chain(dims).collect();
    Value::f32(&shape, flat)
}

fn check_place(place: &Place, rows: &[Vec<u32>]) -> Result<()> {
    match rows.get(place.row) {
        Some(row) if place.pos < row.len() => Ok(()),
        Some(row) => {
            let text = format!("position {} of row {}, which has {} tokens", place.pos, place.row, row.len());
            Err(Error::new(&codes::PLACE_OUTSIDE, text))
        }
        None => Err(Error::new(&codes::PLACE_OUTSIDE, format!("row {} of {} rows", place.row, rows.len()))),
    }
}
