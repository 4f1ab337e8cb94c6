//! Parsing of calls: chat completions, responses, embeddings, messages.

use super::config::ModelRule;
use super::error::ApiError;
use serde_json::{Map, Value};

/// Most answers that a call may ask for.
const MAX_CHOICES: u64 = 128;

/// Most bytes of the prompt in all the answers that a call asks for, if it asks for several.
const MAX_ECHO_BYTES: u64 = 16 << 20;

/// Most inputs of an embeddings call, and most numbers of a vector.
const MAX_INPUTS: usize = 2_048;

const DEFAULT_DIMENSIONS: u64 = 16;

/// An API that takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    Chat,
    Responses,
    Embeddings,
    /// Anthropic's Messages.
    Messages,
}

/// The service that an API is of: its errors and headers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vendor {
    OpenAi,
    Anthropic,
}

impl Api {
    pub(super) const fn vendor(self) -> Vendor {
        match self {
            Self::Chat | Self::Responses | Self::Embeddings => Vendor::OpenAi,
            Self::Messages => Vendor::Anthropic,
        }
    }
}

/// The caller's options for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamOptions {
    pub(super) usage: bool,
    pub(super) obfuscation: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct EmbeddingOptions {
    pub(super) inputs: Vec<String>,
    pub(super) dimensions: usize,
    pub(super) base64: bool,
}

