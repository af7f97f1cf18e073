//! Steering by a graph inside the session: what `examples/intercept-plugin` does by a call, on the device and without
//! leaving it. The graph is made by `make.py`; the keys and values of all edits are the entries of its tables.
#![forbid(unsafe_code)]

use engraft_plugin_api::*;

struct Steer(usize); // behind this layer
const GRAPH: &[u8] = include_bytes!("steer.onnx");
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
        let value = word.iter().map(|w| STRENGTH * norm(key) / norm(&word) * w).collect();
        // Keys are of length 1, as the graph wants them.
        let table = |name: &str, row: Vec<f32>| {
            let value = Tensor::f32([1, row.len()], row)?;
            Ok::<_, MethodError>(Increment { name: name.into(), fold: Fold::Stack, value })
        };
        let tables = vec![table("keys", key.iter().map(|k| k / norm(key)).collect())?, table("values", value)?];
        let (graph, reads) = (GRAPH.to_vec(), vec![site]);
        Ok(vec![Change::Splice(Splice { graph, reads, writes: site, tables, whole_rows: false, order: 0 })])
    }
}

impl Plugin for Steer {
    fn describe() -> Descriptor {
        Descriptor {
            name: "splice-plugin".into(),
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

    fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        Ok(Box::new(Steer(params.index("layer")?)))
    }
}

export_method!(Steer);
