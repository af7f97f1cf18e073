//! Chat templates: the text in which a conversation reaches a model, as the model's folder says it (Jinja, in
//! `chat_template.jinja` or `tokenizer_config.json`). Applied only where it is asked for.

use std::collections::BTreeMap;
use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, context};
use serde::Serialize;
use serde_json::Value as Json;

use super::codes;
use crate::base::{Error, Hash, Result};

/// The file that holds nothing but a template; it goes before the one inside the configuration.
pub(super) const FILE: &str = "chat_template.jinja";

/// How many instructions a template may take: a template comes with a model and may be anything.
const FUEL: u64 = 10_000_000;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks: `user`, `assistant` or `system`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// What a user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".to_owned(), content: content.into() }
    }
}

/// A model's chat template.
#[derive(Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    file: &'static str,
    /// The special tokens that templates name, such as `bos_token`, by that name.
    tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// The template that a file of its own or the tokenizer's configuration holds; of several named ones `default`.
    pub(super) fn find(own_file: Option<String>, config: &Json) -> Option<Self> {
        let text = |json: &Json| json.as_str().map(str::to_owned);
        let in_config = || match &config["chat_template"] {
            Json::Array(list) => text(&list.iter().find(|entry| entry["name"] == "default")?["template"]),
            other => text(other),
        };
        let (source, file) = match own_file {
            Some(source) => (source, FILE),
            None => (in_config()?, "tokenizer_config.json"),
        };
        let spelled = |value: &Json| text(value).or_else(|| text(&value["content"]));
        let named = config.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
        let tokens = named.filter_map(|(name, value)| Some((name.clone(), spelled(value)?))).collect();
        Some(Self { source, file, tokens })
    }

    /// The file that it stands in.
    pub fn file(&self) -> &str {
        self.file
    }

    /// The hash of its text.
    pub fn hash(&self) -> Hash {
        Hash::of(self.source.as_bytes())
    }

    /// A conversation as the text that the model continues with its answer.
    ///
    /// The template sees `messages`, `add_generation_prompt` (true), the special tokens by name, and no tools or
    /// documents; it has no clock, so the same conversation is the same text on every day.
    ///
    /// # Errors
    /// `chat-template-invalid` if it is no Jinja, uses what is not there, takes too long, or refuses the conversation.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let invalid = |e: minijinja::Error| {
            let text = format!("the chat template of {} cannot be applied", self.file);
            Error::new(&codes::CHAT_TEMPLATE_INVALID, text).because(e)
        };
        let mut jinja = Environment::new();
        // The whitespace that templates are written for.
        jinja.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(invalid)?);
        jinja.set_fuel(Some(FUEL));
        jinja.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        jinja.add_function("raise_exception", |text: String| -> std::result::Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        let template = jinja.template_from_str(&self.source).map_err(invalid)?;
        let seen = context! {
            messages => Serde(messages),
            add_generation_prompt => true,
            tools => (),
            documents => (),
            ..Serde(&self.tokens)
        };
        template.render(seen).map_err(invalid)
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("file", &self.file).field("hash", &self.hash().short()).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(source: &str) -> ChatTemplate {
        let config = json!({"chat_template": source, "bos_token": "<s>", "eos_token": {"content": "</s>"}});
        ChatTemplate::find(None, &config).unwrap()
    }

    #[test]
    fn templates_in_the_ways_that_models_write_them() {
        let turns = "{{ bos_token }}{%- for message in messages %}\n    {%- if message['role'] == 'user' %}\n        \
            {{- '[INST] ' + message['content'].strip() + ' [/INST]' }}\n    {%- endif %}\n{%- endfor %}\n";
        assert_eq!(template(turns).render(&[Message::user(" hi \n")]).unwrap(), "<s>[INST] hi [/INST]");
        let marked = "{% for m in messages %}{{'<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n'}}\
            {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
        let said = [Message { role: "system".into(), content: "Be <kind> & brief".into() }, Message::user("größe")];
        assert_eq!(
            template(marked).render(&said).unwrap(),
            "<|im_start|>system\nBe <kind> & brief<|im_end|>\n<|im_start|>user\ngröße<|im_end|>\n<|im_start|>assistant\n"
        );
        let rich = "{%- set ns = namespace(found=false) %}{%- macro end(t) %}{{ t }}{{ eos_token }}{% endmacro -%}\n\
            {%- if tools is not none and tools %}T{% endif %}{% if strftime_now is defined %}clock{% endif %}\
            {%- for m in messages[::-1] %}{% if loop.first %}{% set ns.found = true %}{{ end(m.content.split('|')[-1]) }}\
            {% break %}{% endif %}{% endfor %}{{ ns.found }}";
        assert_eq!(template(rich).render(&[Message::user("a|b")]).unwrap(), "b</s>True");
    }

    #[test]
    fn the_one_that_is_meant_is_found() {
        let found = |file: Option<&str>, json: &Json| {
            ChatTemplate::find(file.map(str::to_owned), json).map(|t| t.render(&[]).unwrap())
        };
        let named =
            json!({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]});
        assert_eq!(found(None, &named).as_deref(), Some("d"));
        assert_eq!(found(Some("own"), &named).as_deref(), Some("own"));
        assert_eq!(found(None, &json!({"chat_template": [{"name": "rag", "template": "r"}]})), None);
        assert_eq!(found(None, &Json::Null), None);
    }

    #[test]
    fn templates_that_fail_are_one_coded_error_with_their_own_words() {
        for (source, words) in [
            ("{% for", "syntax"),
            ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
            ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "fuel"),
            ("{{ messages.frobnicate() }}", "frobnicate"),
        ] {
            let error = template(source).render(&[Message::user("x")]).unwrap_err();
            assert_eq!(error.code().id, "chat-template-invalid", "{source}");
            assert!(format!("{error:?}").contains(words), "{source}: {error:?}");
        }
    }
}
