//! Splices: graphs that methods bring along, put between a site and its readers.
//!
//! A [`Graft`] is such a graph once it is read and checked against a model, without the values of its tables: it is a
//! part of a program's structure. What it reads of the model is cast to float32, what it makes is taken for rows whose
//! gate is open, and rounded once where the edge is narrower. The padding keeps its values: a number that is none would
//! spread from there through attention. `check` says what is refused,
//! `plain` derives what a plain model lacks.

mod check;
mod plain;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{Hash as StdHash, Hasher};

use engraft_plugin_api::{BlockSite, Fold, Site, Splice};

use super::names::{Name, SplicePart};
use super::rig::site_width;
use super::types::{Types, cast};
use crate::anatomy::Anatomy;
use crate::base::{Hash, Result};
use crate::graph::{Attr, DType, Dim, Graph, Patch};

pub(super) use plain::Plain;

/// A splice that can be attached to a model's graph.
#[derive(Clone, Debug)]
pub struct Graft {
    id: Hash,
    splice: Splice,
    /// In the model's version of the standard operators.
    graph: Graph,
    /// What its inputs are, by their names.
    inputs: Vec<(String, Fed)>,
    /// The extents of its tables; a name for the first one of those that are stacked.
    tables: Vec<Vec<Dim>>,
}

/// What an input of a splice's graph is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fed {
    Site(Site),
    Positions,
    Mask,
    PromptEnd,
    Gate,
    Table(usize),
    TableGate(usize),
}

impl Graft {
    /// Reads the graph of a splice and checks it against a model. `id` tells it from all others: two splices of one
    /// have equal graphs, sites, and tables but for what they hold and for how many entries are stacked.
    ///
    /// # Errors
    /// `splice-graph`, `splice-operator`, `splice-input`, `splice-output`, `splice-read`, `splice-table`; `site-absent`
    /// or `site-not-pokable` for what it reads and writes.
    pub fn of(graph: &Graph, anatomy: &Anatomy, splice: &Splice, id: Hash) -> Result<Self> {
        check::read(graph, anatomy, splice, id)
    }

    /// The splice, with the tables that it was made of.
    pub fn splice(&self) -> &Splice {
        &self.splice
    }

    /// What tells it from others.
    pub fn id(&self) -> Hash {
        self.id
    }

    /// Checks the tables of another splice of the same `id`.
    ///
    /// # Errors
    /// `splice-table`
    pub fn check_tables(&self, splice: &Splice) -> Result<()> {
        check::tables(self, splice)
    }

    /// The sites that it touches.
    pub(super) fn touched(&self) -> impl Iterator<Item = Site> {
        self.splice.reads.iter().copied().chain([self.splice.writes])
    }

    fn name(&self, part: SplicePart) -> Name {
        Name::Splice(self.splice.writes, self.splice.order, part)
    }

    /// Puts it between the site and its readers.
    pub(super) fn attach(&self, patch: &mut Patch<'_>, anatomy: &Anatomy, types: &Types) -> Result<()> {
        let shared = Shared::of(patch, anatomy);
        let gate = patch.input(&self.name(SplicePart::Gate).to_string(), DType::F32, vec![shared.rows.clone()])?;
        let mut feeds = HashMap::new();
        for (name, fed) in &self.inputs {
            let edge = match *fed {
                Fed::Site(site) => Self::read(patch, anatomy, types, site)?,
                Fed::Positions => shared.positions(patch)?,
                Fed::Mask => shared.input(patch, Name::Mask, DType::F32, true)?,
                Fed::PromptEnd => shared.input(patch, Name::PromptEnd, DType::I64, false)?,
                Fed::Gate => gate.clone(),
                Fed::Table(i) => {
                    let dtype = self.table_type(i);
                    patch.input(&self.name(SplicePart::Table(i)).to_string(), dtype, self.dims(i))?
                }
                Fed::TableGate(i) => {
                    let dims = [shared.rows.clone()].into_iter().chain(self.dims(i).into_iter().take(1)).collect();
                    patch.input(&self.name(SplicePart::TableGate(i)).to_string(), DType::F32, dims)?
                }
            };
            feeds.insert(name.clone(), edge);
        }
        let rows = patch.op("Cast", &[&gate], &[("to", Attr::Int(i64::from(DType::BOOL.0)))])?;
        let shape = patch.i64(&[2], &[-1, 1]);
        let rows = patch.op("Reshape", &[&rows, &shape], &[])?;
        let (positions, none) = (shared.positions(patch)?, patch.i64(&[1], &[-1]));
        let tokens = patch.op("Greater", &[&positions, &none], &[])?;
        let open = patch.op("And", &[&rows, &tokens], &[])?;
        self.put(patch, anatomy, types, &feeds, Some(&open))
    }

