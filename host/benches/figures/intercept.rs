//! What it costs that a method is called in the middle of a pass.

use engraft::model::{Attached, Model, OpenOptions};
use engraft::plugins::{Attachment, Method};
use engraft::runtime::Runtime;
use engraft_plugin_api::{BlockSite, Change, InterceptCall, Params, Place, RunRequest, Site, Tensor};
use std::path::Path;
use std::sync::Arc;

use crate::tools::{Outcome, Passes, atlas, commit, median, plugin, rows, seconds};

/// Adds to every number of what it is shown, or looks on.
struct Adding(f32);

impl Attached for Adding {
    fn intercept(&self, call: &InterceptCall<'_>) -> engraft::base::Result<Option<Tensor>> {
        Ok((self.0 != 0.0).then(|| Tensor::from_array(&call.activation.mapv(|v| v + self.0))))
    }
}

/// A model in whose middle block a method is called.
fn intercepted(runtime: &Runtime, folder: &Path, method: Arc<dyn Attached>) -> Outcome<Model> {
    let model = Model::open(folder, runtime, &OpenOptions::default())?;
    model.attach("bench", &Params::default(), method);
    let sites = vec![Site::Block(model.anatomy().layers / 2, BlockSite::ResidPost)];
    commit(&model, vec![Change::Intercept { sites, whole_rows: false }])?;
    Ok(model)
}

/// All logits of four rows of 35 tokens with a method called at one site, against the runtime's defaults.
pub(crate) fn intercept(runtime: &Runtime, large: &Path) -> Outcome<()> {
    let model = Model::open(large, runtime, &OpenOptions::default())?;
    let adding = intercepted(runtime, large, Arc::new(Adding(1e-3)))?;
    let passes = Passes::new(runtime, large, model.anatomy().vocab)?;
    let times = passes.timed(15, &[(&model, &passes.all), (&adding, &passes.all)])?;
    println!(
        "forward pass, 4 x 35, all logits: a method called at one site {:.3}x of the plain session ({:.3} s), {:.3}x of \
         the model without it",
        times.ratio(2, 0),
        times.plain(),
        times.ratio(2, 1)
    );
    Ok(())
}

/// The price of a call at one site: one row of 16 tokens through atlas with it and without.
pub(crate) fn call(runtime: &Runtime) -> Outcome<()> {
    let folder = atlas().join("model");
    let model = Model::open(&folder, runtime, &OpenOptions::default())?;
    let library = || -> Outcome<Arc<Method>> { Ok(Arc::new(plugin("stress", "")?)) };
    let ways: [(&str, Arc<dyn Attached>); 4] = [
        ("that looks on", Arc::new(Adding(0.0))),
        ("that adds", Arc::new(Adding(1e-3))),
        ("of a plugin that adds", Arc::new(Attachment::new(library()?).patience(None))),
        ("of a plugin that adds, watched", Arc::new(Attachment::new(library()?))),
    ];
    let rows = rows(1, 16, model.anatomy().vocab);
    let request = RunRequest { rows, logits: vec![Place { row: 0, pos: 15 }], ..RunRequest::default() };
    let pass = |model: &Model| seconds(|| model.run(&request).map(drop).map_err(Into::into));
    for (what, method) in ways {
        let called = intercepted(runtime, &folder, method)?;
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..400 {
            times[0].push(pass(&model)?);
            times[1].push(pass(&called)?);
        }
        let [without, with] = times.map(median);
        println!(
            "a call {what}, one row of 16 tokens: {:.0} us more than the pass of {:.0} us without",
            (with - without) * 1e6,
            without * 1e6
        );
    }
    Ok(())
}
