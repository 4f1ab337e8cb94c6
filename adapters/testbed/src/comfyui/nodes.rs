//! The classes of nodes: their inputs, outputs, and how callers see them.
//!
//! Invariant: a class that the server does not have is unknown in validation and in `/object_info` alike.

use super::config::ComfyConfig;
use serde_json::{Map, Value, json};

/// An input's type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// A link to an output of this type; `*` for any.
    Link(&'static str),
    Text,
    /// Default, least, most.
    Int(i64, i64, u64),
    /// Default, least, most.
    Float(f64, f64, f64),
    Choice(&'static [&'static str]),
    /// A file of the folder of checkpoints.
    Checkpoint,
    /// A file of the folder of inputs, or one that a job has made.
    InputFile,
    /// The same, without the mark of an upload in its list, as custom nodes for videos have it.
    ListedFile,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Input {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) is_required: bool,
}

const fn needs(name: &'static str, kind: Kind) -> Input {
    Input {
        name,
        kind,
        is_required: true,
    }
}

const fn takes(name: &'static str, kind: Kind) -> Input {
    Input {
        name,
        kind,
        is_required: false,
    }
}

/// A class of nodes.
#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) name: String,
    pub(super) inputs: &'static [Input],
    /// Types of its outputs.
    pub(super) outputs: &'static [&'static str],
    pub(super) is_output: bool,
    category: &'static str,
    module: &'static str,
}

const SAMPLERS: &[&str] = &["euler", "euler_ancestral", "dpmpp_2m", "ddim", "uni_pc"];
const SCHEDULERS: &[&str] = &["normal", "karras", "simple", "sgm_uniform"];
const SIZE: Kind = Kind::Int(512, 16, 16_384);

/// Name, category, inputs, outputs, whether it is an output node.
type Row = (
    &'static str,
    &'static str,
    &'static [Input],
    &'static [&'static str],
    bool,
);

const BUILT_IN: [Row; 11] = [
    (
        "CheckpointLoaderSimple",
        "loaders",
        &[needs("ckpt_name", Kind::Checkpoint)],
        &["MODEL", "CLIP", "VAE"],
        false,
    ),
    (
        "CLIPTextEncode",
        "conditioning",
        &[needs("text", Kind::Text), needs("clip", Kind::Link("CLIP"))],
        &["CONDITIONING"],
        false,
    ),
    (
        "EmptyLatentImage",
        "latent",
        &[
            needs("width", SIZE),
            needs("height", SIZE),
            needs("batch_size", Kind::Int(1, 1, 4_096)),
        ],
        &["LATENT"],
        false,
    ),
    (
        "KSampler",
        "sampling",
        &[
            needs("model", Kind::Link("MODEL")),
            needs("seed", Kind::Int(0, 0, u64::MAX)),
            needs("steps", Kind::Int(20, 1, 10_000)),
            needs("cfg", Kind::Float(8.0, 0.0, 100.0)),
            needs("sampler_name", Kind::Choice(SAMPLERS)),
            needs("scheduler", Kind::Choice(SCHEDULERS)),
            needs("positive", Kind::Link("CONDITIONING")),
            needs("negative", Kind::Link("CONDITIONING")),
            needs("latent_image", Kind::Link("LATENT")),
            needs("denoise", Kind::Float(1.0, 0.0, 1.0)),
        ],
        &["LATENT"],
        false,
    ),
    (
        "VAEDecode",
        "latent",
        &[
            needs("samples", Kind::Link("LATENT")),
            needs("vae", Kind::Link("VAE")),
        ],
        &["IMAGE"],
        false,
    ),
    (
        "SaveImage",
        "image",
        &[
            needs("images", Kind::Link("IMAGE")),
            needs("filename_prefix", Kind::Text),
        ],
        &[],
        true,
    ),
    (
        "PreviewImage",
        "image",
        &[needs("images", Kind::Link("IMAGE"))],
        &[],
        true,
    ),
    (
        "LoadImage",
        "image",
        &[needs("image", Kind::InputFile)],
        &["IMAGE", "MASK"],
        false,
    ),
    (
        "TestbedVideo",
        "testbed",
        &[needs("video", Kind::ListedFile)],
        &["IMAGE"],
        false,
    ),
    (
        "TestbedSleep",
        "testbed",
        &[
            needs("seconds", Kind::Float(1.0, 0.0, 86_400.0)),
            takes("input", Kind::Link("*")),
        ],
        &["*"],
        true,
    ),
    (
        "TestbedFail",
        "testbed",
        &[
            takes("message", Kind::Text),
            takes("input", Kind::Link("*")),
        ],
        &["*"],
        true,
    ),
];

