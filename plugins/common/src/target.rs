//! The target as tokens, and rows that teach it: the prompt's tokens followed by the target's, joined as tokens, so
//! that the tail is tokenised as the target alone is.

use engraft_plugin_api::{EditRequest, MethodError, ModelAccess, Place};

use crate::subject::PromptRow;

/// A prompt continued by all but the last token of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForcedRow {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The position of the fact token.
    pub fact: usize,
    /// The position whose next-token distribution should give the first target token; the others follow it.
    pub read_from: usize,
}

impl ForcedRow {
    /// Where the distributions of the `count` target tokens are read, if this is row `row` of a request.
    pub fn places(&self, row: usize, count: usize) -> impl Iterator<Item = Place> {
        (self.read_from..self.read_from + count).map(move |pos| Place { row, pos })
    }
}

/// The tokens of the new target, with exactly one leading space where the target does not begin with one.
///
/// # Errors
/// `target-empty` if the target is blank or has no token.
pub fn target_ids(access: &dyn ModelAccess, request: &EditRequest) -> Result<Vec<u32>, MethodError> {
    let empty = || {
        MethodError::new("target-empty", format!("the target of `{}` is empty", request.prompt))
            .label("request", &request.id)
            .help("give the words that should follow the prompt")
    };
    let target = &request.target.new;
    if target.trim().is_empty() {
        return Err(empty());
    }
    let ids = if target.starts_with(' ') {
        access.tokenize(target)?.ids
    } else {
        access.tokenize(&format!(" {target}"))?.ids
    };
    if ids.is_empty() { Err(empty()) } else { Ok(ids) }
}

/// `prompt ++ target[..T−1]`: every target token is the successor of a position of the row.
///
/// # Errors
/// `target-too-long` if the row outgrows `context`.
pub fn forced_row(
    request: &EditRequest,
    prompt: &PromptRow,
    target: &[u32],
    context: usize,
) -> Result<ForcedRow, MethodError> {
    let tail = &target[..target.len().saturating_sub(1)];
    let len = prompt.ids.len() + tail.len();
    if len > context {
        let message = format!(
            "the target `{}` takes {} tokens after a prompt of {}, the model reads {context} in all",
            request.target.new,
            target.len(),
            prompt.ids.len()
        );
        return Err(MethodError::new("target-too-long", message)
            .label("request", &request.id)
            .help("shorten the target, the prompt or the context prefixes"));
    }
    Ok(ForcedRow { ids: [&prompt.ids, tail].concat(), fact: prompt.fact, read_from: prompt.ids.len() - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::{FactToken, prompt_row};
    use crate::testing::{Mock, request};

    #[test]
    fn the_target_gets_one_space_and_its_tail_is_kept() {
        let mock = Mock::new(1);
        let plain = request("The mother of {} is", Some("Ada"), "Kelm Vorn");
        let spaced = request("The mother of {} is", Some("Ada"), " Kelm Vorn");
        let target = target_ids(&mock, &plain).expect("has tokens");
        assert_eq!(Ok(&target), target_ids(&mock, &spaced).as_ref());
        assert_eq!(mock.decode(&target).as_deref(), Ok(" Kelm Vorn"));
        let prompt = prompt_row(&mock, &plain, "{}", FactToken::SubjectLast, 64).expect("fits");
        let row = forced_row(&plain, &prompt, &target, 64).expect("fits");
        assert_eq!(mock.decode(&row.ids).as_deref(), Ok("The mother of Ada is Kelm"));
        assert_eq!(row.places(2, 2).collect::<Vec<_>>(), [Place { row: 2, pos: 4 }, Place { row: 2, pos: 5 }]);
    }

    #[test]
    fn blank_and_overlong_targets_are_refused() {
        let mock = Mock::new(1);
        let blank = request("The mother of {} is", Some("Ada"), "  ");
        assert_eq!(target_ids(&mock, &blank).map_err(|e| e.code), Err("target-empty".into()));
        let prompt = PromptRow { ids: vec![1, 2, 3], fact: 0 };
        assert!(forced_row(&blank, &prompt, &[7, 8], 4).is_ok());
        let error = forced_row(&blank, &prompt, &[7, 8, 9], 4).expect_err("too long");
        assert_eq!(error.code, "target-too-long");
    }
}
