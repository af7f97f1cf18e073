//! One ROME edit: on atlas and on the larger model.

use engraft::base::Cancel;
use engraft::data::{self, DataKind};
use engraft::model::{Model, OpenOptions};
use engraft::plugins::Access;
use engraft::runtime::Runtime;
use engraft_plugin_api::{EditRequest, Target};

use crate::tools::{Outcome, atlas, large, median, plugin, seconds};

/// One ROME edit on atlas with the bare prompt and 5 prefixes, 20 steps; and with the shipped preset.
pub(crate) fn edit(runtime: &Runtime) -> Outcome<()> {
    let model = Model::open(&atlas().join("model"), runtime, &OpenOptions::default())?;
    let requests: Vec<EditRequest> =
        data::load(DataKind::CounterFact, &atlas().join("counterfact_train.json"), Some(30))?
            .records
            .into_iter()
            .map(|r| r.request)
            .collect();
    let prefixes: Vec<String> = model.facts()?.prefixes.into_iter().take(5).map(|p| format!("{p:?}")).collect();
    let six = format!("prefixes = 'fixed'\nprefix_list = [{}]\n", prefixes.join(", "));
    for (name, params) in [
        ("6 templates, all 20 steps, layer 0", format!("layer = 0\nearly_stop_loss = 0.0\n{six}")),
        ("6 templates, all 20 steps, layer 1", format!("layer = 1\nearly_stop_loss = 0.0\n{six}")),
        ("6 templates, early stop, layer 0", format!("layer = 0\n{six}")),
        ("11 templates (the preset), layer 0", "layer = 0\nprefixes = 'fixed'".to_owned()),
    ] {
        let method = plugin("rome", &params)?;
        let mut one = |request: &EditRequest| -> Outcome<f64> {
            let access = Access::new(&model, Cancel::new(), 0);
            seconds(|| method.edit(&access, std::slice::from_ref(request)).map(drop).map_err(Into::into))
        };
        one(&requests[0])?;
        let times = requests.iter().map(&mut one).collect::<Outcome<Vec<_>>>()?;
        println!("one ROME edit on atlas, {name}: {:.3} s (median of {})", median(times), requests.len());
    }
    let Some(large) = large() else { return Ok(()) };
    let model = Model::open(&large, runtime, &OpenOptions::default())?;
    const WORDS: &str = "ab cd efg h";
    let long = |i: usize| format!("{:?}", format!("{} {{}}", WORDS.repeat(2 + i % 2)));
    let list: Vec<String> = (0..10).map(long).collect();
    let params = format!(
        "layer = 5\ncovariance = 'none'\nearly_stop_loss = 0.0\nprefixes = 'fixed'\nprefix_list = [{}]",
        list.join(", ")
    );
    let method = plugin("rome", &params)?;
    let target = Target { new: "xyz".into(), old: None };
    let request = EditRequest { id: "1".into(), prompt: "The {} is".into(), subject: Some("abc def".into()), target };
    let access = Access::new(&model, Cancel::new(), 0);
    let tokens = model.tokenizer()?.encode(&format!("{} The abc def is", WORDS.repeat(2)))?.ids.len();
    let one = || seconds(|| method.edit(&access, std::slice::from_ref(&request)).map(drop).map_err(Into::into));
    one()?;
    let times = vec![one()?, one()?, one()?];
    println!(
        "one ROME edit on the large model, 11 templates of about {tokens} tokens, 20 steps: {:.2} s",
        median(times)
    );
    Ok(())
}
