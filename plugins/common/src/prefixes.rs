//! Context prefixes: an edit is asked for after several beginnings, so that it holds in any context and not only at
//! the start of a text (ROME, section 3.1; "templates" in the reference implementations).

use engraft_plugin_api::{Decoding, GenerateRequest, MethodError, ModelAccess, ModelFacts, Sampling};

/// The samples' candidates at each token (ROME's reference draws from the five most probable ones).
const TOP_K: usize = 5;

/// Where the prefixes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prefixes {
    /// The bare prompt alone.
    None,
    /// These templates, each with one `{}`; those that ship with the model if the list is empty.
    Fixed(Vec<String>),
    /// Beginnings that the model writes itself from its start token.
    Generated {
        /// How many of each length.
        count: usize,
        /// Lengths in tokens.
        lengths: Vec<usize>,
    },
}

impl Prefixes {
    /// The templates, the bare `{}` first; each holds `{}` once where the prompt stands.
    ///
    /// Generated ones are a function of the model and the seed of the edit: nothing is kept between calls.
    ///
    /// # Errors
    /// `prefixes-missing` if the model ships no prefix and none is given; `start-token-missing` if nothing begins a
    /// text; errors of the host.
    pub fn templates(&self, access: &dyn ModelAccess, facts: &ModelFacts) -> Result<Vec<String>, MethodError> {
        let mut templates = vec!["{}".to_owned()];
        match self {
            Self::None => {}
            Self::Fixed(given) => {
                let fixed = if given.is_empty() { &facts.prefixes } else { given };
                if fixed.is_empty() {
                    return Err(MethodError::new("prefixes-missing", "the model ships no context prefixes")
                        .help("list some in the parameters, or choose `generated` or `none`"));
                }
                templates.extend(fixed.iter().filter(|t| *t != "{}").cloned());
            }
            Self::Generated { count, lengths } => {
                let start = facts.start_token.ok_or_else(|| {
                    MethodError::new("start-token-missing", "the model has no token that begins a text to sample from")
                        .help("choose `fixed` or `none` for the context prefixes")
                })?;
                for &length in lengths {
                    let seed = access.random(&format!("prefixes.{length}"));
                    let texts = access.generate(&GenerateRequest {
                        rows: vec![vec![start]; *count],
                        max_new: length,
                        decoding: Decoding::Sample(Sampling { top_k: Some(TOP_K), seed, ..Sampling::default() }),
                        stop: vec![start],
                        ..GenerateRequest::default()
                    })?;
                    for ids in texts {
                        templates.extend(template(&access.decode(&ids)?));
                    }
                }
            }
        }
        Ok(templates)
    }
}

/// `"<text>. {}"`, with braces replaced and blank lines squeezed; nothing if no text is left.
fn template(text: &str) -> Option<String> {
    let lines: Vec<String> =
        text.lines().filter(|l| !l.trim().is_empty()).map(|l| l.replace(['{', '}'], " ")).collect();
    let text = lines.join("\n");
    if text.trim().is_empty() { None } else { Some(format!("{text}. {{}}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Mock;

    #[test]
    fn the_bare_prompt_comes_first() {
        let mock = Mock::new(1);
        let facts = mock.facts();
        let fixed = Prefixes::Fixed(Vec::new()).templates(&mock, &facts).expect("ships some");
        assert_eq!(fixed[0], "{}");
        assert_eq!(fixed[1..], facts.prefixes);
        let given = Prefixes::Fixed(vec!["{}".into(), "So {}".into()]).templates(&mock, &facts).expect("given");
        assert_eq!(given, ["{}", "So {}"]);
        assert_eq!(Prefixes::None.templates(&mock, &facts).expect("bare"), ["{}"]);
    }

    #[test]
    fn samples_depend_on_the_seed_alone() {
        let prefixes = Prefixes::Generated { count: 3, lengths: vec![2, 4] };
        let write = |seed| {
            let mock = Mock::new(1).seeded(seed);
            prefixes.templates(&mock, &mock.facts()).expect("samples")
        };
        assert_eq!(write(7), write(7));
        assert_ne!(write(7), write(8));
        assert_eq!(write(7).len(), 7);
        assert!(write(7)[1..].iter().all(|t| t.ends_with(". {}")));
    }

    #[test]
    fn a_sample_cannot_break_the_template() {
        assert_eq!(template("A {b}\n\n \nc").as_deref(), Some("A  b \nc. {}"));
        assert_eq!(template(" \n"), None);
    }
}
