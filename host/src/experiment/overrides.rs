//! `--set a.0.b=c`: values put into the tree of an experiment before it is given types, so that an override is
//! checked like anything that stands in the file.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::codes;
use super::source::Source;
use crate::base::{Error, Result};

/// Applies the overrides of an experiment in their order.
///
/// # Errors
/// `config-override`
pub(super) fn apply<'s>(source: &'s Source, table: &mut DeTable<'s>) -> Result<()> {
    for (text, span) in source.overrides() {
        let refuse = |why: String| {
            Error::new(&codes::CONFIG_OVERRIDE, format!("--set {text}: {why}"))
                .help("an override is spelled `--set method.0.params.layer=2`")
        };
        let (path, value) = text.split_once('=').ok_or_else(|| refuse("there is no `=`".into()))?;
        let value_start = span.start + path.len() + 1;
        let mut offset = span.start;
        let keys: Vec<(&str, Range<usize>)> = path
            .split('.')
            .map(|key| {
                let at = offset..offset + key.len();
                offset = at.end + 1;
                (key.trim(), at)
            })
            .collect();
        if let Some((_, at)) = keys.iter().find(|(key, _)| key.is_empty()) {
            return Err(refuse(format!("a key is empty at character {}", at.start - span.start + 1)));
        }
        let value = parse(value, value_start);
        put(table, &keys, value).map_err(refuse)?;
    }
    Ok(())
}

/// A TOML value, or the text itself where it is none.
fn parse(text: &str, start: usize) -> Spanned<DeValue<'_>> {
    match DeValue::parse(text) {
        Ok(value) => shifted(value, start),
        Err(_) => Spanned::new(start..start + text.len(), DeValue::String(Cow::Borrowed(text.trim()))),
    }
}

/// The value with all its spans moved by `start`.
fn shifted(value: Spanned<DeValue<'_>>, start: usize) -> Spanned<DeValue<'_>> {
    let moved = |span: Range<usize>| span.start + start..span.end + start;
    let span = moved(value.span());
    let value = match value.into_inner() {
        DeValue::Array(items) => DeValue::Array(items.into_iter().map(|item| shifted(item, start)).collect()),
        DeValue::Table(entries) => DeValue::Table(
            entries
                .into_iter()
                .map(|(key, value)| (Spanned::new(moved(key.span()), key.into_inner()), shifted(value, start)))
                .collect(),
        ),
        other => other,
    };
    Spanned::new(span, value)
}

fn put<'s>(
    table: &mut DeTable<'s>,
    keys: &[(&'s str, Range<usize>)],
    value: Spanned<DeValue<'s>>,
) -> Result<(), String> {
    let Some(((key, at), rest)) = keys.split_first() else { return Ok(()) };
    if rest.is_empty() {
        // The old key is taken out first: an entry that stays would keep its old place.
        table.remove(*key);
        table.insert(Spanned::new(at.clone(), Cow::Borrowed(*key)), value);
        return Ok(());
    }
    if !table.contains_key(*key) {
        let empty = Spanned::new(at.clone(), DeValue::Table(DeTable::new()));
        table.insert(Spanned::new(at.clone(), Cow::Borrowed(*key)), empty);
    }
    match table.get_mut(*key).map(Spanned::get_mut) {
        Some(DeValue::Table(inner)) => put(inner, rest, value),
        Some(DeValue::Array(items)) => put_in(items, key, rest, value),
        _ => Err(format!("`{key}` is a single value, there is no `{}` in it", rest[0].0)),
    }
}

fn put_in<'s>(
    items: &mut DeArray<'s>,
    name: &str,
    keys: &[(&'s str, Range<usize>)],
    value: Spanned<DeValue<'s>>,
) -> Result<(), String> {
    let Some(((key, _), rest)) = keys.split_first() else { return Ok(()) };
    let count = items.len();
    let index: usize = key
        .parse()
        .map_err(|_| format!("`{name}` is a list, expected the number of an element from 0, found `{key}`"))?;
    let Some(item) = items.get_mut(index) else {
        return Err(format!("`{name}` has {count} elements, numbered from 0; there is no `{key}`"));
    };
    if rest.is_empty() {
        *item = value;
        return Ok(());
    }
    match item.get_mut() {
        DeValue::Table(inner) => put(inner, rest, value),
        DeValue::Array(inner) => put_in(inner, key, rest, value),
        _ => Err(format!("`{name}.{key}` is a single value, there is no `{}` in it", rest[0].0)),
    }
}
