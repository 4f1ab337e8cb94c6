//! Promises of jobs on ComfyUI servers, and of the readers of what callers and servers say.

use super::cases;
use leasehold_tests::comfyui::{job, read};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// A text that matters to a reader, or another.
fn word() -> impl Strategy<Value = String> {
    let known = select(vec![
        "1",
        "2",
        "Loader",
        "Save",
        "ckpt_name",
        "a.safetensors",
        "b.safetensors",
        "a.png [output]",
        "value_not_in_list",
        "custom_validation_failed",
        "missing_node_type",
        "invalid_prompt",
        "Node ID '#1'",
        "success",
        "error",
        "execution_interrupted",
        "execution_error",
        "executing",
        "COMBO",
        "",
        "@a",
    ]);
    prop_oneof![9 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

/// The name of a field that a reader looks at, or another.
fn field() -> impl Strategy<Value = String> {
    let known = select(vec![
        "prompt",
        "prompt_id",
        "client_id",
        "extra_data",
        "number",
        "front",
        "inputs",
        "class_type",
        "_meta",
        "title",
        "1",
        "2",
        "error",
        "type",
        "details",
        "extra_info",
        "node_errors",
        "errors",
        "input_name",
        "received_value",
        "queue_running",
        "queue_pending",
        "status",
        "status_str",
        "messages",
        "data",
        "node",
        "exec_info",
        "queue_remaining",
        "filename",
        "subfolder",
        "api_key_comfy_org",
        "auth_token_comfy_org",
        "partial_execution_targets",
        "exception_type",
    ]);
    prop_oneof![9 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

/// Any JSON value, mostly of words that matter.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        4 => word().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((field(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A prompt of whole nodes, some with odd values.
fn prompt() -> impl Strategy<Value = Value> {
    let class = prop_oneof![9 => select(vec!["Loader", "Save", "Other"]).prop_map(Value::from), 1 => value()];
    let input = (
        select(vec!["ckpt_name", "image", "model"]),
        prop_oneof![3 => word().prop_map(Value::from), 1 => value()],
    );
    let node = (class, prop::collection::vec(input, 0..3)).prop_map(|(class, inputs)| {
        let inputs: serde_json::Map<String, Value> = inputs
            .into_iter()
            .map(|(name, it)| (name.to_owned(), it))
            .collect();
        json!({"class_type": class, "inputs": inputs})
    });
    let extra = prop_oneof![3 => Just(Value::Null), 1 => value()];
    (prop::collection::vec(node, 0..4), extra).prop_map(|(nodes, extra)| {
        let graph = nodes
            .into_iter()
            .enumerate()
            .map(|(id, node)| (id.to_string(), node));
        let graph: serde_json::Map<String, Value> = graph.collect();
        json!({"prompt": graph, "extra_data": extra})
    })
}

/// What a server says of its nodes, in the words of either age.
fn info() -> impl Strategy<Value = Value> {
    let values = prop::collection::vec(word(), 0..4);
    let listed = (values, 0..3).prop_map(|(values, shape)| match shape {
        0 => json!([values]),
        1 => json!([values, {"image_upload": true}]),
        _ => json!(["COMBO", {"options": values}]),
    });
    let config = prop_oneof![3 => listed, 1 => value()];
    let kind = select(vec!["required", "optional"]);
    let class = (
        kind,
        select(vec!["ckpt_name", "image", "model"]),
        config,
        any::<bool>(),
    );
    let class = class.prop_map(|(kind, input, config, is_output)| {
        json!({"input": {kind: {input: config}}, "output_node": is_output})
    });
    let named = (select(vec!["Loader", "Save", "Other"]), class);
    prop::collection::vec(named, 0..4).prop_map(|all| {
        Value::Object(
            all.into_iter()
                .map(|(name, it)| (name.to_owned(), it))
                .collect(),
        )
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_job_ends_once_and_is_submitted_again_only_where_it_is_not(case: job::Case) {
        job::run(&case);
    }

    #[test]
    fn readers_keep_their_promises_over_prompts_and_nodes(prompt in prompt(), one in info(), other in info()) {
        read::run(format!("{prompt}\0{one}\0{other}").as_bytes());
    }

    #[test]
    fn readers_keep_their_promises_over_any_json(prompt in prompt(), one in value(), other in value()) {
        read::run(format!("{prompt}\0{one}\0{other}").as_bytes());
        read::run(format!("{one}\0{other}").as_bytes());
    }

    #[test]
    fn readers_keep_their_promises_over_any_frame(
        kind in 0_u32..6, number in 0_u32..20, rest: Vec<u8>,
    ) {
        let frame = [&kind.to_be_bytes()[..], &number.to_be_bytes(), &rest].concat();
        read::run(&frame);
    }
}
