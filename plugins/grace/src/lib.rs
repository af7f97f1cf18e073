//! GRACE (Hartvigsen, Sankaranarayanan, Palangi, Kim & Ghassemi 2023): a codebook beside one layer. Where the layer's
//! input at the prompt's last token lies within the radius of a key, the layer's output is the key's value.
//!
//! # What a patch is
//!
//! An edit is one entry, a row of stacked tables; the codebook is computed from the entries of the active patches, in
//! the order of their commits, and nothing else is kept. What an edit does to an *earlier* entry is written in its own
//! row, so that any patch can be rolled back: what it did to others goes with it.
//!
//! | table | of entry i |
//! |---|---|
//! | `keys`, `values` | `k_i`, `v_i` |
//! | `marks` | its number; the number `near_i` of the entry that was nearest when it was made, or −1; what it did; a hash of its target's tokens, and how many they are |
//! | `radii` | `a_i = ε`, its radius alone; `b_i`, its radius beside `near_i`; `m_i`, what it made of the radius of `near_i` |
//!
//! # What an edit does
//!
//! With `d` the distance of the new key `k` to the nearest key that is looked for, and `r` that entry's radius:
//!
//! | | when | `b` | `m` |
//! |---|---|---|---|
//! | add | there is none, or `d > ε + r` | | |
//! | expand | else, if the targets are equal | | `d` (and 0.1 % more, for rounding) |
//! | again | else, if `d ≤ ε/1000`: the same prompt | `r` | |
//! | split | else | `d/2` | `d/2 − 1e-5` |
//!
//! # What the codebook answers
//!
//! For a row that sees the entries `S`, with the query `q` (all of this is one graph, a splice, in the model's session):
//!
//! ```text
//! looked for   { i in S : not (i expands and near_i in S) }
//! nearest      j = the latest i with |q − k_i| ≤ min |q − k| + ε/1000
//! radius       R_j = b_j if j splits, or is made again, and near_j in S, else a_j;
//!              then for each i in S with near_i = j, in order:  R_j ← m_i (split),  R_j ← max(R_j, m_i) (expand)
//! value        V_j = v_i of the last i in S that expands j, else v_j
//! the layer    h ← V_j at the positions that `replace` names if |q − k_j| ≤ R_j, else h
//! ```
//!
//! So an expansion is silent while the entry that it expands is there, and answers itself where that one was rolled
//! back; a split that was rolled back cuts nothing. `codebook` computes this for the next edit, `splice` writes it as a
//! graph, `value` searches `v`.

mod codebook;
mod method;
mod params;
mod splice;
mod value;

pub use codebook::{Codebook, Entry, Kind, Nearest, Placement, hash};
pub use method::Grace;
pub use params::{GraceParams, ValueInit};
pub use splice::Replace;
pub use value::find_value;

engraft_plugin_api::export_method!(Grace);
