//! Tests of the double over real sockets.

mod events;
mod http;
mod jobs;
mod life;
mod prompts;
mod trouble;

use super::*;
use crate::client::{Client, PATIENCE, Reply};
use serde_json::{Value, json};

/// A configuration whose jobs take 5 ms.
fn quick() -> ComfyConfig {
    ComfyConfig {
        job_time: ComfyJobTime::Constant(Duration::from_millis(5)),
        ..ComfyConfig::default()
    }
}

fn start(config: ComfyConfig) -> Comfy {
    Comfy::start(config).unwrap()
}

/// A prompt that sleeps, in seconds.
fn sleep(seconds: f64) -> Value {
    json!({ "1": { "class_type": "TestbedSleep", "inputs": { "seconds": seconds } } })
}

/// The usual graph: nodes 1 to 6, of which 6 saves a picture.
fn graph() -> Value {
    let sampler = json!({
        "model": ["1", 0], "seed": 7, "steps": 20, "cfg": 8, "sampler_name": "euler",
        "scheduler": "normal", "positive": ["2", 0], "negative": ["2", 0],
        "latent_image": ["3", 0], "denoise": 1,
    });
    json!({
        "1": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": { "ckpt_name": "v1-5-pruned-emaonly.safetensors" },
        },
        "2": { "class_type": "CLIPTextEncode", "inputs": { "text": "a lake", "clip": ["1", 1] } },
        "3": {
            "class_type": "EmptyLatentImage",
            "inputs": { "width": 512, "height": 512, "batch_size": 1 },
        },
        "4": { "class_type": "KSampler", "inputs": sampler },
        "5": { "class_type": "VAEDecode", "inputs": { "samples": ["4", 0], "vae": ["1", 2] } },
        "6": {
            "class_type": "SaveImage",
            "inputs": { "images": ["5", 0], "filename_prefix": "ComfyUI" },
        },
    })
}

/// A UUID that ends with a number.
fn uuid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

impl Comfy {
    fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// Sends a request on a connection of its own.
    fn ask(&self, method: &str, path: &str, lines: &str, body: &[u8]) -> Reply {
        let mut client = self.client();
        client.demand(method, path, lines, body);
        client.receive().expect("an answer")
    }

    fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "", b"")
    }

    #[track_caller]
    fn get_json(&self, path: &str) -> Value {
        let reply = self.get(path);
        assert_eq!(reply.status, 200, "{path}");
        reply.json()
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        self.ask("POST", path, "", body.to_string().as_bytes())
    }

    /// Queues a prompt with an id.
    #[track_caller]
    fn queue(&self, id: &str, prompt: &Value) -> Value {
        let reply = self.post("/prompt", &json!({ "prompt": prompt, "prompt_id": id }));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    #[track_caller]
    fn wait_until(&self, condition: impl Fn(&ComfyReport) -> bool) {
        assert!(self.wait(PATIENCE, condition), "{:?}", self.report());
    }
}

impl Client {
    fn demand(&mut self, method: &str, path: &str, lines: &str, body: &[u8]) {
        use std::io::Write;
        let length = match body.len() {
            0 => String::new(),
            length => format!("content-length: {length}\r\n"),
        };
        self.send(&format!("{method} {path} HTTP/1.1\r\n{lines}{length}\r\n"));
        self.0.get_mut().write_all(body).unwrap();
    }
}

/// Status and `error.type` of a refusal.
fn refusal(reply: &Reply) -> (u16, String) {
    let kind = reply.json()["error"]["type"].clone();
    (reply.status, kind.as_str().unwrap_or_default().to_owned())
}
