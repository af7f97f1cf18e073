//! Splices: a graph that a method brings along, run inside the model's own session.

use super::Increment;
use crate::error::MethodError;
use crate::site::Site;

/// The input `positions`, i64 `[rows, columns]`: the absolute position of each column of a row, -1 in the padding.
pub const POSITIONS: &str = "positions";
/// The input `mask`, f32 `[rows, columns]`: 1 at tokens, 0 in the padding.
pub const MASK: &str = "mask";
/// The input `prompt_end`, i64 `[rows]`: the absolute position of the last token of each row's prompt; it stays what
/// it is while a row grows.
pub const PROMPT_END: &str = "prompt_end";
/// The input `gate`, f32 `[rows]`: 1 in rows that see a patch of this splice, else 0.
pub const GATE: &str = "gate";

/// The input that gates a table of the kind [`Stack`](super::Fold::Stack), f32 `[rows, n]`: 1 where a row sees the patch that
/// an entry came from, else 0.
pub fn gate_of(table: &str) -> String {
    format!("{table}.gate")
}

/// A second name of the input of `reads[index]`: with it one graph serves at every layer.
pub fn read_of(index: usize) -> String {
    format!("reads.{index}")
}

/// A graph that reads sites and gives a site a new value, for all that comes after it.
///
/// # The graph
/// An ONNX model of standard operators with one output: the new value of `writes`, in its shape. Its inputs go by
/// name, and it need not have all of them:
///
/// - each site that it `reads`, in its own spelling or by its number ([`read_of`]): the activation, f32, as [`Site`] says, `columns` positions wide.
///   `writes` may be read too and is then the value before this splice. What is read is computed before what is
///   written, at the latest the written site itself;
/// - [`POSITIONS`], [`MASK`], [`PROMPT_END`], [`GATE`];
/// - each of `tables` by its name, and [`gate_of`] each stacked table.
///
/// What it makes of a row does not depend on the other rows of the batch, whose number and company are the host's; nor,
/// unless `whole_rows`, on later columns of the row, which are not there yet while a text is continued. A commit tries
/// both on a probe and refuses a splice that mixes them (`splice-mixes`).
///
/// The host keeps the old value, to the bit, in rows whose gate is 0. A row may see only its newest columns (where
/// keys and values of earlier ones are kept): positions tell, and `whole_rows` prevents it.
///
/// # Several patches
/// Splices with the same graph, sites and order are one: their tables are folded over the active patches, so that a
/// codebook grows without another graph. Others at one site run one after the other in ascending `order`; two
/// different ones of the same order are a conflict.
#[derive(Clone, Debug, PartialEq)]
pub struct Splice {
    /// The bytes of the ONNX model.
    pub graph: Vec<u8>,
    /// The sites that it reads, each at most once.
    pub reads: Vec<Site>,
    /// The site that it writes.
    pub writes: Site,
    /// Tensors that it reads by name.
    pub tables: Vec<Increment>,
    /// True if every column of a row must be there in each pass; the host then keeps no keys and values.
    pub whole_rows: bool,
    /// Its place among the splices of one site.
    pub order: i32,
}

impl Splice {
    /// Checks all that can be checked without reading the graph.
    ///
    /// # Errors
    /// `splice-empty` without a graph, `splice-name` if two inputs would have one name.
    pub fn check(&self) -> Result<(), MethodError> {
        let site = self.writes;
        if self.graph.is_empty() {
            return Err(MethodError::new("splice-empty", format!("the splice at `{site}` has no graph")));
        }
        let mut names: Vec<String> = [POSITIONS, MASK, PROMPT_END, GATE].map(str::to_owned).to_vec();
        names.extend(self.reads.iter().enumerate().flat_map(|(i, site)| [site.to_string(), read_of(i)]));
        names.extend(self.tables.iter().flat_map(|table| [table.name.clone(), gate_of(&table.name)]));
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => {
                let text = format!("the splice at `{site}` has two inputs `{}`", pair[0]);
                Err(MethodError::new("splice-name", text).help("rename its table, or read each site once"))
            }
            None => Ok(()),
        }
    }

    /// True if two splices are one graph whose tables are folded.
    pub fn joins(&self, other: &Self) -> bool {
        let tables = |splice: &Self| -> Vec<_> { splice.tables.iter().map(|t| (t.name.clone(), t.fold)).collect() };
        (&self.graph, &self.reads, self.writes, self.whole_rows, self.order)
            == (&other.graph, &other.reads, other.writes, other.whole_rows, other.order)
            && tables(self) == tables(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fold, Tensor};

    #[test]
    fn names_are_kept_apart_and_equal_graphs_join() {
        let table = |name: &str, n| Increment { name: name.into(), fold: Fold::Stack, value: Tensor::zeros([n, 2]) };
        let splice = |names: &[&str], n| Splice {
            graph: vec![1],
            reads: vec![Site::Embed, Site::LnFinal],
            writes: Site::LnFinal,
            tables: names.iter().map(|name| table(name, n)).collect(),
            whole_rows: false,
            order: 0,
        };
        assert_eq!(splice(&["keys", "values"], 1).check(), Ok(()));
        for names in [&["gate"][..], &["embed"], &["reads.1"], &["keys", "keys"], &["keys", "keys.gate"]] {
            assert_eq!(splice(names, 1).check().map_err(|e| e.code), Err("splice-name".into()), "{names:?}");
        }
        assert!(splice(&["keys"], 1).joins(&splice(&["keys"], 3)));
        assert!(!splice(&["keys"], 1).joins(&Splice { order: 1, ..splice(&["keys"], 1) }));
        let empty = Splice { graph: vec![], ..splice(&[], 0) };
        assert_eq!(empty.check().map_err(|e| e.code), Err("splice-empty".into()));
    }
}
