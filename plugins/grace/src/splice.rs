//! The codebook as a splice: the tables, and the graph that does in the model's session what
//! [`Codebook::nearest`](crate::Codebook::nearest) does.

use engraft_method_common::graph::{Attribute, COLUMNS, Edge, Extent, GraphBuilder, Kind as Element, ROWS};
use engraft_plugin_api::{Fold, Increment, MethodError, ModelAccess, Site, Splice, Tensor};

use crate::codebook::{Codebook, Entry, Kind, SAME_PLACE};

/// Which positions of a row a value replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// The last token of the prompt.
    Last,
    /// The prompt, up to its last token.
    Prompt,
    /// The prompt's last token and those of the answer: as many as the target has, less one.
    Answer,
    /// The whole row.
    All,
}

impl Replace {
    /// Every choice, the default first.
    pub const ALL: [Replace; 4] = [Self::Last, Self::Prompt, Self::Answer, Self::All];

    /// The spelling in parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Prompt => "prompt",
            Self::Answer => "answer",
            Self::All => "all",
        }
    }
}

/// A distance beyond all radii, of entries that a row does not see.
const FAR: f32 = 1e30;

/// The symbol of the number of entries.
const ENTRIES: &str = "entries";

/// The names of the tables. They hold the sites, so that codebooks of other sites are others.
struct Tables {
    /// f32 `[entries, key width]`
    keys: String,
    /// f32 `[entries, value width]`
    values: String,
    /// i64 `[entries, 5]`: identifier, that of the near entry, kind, label, how many tokens the target has.
    marks: String,
    /// f32 `[entries, 3]`: radius alone, beside the near entry, what became of the near one's.
    radii: String,
}

impl Tables {
    fn of(key: Site, value: Site) -> Self {
        let name = |what: &str| format!("{key}>{value}:{what}");
        Self { keys: name("keys"), values: name("values"), marks: name("marks"), radii: name("radii") }
    }
}

/// The codebook of the active patches, and whatever they hold of it.
///
/// # Errors
/// `grace-tables` if the tables do not fit each other; errors of the host.
pub fn active(access: &dyn ModelAccess, key: Site, value: Site) -> Result<Codebook, MethodError> {
    let tables = Tables::of(key, value);
    let Some(keys) = access.statistic(&tables.keys)? else { return Ok(Codebook::default()) };
    let damaged = |what: &str| {
        MethodError::new("grace-tables", format!("the codebook at `{value}` has {what}"))
            .help("roll back the patches of this codebook")
    };
    let table = |name: &str| access.statistic(name)?.ok_or_else(|| damaged(&format!("no table `{name}`")));
    let (values, marks, radii) = (table(&tables.values)?, table(&tables.marks)?, table(&tables.radii)?);
    let n = keys.shape().first().copied().unwrap_or(0);
    let wide = |tensor: &Tensor, width: Option<usize>| match *tensor.shape() {
        [rows, w] => rows == n && w > 0 && width.is_none_or(|width| w == width),
        _ => false,
    };
    if !(wide(&keys, None) && wide(&values, None) && wide(&marks, Some(5)) && wide(&radii, Some(3))) {
        let shapes = [&keys, &values, &marks, &radii].map(Tensor::shape);
        return Err(damaged(&format!("tables of the shapes {shapes:?}")));
    }
    let (key_width, value_width) = (keys.shape()[1], values.shape()[1]);
    let (keys, values, marks, radii) = (keys.as_f32()?, values.as_f32()?, marks.as_i64()?, radii.as_f32()?);
    let rows = keys.chunks_exact(key_width).zip(values.chunks_exact(value_width));
    let notes = marks.chunks_exact(5).zip(radii.chunks_exact(3));
    let entries = rows.zip(notes).map(|((key, value), (marks, radii))| {
        let kind = Kind::ALL.into_iter().find(|kind| kind.number() == marks[2]);
        Ok(Entry {
            id: marks[0],
            near: marks[1],
            kind: kind.ok_or_else(|| damaged(&format!("an entry of the unknown kind {}", marks[2])))?,
            label: marks[3],
            tokens: marks[4],
            key: key.to_vec(),
            value: value.to_vec(),
            alone: radii[0],
            beside: radii[1],
            moved: radii[2],
        })
    });
    Ok(Codebook { entries: entries.collect::<Result<_, MethodError>>()? })
}

