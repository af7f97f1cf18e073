//! The memory of several programs over one model.

use engraft::model::{Model, OpenOptions};
use engraft::runtime::{Runtime, RuntimeSettings, Value, memory, silent};
use engraft_plugin_api::{BlockSite, GradientRequest, Place, Poke, RunRequest, Site, Tap, Tensor, Term, Wrt};
use std::sync::Arc;

use crate::tools::{Outcome, feed, large, plain, rows};

/// RssAnon with three programs against one session of the runtime's defaults, each in a process of its own.
pub(crate) fn of_three() -> Outcome<()> {
    let measure = |what: &str| -> Outcome<f64> {
        let out = std::process::Command::new(std::env::current_exe()?).arg(format!("child-{what}")).output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.trim().parse().map_err(|_| format!("the child said {text:?}").into())
    };
    let (one, three) = (measure("default")?, measure("three")?);
    println!("RssAnon: one default session {one:.0} MB, three programs {three:.0} MB, ratio {:.2}", three / one);
    Ok(())
}

/// What a process of its own measures for [`of_three`].
pub(crate) fn measured(what: &str) -> Outcome<()> {
    let large = large().ok_or("ENGRAFT_BENCH_MODEL is not set")?;
    let runtime = Runtime::open(&RuntimeSettings::default(), silent())?;
    let keep: Box<dyn std::any::Any> = if what == "default" {
        let program = plain(&runtime, &large)?;
        let feeds = feed(&program, &rows(4, 35, 50_000))?;
        let feeds: Vec<(&str, &Value)> = feeds.iter().map(|(n, v)| (n.as_str(), v)).collect();
        let fetch = program.outputs()[0].name.clone();
        program.run(&feeds, &[&fetch])?;
        Box::new(program)
    } else {
        let model = Arc::new(Model::open(&large, &runtime, &OpenOptions::default())?);
        let rows = rows(4, 35, model.anatomy().vocab);
        let logits: Vec<Place> = (0..4).map(|row| Place { row, pos: 34 }).collect();
        model.run(&RunRequest { rows: rows.clone(), logits: logits.clone(), ..RunRequest::default() })?;
        let site = Site::Block(5, BlockSite::MlpPost);
        let taps = vec![Tap { site, places: None }];
        model.run(&RunRequest { rows: rows.clone(), taps, ..RunRequest::default() })?;
        let site = Site::Block(5, BlockSite::MlpProj);
        let values = Tensor::zeros([1, model.anatomy().d_model]);
        let terms = logits.iter().map(|&place| Term::Nll { place, token: 17, weight: 0.25 }).collect();
        model.gradient(&GradientRequest {
            rows,
            adds: vec![Poke { site, places: logits, values }],
            terms,
            wrt: vec![Wrt::Add(0)],
            ..GradientRequest::default()
        })?;
        Box::new(model)
    };
    println!("{}", memory::anonymous_bytes().unwrap_or(0) as f64 / 1e6);
    drop(keep);
    Ok(())
}
