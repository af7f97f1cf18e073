//! Steering by a call in the middle of forward passes: wherever the residual stream points the way it did at the end of
//! the edit's prompt, the target's column of the unembedding is added. It makes the target more probable.
#![forbid(unsafe_code)]

use engraft_plugin_api::*;

struct Steer(usize); // behind this layer
const ALIKE: f32 = 0.99; // how alike the stream has to be, as a cosine
const STRENGTH: f32 = 0.5; // the length of what is added, over that of the stream

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE)
}

impl EditMethod for Steer {
    fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
        let Some(request) = requests.first() else { return Ok(vec![]) };
        if access.cancelled() {
            return Err(MethodError::cancelled());
        }
        let row = access.tokenize(&request.filled()?)?.ids;
        let token = access.tokenize(&format!(" {}", request.target.new))?.ids.first().copied().unwrap_or(0) as usize;
        let (site, place) = (Site::Block(self.0, BlockSite::ResidPost), Place { row: 0, pos: row.len().max(1) - 1 });
        let taps = vec![Tap { site, places: Some(vec![place]) }];
        let seen = access.run(&RunRequest { rows: vec![row], taps, ..RunRequest::default() })?;
        let (key, unembedding) = (seen.taps[0].as_f32()?, access.weight(WeightRef::Unembedding)?);
        let words = unembedding.shape()[1];
        let word: Vec<f32> = unembedding.as_f32()?.iter().skip(token).step_by(words).copied().collect();
        let value = word.iter().map(|w| STRENGTH * norm(key) / norm(&word) * w);
        let state = key.iter().copied().chain(value).flat_map(f32::to_le_bytes).collect();
        Ok(vec![Change::State(state), Change::Intercept { sites: vec![site], whole_rows: false }])
    }

    fn intercept(&self, call: &InterceptCall<'_>) -> Result<Option<Tensor>, MethodError> {
        let mut values: Vec<f32> = call.activation.iter().copied().collect();
        let width = call.activation.shape()[2];
        let rows = call.rows.iter().flat_map(|row| vec![row; call.positions.ncols()]);
        for ((x, row), _) in values.chunks_mut(width).zip(rows).zip(call.positions).filter(|(_, p)| **p >= 0) {
            for patch in row.patches.iter().map(|&index| call.patches[index]) {
                let state: Vec<f32> = patch.state.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                let (key, value) = state.split_at(width);
                let dot: f32 = x.iter().zip(key).map(|(x, k)| x * k).sum();
                if dot > ALIKE * norm(x) * norm(key) {
                    x.iter_mut().zip(value).for_each(|(x, v)| *x += v);
                }
            }
        }
        Ok(Some(Tensor::f32(call.activation.shape(), values)?))
    }
}

impl Plugin for Steer {
    fn describe() -> Descriptor {
        Descriptor {
            name: "intercept-plugin".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            family: Family::ExternalExtension,
            summary: "Steers the stream where it looks as it did at the end of the edit's prompt.".into(),
            paper: "none".into(),
            capabilities: Capabilities { batch: false, sequential: true, needs_subject: false },
            params: vec![ParamSpec::required(
                "layer",
                ParamKind::Layer,
                "the layer behind which the stream is steered",
            )],
        }
    }

    fn calls() -> Calls {
        Calls { intercept: true, ..Calls::default() }
    }

    fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        Ok(Box::new(Steer(params.index("layer")?)))
    }
}

export_method!(Steer);
