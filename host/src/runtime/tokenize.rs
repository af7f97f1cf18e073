//! Text to tokens and back with a model's `tokenizer.json`, exactly: nothing padded, cut or added, and every token knows
//! the bytes of the text that it covers.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use engraft_plugin_api::Tokens;
use serde_json::Value as Json;
use tokenizers::PostProcessorWrapper;

use super::chat::{self, ChatTemplate};
use super::codes;
use crate::base::atomic::read_bytes;
use crate::base::{Error, Hash, Result};

/// The file that makes a tokenizer.
pub const FILE: &str = "tokenizer.json";

/// A model's tokenizer. Clones share it; it can be used from any thread.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    hash: Hash,
    special: Vec<u32>,
    start: Option<u32>,
    end: Vec<u32>,
    largest: Option<u32>,
    chat: Option<ChatTemplate>,
}

impl Tokenizer {
    /// Opens `tokenizer.json` of a folder, and learns the tokens of start and end from `tokenizer_config.json`,
    /// `generation_config.json` and `config.json` beside it, and the chat template, where they are.
    ///
    /// # Errors
    /// `tokenizer-missing` if the folder has none, `tokenizer-invalid` if one of the files is damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.is_file() {
            let what = format!("the folder {} has no {FILE}", folder.display());
            return Err(Error::new(&codes::TOKENIZER_MISSING, what).help("put the model's tokenizer beside it"));
        }
        let bytes = read_bytes(&path)?;
        let invalid = |e: tokenizers::Error| {
            Error::new(&codes::TOKENIZER_INVALID, format!("{} is not a usable tokenizer", path.display())).because(e)
        };
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(&bytes).map_err(invalid)?;
        // A post-processor adds special tokens and trims spaces off the offsets: neither is wanted here.
        tokenizer.with_padding(None).with_post_processor(None::<PostProcessorWrapper>);
        tokenizer.with_truncation(None).map_err(invalid)?;
        let mut special: Vec<u32> =
            tokenizer.get_added_tokens_decoder().iter().filter(|(_, t)| t.special).map(|(id, _)| *id).collect();
        special.sort_unstable();
        let largest = tokenizer.get_vocab(true).into_values().max();
        let config = read_json(folder, "tokenizer_config.json")?;
        let (start, end) = ends(&tokenizer, &config, folder)?;
        let chat = ChatTemplate::find(read_text(folder, chat::FILE)?, &config);
        let hash = Hash::of(&bytes);
        Ok(Self(Arc::new(Inner { tokenizer, hash, special, start, end, largest, chat })))
    }

    /// Splits a text into tokens; no special token is added, but one that the text spells is recognised.
    ///
    /// # Units
    /// Spans are bytes of `text`. In a byte-level vocabulary they join without gap or overlap, a leading space belongs
    /// to its token, and a character may be divided between tokens; in others they are what the tokenizer reports.
    ///
    /// # Errors
    /// `tokenizer-failed` if the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let encoding = self.0.tokenizer.encode(text, false).map_err(|e| failed("encode a text", e))?;
        let mut at = 0;
        let mut spans = Vec::with_capacity(encoding.len());
        for (token, &(start, end)) in encoding.get_tokens().iter().zip(encoding.get_offsets()) {
            let span = exact(text, token, at, start..end);
            at = span.end;
            spans.push(span);
        }
        Ok(Tokens { ids: encoding.get_ids().to_vec(), spans })
    }

    /// Joins tokens to a text, special ones included.
    ///
    /// # Errors
    /// `token-unknown` if an id is not in the vocabulary, `tokenizer-failed` if they cannot be joined.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|id| self.0.tokenizer.id_to_token(**id).is_none()) {
            let what = format!("the tokenizer has no token {id}; it has {}", self.vocab_size());
            return Err(Error::new(&codes::TOKEN_UNKNOWN, what));
        }
        self.0.tokenizer.decode(ids, false).map_err(|e| failed("decode tokens", e))
    }

    /// The number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.0.tokenizer.get_vocab_size(true)
    }

    /// The id of a token by its spelling in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.0.tokenizer.token_to_id(token)
    }

    /// The special tokens, sorted.
    pub fn special(&self) -> &[u32] {
        &self.0.special
    }

    /// The token that begins texts, where there is one.
    pub fn start_token(&self) -> Option<u32> {
        self.0.start
    }

    /// The tokens that end a text, sorted.
    pub fn end_tokens(&self) -> &[u32] {
        &self.0.end
    }

    /// The chat template.
    ///
    /// # Errors
    /// `chat-template-missing`
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.0.chat.as_ref().ok_or_else(|| {
            let text = "the model has no chat template: expected `chat_template` in tokenizer_config.json, or \
                        chat_template.jinja, found neither";
            Error::new(&codes::CHAT_TEMPLATE_MISSING, text).help("a base model is asked without one")
        })
    }

    /// The smallest id that both tokenizers know and spell differently: the id, as it is spelled here, and there.
    pub fn first_difference(&self, other: &Self) -> Option<(u32, String, String)> {
        if self.hash() == other.hash() {
            return None;
        }
        let spelled = |id| Some((id, self.0.tokenizer.id_to_token(id)?, other.0.tokenizer.id_to_token(id)?));
        (0..=self.0.largest?).filter_map(spelled).find(|(_, here, there)| here != there)
    }

    /// The hash of `tokenizer.json`.
    pub fn hash(&self) -> Hash {
        self.0.hash
    }

    /// Checks that every token has a row in an embedding.
    ///
    /// # Errors
    /// `tokenizer-vocabulary` if an id is not below `rows`.
    pub fn check_vocab(&self, rows: usize) -> Result<()> {
        match self.0.largest {
            Some(largest) if largest as usize >= rows => {
                let token = self.0.tokenizer.id_to_token(largest).unwrap_or_default();
                let what = format!(
                    "the tokenizer's ids go up to {largest} (`{token}`), but the model's embedding has {rows} rows"
                );
                Err(Error::new(&codes::TOKENIZER_VOCABULARY, what).help("put the model's own tokenizer.json beside it"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("hash", &self.hash().short()).field("vocab", &self.vocab_size()).finish()
    }
}

fn failed(what: &str, source: tokenizers::Error) -> Error {
    Error::new(&codes::TOKENIZER_FAILED, format!("the tokenizer could not {what}")).because(source)
}

/// The bytes that a token covers. The library reports whole characters; where the token's own bytes stand in the text
/// at the end of the token before, those are exact.
fn exact(text: &str, token: &str, at: usize, reported: Range<usize>) -> Range<usize> {
    let mapped: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    let candidates = mapped.into_iter().chain([token.as_bytes().to_vec()]);
    for bytes in candidates {
        let span = at..at + bytes.len();
        if reported.start <= span.start && span.end <= reported.end && text.as_bytes()[span.clone()] == bytes {
            return span;
        }
    }
    reported
}

/// The byte that a character of a byte-level vocabulary stands for: printable ones for themselves, the others, in
/// order, for the characters from U+0100 on (the table of GPT-2's `encoder.py`).
fn byte_of(letter: char) -> Option<u8> {
    static HIDDEN: OnceLock<Vec<u8>> = OnceLock::new();
    let shown = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(letter) {
        code @ 0x100.. => {
            let hidden = HIDDEN.get_or_init(|| (0..=255).filter(|byte| !shown(*byte)).collect());
            hidden.get(code as usize - 0x100).copied()
        }
        code => u8::try_from(code).ok().filter(|byte| shown(*byte)),
    }
}

/// The tokens of start and end that the files beside the tokenizer name.
fn ends(tokenizer: &tokenizers::Tokenizer, own: &Json, folder: &Path) -> Result<(Option<u32>, Vec<u32>)> {
    let spelled = |json: &Json, key: &str| {
        let token = &json[key];
        tokenizer.token_to_id(token.as_str().or_else(|| token["content"].as_str())?)
    };
    let numbers = |json: &Json, key: &str| -> Vec<u32> {
        let number = |value: &Json| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match &json[key] {
            Json::Array(list) => list.iter().filter_map(number).collect(),
            value => number(value).into_iter().collect(),
        }
    };
    let (mut start, mut end) = (spelled(own, "bos_token"), BTreeSet::from_iter(spelled(own, "eos_token")));
    for name in ["generation_config.json", "config.json"] {
        let json = read_json(folder, name)?;
        start = start.or_else(|| numbers(&json, "bos_token_id").first().copied());
        end.extend(numbers(&json, "eos_token_id"));
    }
    let known = |id: &u32| tokenizer.id_to_token(*id).is_some();
    Ok((start.filter(known), end.into_iter().filter(known).collect()))
}

fn read_text(folder: &Path, name: &str) -> Result<Option<String>> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    let text = String::from_utf8(read_bytes(&path)?);
    text.map(Some)
        .map_err(|e| Error::new(&codes::TOKENIZER_INVALID, format!("{} is not UTF-8", path.display())).because(e))
}

fn read_json(folder: &Path, name: &str) -> Result<Json> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(Json::Null);
    }
    serde_json::from_slice(&read_bytes(&path)?)
        .map_err(|e| Error::new(&codes::TOKENIZER_INVALID, format!("{} is not JSON", path.display())).because(e))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    /// A byte-level vocabulary with the merges `Ġ w`, `h i` and everything inside the file that would spoil exactness.
    fn folder() -> tempfile::TempDir {
        let letter = |byte: u8| (0..0x200).filter_map(char::from_u32).find(|c| byte_of(*c) == Some(byte)).unwrap();
        let mut vocab = serde_json::Map::new();
        for byte in 0..=255u8 {
            vocab.insert(letter(byte).to_string(), byte.into());
        }
        vocab.insert("Ġw".into(), 256.into());
        vocab.insert("hi".into(), 257.into());
        let json = json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 258,
                "pad_type_id": 0, "pad_token": "<end>"},
            "added_tokens": [{"id": 258, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": [["Ġ", "w"], ["h", "i"]]},
        });
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), json.to_string()).unwrap();
        folder
    }

    #[test]
    fn spans_are_the_tokens_own_bytes() {
        let folder = folder();
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        for text in ["", "hi we", " wé  hi\n\twow", "日本 hi<end> we", "hi "] {
            let tokens = tokenizer.encode(text).unwrap();
            let mut at = 0;
            for (id, span) in tokens.ids.iter().zip(&tokens.spans) {
                assert_eq!(span.start, at, "{text:?}");
                at = span.end;
                let bytes = &text.as_bytes()[span.clone()];
                match id {
                    0..=255 => assert_eq!(bytes, [*id as u8]),
                    256 => assert_eq!(bytes, b" w"),
                    257 => assert_eq!(bytes, b"hi"),
                    _ => assert_eq!(bytes, b"<end>"),
                }
            }
            assert_eq!(at, text.len());
            assert_eq!(tokenizer.decode(&tokens.ids).unwrap(), text);
        }
        let tokens = tokenizer.encode("hi we").unwrap();
        assert_eq!(tokens.ids, [257, 256, u32::from(b'e')]);
        assert_eq!(tokens.spans, [0..2, 2..4, 4..5]);
    }

    #[test]
    fn start_and_end_come_from_the_files_beside() {
        let folder = folder();
        let bare = Tokenizer::open(folder.path()).unwrap();
        assert_eq!((bare.start_token(), bare.end_tokens(), bare.special()), (None, &[][..], &[258][..]));
        let write = |name: &str, json: Json| fs::write(folder.path().join(name), json.to_string()).unwrap();
        write("config.json", json!({"bos_token_id": 1, "eos_token_id": 9999}));
        write("generation_config.json", json!({"eos_token_id": [3, 2]}));
        let numbered = Tokenizer::open(folder.path()).unwrap();
        assert_eq!((numbered.start_token(), numbered.end_tokens()), (Some(1), &[2, 3][..]));
        write("tokenizer_config.json", json!({"bos_token": {"content": "<end>"}, "eos_token": "<end>"}));
        let spelled = Tokenizer::open(folder.path()).unwrap();
        assert_eq!((spelled.start_token(), spelled.end_tokens()), (Some(258), &[2, 3, 258][..]));
        assert_eq!(bare.hash(), spelled.hash());
        fs::write(folder.path().join("config.json"), "{").unwrap();
        assert_eq!(Tokenizer::open(folder.path()).unwrap_err().code().id, "tokenizer-invalid");
    }

    #[test]
    fn tokenizers_that_do_not_fit_are_refused() {
        let folder = folder();
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        tokenizer.check_vocab(259).unwrap();
        let error = tokenizer.check_vocab(258).unwrap_err();
        assert_eq!(error.code().id, "tokenizer-vocabulary");
        assert!(error.message().contains("258 (`<end>`)"), "{error}");
        assert_eq!(tokenizer.decode(&[0, 259]).unwrap_err().code().id, "token-unknown");
        fs::write(folder.path().join(FILE), "{}").unwrap();
        assert_eq!(Tokenizer::open(folder.path()).unwrap_err().code().id, "tokenizer-invalid");
        fs::remove_file(folder.path().join(FILE)).unwrap();
        assert_eq!(Tokenizer::open(folder.path()).unwrap_err().code().id, "tokenizer-missing");
    }
}