/// What a response goes on from, and whether it is kept so that others go on from it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Links {
    pub(super) previous_response: Option<String>,
    pub(super) conversation: Option<String>,
    pub(super) is_kept: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiRequest {
    pub(super) api: Api,
    pub(super) model: String,
    /// Text of the last user message.
    pub(super) prompt: String,
    /// Words of all messages; a word is a token here.
    pub(super) prompt_tokens: u64,
    pub(super) stream: Option<StreamOptions>,
    /// Number of answers.
    pub(super) choices: u64,
    /// Most tokens of an answer, and the parameter that says so.
    pub(super) max_output: Option<(&'static str, u64)>,
    has_max_tokens: bool,
    /// Name of the function that must be called.
    pub(super) tool: Option<String>,
    pub(super) embedding: EmbeddingOptions,
    pub(super) links: Links,
}

impl ApiRequest {
    /// Parses a call; `deployment` is the model of a path that names one.
    pub(super) fn parse(api: Api, deployment: Option<&str>, body: &[u8]) -> Result<Self, ApiError> {
        let (request, call) = Self::named(api, deployment, body)?;
        match api {
            Api::Chat => request.chat(&call),
            Api::Responses => request.responses(&call),
            Api::Embeddings => request.embeddings(&call),
            Api::Messages => request.messages(&call),
        }
    }

    /// Parses a request to count the tokens of a message.
    pub(super) fn parse_count(body: &[u8]) -> Result<Self, ApiError> {
        let (request, call) = Self::named(Api::Messages, None, body)?;
        request.with_messages(&call)
    }

    /// Parses a body up to the name of its model.
    fn named(
        api: Api,
        deployment: Option<&str>,
        body: &[u8],
    ) -> Result<(Self, Map<String, Value>), ApiError> {
        let call = object(body)?;
        let model = call.get("model").and_then(Value::as_str).or(deployment);
        let Some(model) = model else {
            let error = ApiError::invalid("you must provide a model parameter");
            return Err(error.param("model"));
        };
        let request = Self {
            model: model.to_owned(),
            ..Self::empty(api)
        };
        Ok((request, call))
    }

    /// A call without a prompt, for answers to calls that could not be read.
    pub(super) fn empty(api: Api) -> Self {
        Self {
            api,
            model: "the model".to_owned(),
            prompt: String::new(),
            prompt_tokens: 0,
            stream: None,
            choices: 1,
            max_output: None,
            has_max_tokens: false,
            tool: None,
            embedding: EmbeddingOptions::default(),
            links: Links::default(),
        }
    }

    /// Checks the call against the rules of its model.
    pub(super) fn check(self, models: &[String], rules: &[ModelRule]) -> Result<Self, ApiError> {
        if !models.is_empty() && !models.contains(&self.model) {
            return Err(ApiError::unknown_model(self.api.vendor(), &self.model));
        }
        for rule in rules.iter().filter(|rule| rule.applies_to(&self.model)) {
            if rule.refuses_max_tokens && self.has_max_tokens {
                return Err(ApiError::max_tokens_unsupported());
            }
            if let (Some(most), Some((param, asked))) = (rule.max_output, self.max_output)
                && asked > most.get()
            {
                return Err(ApiError::too_many_tokens(param, asked, most.get()));
            }
        }
        Ok(self)
    }

    fn chat(mut self, call: &Map<String, Value>) -> Result<Self, ApiError> {
        self = self.with_messages(call)?;
        self.choices = match whole(call, "n")? {
            None => 1,
            Some(choices @ 1..=MAX_CHOICES) => choices,
            Some(_) => return Err(ApiError::invalid("'n' must be 1 to 128").param("n")),
        };
        if self.choices > 1 && self.choices * self.prompt.len() as u64 > MAX_ECHO_BYTES {
            let message = "'n' is too large for a prompt of this length";
            return Err(ApiError::invalid(message).param("n"));
        }
        let max_tokens = whole(call, "max_tokens")?;
        self.has_max_tokens = max_tokens.is_some();
        self.max_output = whole(call, "max_completion_tokens")?
            .map(|most| ("max_completion_tokens", most))
            .or(max_tokens.map(|most| ("max_tokens", most)));
        self.stream = stream(call)?;
        self.tool = forced_tool(call);
        Ok(self)
    }

    /// Reads the messages of a chat or of Anthropic, and the instructions that Anthropic has beside them.
    fn with_messages(mut self, call: &Map<String, Value>) -> Result<Self, ApiError> {
        let messages = objects(call.get("messages")).ok_or_else(|| {
            ApiError::invalid("'messages' must be an array of at least one object")
                .param("messages")
        })?;
        self.read_messages(&messages);
        if self.api == Api::Messages {
            self.prompt_tokens += words(&text(call, "system"));
        }
        Ok(self)
    }

    fn messages(mut self, call: &Map<String, Value>) -> Result<Self, ApiError> {
        self = self.with_messages(call)?;
        let most = whole(call, "max_tokens")?.filter(|most| *most > 0);
        let most = most.ok_or_else(|| {
            ApiError::invalid("max_tokens: a whole number above 0 is required").param("max_tokens")
        })?;
        self.max_output = Some(("max_tokens", most));
        self.stream = stream(call)?;
        self.tool = forced_tool(call);
        Ok(self)
    }

    fn responses(mut self, call: &Map<String, Value>) -> Result<Self, ApiError> {
        match call.get("input") {
            Some(Value::String(text)) => {
                self.prompt.clone_from(text);
                self.prompt_tokens = words(text);
            }
            input => {
                let messages = objects(input).ok_or_else(|| {
                    ApiError::invalid("'input' must be a string or an array of objects")
                        .param("input")
                })?;
                self.read_messages(&messages);
            }
        }
        let instructions = call.get("instructions").and_then(Value::as_str);
        self.prompt_tokens += instructions.map_or(0, words);
        self.max_output = whole(call, "max_output_tokens")?.map(|most| ("max_output_tokens", most));
        let name = |value: &Value| value.as_str().map(str::to_owned);
        self.links = Links {
            previous_response: call.get("previous_response_id").and_then(name),
            conversation: call
                .get("conversation")
                .and_then(|value| name(value.get("id").unwrap_or(value))),
            is_kept: call.get("store") != Some(&Value::Bool(false)),
        };
        self.stream = stream(call)?;
        self.tool = forced_tool(call);
        Ok(self)
    }

    fn embeddings(mut self, call: &Map<String, Value>) -> Result<Self, ApiError> {
        let inputs: Vec<String> = match call.get("input") {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(items)) if !items.is_empty() && items.iter().all(Value::is_u64) => {
                vec![Value::Array(items.clone()).to_string()]
            }
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| {
                    item.as_str()
                        .map_or_else(|| item.to_string(), str::to_owned)
                })
                .collect(),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {
                Vec::new()
            }
        };
        if inputs.is_empty() || inputs.len() > MAX_INPUTS {
            let message = "'input' must be a string or an array of 1 to 2048 inputs";
            return Err(ApiError::invalid(message).param("input"));
        }
        let dimensions = whole(call, "dimensions")?.unwrap_or(DEFAULT_DIMENSIONS);
        let dimensions = usize::try_from(dimensions).unwrap_or(usize::MAX);
        if !(1..=MAX_INPUTS).contains(&dimensions) {
            return Err(ApiError::invalid("'dimensions' must be 1 to 2048").param("dimensions"));
        }
        self.prompt_tokens = inputs.iter().map(|text| words(text)).sum();
        self.embedding = EmbeddingOptions {
            inputs,
            dimensions,
            base64: call.get("encoding_format").and_then(Value::as_str) == Some("base64"),
        };
        Ok(self)
    }

    fn read_messages(&mut self, messages: &[&Map<String, Value>]) {
        self.prompt = messages
            .iter()
            .rfind(|message| message.get("role").and_then(Value::as_str) == Some("user"))
            .map_or_else(String::new, |message| text(message, "content"));
        self.prompt_tokens = messages
            .iter()
            .map(|message| words(&text(message, "content")))
            .sum();
    }
}

