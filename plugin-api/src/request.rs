//! What is to be edited. Probes (paraphrases, neighbours, consequences) are another type that only the host's
//! metrics see: nothing here lets a method train on what it is measured by.

use std::ops::Range;

use crate::error::MethodError;

/// One fact or behaviour to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditRequest {
    /// An identifier that the host chose; it is repeated in reports and patch files.
    pub id: String,
    /// The prompt; with exactly one `{}` where the subject stands, if there is a subject.
    pub prompt: String,
    /// The subject as it is written in the prompt.
    pub subject: Option<String>,
    /// What the model should say after the prompt.
    pub target: Target,
}

/// The continuation that an edit asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The new continuation, without a leading space.
    pub new: String,
    /// The continuation to forget, where it is known.
    pub old: Option<String>,
}

impl EditRequest {
    /// The prompt with the subject filled in.
    ///
    /// # Errors
    /// `prompt-template` if a subject is given and the prompt does not hold exactly one `{}`.
    pub fn filled(&self) -> Result<String, MethodError> {
        self.fill("{}").map(|(text, _)| text)
    }

    /// `template` with its `{}` replaced by the filled prompt, and the byte range of the subject in the result.
    ///
    /// # Errors
    /// `prompt-template` if a subject is given and the prompt does not hold exactly one `{}`, or if `template` does
    /// not hold exactly one.
    pub fn fill(&self, template: &str) -> Result<(String, Option<Range<usize>>), MethodError> {
        let (before, after) = split_once_exactly(template, "template", &self.id)?;
        let Some(subject) = &self.subject else {
            return Ok((format!("{before}{}{after}", self.prompt), None));
        };
        let (head, tail) = split_once_exactly(&self.prompt, "prompt", &self.id)?;
        let start = before.len() + head.len();
        Ok((format!("{before}{head}{subject}{tail}{after}"), Some(start..start + subject.len())))
    }
}

fn split_once_exactly<'a>(text: &'a str, what: &str, id: &str) -> Result<(&'a str, &'a str), MethodError> {
    match text.split_once("{}") {
        Some((head, tail)) if !tail.contains("{}") => Ok((head, tail)),
        _ => Err(MethodError::new(
            "prompt-template",
            format!("the {what} `{text}` must hold `{{}}` exactly once, where the subject stands"),
        )
        .label("request", id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_is_found_in_the_filled_prompt() {
        let request = EditRequest {
            id: "1".into(),
            prompt: "The birthplace of {} is".into(),
            subject: Some("Ada Vorn".into()),
            target: Target { new: "Kelm".into(), old: None },
        };
        let (text, span) = request.fill("It rained. {}").expect("fills");
        assert_eq!(text, "It rained. The birthplace of Ada Vorn is");
        assert_eq!(&text[span.expect("has a subject")], "Ada Vorn");
        assert_eq!(request.fill("no hole").map_err(|e| e.code), Err("prompt-template".into()));
    }
}