/// The splice of one patch: its own entries, at least one.
///
/// # Errors
/// `tensor-shape` if the entries' vectors have several widths.
pub fn splice(entries: &[Entry], key: Site, value: Site, replace: Replace) -> Result<Splice, MethodError> {
    let (n, tables) = (entries.len(), Tables::of(key, value));
    let [key_width, value_width] =
        [|e: &Entry| e.key.len(), |e: &Entry| e.value.len()].map(|f| entries.first().map_or(0, f));
    let stack = |name: &str, value: Tensor| Increment { name: name.to_owned(), fold: Fold::Stack, value };
    let keys = entries.iter().flat_map(|e| e.key.iter().copied()).collect();
    let values = entries.iter().flat_map(|e| e.value.iter().copied()).collect();
    let marks = entries.iter().flat_map(|e| [e.id, e.near, e.kind.number(), e.label, e.tokens]).collect();
    let radii = entries.iter().flat_map(|e| [e.alone, e.beside, e.moved]).collect();
    Ok(Splice {
        graph: graph(key, key_width, value, value_width, replace)?,
        reads: vec![key, value],
        writes: value,
        tables: vec![
            stack(&tables.keys, Tensor::f32([n, key_width], keys)?),
            stack(&tables.values, Tensor::f32([n, value_width], values)?),
            stack(&tables.marks, Tensor::i64([n, 5], marks)?),
            stack(&tables.radii, Tensor::f32([n, 3], radii)?),
        ],
        // The query is read at the prompt's last token, which a pass over newer columns alone does not have.
        whole_rows: replace != Replace::Last,
        order: 0,
    })
}

/// The graph for keys and values of these widths.
fn graph(
    key: Site,
    key_width: usize,
    value: Site,
    value_width: usize,
    replace: Replace,
) -> Result<Vec<u8>, MethodError> {
    let (tables, known) = (Tables::of(key, value), Extent::Known);
    let mut g = Graph(GraphBuilder::new());
    let activation = g.0.site(key, known(key_width));
    let old = g.0.site(value, known(value_width));
    let positions = g.0.positions();
    let end = g.0.prompt_end();
    let keys = g.0.stacked(&tables.keys, Element::F32, ENTRIES, &[known(key_width)]);
    let values = g.0.stacked(&tables.values, Element::F32, ENTRIES, &[known(value_width)]);
    let marks = g.0.stacked(&tables.marks, Element::I64, ENTRIES, &[known(5)]);
    let radii = g.0.stacked(&tables.radii, Element::F32, ENTRIES, &[known(3)]);
    let gate = g.0.gate_of(&tables.keys, ENTRIES);
    let [id, near, kind] = [0, 1, 2].map(|i| g.0.column(marks, i)); // [entries]
    let [alone, beside, moved] = [0, 1, 2].map(|i| g.0.column(radii, i));
    let one = g.0.float(1.0);
    let zero = g.0.float(0.0);
    let none = g.0.float(-1.0);

    // The query: the key's activation at the prompt's last token, [rows, key_width].
    let end = g.0.unsqueeze(end, &[1]);
    let is_end = g.op("Equal", &[positions, end]); // [rows, columns]
    let end_is = g.0.cast(is_end, Element::F32);
    let column = g.last(end_is); // [rows, 1]
    let there = g.pick(end_is, column);
    let there = g.holds(there);
    let query = g.0.with("GatherND", &[activation, column], &[("batch_dims", Attribute::Int(1))]);

    // Which entries a row sees, which of them have their near one, which are looked for. All [rows, entries].
    let seen = g.holds(gate);
    let (ids, nears) = (g.0.unsqueeze(id, &[1]), g.0.unsqueeze(near, &[0]));
    let pairs = g.op("Equal", &[ids, nears]);
    let pairs = g.0.cast(pairs, Element::F32); // [entries, entries]
    let has_near = g.op("MatMul", &[gate, pairs]);
    let expands = g.is(kind, Kind::Expand); // [entries]
    let silent = g.0.cast(expands, Element::F32);
    let silent = g.op("Mul", &[has_near, silent]);
    let loud = g.op("Sub", &[one, silent]);
    let live = g.op("Mul", &[gate, loud]);
    let live = g.holds(live);

    // The nearest of them; of several at one place the latest.
    let query = g.0.unsqueeze(query, &[1]);
    let apart = g.op("Sub", &[query, keys]); // [rows, entries, key_width]
    let apart = g.reduce("ReduceL2", apart, 2, 0);
    let far = g.0.float(FAR);
    let distances = g.op("Where", &[live, apart, far]);
    let least = g.reduce("ReduceMin", distances, 1, 1);
    let tolerance = g.0.float(SAME_PLACE);
    let tolerance = g.op("Mul", &[alone, tolerance]);
    let least = g.op("Add", &[least, tolerance]);
    let nearest = g.op("LessOrEqual", &[distances, least]);
    let nearest = g.0.cast(nearest, Element::F32);
    let nearest = g.last(nearest); // [rows, 1]
    let distance = g.pick(distances, nearest);

    // Its radius at birth.
    let [own_id, own_kind, alone, beside] = [id, kind, alone, beside].map(|table| g.op("Gather", &[table, nearest]));
    let own_near = g.pick(has_near, nearest);
    let own_near = g.holds(own_near);
    let (split, again) = (g.is(own_kind, Kind::Split), g.is(own_kind, Kind::Again));
    let cut = g.op("Or", &[split, again]);
    let cut = g.op("And", &[cut, own_near]);
    let born = g.op("Where", &[cut, beside, alone]); // [rows, 1]

    // What later entries did to it: the last split sets the radius, expansions after it make it grow.
    let about = g.op("Equal", &[near, own_id]);
    let about = g.op("And", &[about, seen]); // [rows, entries]
    let order = g.order(gate); // [entries]
    let splits = g.is(kind, Kind::Split);
    let splits = g.op("And", &[about, splits]);
    let split_at = g.op("Where", &[splits, order, none]);
    let split_at = g.reduce("ReduceMax", split_at, 1, 1); // [rows, 1]
    let radius = g.chosen(split_at, moved, born);
    let expands = g.op("And", &[about, expands]);
    let later = g.op("Greater", &[order, split_at]);
    let grows = g.op("And", &[expands, later]);
    let grown = g.op("Where", &[grows, moved, none]);
    let grown = g.reduce("ReduceMax", grown, 1, 1);
    let radius = g.op("Max", &[radius, grown]);
    let answers = g.op("LessOrEqual", &[distance, radius]);
    let answers = g.op("And", &[answers, there]); // [rows, 1]

    // Its value: that of the last expansion, or its own.
    let expand_at = g.op("Where", &[expands, order, none]);
    let expand_at = g.reduce("ReduceMax", expand_at, 1, 1);
    let nearest = g.0.cast(nearest, Element::F32);
    let expanded = g.op("GreaterOrEqual", &[expand_at, zero]);
    let from = g.op("Where", &[expanded, expand_at, nearest]);
    let from = g.0.cast(from, Element::I64);
    let new = g.op("Gather", &[values, from]); // [rows, 1, value_width]

    // Where it is put. The padding has the position -1.
    let beginning = g.0.integer(0);
    let tokens = g.op("GreaterOrEqual", &[positions, beginning]);
    let places = match replace {
        Replace::Last => is_end,
        Replace::Prompt => {
            let prompt = g.op("LessOrEqual", &[positions, end]);
            g.op("And", &[prompt, tokens])
        }
        Replace::Answer => {
            let tokens = g.0.column(marks, 4);
            let tokens = g.op("Gather", &[tokens, from]);
            let stop = g.op("Add", &[end, tokens]); // [rows, 1]
            let (begun, on) = (g.op("GreaterOrEqual", &[positions, end]), g.op("Less", &[positions, stop]));
            g.op("And", &[begun, on])
        }
        Replace::All => tokens,
    };
    let places = g.op("And", &[places, answers]);
    let places = g.0.unsqueeze(places, &[2]);
    let out = g.op("Where", &[places, new, old]);
    g.0.output("new", out, Element::F32, &[Extent::Symbol(ROWS), Extent::Symbol(COLUMNS), known(value_width)]);
    g.0.bytes()
}