/// Parses a body that must be a JSON object.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    serde_json::from_slice(body).map_err(|_| ApiError::invalid("the body must be a JSON object"))
}

/// Counts words, which stand for tokens here.
pub(super) fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// Returns an array of at least one object.
fn objects(value: Option<&Value>) -> Option<Vec<&Map<String, Value>>> {
    let items = value?.as_array()?;
    let objects: Option<Vec<_>> = items.iter().map(Value::as_object).collect();
    objects.filter(|objects| !objects.is_empty())
}

/// Reads a whole number that may be absent or null.
fn whole(call: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, ApiError> {
    match call.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| {
            ApiError::invalid(format!("'{name}' must be a whole number")).param(name)
        }),
    }
}

fn stream(call: &Map<String, Value>) -> Result<Option<StreamOptions>, ApiError> {
    let wanted = match call.get("stream") {
        None | Some(Value::Null) => false,
        Some(value) => value
            .as_bool()
            .ok_or_else(|| ApiError::invalid("'stream' must be true or false").param("stream"))?,
    };
    let option = |name: &str, default| {
        let options = call.get("stream_options");
        let value = options.and_then(|options| options.get(name)?.as_bool());
        value.unwrap_or(default)
    };
    Ok(wanted.then(|| StreamOptions {
        usage: option("include_usage", false),
        obfuscation: option("include_obfuscation", true),
    }))
}

/// Returns the function that `tool_choice` forces: the one it names, or the first.
fn forced_tool(call: &Map<String, Value>) -> Option<String> {
    let name = |tool: &Value| {
        let function = tool.get("function").unwrap_or(tool);
        function.get("name")?.as_str().map(str::to_owned)
    };
    let choice = call.get("tool_choice")?;
    let is_any = choice.get("type").and_then(Value::as_str) == Some("any");
    if is_any || choice.as_str() == Some("required") {
        return name(call.get("tools")?.as_array()?.first()?);
    }
    name(choice)
}

