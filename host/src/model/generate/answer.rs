//! Continuing texts: prompts go in as they are, or through the model's chat template where that is asked for.

use engraft_plugin_api::{Change, Decoding, GenerateRequest};

use super::{End, said};
use crate::base::{Cancel, Hash, Result};
use crate::model::open::Model;
use crate::model::run::visible::View;
use crate::runtime::Message;

/// Prompts to be continued.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    /// The prompts.
    pub prompts: Vec<String>,
    /// True puts each prompt, as what a user says, into the model's chat template.
    pub chat: bool,
    /// What a system says before the user, in the chat template; needs `chat`.
    pub system: Option<String>,
    /// How many tokens are appended to each at most.
    pub max_new: usize,
    /// How they are chosen.
    pub decoding: Decoding,
    /// Texts before which an answer ends. The tokens that end a text end an answer as well.
    pub stop_texts: Vec<String>,
    /// Changes evaluated as if they were committed.
    pub under: Vec<Change>,
    /// How each prompt sees the model: which of the committed patches, and whether it is routed.
    pub view: View,
}

/// What a model says after a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The text that was asked: the prompt, or the chat template with the prompt in it.
    pub fed: String,
    /// What follows it, without the stop text.
    pub text: String,
    /// The new tokens; the last one may say more than the text, where it completes a stop text.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub end: End,
    /// The method that put another prompt in its place, or another network.
    pub routed: Option<String>,
}

/// Answers to all prompts, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// One for each prompt.
    pub answers: Vec<Answer>,
    /// The chat template that was applied: the file it stands in, and the hash of its text.
    pub chat: Option<(String, Hash)>,
}

impl Model {
    /// Continues prompts. No special token is added but those that a chat template spells.
    ///
    /// # Errors
    /// As [`Model::generate_seeing`]; `tokenizer-missing`; `chat-template-missing` and `chat-template-invalid` if a chat
    /// template is asked for.
    pub fn ask(&self, question: &Question, cancel: Option<&Cancel>) -> Result<Answers> {
        let tokenizer = self.tokenizer()?;
        let chat = if question.chat { Some(tokenizer.chat_template()?) } else { None };
        let system = question.system.iter().map(|text| Message { role: "system".into(), content: text.clone() });
        let feed = |prompt: &String| match chat {
            Some(template) => template.render(&system.clone().chain([Message::user(prompt)]).collect::<Vec<_>>()),
            None => Ok(prompt.clone()),
        };
        let fed = question.prompts.iter().map(feed).collect::<Result<Vec<_>>>()?;
        let request = GenerateRequest {
            rows: fed.iter().map(|text| Ok(tokenizer.encode(text)?.ids)).collect::<Result<_>>()?,
            max_new: question.max_new,
            decoding: question.decoding,
            stop: tokenizer.end_tokens().to_vec(),
            stop_texts: question.stop_texts.clone(),
            under: question.under.clone(),
        };
        let mut answers = Vec::with_capacity(fed.len());
        for (fed, row) in fed.into_iter().zip(self.continued(&request, &question.view, cancel)?) {
            let tokens = row.new_tokens().to_vec();
            let mut text = said(tokenizer, &row.ids[..row.prompt], &tokens)?;
            if let Some(at) = question.stop_texts.iter().filter_map(|stop| text.find(stop.as_str())).min() {
                text.truncate(at);
            }
            let routed = row.way.method().map(str::to_owned);
            answers.push(Answer { fed, text, tokens, end: row.end, routed });
        }
        Ok(Answers { answers, chat: chat.map(|template| (template.file().to_owned(), template.hash())) })
    }
}
