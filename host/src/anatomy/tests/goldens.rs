//! Every graph of the zoo against a golden file: the ends, and the second block.

use std::fmt::Write;

use engraft_plugin_api::WeightRef;

use super::{anatomy, tests_folder};
use crate::anatomy::{Anatomy, Table};
use crate::graph::Graph;
use crate::graph::testing::rows;

/// An anatomy in words, of the blocks the second.
fn text(anatomy: &Anatomy) -> String {
    let table = Table::of(anatomy);
    let mut out = format!(
        "layers {} d_model {} d_mlp {} heads {} kv_heads {} d_head {} vocab {} context {:?} epsilon {:?}\nids {} mask {:?} positions {:?}\n",
        table.layers,
        table.d_model,
        table.d_mlp,
        table.heads,
        table.kv_heads,
        table.d_head,
        table.vocab,
        table.context,
        anatomy.epsilon,
        table.ids,
        table.mask,
        table.positions
    );
    let other = |name: &str| name.starts_with("blocks.") && !name.starts_with("blocks.1.");
    for row in table.rows.iter().filter(|row| !other(&row.name)) {
        let edge = row.edge.as_deref().unwrap_or("absent");
        writeln!(out, "{} {} = {edge}\n    {}", row.name, row.shape, row.evidence).unwrap();
        if let Some(w) = row.name.parse().ok().and_then(|name: WeightRef| anatomy.weights.get(&name)) {
            let (reader, slot) = &w.reader;
            writeln!(out, "    read by {reader}:{slot}, from {:?} to {:?}", w.input, w.output).unwrap();
        }
    }
    out
}

#[test]
fn the_zoo_is_read_as_its_golden_files_say() {
    let bless = std::env::var_os("ENGRAFT_BLESS").is_some();
    let mut wrong = Vec::new();
    for row in rows() {
        let name = &row.name;
        let graph = Graph::load(&row.folder).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let found = anatomy(&graph).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let path = tests_folder().join(format!("goldens/anatomy/{name}.txt"));
        let now = text(&found);
        if bless {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &now).unwrap();
        }
        let said = std::fs::read_to_string(&path).unwrap_or_default();
        if now != said {
            let differs = now.lines().zip(said.lines()).position(|(a, b)| a != b);
            wrong.push(format!("{name} differs from {} at line {differs:?}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}; ENGRAFT_BLESS=1 re-blesses", wrong.join("\n"));
}
