//! One edit: read the key, place it in the codebook, search its value, propose the entry.

use engraft_method_common::{FactToken, ForcedRow, Random, check_cancelled, forced_row, prompt_row, target_ids};
use engraft_plugin_api::{
    Capabilities, Change, Descriptor, EditMethod, EditRequest, Family, Level, MethodError, ModelAccess, Params, Place,
    Plugin, RunRequest, Tap, Tensor,
};

use crate::codebook::{Codebook, Entry, Kind, hash};
use crate::params::{GraceParams, ValueInit};
use crate::splice::{active, splice};
use crate::value::find_value;

/// GRACE with its parameters.
pub struct Grace {
    params: GraceParams,
}

impl Plugin for Grace {
    fn describe() -> Descriptor {
        Descriptor {
            name: "grace".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            family: Family::ExternalExtension,
            summary: "Replaces a layer's output where its input lies near a key of a codebook (GRACE).".into(),
            paper:
                "Hartvigsen, Sankaranarayanan, Palangi, Kim, Ghassemi 2023: Aging with GRACE: Lifelong Model Editing \
                    with Discrete Key-Value Adaptors"
                    .into(),
            capabilities: Capabilities { batch: true, sequential: true, needs_subject: false },
            params: GraceParams::specs(),
        }
    }

    fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        Ok(Box::new(Self { params: GraceParams::read(params)? }))
    }
}

/// What the model computes for a request now.
struct Reading {
    key: Vec<f32>,
    value: Vec<f32>,
    /// Whether every token of the target is the most probable one.
    right: bool,
}

impl EditMethod for Grace {
    fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
        check_cancelled(access)?;
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let p = &self.params;
        let context = access.facts().context;
        let mut book = active(access, p.key, p.value)?;
        let before = book.entries.len();
        let mut random = Random::new(access.random("value"));
        for request in requests {
            let target = target_ids(access, request)?;
            let prompt = prompt_row(access, request, "{}", FactToken::Last, context)?;
            let row = forced_row(request, &prompt, &target, context)?;
            let reading = self.read(access, &row, &target, &book.entries[before..])?;
            if reading.right && p.only_errors {
                let message = format!("`{}`: the model already gives the target: nothing to change", request.id);
                access.log(Level::Info, &message);
                continue;
            }
            let entry = self.entry(access, &book, &row, &target, reading, &mut random)?;
            book.entries.push(entry);
        }
        let own = &book.entries[before..];
        if own.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![Change::Splice(splice(own, p.key, p.value, p.replace)?)])
    }
}

impl Grace {
    /// Key, old value and answer of one forward pass, under the entries that this call has made already.
    fn read(
        &self,
        access: &dyn ModelAccess,
        row: &ForcedRow,
        target: &[u32],
        own: &[Entry],
    ) -> Result<Reading, MethodError> {
        let p = &self.params;
        let end = vec![Place { row: 0, pos: row.read_from }];
        let under =
            if own.is_empty() { Vec::new() } else { vec![Change::Splice(splice(own, p.key, p.value, p.replace)?)] };
        let reply = access.run(&RunRequest {
            rows: vec![row.ids.clone()],
            prompt_ends: vec![row.read_from],
            taps: [p.key, p.value].map(|site| Tap { site, places: Some(end.clone()) }).to_vec(),
            logits: row.places(0, target.len()).collect(),
            under,
            ..RunRequest::default()
        })?;
        let [key, value] = &reply.taps[..] else {
            return Err(MethodError::new("reply-shape", "the host did not answer for two sites"));
        };
        let vector = |tensor: &Tensor| Ok::<_, MethodError>(tensor.as_f32()?.to_vec());
        let best = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i as u32);
        let table = reply.logits.matrix()?;
        let right = table.outer_iter().zip(target).all(|(row, &token)| best(&row.to_vec()) == Some(token));
        Ok(Reading { key: vector(key)?, value: vector(value)?, right })
    }

    /// The entry of a request in a codebook.
    fn entry(
        &self,
        access: &dyn ModelAccess,
        book: &Codebook,
        row: &ForcedRow,
        target: &[u32],
        reading: Reading,
        random: &mut Random,
    ) -> Result<Entry, MethodError> {
        let p = &self.params;
        let label = hash(target.iter().copied());
        let place = book.place(&reading.key, label, p.epsilon);
        let near = place.near.map(|near| &book.entries[near]);
        // An expansion goes on from the value that the near entry has now, as in the reference.
        let known = if place.kind == Kind::Expand { book.nearest(&reading.key) } else { None };
        let start = match (known, p.value_init) {
            (Some(nearest), _) => book.entries[nearest.value].value.clone(),
            (None, ValueInit::Warm) => reading.value,
            (None, ValueInit::Cold) => reading.value.iter().map(|_| random.uniform()).collect(),
        };
        let value = find_value(access, p, row, target, start)?;
        access.log(Level::Debug, &format!("{:?}, {} entries before", place.kind, book.entries.len()));
        let near_id = near.map_or(-1, |near| near.id);
        let near_words = [near_id as u32, (near_id >> 32) as u32];
        let words = reading.key.iter().chain(&value).map(|v| v.to_bits()).chain(target.iter().copied());
        Ok(Entry {
            id: hash(words.chain(near_words)),
            near: near_id,
            kind: place.kind,
            label,
            tokens: target.len() as i64,
            key: reading.key,
            value,
            alone: place.alone,
            beside: place.beside,
            moved: place.moved,
        })
    }
}
