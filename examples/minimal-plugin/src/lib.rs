//! The smallest editing method that is worth reading: it makes one MLP louder or quieter, whatever is asked of it.
#![forbid(unsafe_code)]

use engraft_plugin_api::{
    Capabilities, Change, Delta, Descriptor, EditMethod, EditRequest, Family, MethodError, ModelAccess, ParamKind,
    ParamSpec, ParamValue, Params, Plugin, Role, Tensor, WeightRef, export_method,
};

/// The method with its parameters set.
struct Volume {
    layer: usize,
    factor: f32,
}

impl EditMethod for Volume {
    fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        if access.cancelled() {
            return Err(MethodError::cancelled());
        }
        let layers = access.facts().layers;
        if self.layer >= layers {
            return Err(MethodError::new("layer-absent", format!("there is no layer {}", self.layer))
                .help(format!("the model has layers 0 to {}", layers.saturating_sub(1))));
        }
        let weight = WeightRef::Block(self.layer, Role::MlpOut);
        let matrix = access.weight(weight)?;
        // W + (factor - 1) · W = factor · W
        let delta = matrix.as_f32()?.iter().map(|w| (self.factor - 1.0) * w).collect();
        Ok(vec![Change::Weight { weight, delta: Delta::Dense(Tensor::f32(matrix.shape(), delta)?) }])
    }
}

impl Plugin for Volume {
    fn describe() -> Descriptor {
        Descriptor {
            name: "minimal-plugin".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            family: Family::InternalModification,
            summary: "Scales the output matrix of one MLP.".into(),
            paper: "none".into(),
            capabilities: Capabilities { batch: true, sequential: true, needs_subject: false },
            params: vec![
                ParamSpec::required("layer", ParamKind::Layer, "the layer whose MLP is scaled"),
                ParamSpec::new(
                    "factor",
                    ParamKind::Number { min: 0.0, max: 2.0 },
                    ParamValue::Number(0.5),
                    "what the matrix is multiplied by",
                ),
            ],
        }
    }

    fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        Ok(Box::new(Volume { layer: params.index("layer")?, factor: params.number("factor")? as f32 }))
    }
}

export_method!(Volume);