/// Returns the text of a message's member: the member if that is a string, else its text parts, joined.
fn text(message: &Map<String, Value>, member: &str) -> String {
    match message.get(member) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts
            .iter()
            .filter_map(|part| part.get("text").and_then(Value::as_str))
            .collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(api: Api, body: &str) -> Result<ApiRequest, ApiError> {
        ApiRequest::parse(api, None, body.as_bytes())
    }

    #[test]
    fn the_last_user_message_is_echoed_and_every_message_is_counted() {
        let call = parse(
            Api::Chat,
            r#"{"model":"m","messages":[
                {"role":"system","content":"be brief"},
                {"role":"user","content":"first"},
                {"role":"user","content":[{"type":"text","text":"one two"},{"type":"image_url"}]},
                {"role":"assistant","content":null}]}"#,
        )
        .unwrap();
        assert_eq!((call.prompt.as_str(), call.prompt_tokens), ("one two", 5));
        assert_eq!(
            (call.choices, call.stream, call.max_output),
            (1, None, None)
        );
    }

    #[test]
    fn a_malformed_call_is_rejected() {
        for (body, param) in [
            (r#""#, None),
            (r#"["m",[{}]]"#, None),
            (r#"{"messages":[{}]}"#, Some("model")),
            (r#"{"model":7,"messages":[{}]}"#, Some("model")),
            (r#"{"model":"m"}"#, Some("messages")),
            (r#"{"model":"m","messages":[]}"#, Some("messages")),
            (r#"{"model":"m","messages":["hi"]}"#, Some("messages")),
            (
                r#"{"model":"m","messages":[{}],"stream":1}"#,
                Some("stream"),
            ),
            (r#"{"model":"m","messages":[{}],"n":0}"#, Some("n")),
            (
                r#"{"model":"m","messages":[{}],"max_tokens":-1}"#,
                Some("max_tokens"),
            ),
        ] {
            let error = parse(Api::Chat, body).unwrap_err();
            assert_eq!((error.status, error.param), (400, param), "{body}");
        }
        let error = parse(Api::Responses, r#"{"model":"m","input":7}"#).unwrap_err();
        assert_eq!(error.param, Some("input"));
        for body in [r#"{"model":"m"}"#, r#"{"model":"m","input":[]}"#] {
            assert_eq!(
                parse(Api::Embeddings, body).unwrap_err().param,
                Some("input")
            );
        }
    }

    #[test]
    fn a_long_prompt_is_echoed_only_a_few_times() {
        let ask = |choices: u64| {
            let prompt = "x".repeat(1 << 20);
            let message = format!(r#"{{"role":"user","content":"{prompt}"}}"#);
            parse(
                Api::Chat,
                &format!(r#"{{"model":"m","messages":[{message}],"n":{choices}}}"#),
            )
        };
        assert_eq!(ask(16).unwrap().choices, 16);
        assert_eq!(ask(17).unwrap_err().param, Some("n"));
    }

    #[test]
    fn the_options_of_a_call_are_read() {
        let call = parse(
            Api::Chat,
            r#"{"model":"m","messages":[{}],"n":2,"max_tokens":5,"max_completion_tokens":7,"stream":true,
                "stream_options":{"include_usage":true,"include_obfuscation":false},
                "tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"required"}"#,
        )
        .unwrap();
        let stream = StreamOptions {
            usage: true,
            obfuscation: false,
        };
        assert_eq!((call.choices, call.stream), (2, Some(stream)));
        assert_eq!(call.max_output, Some(("max_completion_tokens", 7)));
        assert_eq!(call.tool.as_deref(), Some("f"));

        let call = parse(
            Api::Responses,
            r#"{"model":"m","instructions":"be brief","max_output_tokens":9,"tool_choice":{"type":"function","name":"g"},
                "input":[{"role":"user","content":[{"type":"input_text","text":"one two"}]}]}"#,
        )
        .unwrap();
        assert_eq!((call.prompt.as_str(), call.prompt_tokens), ("one two", 4));
        assert_eq!(call.max_output, Some(("max_output_tokens", 9)));
        assert_eq!(call.tool.as_deref(), Some("g"));

        let body = r#"{"model":"m","input":["a b","c"],"encoding_format":"base64","dimensions":3}"#;
        let call = parse(Api::Embeddings, body).unwrap();
        assert_eq!(call.embedding.inputs, ["a b", "c"]);
        assert_eq!(
            (call.embedding.dimensions, call.embedding.base64),
            (3, true)
        );
        assert_eq!(call.prompt_tokens, 3);
    }

    #[test]
    fn a_model_may_refuse_parameters_and_lengths() {
        let mut strict = ModelRule::new();
        strict.model = Some("strict".into());
        strict.refuses_max_tokens = true;
        let mut short = ModelRule::new();
        short.max_output = core::num::NonZeroU64::new(10);
        let check = |model: &str, param: &str, most: u64| {
            let body = format!(r#"{{"model":"{model}","messages":[{{}}],"{param}":{most}}}"#);
            let call = parse(Api::Chat, &body).unwrap();
            let refused = call.check(&[], &[strict.clone(), short.clone()]).err();
            refused.and_then(|error| error.code)
        };
        assert_eq!(
            check("strict", "max_tokens", 5),
            Some("unsupported_parameter")
        );
        assert_eq!(check("strict", "max_completion_tokens", 10), None);
        assert_eq!(check("other", "max_tokens", 10), None);
        assert_eq!(check("other", "max_tokens", 11), Some("invalid_value"));
    }
}
