//! GRACE through the host: its graph against the rules of its codebook, a rollback in the middle against never having
//! made the edit, rows that see patches of their own, and edits that meet in one codebook.

use engraft::base::Cancel;
use engraft::model::{Active, Continuation, Model, Proposal, View};
use engraft::plugins::{Access, Method};
use engraft_plugin_api::{BlockSite, Change, EditRequest, RunRequest, Site, Splice, Tap, Tensor};
use engraft_tests::{a_request, atlas, library, method, open, requests};

const KEY: Site = Site::Block(5, BlockSite::MlpPost);
const VALUE: Site = Site::Block(5, BlockSite::MlpProj);

fn edit(model: &Model, method: &Method, requests: &[EditRequest]) -> Vec<Change> {
    method.edit(&Access::new(model, Cancel::new(), 7).of("grace"), requests).expect("edits")
}

fn splice_of(changes: &[Change]) -> Splice {
    let [Change::Splice(splice)] = changes else { panic!("expected one splice") };
    splice.clone()
}

fn commit(model: &Model, requests: &[EditRequest], changes: Vec<Change>) -> engraft::weights::PatchId {
    let params = engraft_plugin_api::Params::default();
    let (method, version) = ("grace".into(), "1".into());
    model
        .commit(Proposal { method, version, params, artefact: None, requests: requests.to_vec(), changes })
        .expect("commits")
}

/// Random numbers, the same everywhere.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    fn float(&mut self) -> f32 {
        self.below(1 << 20) as f32 / (1 << 20) as f32
    }
}

/// Tables of entries: keys, values, marks, radii.
#[derive(Default)]
struct Tables {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    marks: Vec<[i64; 5]>,
    radii: Vec<[f32; 3]>,
}

const ADD: i64 = 0;
const SPLIT: i64 = 1;
const EXPAND: i64 = 2;
const AGAIN: i64 = 3;

impl Tables {
    fn has(&self, id: i64) -> bool {
        self.marks.iter().any(|marks| marks[0] == id)
    }

    /// The entry whose value answers a query, by the rules of the plugin's first page; how far the query is from a boundary.
    fn answer(&self, query: &[f32]) -> (Option<usize>, f32) {
        let distance = |key: &[f32]| query.iter().zip(key).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
        let mut live: Vec<(usize, f32)> = (0..self.keys.len())
            .filter(|&i| self.marks[i][2] != EXPAND || !self.has(self.marks[i][1]))
            .map(|i| (i, distance(&self.keys[i])))
            .collect();
        live.sort_by(|a, b| a.1.total_cmp(&b.1));
        let Some(&(_, least)) = live.first() else { return (None, f32::INFINITY) };
        let tie = |&&(i, d): &&(usize, f32)| d <= least + 1e-3 * self.radii[i][0];
        let near = live.iter().filter(tie).map(|(i, _)| *i).max().expect("the nearest is one of them");
        let [id, partner, kind, ..] = self.marks[near];
        let beside = (kind == SPLIT || kind == AGAIN) && self.has(partner);
        let (mut radius, mut value) = (self.radii[near][usize::from(beside)], near);
        for (i, marks) in self.marks.iter().enumerate().filter(|(_, marks)| marks[1] == id) {
            match marks[2] {
                SPLIT => radius = self.radii[i][2],
                EXPAND => (radius, value) = (radius.max(self.radii[i][2]), i),
                _ => {}
            }
        }
        let d = distance(&self.keys[near]);
        let ties = live.iter().map(|&(i, d)| (d - least - 1e-3 * self.radii[i][0]).abs()).fold(f32::INFINITY, f32::min);
        let answer = (d <= radius).then_some(value);
        (answer, (d - radius).abs().min(if live.len() > 1 { ties } else { f32::INFINITY }))
    }

    fn random(draw: &mut Draw, n: usize, queries: &[Vec<f32>], width: usize) -> Self {
        let mut tables = Self::default();
        for _ in 0..n {
            let query = &queries[draw.below(queries.len())];
            let spread = [0.0, 0.02, 0.2][draw.below(3)];
            let near = draw.below(n + 1) as i64;
            let id = draw.below(4 * n) as i64 * 2 + tables.marks.len() as i64 * 1000;
            let near = tables.marks.get(near as usize).map_or(-1, |marks| marks[0]);
            tables.keys.push(query.iter().map(|v| v + spread * (draw.float() - 0.5)).collect());
            tables.values.push((0..width).map(|_| draw.float()).collect());
            tables.marks.push([
                id,
                near,
                [ADD, SPLIT, EXPAND, AGAIN][draw.below(4)],
                draw.below(3) as i64,
                1 + draw.below(2) as i64,
            ]);
            let radius = 3.0 * draw.float() - 0.2; // a split one may end below 0
            tables.radii.push([radius.abs(), radius, 3.0 * draw.float() - 0.2]);
        }
        tables
    }

