//! Routing: what becomes of one request, decided on its prompt.

use crate::access::ModuleId;
use crate::error::MethodError;

/// A patch of the method as `route` and `intercept` see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivePatch<'a> {
    /// Its identifier: the hash of what it holds. The same identifier is the same patch.
    pub id: &'a str,
    /// The bytes of its [`State`](crate::Change::State); empty where it has none.
    pub state: &'a [u8],
}

/// A request that is to be routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteQuery<'a> {
    /// The tokens of the prompt, none of an answer.
    pub tokens: Vec<u32>,
    /// The active patches with a [`Route`](crate::Change::Route) of this method that the request may see, in the order
    /// of their commits.
    pub patches: Vec<ActivePatch<'a>>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// It sees none of the query's patches.
    Base,
    /// It sees these of the query's patches, by index, each at most once.
    Changes(Vec<usize>),
    /// It sees none of them, and these tokens stand in place of its prompt.
    Prompt(Vec<u32>),
    /// Another network answers, or has a say: at every step the distribution is
    /// `(1 − mix) · base + mix · delegate`.
    Delegate {
        /// A network with an input `input_ids`, i64 `[rows, columns]`, whose first output is logits, f32
        /// `[rows, columns, vocab]`, of the model's own vocabulary.
        module: ModuleId,
        /// What it reads in place of the prompt; the answer's tokens are appended.
        tokens: Vec<u32>,
        /// Its share, in [0, 1]; at 1 the model does not run.
        mix: f32,
    },
}

impl Route {
    /// Checks a route against its query.
    ///
    /// # Errors
    /// `route-outside` if it names a patch that is not there or names one twice; `route-empty` for a prompt without
    /// tokens; `route-mix` for a share outside of [0, 1].
    pub fn check(&self, query: &RouteQuery<'_>) -> Result<(), MethodError> {
        let empty = |what: &str| MethodError::new("route-empty", format!("the route gives {what} without tokens"));
        match self {
            Self::Base => Ok(()),
            Self::Changes(indices) => {
                let n = query.patches.len();
                let mut sorted = indices.clone();
                sorted.sort_unstable();
                if sorted.last().is_none_or(|&last| last < n) && sorted.windows(2).all(|w| w[0] != w[1]) {
                    return Ok(());
                }
                let text = format!("the route names the patches {indices:?}, of {n}, each at most once");
                Err(MethodError::new("route-outside", text))
            }
            Self::Prompt(tokens) if tokens.is_empty() => Err(empty("a prompt")),
            Self::Prompt(_) => Ok(()),
            Self::Delegate { tokens, .. } if tokens.is_empty() => Err(empty("a delegate a prompt")),
            Self::Delegate { mix, .. } if (0.0..=1.0).contains(mix) => Ok(()),
            Self::Delegate { mix, .. } => {
                Err(MethodError::new("route-mix", format!("the share of a delegate is {mix}, expected 0 to 1")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_do_not_fit_their_query_are_refused() {
        let patches = vec![ActivePatch { id: "a", state: b"" }, ActivePatch { id: "b", state: b"" }];
        let query = RouteQuery { tokens: vec![1], patches };
        let code = |route: Route| route.check(&query).map_err(|e| e.code);
        let delegate = |tokens, mix| Route::Delegate { module: ModuleId("m".into()), tokens, mix };
        for fine in [Route::Base, Route::Changes(vec![1, 0]), Route::Changes(vec![]), delegate(vec![1], 1.0)] {
            assert_eq!(code(fine), Ok(()));
        }
        let faults = [
            (Route::Changes(vec![2]), "route-outside"),
            (Route::Changes(vec![1, 1]), "route-outside"),
            (Route::Prompt(vec![]), "route-empty"),
            (delegate(vec![], 0.5), "route-empty"),
            (delegate(vec![1], 1.5), "route-mix"),
            (delegate(vec![1], f32::NAN), "route-mix"),
        ];
        for (route, expected) in faults {
            assert_eq!(code(route), Err(expected.to_owned()));
        }
    }
}
