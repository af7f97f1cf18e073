//! IKE on the atlas, through its library: what becomes of requests that are empty, too long, many, or put into a chat
//! template, of answers that are stopped, and of tokens that no text is split into.

use std::fs;
use std::sync::Arc;

use engraft::base::{Cancel, Error};
use engraft::model::{Continuation, End, Model, Question, View};
use engraft::plugins::{Access, Attachment, Method};
use engraft::weights::PatchId;
use engraft_plugin_api::{ActivePatch, GenerateRequest, Route, RouteQuery};
use engraft_tests::{atlas, library, method, open, requests};

const PARAMS: &str = "layer = 5\ntemplate = 'New fact: {fact}. {prompt}'";

/// A model that shows every request the fact of one edit.
struct Told {
    model: Model,
    method: Arc<Method>,
    id: PatchId,
    /// What stands before a prompt.
    head: String,
    prompt: String,
}

impl Told {
    fn new(model: Model) -> Self {
        let method = Arc::new(method(&library("engraft_ike"), PARAMS));
        Attachment::attach(&method, &model);
        let request = requests(1).remove(0);
        let prompt = request.filled().expect("fits");
        let head = format!("New fact: {prompt} {}. ", request.target.new);
        let access = Access::new(&model, Cancel::new(), 0).of("ike");
        let changes = method.edit(&access, std::slice::from_ref(&request)).expect("edits");
        let id = model.commit(method.proposal(vec![request], changes)).expect("commits");
        Self { model, method, id, head, prompt }
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        self.model.tokenizer().and_then(|t| t.encode(text)).expect("encodes").ids
    }

    fn ask(&self, question: &Question) -> Vec<(String, End, Option<String>)> {
        let said = self.model.ask(question, None).expect("answers");
        said.answers.into_iter().map(|answer| (answer.text, answer.end, answer.routed)).collect()
    }
}

fn question(prompts: &[&str]) -> Question {
    Question { prompts: prompts.iter().map(|p| (*p).to_owned()).collect(), max_new: 12, ..Question::default() }
}

#[test]
fn rows_chats_and_stops_are_those_of_the_prompt_that_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    for file in fs::read_dir(atlas().join("model")).expect("is there").map(|entry| entry.expect("is there").path()) {
        fs::copy(&file, folder.path().join(file.file_name().expect("a name"))).expect("copies");
    }
    let config = r#"{"chat_template": "{% for m in messages %}It is said. {{ m['content'] }}{% endfor %}"}"#;
    fs::write(folder.path().join("tokenizer_config.json"), config).expect("writes");
    let told = Told::new(open(folder.path()));
    let prompts = [told.prompt.as_str(), "The mill stands by the", "Everybody knows that"];
    let shown: Vec<String> = prompts.iter().map(|prompt| format!("{}{prompt}", told.head)).collect();
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    let of = |prompts: &[&str], more: &dyn Fn(Question) -> Question| told.ask(&more(question(prompts)));
    let plain = |question: Question| Question { view: View::only([]), ..question };
    for stops in [vec![], vec![".".to_owned()], vec!["a".to_owned(), "zz".to_owned()]] {
        let stopping = |question: Question| Question { stop_texts: stops.clone(), ..question };
        let (found, wanted) = (of(&prompts, &stopping), of(&shown, &|q| plain(stopping(q))));
        for ((found, wanted), prompt) in found.into_iter().zip(wanted).zip(prompts) {
            assert_eq!((found.0, found.1), (wanted.0, wanted.1), "{prompt} {stops:?}");
            assert_eq!((found.2.as_deref(), wanted.2), (Some("ike"), None));
        }
    }
    // The fact stands before all that the template makes of the prompt.
    let chat = of(&prompts[..1], &|question| Question { chat: true, ..question }).remove(0);
    let text = format!("{}It is said. {}", told.head, prompts[0]);
    let wanted = of(&[&text], &plain).remove(0);
    assert_eq!((chat.0, chat.1), (wanted.0, wanted.1));
    let score = |prompt: &str, view: &View| {
        let all = [Continuation { prompt: told.ids(prompt), tokens: told.ids(" Kelm. It is") }];
        told.model.score_seeing(&all, view, None).expect("scores").remove(0)
    };
    assert_eq!(score(prompts[0], &View::default()), score(shown[0], &View::only([])));
}

#[test]
fn what_cannot_be_shown_is_refused() {
    let told = Told::new(open(&atlas().join("model")));
    let context = told.model.anatomy().context.expect("has one");
    let generate = |row: Vec<u32>, max_new: usize| {
        told.model.generate(&GenerateRequest { rows: vec![row], max_new, ..GenerateRequest::default() })
    };
    let score = |prompt: Vec<u32>| told.model.score(&[Continuation { prompt, tokens: told.ids(" Kelm") }]);
    let row = |n: usize| told.ids(&"It rained all day. ".repeat(n))[..n].to_vec();
    let head = told.ids(&told.head).len();
    let refused = |error: Error, code: &str, words: &str| {
        assert!(error.code().id == code && error.message().contains(words), "{error:?}");
    };
    refused(generate(Vec::new(), 2).expect_err("is empty"), "row-empty", "no token");
    refused(score(Vec::new()).expect_err("is empty"), "row-empty", "no token");
    // A prompt that fits alone, and not behind the fact.
    let long = row(context - head + 8);
    refused(generate(long.clone(), 2).expect_err("is long"), "row-too-long", "that `ike` made");
    refused(score(long).expect_err("is long"), "row-too-long", "that `ike` made");
    // One that does not fit alone: the method reads it, and the model refuses that.
    let beyond = row(context + 1);
    refused(generate(beyond.clone(), 2).expect_err("is longer"), "plugin-host-call", "[row-too-long]");
    refused(score(beyond).expect_err("is longer"), "plugin-host-call", "[row-too-long]");
    // What leaves room for less than is asked for ends where the context does.
    let said = generate(row(context - head - 8), 64).expect("fits").remove(0).len();
    assert!((4..16).contains(&said), "{said}");
    let target = tempfile::tempdir().expect("a folder").path().join("out");
    refused(told.model.export(&target).expect_err("routes"), "export-route", "`ike` decide");
    assert!(!target.exists());
}

#[test]
fn tokens_that_no_text_is_split_into_stand_behind_the_fact_as_they_are() {
    let told = Told::new(open(&atlas().join("model")));
    let patches = told.model.patches_of("ike");
    let state = patches[0].state.clone();
    assert_eq!(patches[0].id, told.id.to_string());
    let whole = told.ids(&told.prompt);
    // Each character apart.
    let apart: Vec<u32> = told.prompt.chars().flat_map(|c| told.ids(&c.to_string())).collect();
    assert!(apart != whole && told.model.tokenizer().and_then(|t| t.decode(&apart)).expect("decodes") == told.prompt);
    let access = Access::new(&told.model, Cancel::new(), 0).of("ike");
    let shown = |tokens: Vec<u32>| {
        let id = told.id.to_string();
        let query = RouteQuery { tokens, patches: vec![ActivePatch { id: &id, state: &state }] };
        match told.method.route(&access, &query).expect("routes") {
            Route::Prompt(tokens) => tokens,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(shown(whole), told.ids(&format!("{}{}", told.head, told.prompt)));
    let found = shown(apart.clone());
    assert!(found.ends_with(&apart) && found.len() > apart.len());
    assert_eq!(found[..found.len() - apart.len()], told.ids(&told.head));
}