/// A builder with the steps that the graph repeats.
struct Graph(GraphBuilder);

impl Graph {
    fn op(&mut self, op: &str, inputs: &[Edge]) -> Edge {
        self.0.op(op, inputs)
    }

    fn reduce(&mut self, op: &str, edge: Edge, axis: i64, keep: i64) -> Edge {
        let axes = [axis];
        self.0.with(op, &[edge], &[("axes", Attribute::Ints(&axes)), ("keepdims", Attribute::Int(keep))])
    }

    /// The index along axis 1 of the greatest, of several the last: `[rows, 1]`.
    fn last(&mut self, edge: Edge) -> Edge {
        let attributes = ["axis", "keepdims", "select_last_index"].map(|name| (name, Attribute::Int(1)));
        self.0.with("ArgMax", &[edge], &attributes)
    }

    /// Of `[rows, n]`, the place `[rows, 1]` of each row.
    fn pick(&mut self, edge: Edge, places: Edge) -> Edge {
        self.0.with("GatherElements", &[edge, places], &[("axis", Attribute::Int(1))])
    }

    /// The truth of numbers that are 0 or 1.
    fn holds(&mut self, edge: Edge) -> Edge {
        let half = self.0.float(0.5);
        self.op("Greater", &[edge, half])
    }

    fn is(&mut self, kinds: Edge, kind: Kind) -> Edge {
        let number = self.0.integer(kind.number());
        self.op("Equal", &[kinds, number])
    }

    /// The numbers of the entries, as floats: 0, 1, 2, ...
    fn order(&mut self, gate: Edge) -> Edge {
        let shape = self.op("Shape", &[gate]);
        let count = self.0.column(shape, 1);
        let (from, step) = (self.0.integer(0), self.0.integer(1));
        let order = self.op("Range", &[from, count, step]);
        self.0.cast(order, Element::F32)
    }

    /// `table[at]` where there is such an entry (`at` is not -1), else `otherwise`; all `[rows, 1]`.
    fn chosen(&mut self, at: Edge, table: Edge, otherwise: Edge) -> Edge {
        let zero = self.0.float(0.0);
        let there = self.op("GreaterOrEqual", &[at, zero]);
        let index = self.op("Max", &[at, zero]);
        let index = self.0.cast(index, Element::I64);
        let value = self.op("Gather", &[table, index]);
        self.op("Where", &[there, value, otherwise])
    }
}
