//! One edit: read keys and values of the prompts in one pass, search the target value, write it.

use engraft_method_common::solve::mean_rows;
use engraft_method_common::{
    Covariances, KlAnchor, PromptRow, ValueProblem, check_cancelled, find_value, forced_row, prompt_row, read,
    subject_row, target_ids,
};
use engraft_plugin_api::{
    BlockSite, Capabilities, Change, Delta, Descriptor, EditMethod, EditRequest, Family, Level, MethodError,
    ModelAccess, ModelFacts, Params, Plugin, Role, Site, WeightRef,
};
use ndarray::Array2;

use crate::params::{Covariance, KeyPolicy, RomeParams};
use crate::update::{Association, rank_one};

/// The text after which the model's idea of the subject should stay (ROME, eq. 4, second term).
const ESSENCE: &str = "{} is a";

/// ROME with its parameters and the covariances it has factored.
pub struct Rome {
    params: RomeParams,
    covariances: Covariances,
}

impl Plugin for Rome {
    fn describe() -> Descriptor {
        Descriptor {
            name: "rome".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            family: Family::InternalModification,
            summary: "Writes one fact into one layer's MLP as a rank-one change (ROME, R-ROME).".into(),
            paper: "Meng, Bau, Andonian, Belinkov 2022: Locating and Editing Factual Associations in GPT; \
                    Gupta, Anumanchipalli 2024: Rebuilding ROME"
                .into(),
            capabilities: Capabilities { batch: false, sequential: true, needs_subject: true },
            params: RomeParams::specs(),
        }
    }

    fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        let params = RomeParams::read(params)?;
        Ok(Box::new(Self { covariances: Covariances::new(params.covariance_damping), params }))
    }
}

impl EditMethod for Rome {
    fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
        match requests {
            [] => Ok(Vec::new()),
            [request] => self.edit_one(access, request),
            several => {
                let message = format!("ROME writes one fact at a time, found {} requests", several.len());
                Err(MethodError::new("batch-unsupported", message).help("use `mode = \"sequential\"` or `\"single\"`"))
            }
        }
    }
}

impl Rome {
    fn edit_one(&self, access: &dyn ModelAccess, request: &EditRequest) -> Result<Vec<Change>, MethodError> {
        let p = &self.params;
        check_cancelled(access)?;
        let facts = access.facts();
        let target = target_ids(access, request)?;
        let prompts = self.prompts(access, &facts, request)?;
        // Without its factor the divergence adds nothing: its row is left out.
        let essence = if p.search.kl_factor > 0.0 {
            Some(subject_row(access, request, ESSENCE, p.fact_token, facts.context)?)
        } else {
            None
        };
        let rows = prompts.iter().map(|row| forced_row(request, row, &target, facts.context));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;

        // What is asked for after the subject cannot change what the layer computes at it, so one pass over the bare
        // prompts gives k* (ROME, eq. 3), v₀, the present output and the distribution to keep.
        let (key_site, value_site) =
            (Site::Block(p.layer, BlockSite::MlpPost), Site::Block(p.layer, BlockSite::MlpProj));
        let reading = read(access, &prompts, &[key_site, value_site], essence.as_ref())?;
        let [keys, values] = &reading.sites[..] else {
            return Err(MethodError::new("reply-shape", "the host did not answer for two sites"));
        };
        let (bare_key, start) = (keys.row(0).to_vec(), values.row(0).to_vec());
        let anchor = essence.map(|row| KlAnchor { row, reference: reading.anchor });

        let problem =
            ValueProblem { site: value_site, rows: &rows, target: &target, anchor: anchor.as_ref(), start: &start };
        let found = find_value(access, &p.search, &problem)?; // v* = v₀ + δ (ROME, eq. 4)

        let (key, input, output) = self.keys(keys, values, bare_key, start);
        check_cancelled(access)?;
        let factor = match p.covariance {
            Covariance::None => None,
            Covariance::SecondMoment => Some(self.covariances.factor(access, &facts.hash, key_site)?),
        };
        let association = Association { key: &key, input: &input, output: &output, value: &found.target };
        let delta = rank_one(&association, factor.as_deref())?;
        if nothing(&delta)? {
            access.log(Level::Info, "the model already gives the target: nothing to change");
            return Ok(Vec::new());
        }
        Ok(vec![Change::Weight { weight: WeightRef::Block(p.layer, Role::MlpOut), delta }])
    }

    /// The filled prompt in every context, the bare one first.
    fn prompts(
        &self,
        access: &dyn ModelAccess,
        facts: &ModelFacts,
        request: &EditRequest,
    ) -> Result<Vec<PromptRow>, MethodError> {
        let templates = self.params.prefixes.templates(access, facts)?;
        let row = |t: &String| prompt_row(access, request, t, self.params.fact_token, facts.context);
        templates.iter().map(row).collect()
    }

    /// k*, and the key and output at which the target value has to come out.
    fn keys(
        &self,
        keys: &Array2<f32>,
        values: &Array2<f32>,
        bare_key: Vec<f32>,
        bare_value: Vec<f32>,
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        match self.params.key_policy {
            KeyPolicy::Rome => (mean_rows(keys.view()), bare_key, bare_value), // k* as in ROME, eq. 3
            KeyPolicy::RRome => {
                // Rebuilding ROME: the same mean key wherever a key appears.
                let key = mean_rows(keys.view());
                (key.clone(), key, mean_rows(values.view()))
            }
            KeyPolicy::RRomePrompt => (bare_key.clone(), bare_key, bare_value), // so that v* = output + δ
        }
    }
}

/// True if a low-rank delta's right factor is zero: δ stayed 0 and the output was v₀.
fn nothing(delta: &Delta) -> Result<bool, MethodError> {
    match delta {
        Delta::LowRank { right, .. } => Ok(right.as_f32()?.iter().all(|&v| v == 0.0)),
        _ => Ok(false),
    }
}
