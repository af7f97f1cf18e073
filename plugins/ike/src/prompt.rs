//! The prompt: demonstrations, the fact itself, and the request.

use engraft_plugin_api::MethodError;

const FACT: &str = "{fact}";
const PROMPT: &str = "{prompt}";

/// How a fact and a prompt stand together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

impl Template {
    /// # Errors
    /// `ike-template` unless `{fact}` stands in it, and `{prompt}` once, at its end.
    pub fn parse(text: &str) -> Result<Self, MethodError> {
        if text.contains(FACT) && text.matches(PROMPT).count() == 1 && text.ends_with(PROMPT) {
            return Ok(Self(text.to_owned()));
        }
        let message = format!("the template `{text}` must hold `{FACT}`, and end with `{PROMPT}`, its only one");
        Err(MethodError::new("ike-template", message).help("e.g. New Fact: {fact}\\nPrompt: {prompt}"))
    }

    /// A prompt after a fact.
    pub fn fill(&self, fact: &str, prompt: &str) -> String {
        let head = self.0.strip_suffix(PROMPT).unwrap_or(&self.0);
        format!("{}{prompt}", head.replace(FACT, fact))
    }

    /// A demonstration: a prompt after a fact, with its answer.
    pub fn shown(&self, fact: &str, prompt: &str, answer: &str) -> String {
        format!("{} {answer}", self.fill(fact, prompt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_a_place_for_the_fact_and_ends_with_the_prompt() {
        let template = Template::parse("New fact: {fact}. {prompt}").expect("fits");
        assert_eq!(template.shown("A is {prompt}", "What is A?", "B"), "New fact: A is {prompt}. What is A? B");
        let twice = Template::parse("{fact}. {fact}. {prompt}").expect("fits");
        assert_eq!(twice.fill("A is B", "What?"), "A is B. A is B. What?");
        for wrong in ["", "{fact}", "{prompt}", "{prompt} {fact}", "{fact} {prompt}.", "{fact} {prompt} {prompt}"] {
            assert_eq!(Template::parse(wrong).map_err(|e| e.code), Err("ike-template".into()), "{wrong}");
        }
    }
}
