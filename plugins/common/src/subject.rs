//! The fact token: at which token of a prompt the subject is represented, found by byte offsets in the whole text, so
//! that it holds for every tokenizer.

use engraft_plugin_api::{EditRequest, MethodError, ModelAccess};

/// Which token of a prompt stands for the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactToken {
    /// The last token that covers a byte of the subject; what every reference uses.
    SubjectLast,
    /// The first token that covers a byte of the subject.
    SubjectFirst,
    /// The token after the subject's last one; the last one itself where nothing follows.
    SubjectFirstAfterLast,
    /// The prompt's last token.
    Last,
}

impl FactToken {
    /// Every choice, the default first.
    pub const ALL: [FactToken; 4] = [Self::SubjectLast, Self::SubjectFirst, Self::SubjectFirstAfterLast, Self::Last];

    /// The spelling in parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::SubjectLast => "subject_last",
            Self::SubjectFirst => "subject_first",
            Self::SubjectFirstAfterLast => "subject_first_after_last",
            Self::Last => "last",
        }
    }
}

/// A prompt as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptRow {
    /// Token ids; not empty.
    pub ids: Vec<u32>,
    /// The position of the fact token.
    pub fact: usize,
}

/// The tokens of `template` around the request's filled prompt, and the fact token among them.
///
/// # Errors
/// `subject-missing` if the subject is needed and absent, empty or has no place in the prompt; `prompt-template` if
/// prompt or template hold `{}` more than once; `prompt-empty`; `prompt-too-long` if the row outgrows `context`.
pub fn prompt_row(
    access: &dyn ModelAccess,
    request: &EditRequest,
    template: &str,
    fact: FactToken,
    context: usize,
) -> Result<PromptRow, MethodError> {
    if let Some(subject) = &request.subject
        && !request.prompt.contains("{}")
    {
        return Err(missing(request, format!("the prompt `{}` has no place for `{subject}`", request.prompt))
            .help("write `{}` where the subject stands in the prompt"));
    }
    let (text, span) = request.fill(template)?;
    let tokens = access.tokenize(&text)?;
    let Some(last) = tokens.ids.len().checked_sub(1) else {
        return Err(
            MethodError::new("prompt-empty", format!("the prompt `{text}` has no token")).label("request", &request.id)
        );
    };
    if tokens.ids.len() > context {
        let message = format!("the prompt `{text}` takes {} tokens, the model reads {context}", tokens.ids.len());
        return Err(MethodError::new("prompt-too-long", message).label("request", &request.id));
    }
    let fact = if fact == FactToken::Last {
        last
    } else {
        let span = span.ok_or_else(|| missing(request, format!("the request for `{text}` names no subject")))?;
        let ends = tokens.first_in(&span).zip(tokens.last_in(&span));
        let (first, end) =
            ends.ok_or_else(|| missing(request, format!("no token of `{text}` covers the subject's bytes {span:?}")))?;
        match fact {
            FactToken::SubjectFirst => first,
            FactToken::SubjectFirstAfterLast => last.min(end + 1),
            FactToken::SubjectLast | FactToken::Last => end,
        }
    };
    Ok(PromptRow { ids: tokens.ids, fact })
}

/// As [`prompt_row`], for a text about the same subject: `template` holds `{}` where the subject stands.
///
/// # Errors
/// As [`prompt_row`].
pub fn subject_row(
    access: &dyn ModelAccess,
    request: &EditRequest,
    template: &str,
    fact: FactToken,
    context: usize,
) -> Result<PromptRow, MethodError> {
    let about = EditRequest { prompt: template.into(), ..request.clone() };
    prompt_row(access, &about, "{}", fact, context)
}

fn missing(request: &EditRequest, message: String) -> MethodError {
    MethodError::new("subject-missing", message).label("request", &request.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Mock, request};

    fn fact(choice: FactToken, prompt: &str) -> Result<(usize, usize), String> {
        let request = request(prompt, Some("Ada Vorn"), "Kelm");
        prompt_row(&Mock::new(1), &request, "It rained. {}", choice, 64)
            .map(|row| (row.ids.len(), row.fact))
            .map_err(|e| e.code)
    }

    #[test]
    fn every_choice_is_found_by_offsets() {
        let prompt = "The mother of {} is"; // It rained . The mother of Ada Vorn is
        assert_eq!(fact(FactToken::SubjectLast, prompt), Ok((9, 7)));
        assert_eq!(fact(FactToken::SubjectFirst, prompt), Ok((9, 6)));
        assert_eq!(fact(FactToken::SubjectFirstAfterLast, prompt), Ok((9, 8)));
        assert_eq!(fact(FactToken::SubjectFirstAfterLast, "The mother of {}"), Ok((8, 7)));
        assert_eq!(fact(FactToken::Last, prompt), Ok((9, 8)));
    }

    #[test]
    fn a_subject_without_a_place_is_refused() {
        assert_eq!(fact(FactToken::SubjectLast, "The mother of Ada Vorn is"), Err("subject-missing".into()));
        assert_eq!(fact(FactToken::SubjectLast, "{} is {}"), Err("prompt-template".into()));
        let nobody = request("The mother is", None, "Kelm");
        let error = prompt_row(&Mock::new(1), &nobody, "{}", FactToken::SubjectLast, 64).expect_err("no subject");
        assert_eq!(error.code, "subject-missing");
        assert!(prompt_row(&Mock::new(1), &nobody, "{}", FactToken::Last, 64).is_ok());
        let error = prompt_row(&Mock::new(1), &nobody, "{}", FactToken::Last, 2).expect_err("too long");
        assert_eq!(error.code, "prompt-too-long");
    }
}