    fn splice(&self, like: &Splice) -> Splice {
        let n = self.keys.len();
        let mut splice = like.clone();
        let floats = |rows: &[Vec<f32>]| Tensor::f32([n, rows[0].len()], rows.concat()).expect("fits");
        splice.tables[0].value = floats(&self.keys);
        splice.tables[1].value = floats(&self.values);
        splice.tables[2].value = Tensor::i64([n, 5], self.marks.concat()).expect("fits");
        splice.tables[3].value = Tensor::f32([n, 3], self.radii.concat()).expect("fits");
        splice
    }
}

#[test]
fn the_graph_answers_by_the_rules_of_the_codebook() {
    let (model, library) = (open(&atlas().join("model")), library("engraft_grace"));
    let tokens = |text: &str| model.tokenizer().and_then(|t| t.encode(text)).expect("encodes").ids;
    let mut rows: Vec<Vec<u32>> = requests(5).iter().map(|r| tokens(&r.filled().expect("fills"))).collect();
    let prompt_ends: Vec<usize> = rows.iter().map(|row| row.len() - 1).collect();
    for (i, row) in rows.iter_mut().enumerate() {
        row.extend(tokens(" Kelm Ada").into_iter().take(i % 3)); // answers of none, one and two tokens
    }
    let run = |under: Vec<Change>| {
        let taps = [KEY, VALUE].map(|site| Tap { site, places: None }).to_vec();
        let (rows, prompt_ends) = (rows.clone(), prompt_ends.clone());
        let reply = model.run(&RunRequest { rows, prompt_ends, taps, under, ..RunRequest::default() }).expect("runs");
        let mut taps = reply.taps.into_iter();
        (taps.next().expect("two taps"), taps.next().expect("two taps"))
    };
    let (keys, before) = run(Vec::new());
    let (longest, key_width, width) = (keys.shape()[1], keys.shape()[2], before.shape()[2]);
    let at = |tensor: &Tensor, row: usize, pos: usize| {
        let w = tensor.shape()[2];
        tensor.as_f32().expect("floats")[(row * longest + pos) * w..][..w].to_vec()
    };
    let queries: Vec<Vec<f32>> = prompt_ends.iter().enumerate().map(|(row, &end)| at(&keys, row, end)).collect();
    assert_eq!(queries[0].len(), key_width);
    let mut draw = Draw(1);
    let (mut answered, mut deferred) = (0, 0);
    for replace in ["last", "prompt", "answer", "all"] {
        let method = method(&library, &format!("layer = 5\nn_iter = 1\nreplace = '{replace}'"));
        let like = splice_of(&edit(&model, &method, &[a_request()]));
        assert_eq!((like.whole_rows, like.writes), (replace != "last", VALUE));
        for n in [1, 2, 3, 5, 5, 8, 8, 8, 12, 12] {
            let tables = Tables::random(&mut draw, n, &queries, width);
            let (_, after) = run(vec![Change::Splice(tables.splice(&like))]);
            for (row, query) in queries.iter().enumerate() {
                let (answer, margin) = tables.answer(query);
                if margin < 1e-4 {
                    continue; // rounding decides
                }
                let replaced = |entry: usize, pos: usize| match replace {
                    "last" => pos == prompt_ends[row],
                    "prompt" => pos <= prompt_ends[row],
                    "answer" => (0..tables.marks[entry][4] as usize).any(|i| pos == prompt_ends[row] + i),
                    _ => true,
                };
                for pos in 0..rows[row].len() {
                    match answer.filter(|&entry| replaced(entry, pos)).map(|entry| &tables.values[entry]) {
                        Some(value) => {
                            assert_eq!(&at(&after, row, pos), value, "{replace}, {n} entries, row {row}, {pos}")
                        }
                        None => assert_eq!(at(&after, row, pos), at(&before, row, pos), "{replace}, {n}, {row}, {pos}"),
                    }
                }
                *(if answer.is_some() { &mut answered } else { &mut deferred }) += 1;
            }
        }
    }
    assert!(answered > 30 && deferred > 30, "{answered} answered, {deferred} not");
}

