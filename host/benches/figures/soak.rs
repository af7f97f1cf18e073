//! Memory and logits over many edits.

use std::time::Instant;

use engraft::base::Cancel;
use engraft::data::{self, DataKind};
use engraft::model::{Model, OpenOptions, Proposal};
use engraft::plugins::Access;
use engraft::runtime::{Runtime, memory};
use engraft_plugin_api::{EditRequest, GenerateRequest, Place, RunRequest, Tensor};

use crate::tools::{Outcome, atlas, plugin};

const CYCLES: usize = 2000;

/// From here on nothing is done for the first time.
const WARM: usize = 100;

/// ROME edits on atlas, one after the other: edited, committed, asked, rolled back. What is resident before and after, and
/// whether the model says the same to the bit.
pub(crate) fn soak(runtime: &Runtime) -> Outcome<()> {
    let model = Model::open(&atlas().join("model"), runtime, &OpenOptions::default())?;
    let records = data::load(DataKind::CounterFact, &atlas().join("counterfact_train.json"), Some(50))?.records;
    let requests: Vec<EditRequest> = records.into_iter().map(|r| r.request).collect();
    let method = plugin("rome", "layer = 0\nprefixes = 'fixed'\nprefix_list = ['{}']")?;
    let row = |request: &EditRequest| -> Outcome<Vec<u32>> { Ok(model.tokenizer()?.encode(&request.filled()?)?.ids) };
    let rows = requests.iter().map(row).collect::<Outcome<Vec<_>>>()?;
    let logits = || -> Outcome<Tensor> {
        let logits = rows.iter().enumerate().map(|(row, ids)| Place { row, pos: ids.len() - 1 }).collect();
        Ok(model.run(&RunRequest { rows: rows.clone(), logits, ..RunRequest::default() })?.logits)
    };
    let (before, state) = (logits()?, model.state_hash());
    let (began, mut resident, mut answered) = (Instant::now(), Vec::new(), 0);
    for cycle in 0..CYCLES {
        let (request, row) = (&requests[cycle % requests.len()], &rows[cycle % rows.len()]);
        let ask = GenerateRequest { rows: vec![row.clone()], max_new: 3, ..GenerateRequest::default() };
        let base = model.generate(&ask)?;
        let changes = method.edit(&Access::new(&model, Cancel::new(), 0), std::slice::from_ref(request))?;
        let descriptor = &method.library().descriptor();
        let id = model.commit(Proposal {
            method: descriptor.name.clone(),
            version: descriptor.version.clone(),
            params: method.params().clone(),
            artefact: None,
            requests: vec![request.clone()],
            changes,
        })?;
        answered += usize::from(model.generate(&ask)? != base);
        model.rollback(&id)?;
        if model.generate(&ask)? != base {
            return Err(format!("cycle {cycle}: the answer is another one after the rollback").into());
        }
        if (cycle + 1) % WARM == 0 {
            resident.push(memory::anonymous_bytes().unwrap_or(0) as f64 / 1e6);
        }
    }
    let same = logits()? == before && model.state_hash() == state;
    let most = resident.iter().copied().fold(0.0, f64::max);
    println!(
        "{CYCLES} ROME edits on atlas, each asked about and rolled back: {:.0} s; resident {:.1} MB after {WARM}, {:.1} MB \
         after all ({:.1} MB at most in between); {answered} changed the answer; logits and state {} those of the beginning",
        began.elapsed().as_secs_f64(),
        resident.first().copied().unwrap_or(0.0),
        resident.last().copied().unwrap_or(0.0),
        most,
        if same { "are to the bit" } else { "ARE NOT" }
    );
    if same { Ok(()) } else { Err("the model is another one".into()) }
}
