//! A pass in parts: some rows of a request as a request of their own, and the replies of all parts as one.

use engraft_plugin_api::{BlockSite, Place, Poke, RunReply, RunRequest, Site, Tap, Tensor};
use ndarray::{ArrayD, Axis, IxDyn, Slice};

use crate::base::Result;

/// Some rows of a request. Its places were checked, and there is an end of the prompt for each row.
pub(in crate::model) fn part(request: &RunRequest, ends: &[usize], rows: &[usize]) -> Result<RunRequest> {
    let pokes = |pokes: &[Poke]| pokes.iter().map(|poke| poke_of(poke, rows)).collect::<Result<Vec<_>>>();
    let tap = |tap: &Tap| Tap { site: tap.site, places: tap.places.as_ref().map(|places| moved(places, rows).1) };
    Ok(RunRequest {
        rows: rows.iter().map(|&row| request.rows[row].clone()).collect(),
        prompt_ends: rows.iter().map(|&row| ends[row]).collect(),
        taps: request.taps.iter().map(tap).collect(),
        overwrites: pokes(&request.overwrites)?,
        adds: pokes(&request.adds)?,
        logits: moved(&request.logits, rows).1,
        under: Vec::new(),
    })
}

/// The places that lie in some of the rows: their numbers, and where they are among those rows.
fn moved(places: &[Place], rows: &[usize]) -> (Vec<usize>, Vec<Place>) {
    let at = |(number, place): (usize, &Place)| {
        let row = rows.iter().position(|&row| row == place.row)?;
        Some((number, Place { row, pos: place.pos }))
    };
    places.iter().enumerate().filter_map(at).unzip()
}

fn poke_of(poke: &Poke, rows: &[usize]) -> Result<Poke> {
    let (numbers, places) = moved(&poke.places, rows);
    let values = match poke.values.shape()[0] {
        1 => poke.values.clone(),
        _ => Tensor::from_array(&poke.values.view()?.select(Axis(0), &numbers)),
    };
    Ok(Poke { site: poke.site, places, values })
}

/// The replies of parts on their way to one.
pub(in crate::model) struct Joined<'r> {
    request: &'r RunRequest,
    taps: Vec<Option<ArrayD<f32>>>,
    logits: Option<ArrayD<f32>>,
}

impl<'r> Joined<'r> {
    pub(in crate::model) fn new(request: &'r RunRequest) -> Self {
        Self { request, taps: vec![None; request.taps.len()], logits: None }
    }

    /// Takes the reply for some rows in.
    pub(in crate::model) fn take(&mut self, rows: &[usize], reply: RunReply) -> Result<()> {
        let longest = self.request.rows.iter().map(Vec::len).max().unwrap_or(0);
        for ((tap, tensor), whole) in self.request.taps.iter().zip(&reply.taps).zip(&mut self.taps) {
            let view = tensor.view()?;
            let (n, numbers) = match &tap.places {
                Some(places) => (places.len(), moved(places, rows).0),
                None => (self.request.rows.len(), rows.to_vec()),
            };
            let mut shape = view.shape().to_vec();
            shape[0] = n;
            // The axes of positions are as long as the longest row of a batch.
            let positions = match (&tap.places, tap.site) {
                (Some(_), _) => 1..1,
                (None, Site::Block(_, BlockSite::Pattern)) => 2..4,
                (None, _) => 1..2,
            };
            positions.clone().for_each(|axis| shape[axis] = longest);
            let whole = whole.get_or_insert_with(|| ArrayD::zeros(IxDyn(&shape)));
            for (own, number) in view.outer_iter().zip(numbers) {
                let mut at = whole.index_axis_mut(Axis(0), number);
                for axis in positions.clone() {
                    at.slice_axis_inplace(Axis(axis - 1), Slice::from(0..own.len_of(Axis(axis - 1))));
                }
                at.assign(&own);
            }
        }
        let lines = reply.logits.view()?;
        let n = self.request.logits.len();
        let logits = self.logits.get_or_insert_with(|| ArrayD::zeros(IxDyn(&[n, lines.len_of(Axis(1))])));
        for (line, number) in lines.outer_iter().zip(moved(&self.request.logits, rows).0) {
            logits.index_axis_mut(Axis(0), number).assign(&line);
        }
        Ok(())
    }

    /// The whole reply.
    pub(in crate::model) fn reply(self) -> RunReply {
        let tensor =
            |whole: Option<ArrayD<f32>>| whole.map_or_else(|| Tensor::zeros([0]), |all| Tensor::from_array(&all));
        RunReply { taps: self.taps.into_iter().map(tensor).collect(), logits: tensor(self.logits) }
    }
}