    /// Puts the graph in, with edges for its inputs; what it makes is taken where `open`, `[rows, columns]`, is true.
    fn put(
        &self,
        patch: &mut Patch<'_>,
        anatomy: &Anatomy,
        types: &Types,
        feeds: &HashMap<String, String>,
        open: Option<&str>,
    ) -> Result<()> {
        let new = patch.graft(&self.graph, feeds)?.remove(0);
        let edge = anatomy.site(self.splice.writes)?;
        let (now, dtype) = (patch.current(edge), types.edge(edge));
        let mut new = cast(patch, &new, DType::F32, dtype)?;
        if let Some(open) = open {
            let rank = 2 + site_width(anatomy, self.splice.writes).len();
            let shape: Vec<i64> = (0..rank).map(|axis| i64::from(axis >= 2)).collect();
            let shape = patch.i64(&[rank], &shape);
            let open = patch.op("Reshape", &[open, &shape], &[])?;
            // In the type of the edge: runtimes that compute float16 in float32 would round what is cast by name.
            new = patch.op("Where", &[&open, &new, &now], &[])?;
        }
        patch.shunt(edge, &new)
    }

    /// A site that it reads, in float32, as its readers see it.
    fn read(patch: &mut Patch<'_>, anatomy: &Anatomy, types: &Types, site: Site) -> Result<String> {
        let found = anatomy.site(site)?;
        let now = patch.current(found);
        cast(patch, &now, types.edge(found), DType::F32)
    }

    /// The extents of a table in the program, under names of this splice alone.
    fn dims(&self, table: usize) -> Vec<Dim> {
        let own = |dim: &Dim| match dim {
            Dim::Symbol(name) => Dim::symbol(&format!("{}.{name}", self.name(SplicePart::Gate))),
            known => known.clone(),
        };
        self.tables[table].iter().map(own).collect()
    }

    fn table_type(&self, table: usize) -> DType {
        if self.splice.tables[table].value.as_f32().is_ok() { DType::F32 } else { DType::I64 }
    }

    /// The inputs of a program that hold the tables of floats, in the order of
    /// [`Change::tensors`](engraft_plugin_api::Change::tensors): the number of the table, and the input if it is read.
    pub(crate) fn variables(&self) -> Vec<(usize, Option<Name>)> {
        let read = |i: usize| self.inputs.iter().any(|(_, fed)| *fed == Fed::Table(i));
        let floats = (0..self.tables.len()).filter(|&i| self.table_type(i) == DType::F32);
        floats.map(|i| (i, read(i).then(|| self.name(SplicePart::Table(i))))).collect()
    }
}

impl PartialEq for Graft {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Graft {}

impl PartialOrd for Graft {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Graft {
    /// As they run at one site.
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |graft: &Self| (graft.splice.order, graft.splice.writes, graft.id);
        key(self).cmp(&key(other))
    }
}

impl StdHash for Graft {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

/// The inputs that all splices and calls of a graph share, in the extents of its token ids.
pub(super) struct Shared {
    rows: Dim,
    columns: Dim,
}

impl Shared {
    pub(super) fn of(patch: &Patch<'_>, anatomy: &Anatomy) -> Self {
        let ids = patch.graph().inputs().into_iter().find(|port| port.name == anatomy.inputs.ids);
        match ids.and_then(|port| port.dims).as_deref() {
            Some([rows, columns]) => Self { rows: rows.clone(), columns: columns.clone() },
            _ => Self { rows: Dim::symbol("engraft.rows"), columns: Dim::symbol("engraft.columns") },
        }
    }

    /// `[rows, columns]`; -1 where there is no token.
    pub(super) fn positions(&self, patch: &mut Patch<'_>) -> Result<String> {
        self.input(patch, Name::Positions, DType::I64, true)
    }

    fn input(&self, patch: &mut Patch<'_>, name: Name, dtype: DType, columns: bool) -> Result<String> {
        let name = name.to_string();
        if patch.is_input(&name) {
            return Ok(name);
        }
        let dims = [&self.rows, &self.columns].into_iter().take(if columns { 2 } else { 1 }).cloned().collect();
        patch.input(&name, dtype, dims)
    }
}

/// The extents of a site as its splices see it, and those of what they write.
fn extents(anatomy: &Anatomy, site: Site) -> Vec<Dim> {
    let [rows, columns] = ["rows", "columns"].map(Dim::symbol);
    match site {
        Site::Block(_, BlockSite::Pattern) => vec![rows, Dim::Known(anatomy.heads), columns, Dim::symbol("keys")],
        site => [rows, columns].into_iter().chain(site_width(anatomy, site).into_iter().map(Dim::Known)).collect(),
    }
}

/// True for tables that grow with every patch.
fn stacked(splice: &Splice, table: usize) -> bool {
    splice.tables[table].fold == Fold::Stack
}
