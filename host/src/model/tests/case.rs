//! A row of the zoo as a test meets it: the opened model with PyTorch's record of it.

use safetensors::SafeTensors;

use crate::graph::testing::Row;
use crate::model::{Model, OpenOptions};
use crate::runtime;

pub(super) struct Case {
    pub(super) row: Row,
    pub(super) model: Model,
    pub(super) record: Vec<u8>,
    pub(super) ids: Vec<Vec<u32>>,
}

impl Case {
    pub(super) fn open(row: Row) -> Self {
        let model = Model::open(&row.folder, &runtime::for_tests(), &OpenOptions::default()).unwrap();
        let record = std::fs::read(&row.record).unwrap();
        let file = SafeTensors::deserialize(&record).unwrap();
        let ids = file.tensor("ids").unwrap();
        let flat: Vec<u32> = ids.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b) as u32).collect();
        let ids = flat.chunks(ids.shape()[1]).map(<[u32]>::to_vec).collect();
        Self { row, model, record, ids }
    }

    pub(super) fn recorded(&self, name: &str) -> Option<Vec<f32>> {
        let file = SafeTensors::deserialize(&self.record).unwrap();
        let bytes = file.tensor(name).ok()?.data().as_chunks::<4>().0.to_vec();
        Some(bytes.into_iter().map(f32::from_le_bytes).collect())
    }
}

/// The largest difference over the size of `b`.
pub(super) fn far(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}
