//! What is probed, by name: a site, a weight, or a pattern in which `*` stands for anything.

use std::str::FromStr;

use engraft_plugin_api::params::nearest;
use engraft_plugin_api::{BlockSite, Site, WeightRef};

use super::super::{codes, contract, usage};
use crate::anatomy::{Anatomy, Kind, Row, Table};
use crate::base::{Error, Result};

/// What a loss can be differentiated by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    Site(Site),
    Weight(WeightRef),
}

/// How many near names an error lists.
const NEAR: usize = 3;

/// The sites that are named, each once, in the order of the names.
pub(super) fn sites(anatomy: &Anatomy, names: &[String]) -> Result<Vec<Site>> {
    let mut sites = Vec::new();
    for found in resolve(anatomy, names, false)? {
        if let Variable::Site(site) = found {
            sites.push(site);
        }
    }
    Ok(sites)
}

/// The sites and weights that are named, each once, in the order of the names.
pub(super) fn variables(anatomy: &Anatomy, names: &[String]) -> Result<Vec<Variable>> {
    resolve(anatomy, names, true)
}

fn resolve(anatomy: &Anatomy, names: &[String], variables: bool) -> Result<Vec<Variable>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let table = Table::of(anatomy);
    let mut found: Vec<Variable> = Vec::new();
    for name in names {
        let new = match name.contains('*') {
            true => several(anatomy, &table.rows, name, variables)?,
            false => vec![one(anatomy, &table.rows, name, variables)?],
        };
        for variable in new {
            if !found.contains(&variable) {
                found.push(variable);
            }
        }
    }
    Ok(found)
}

fn one(anatomy: &Anatomy, rows: &[Row], name: &str, variables: bool) -> Result<Variable> {
    let variable = match (Site::from_str(name), WeightRef::from_str(name)) {
        (Ok(site), _) => Variable::Site(site),
        (_, Ok(weight)) => Variable::Weight(weight),
        _ => return Err(unknown(rows, name, variables)),
    };
    match variable {
        Variable::Site(site) => {
            anatomy.site(site).map_err(|e| counted(anatomy, e))?;
            if variables && !differentiable(site) {
                let text =
                    format!("the gradient at `{site}` cannot be had: it has no vector for each row and position");
                return Err(Error::new(&codes::NO_GRADIENT, text).help("ask for attn.q, attn.k, attn.v or attn.z"));
            }
        }
        Variable::Weight(weight) if variables => {
            anatomy.weight(weight).map_err(|e| counted(anatomy, e))?;
        }
        Variable::Weight(weight) => {
            let text = format!("`--tap {weight}` names a weight, expected a site");
            return Err(usage(text).help("a tap reads an activation; `--gradient` takes weights too"));
        }
    }
    Ok(variable)
}

/// Everything that a pattern means and the model has.
fn several(anatomy: &Anatomy, rows: &[Row], pattern: &str, variables: bool) -> Result<Vec<Variable>> {
    let kinds = |row: &&Row| variables || row.kind == Kind::Site;
    let matching: Vec<&Row> = rows.iter().filter(kinds).filter(|row| fits(pattern, &row.name)).collect();
    let Some(first) = matching.first() else { return Err(unknown(rows, pattern, variables)) };
    let mut found = Vec::new();
    for row in matching.iter().filter(|row| row.edge.is_some()) {
        let variable = one(anatomy, rows, &row.name, variables);
        // A pattern takes what can be had.
        found.extend(variable.ok());
    }
    if found.is_empty() {
        return one(anatomy, rows, &first.name, variables).map(|v| vec![v]);
    }
    Ok(found)
}

/// An absence, with the advice that layers count from 0.
fn counted(anatomy: &Anatomy, error: Error) -> Error {
    match anatomy.layers.checked_sub(1) {
        Some(last) if error.message().contains("blocks") => {
            error.help(format!("layers count from 0 to {last}; `engraft inspect MODEL` lists what there is"))
        }
        _ => error.help("`engraft inspect MODEL` lists what there is"),
    }
}

fn unknown(rows: &[Row], name: &str, variables: bool) -> Error {
    let mut known: Vec<&str> =
        rows.iter().filter(|row| variables || row.kind == Kind::Site).map(|row| row.name.as_str()).collect();
    let mut near = Vec::new();
    while let Some(next) = nearest(name, known.iter().copied()).filter(|_| near.len() < NEAR) {
        known.retain(|k| *k != next);
        near.push(format!("`{next}`"));
    }
    let (code, what) = match variables {
        true => (&contract::WEIGHT_UNKNOWN, "a site or weight"),
        false => (&contract::SITE_UNKNOWN, "a site"),
    };
    let error = Error::new(code, format!("`{name}` is not the name of {what}"));
    match near.as_slice() {
        [] => error.help("names are spelled like `blocks.3.mlp.post`; `engraft inspect MODEL` lists them"),
        near => error.help(format!("did you mean {}?", near.join(" or "))),
    }
}

/// True for activations with one vector for each row and position.
fn differentiable(site: Site) -> bool {
    !matches!(site, Site::Block(_, BlockSite::Pattern))
}

/// True if a name is the pattern's pieces in order, with anything where `*` stands.
fn fits(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|head| name.strip_prefix(head)) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((tail, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_nothing_else_does() {
        for (pattern, name, expected) in [
            ("blocks.*.mlp.post", "blocks.12.mlp.post", true),
            ("blocks.*.mlp.post", "blocks.1.mlp.post.x", false),
            ("*", "logits", true),
            ("blocks.1.*", "blocks.11.mlp.out", false),
            ("*.attn.*_*", "blocks.0.attn.W_Q", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