#[test]
fn an_edit_in_the_middle_is_rolled_back_as_if_it_had_never_been_made() {
    let method = method(&library("engraft_grace"), "layer = 5\nn_iter = 10\nreplace = 'answer'\nepsilon = 9.0");
    let (model, other) = (open(&atlas().join("model")), open(&atlas().join("model")));
    let tokens = |text: &str| model.tokenizer().and_then(|t| t.encode(text)).expect("encodes").ids;
    let all = requests(8);
    let continuations: Vec<Continuation> = all
        .iter()
        .map(|request| Continuation {
            prompt: tokens(&request.filled().expect("fills")),
            tokens: tokens(&format!(" {}", request.target.new)),
        })
        .collect();
    let scores = |model: &Model| {
        let scored = model.score(&continuations).expect("scores");
        scored.iter().map(|s| s.log_probs.iter().map(|p| p.to_bits()).collect()).collect::<Vec<Vec<u32>>>()
    };
    let plain = scores(&model);
    let mut made = Vec::new();
    for request in all.chunks(1) {
        let changes = edit(&model, &method, request);
        assert_eq!(splice_of(&changes).tables[0].value.shape()[0], 1);
        made.push((commit(&model, request, changes.clone()), request, changes));
    }
    let edited = scores(&model);
    assert!(edited.iter().zip(&plain).all(|(now, before)| now != before), "every edit is seen");
    // Rows of one batch: every other one does not see the patch.
    let others: Vec<_> = made.iter().enumerate().filter(|(i, _)| *i != 3).map(|(_, m)| m.0.clone()).collect();
    let of = |row: usize| if row % 2 == 1 { Active::Only(others.clone()) } else { Active::All };
    let view = View { active: (0..all.len()).map(of).collect(), ..View::default() };
    let mixed = model.score_seeing(&continuations, &view, None).expect("scores");
    let mixed: Vec<Vec<u32>> = mixed.iter().map(|s| s.log_probs.iter().map(|p| p.to_bits()).collect()).collect();
    model.rollback(&made[3].0).expect("rolls back");
    let without = scores(&model);
    assert_ne!(without[3], edited[3]);
    for (row, seen) in mixed.iter().enumerate() {
        assert_eq!(*seen, if row % 2 == 1 { &without } else { &edited }[row], "row {row}");
    }
    for (i, (_, request, changes)) in made.iter().enumerate().filter(|(i, _)| *i != 3) {
        assert_eq!(commit(&other, request, changes.clone()), made[i].0);
    }
    assert_eq!((without, model.state_hash()), (scores(&other), other.state_hash()));
    for (i, (id, ..)) in made.iter().enumerate().filter(|(i, _)| *i != 3) {
        model.rollback(id).unwrap_or_else(|e| panic!("the patch {i}: {e:?}"));
    }
    assert_eq!(scores(&model), plain);
}

#[test]
fn edits_meet_in_one_codebook() {
    let model = open(&atlas().join("model"));
    let library = library("engraft_grace");
    // Anything is near under such a radius.
    let wide = method(&library, "layer = 5\nn_iter = 20\nreplace = 'answer'\nepsilon = 1000.0\nonly_errors = false");
    let mut all = requests(3);
    all[1].target = all[0].target.clone();
    all[2] = EditRequest { target: all[1].target.clone(), ..all[1].clone() };
    all[2].target.new = "Kelm".into();
    let kinds = |changes: &[Change]| {
        let marks = splice_of(changes).tables[2].value.as_i64().expect("integers").to_vec();
        marks.chunks_exact(5).map(|marks| marks[2]).collect::<Vec<_>>()
    };
    // One call with several requests does what several calls do.
    let together = edit(&model, &wide, &all);
    assert_eq!(kinds(&together), [ADD, EXPAND, SPLIT]);
    let mut ids = Vec::new();
    for (request, kind) in all.chunks(1).zip([ADD, EXPAND, SPLIT]) {
        let changes = edit(&model, &wide, request);
        assert_eq!(kinds(&changes), [kind]);
        ids.push(commit(&model, request, changes));
    }
    // The same prompt with another target.
    let mut again = all[0].clone();
    again.target.new = "Kelm".into();
    assert_eq!(kinds(&edit(&model, &wide, &[again])), [AGAIN]);
    // Other settings at the same site are another codebook, and cannot stand beside this one.
    let other = method(&library, "layer = 5\nn_iter = 1\nreplace = 'last'\nonly_errors = false");
    let changes = edit(&model, &other, &all[..1]);
    let params = engraft_plugin_api::Params::default();
    let (name, version) = ("grace".into(), "1".into());
    let refused =
        model.commit(Proposal { method: name, version, params, artefact: None, requests: all[..1].to_vec(), changes });
    assert_eq!(refused.expect_err("a conflict").code().id, "splice-conflict");
    // What the model says already is left alone.
    let careful = method(&library, "layer = 5\nn_iter = 60\nreplace = 'answer'");
    for id in ids.iter().rev() {
        model.rollback(id).expect("rolls back");
    }
    let request = [a_request()];
    let id = commit(&model, &request, edit(&model, &careful, &request));
    assert!(edit(&model, &careful, &request).is_empty());
    model.rollback(&id).expect("rolls back");
}
