//! my-method: an editing method for engraft.
//!
//! It stores one association in one matrix. The key is what the MLP's output matrix reads at the last token of the
//! prompt; the value is the direction in which the target becomes more probable, by one gradient. A change of rank one
//! adds the value wherever the key is read. Replace it by a method of your own: all of it is in `edit`.
#![forbid(unsafe_code)]

use engraft_plugin_api::{
    BlockSite, Capabilities, Change, Delta, Descriptor, EditMethod, EditRequest, Family,
    GradientRequest, MethodError, ModelAccess, ParamKind, ParamSpec, ParamValue, Params, Place,
    Plugin, Poke, Role, RunRequest, Site, Tap, Tensor, Term, WeightRef, Wrt, export_method,
};

/// The method with its parameters set.
pub struct MyMethod {
    layer: usize,
    strength: f32,
}

impl EditMethod for MyMethod {
    fn edit(
        &self,
        access: &dyn ModelAccess,
        requests: &[EditRequest],
    ) -> Result<Vec<Change>, MethodError> {
        let layers = access.facts().layers;
        if !requests.is_empty() && self.layer >= layers {
            let text = format!("there is no layer {}", self.layer);
            return Err(MethodError::new("my-method-layer", text)
                .help(format!("the model has {layers} layers")));
        }
        let mut changes = Vec::new();
        for (done, request) in requests.iter().enumerate() {
            if access.cancelled() {
                return Err(MethodError::cancelled());
            }
            access.progress(done as u64, requests.len() as u64, "requests");
            changes.push(self.association(access, request)?);
        }
        Ok(changes)
    }
}

impl MyMethod {
    /// A delta of rank one: `key · value` for the last token of the request's prompt.
    fn association(
        &self,
        access: &dyn ModelAccess,
        request: &EditRequest,
    ) -> Result<Change, MethodError> {
        let row = access.tokenize(&request.filled()?)?.ids;
        let target = access.tokenize(&format!(" {}", request.target.new))?.ids;
        let (Some(&token), Some(last)) = (target.first(), row.len().checked_sub(1)) else {
            return Err(MethodError::new(
                "my-method-empty",
                "the prompt or the target has no token",
            )
            .label("request", &request.id));
        };
        let (site, place) = (
            |site| Site::Block(self.layer, site),
            Place { row: 0, pos: last },
        );

        let tap = |part| Tap {
            site: site(part),
            places: Some(vec![place]),
        };
        let taps = vec![tap(BlockSite::MlpPost), tap(BlockSite::MlpProj)];
        let mut seen = access
            .run(&RunRequest {
                rows: vec![row.clone()],
                taps,
                ..RunRequest::default()
            })?
            .taps;
        let (old, key) = (seen.pop(), seen.pop());
        let (Some(old), Some(key)) = (old, key) else {
            return Err(MethodError::new("my-method-taps", "no activations"));
        };
        let (old, key) = (old.into_f32()?, key.into_f32()?);

        // How the loss changes with what the MLP gives: the gradient with respect to a vector of zeros added there.
        let zeros = Poke {
            site: site(BlockSite::MlpProj),
            places: vec![place],
            values: Tensor::zeros([1, old.len()]),
        };
        let gradient = access.gradient(&GradientRequest {
            rows: vec![row],
            adds: vec![zeros],
            terms: vec![Term::Nll {
                place,
                token,
                weight: 1.0,
            }],
            wrt: vec![Wrt::Add(0)],
            ..GradientRequest::default()
        })?;
        let Some(slope) = gradient.gradients.into_iter().flatten().next() else {
            return Err(MethodError::new("my-method-gradient", "no gradient"));
        };
        let slope = slope.into_f32()?;

        // left: key / |key|², so that the key itself gets the value once; right: as long as what was there, downhill.
        let norm = |v: &[f32]| {
            v.iter()
                .map(|x| x * x)
                .sum::<f32>()
                .sqrt()
                .max(f32::MIN_POSITIVE)
        };
        let (square, scale) = (
            norm(&key).powi(2),
            self.strength * norm(&old) / norm(&slope),
        );
        let left = Tensor::f32([key.len(), 1], key.iter().map(|k| k / square).collect())?;
        let right = Tensor::f32([1, slope.len()], slope.iter().map(|g| -scale * g).collect())?;
        Ok(Change::Weight {
            weight: WeightRef::Block(self.layer, Role::MlpOut),
            delta: Delta::LowRank { left, right },
        })
    }
}

impl Plugin for MyMethod {
    fn describe() -> Descriptor {
        Descriptor {
            name: "my-method".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            family: Family::InternalModification,
            summary: "Stores an association in one MLP by a change of rank one.".into(),
            paper: "none".into(),
            capabilities: Capabilities {
                batch: true,
                sequential: true,
                needs_subject: false,
            },
            params: vec![
                ParamSpec::required("layer", ParamKind::Layer, "the layer whose MLP is changed"),
                ParamSpec::new(
                    "strength",
                    ParamKind::Number {
                        min: 0.0,
                        max: 100.0,
                    },
                    ParamValue::Number(1.0),
                    "the length of what is added, over the length of what the MLP gives",
                ),
            ],
        }
    }

    fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        Ok(Box::new(MyMethod {
            layer: params.index("layer")?,
            strength: params.number("strength")? as f32,
        }))
    }
}

export_method!(MyMethod);