/// The classes of a server, and its checkpoints.
#[derive(Debug)]
pub(super) struct Classes {
    classes: Vec<Class>,
    pub(super) checkpoints: Vec<String>,
}

impl Classes {
    pub(super) fn new(config: &ComfyConfig) -> Self {
        let names = config.nodes.iter().chain(&config.custom_nodes);
        let mut classes: Vec<Class> = Vec::new();
        for name in names {
            if classes.iter().all(|class| class.name != *name) {
                classes.push(Class::new(name));
            }
        }
        Self {
            classes,
            checkpoints: config.checkpoints.clone(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Class> {
        self.classes.iter().find(|class| class.name == name)
    }

    /// The answer of `/object_info`, for all classes or the named one.
    pub(super) fn info(&self, only: Option<&str>, input_files: &[String]) -> Value {
        let wanted = |class: &&Class| only.is_none_or(|name| name == class.name);
        let classes = self.classes.iter().filter(wanted);
        let infos = classes.map(|class| (class.name.clone(), self.info_of(class, input_files)));
        Value::Object(infos.collect())
    }

    /// An input's declaration, as callers and errors show it.
    pub(super) fn declaration(&self, kind: Kind, input_files: &[String]) -> Value {
        match kind {
            Kind::Link(name) => json!([name]),
            Kind::Text => json!(["STRING", { "multiline": true }]),
            Kind::Int(default, min, max) => {
                json!(["INT", { "default": default, "min": min, "max": max }])
            }
            Kind::Float(default, min, max) => {
                json!(["FLOAT", { "default": default, "min": min, "max": max }])
            }
            Kind::Choice(values) => json!([values]),
            Kind::Checkpoint => json!([self.checkpoints]),
            Kind::InputFile => json!([input_files, { "image_upload": true }]),
            Kind::ListedFile => json!([input_files]),
        }
    }

    /// Whether a class is a custom node's.
    pub(super) fn is_custom(&self, name: &str) -> bool {
        let builtin = BUILT_IN.iter().any(|(known, ..)| *known == name);
        !builtin && self.get(name).is_some()
    }

    fn info_of(&self, class: &Class, input_files: &[String]) -> Value {
        let (mut input, mut order) = (Map::new(), Map::new());
        for (group, is_required) in [("required", true), ("optional", false)] {
            let inputs = class.inputs.iter();
            let inputs = inputs.filter(|input| input.is_required == is_required);
            let declared: Map<String, Value> = inputs
                .map(|input| {
                    (
                        input.name.to_owned(),
                        self.declaration(input.kind, input_files),
                    )
                })
                .collect();
            if !declared.is_empty() {
                let names: Vec<_> = declared.keys().cloned().collect();
                order.insert(group.to_owned(), json!(names));
                input.insert(group.to_owned(), Value::Object(declared));
            }
        }
        json!({
            "input": input,
            "input_order": order,
            "is_input_list": false,
            "output": class.outputs,
            "output_is_list": vec![false; class.outputs.len()],
            "output_name": class.outputs,
            "name": class.name,
            "display_name": class.name,
            "description": "",
            "python_module": class.module,
            "category": class.category,
            "output_node": class.is_output,
        })
    }
}

impl Class {
    fn new(name: &str) -> Self {
        let built_in = BUILT_IN.iter().find(|(known, ..)| *known == name);
        let (_, category, inputs, outputs, is_output) = *built_in.unwrap_or(&CUSTOM);
        Self {
            name: name.to_owned(),
            inputs,
            outputs,
            is_output,
            category,
            module: match built_in {
                Some(_) => "nodes",
                None => "custom_nodes.testbed",
            },
        }
    }
}

const CUSTOM: Row = (
    "",
    "custom",
    &[takes("input", Kind::Link("*"))],
    &["*"],
    false,
);
