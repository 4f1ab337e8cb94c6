//! Answers of each API without faults, and what models refuse.

use super::*;
use core::num::NonZeroU64;

#[test]
fn a_chat_answer_has_as_many_choices_as_asked_and_is_cut_at_the_maximum() {
    let server = OpenAi::start(config()).unwrap();
    let mut body = call();
    body["n"] = json!(2);
    body["max_completion_tokens"] = json!(3);
    let reply = Client::new(&server).chat(&body).json();
    let choices = reply["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    assert_eq!(choices[1]["index"], 1);
    assert_eq!(choices[1]["message"]["content"], "echo from gpt-test:");
    assert_eq!(choices[1]["finish_reason"], "length");
    assert_eq!(reply["usage"]["completion_tokens"], 6);
}

#[test]
fn a_forced_tool_is_called_with_the_prompt() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let mut body = call();
    body["tools"] = json!([{ "type": "function", "function": { "name": "look" } }]);
    body["tool_choice"] = json!("required");
    let reply = client.chat(&body).json();
    let choice = &reply["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let function = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(function["name"], "look");
    assert_eq!(function["arguments"], r#"{"input":"hello there"}"#);

    body["stream"] = json!(true);
    let chunks = chunks(&client.chat(&body).body);
    let calls = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]);
    let calls: Vec<_> = calls.filter(|call| call.is_object()).collect();
    assert_eq!(calls[0]["function"]["name"], "look");
    let arguments = calls
        .iter()
        .filter_map(|call| call["function"]["arguments"].as_str());
    assert_eq!(arguments.collect::<String>(), r#"{"input":"hello there"}"#);
}

#[test]
fn a_response_has_the_output_and_usage_of_the_service() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let mut ask = |body: Value| {
        client
            .ask("POST", "/v1/responses", KEY, &body.to_string())
            .json()
    };
    let reply = ask(json!({ "model": "m", "input": "hello there" }));
    assert_eq!(reply["object"], "response");
    assert_eq!(reply["status"], "completed");
    let item = &reply["output"][0];
    assert_eq!(item["type"], "message");
    assert_eq!(item["content"][0]["text"], "echo from m: hello there");
    let usage = ["input_tokens", "output_tokens", "total_tokens"].map(|name| &reply["usage"][name]);
    assert_eq!(usage, [2, 5, 7]);

    let cut = ask(json!({ "model": "m", "input": "hello there", "max_output_tokens": 4 }));
    assert_eq!(cut["status"], "incomplete");
    assert_eq!(cut["incomplete_details"]["reason"], "max_output_tokens");

    let tools = json!([{ "type": "function", "name": "look" }]);
    let called =
        ask(json!({ "model": "m", "input": "x", "tools": tools, "tool_choice": "required" }));
    assert_eq!(called["output"][0]["type"], "function_call");
    assert_eq!(called["output"][0]["arguments"], r#"{"input":"x"}"#);
}

#[test]
fn the_arguments_of_a_streamed_response_come_in_pieces() {
    let server = OpenAi::start(config()).unwrap();
    let body = json!({
        "model": "m",
        "input": "x",
        "stream": true,
        "tools": [{ "type": "function", "name": "look" }],
        "tool_choice": { "type": "function", "name": "look" },
    });
    let mut client = Client::new(&server);
    let reply = client.ask("POST", "/v1/responses", KEY, &body.to_string());
    let events = chunks(&reply.body);
    let parts = events
        .iter()
        .filter(|event| event["type"] == "response.function_call_arguments.delta");
    let parts: Vec<_> = parts.filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(parts.len(), 2);
    assert_eq!(parts.concat(), r#"{"input":"x"}"#);
}

#[test]
fn embeddings_are_numbers_or_base64_of_the_same_numbers() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let mut ask = |format: &str| {
        let body = json!({ "model": "m", "input": ["a b", "c"], "dimensions": 4, "encoding_format": format });
        client
            .ask("POST", "/v1/embeddings", KEY, &body.to_string())
            .json()
    };
    let reply = ask("float");
    assert_eq!(
        reply["usage"],
        json!({ "prompt_tokens": 3, "total_tokens": 3 })
    );
    assert_eq!(reply["data"][1]["index"], 1);
    assert_eq!(reply["data"][0]["embedding"].as_array().unwrap().len(), 4);
    let text = ask("base64")["data"][0]["embedding"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(text.len(), 24, "16 bytes");
    assert!(text.ends_with("=="));
}

#[test]
fn azure_paths_and_headers_are_served() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let body = json!({ "messages": [{ "role": "user", "content": "hi" }] }).to_string();
    let path = "/openai/deployments/mine/chat/completions";
    let length = body.len();
    client.send(&format!(
        "POST {path}?api-version=2024-10-21 HTTP/1.1\r\nhost: x\r\napi-key: {KEY}\r\ncontent-length: {length}\r\n\r\n{body}"
    ));
    assert_eq!(client.receive().unwrap().json()["model"], "mine");
    assert_eq!(client.ask("POST", path, KEY, &body).status, 404);
}

#[test]
fn a_model_may_refuse_max_tokens_or_too_many_of_them() {
    let mut strict = ModelRule::new();
    strict.model = Some("strict".into());
    strict.refuses_max_tokens = true;
    let mut short = ModelRule::new();
    short.max_output = NonZeroU64::new(16_384);
    let server = OpenAi::start(OpenAiConfig {
        model_rules: vec![strict, short],
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    let mut ask = |model: &str, param: &str, most: u64| {
        let mut body = call();
        body["model"] = json!(model);
        body[param] = json!(most);
        let reply = client.chat(&body);
        let error = reply.json()["error"].clone();
        (
            reply.status,
            error["message"].as_str().unwrap_or("").to_owned(),
            error["param"].clone(),
        )
    };
    let (status, message, param) = ask("strict", "max_tokens", 100);
    assert_eq!((status, param), (400, json!("max_tokens")));
    assert!(
        message.starts_with("Unsupported parameter: 'max_tokens'"),
        "{message}"
    );
    assert_eq!(ask("strict", "max_completion_tokens", 100).0, 200);
    let (status, message, param) = ask("other", "max_completion_tokens", 30_720);
    assert_eq!((status, param), (400, json!("max_completion_tokens")));
    assert!(
        message.contains("supports at most 16384 completion tokens"),
        "{message}"
    );
    assert_eq!(ask("other", "max_tokens", 16_384).0, 200);
    assert_eq!(server.stop().invalid, 2);
}

#[test]
fn the_seed_determines_the_lengths_of_answers() {
    let lengths = |seed| {
        let server = OpenAi::start(OpenAiConfig {
            answer_tokens: 5..=500,
            seed,
            ..config()
        })
        .unwrap();
        let mut client = Client::new(&server);
        let mut length = || {
            client.chat(&call()).json()["usage"]["completion_tokens"]
                .as_u64()
                .unwrap()
        };
        [length(), length(), length()]
    };
    let drawn = lengths(1);
    assert_eq!(drawn, lengths(1));
    assert_ne!(drawn, lengths(2));
    assert!(drawn.iter().all(|length| (5..=500).contains(length)));
}
