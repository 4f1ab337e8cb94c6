//! A gateway in front of ComfyUI doubles, and callers with and without sockets.

use crate::http::{self, Answer, LONG, ask, repeat_until};
use core::net::SocketAddr;
use core::time::Duration;
use futures_util::{SinkExt, StreamExt};
use leasehold_config::{ComfyuiSettings, Settings};
use leasehold_gateway::Gateway;
use leasehold_testbed::{Comfy, ComfyConfig, ComfyJobTime};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

/// Times that make trouble known within a second or two.
pub(crate) const QUICK: fn() -> ComfyuiSettings = || ComfyuiSettings {
    poll: Duration::from_millis(100),
    lost_after: Duration::from_secs(2),
    stalled_after: Duration::from_secs(20),
    idle_after: Duration::from_millis(700),
    ..ComfyuiSettings::default()
};

/// A gateway, and the servers behind it.
pub(crate) struct World {
    pub(crate) gateway: Option<Gateway>,
    pub(crate) address: SocketAddr,
    pub(crate) servers: Vec<Comfy>,
    settings: Settings,
}

/// Starts servers.
pub(crate) fn servers(configs: impl IntoIterator<Item = ComfyConfig>) -> Vec<Comfy> {
    let start = |config| Comfy::start(config).expect("a free port");
    configs.into_iter().map(start).collect()
}

/// A server whose jobs take this long.
pub(crate) fn taking(millis: u64) -> ComfyConfig {
    let mut config = ComfyConfig::default();
    config.job_time = ComfyJobTime::Constant(Duration::from_millis(millis));
    config
}

/// Two quick servers, each with a node of its own, `A` and `B`, by which it is known that the gateway knows both.
pub(crate) fn two_known() -> Vec<Comfy> {
    servers(["A", "B"].map(|node| {
        let mut config = taking(10);
        config.custom_nodes = vec![node.to_owned()];
        config
    }))
}

/// Starts a gateway in front of servers, which are called a, b, c...
pub(crate) fn start(servers: Vec<Comfy>, comfyui: ComfyuiSettings, more: &str) -> World {
    start_with(servers, comfyui, more, |_| {})
}

/// The same, with settings that are changed before.
pub(crate) fn start_with(
    servers: Vec<Comfy>,
    comfyui: ComfyuiSettings,
    more: &str,
    change: impl FnOnce(&mut Settings),
) -> World {
    let mut text = format!(
        "access_log = false\n{more}\n[pools.images]\nkind = \"comfyui\"\nbreaker = {{ failures = 3, open = \"300ms\" }}\n"
    );
    for (name, server) in ('a'..).zip(&servers) {
        text += &format!(
            "[[pools.images.members]]\nname = \"{name}\"\nurl = \"{}\"\n",
            server.url()
        );
    }
    text += "[[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"comfyui\"\npool = \"images\"\n";
    let mut settings = Settings::parse(&text, Path::new("/"), &leasehold_config::Given::new())
        .unwrap_or_else(|error| panic!("{error}"));
    settings.pools[0].comfyui = comfyui;
    settings.pools[0].upstream.response_header = Duration::from_secs(1);
    settings.pools[0].upstream.connect = Duration::from_millis(500);
    change(&mut settings);
    let (gateway, address) = run(settings.clone());
    let world = World {
        gateway: Some(gateway),
        address,
        servers,
        settings,
    };
    world.all_connected();
    world
}

fn run(settings: Settings) -> (Gateway, SocketAddr) {
    let gateway = Gateway::start(settings).unwrap_or_else(|error| panic!("{error}"));
    let address = gateway.addresses()[0].expect("a TCP listener");
    (gateway, address)
}

impl World {
    /// Waits until the gateway follows all servers that are up.
    pub(crate) fn all_connected(&self) {
        for server in &self.servers {
            assert!(
                server.wait(LONG, |report| report.websockets_open > 0),
                "{}",
                server.id()
            );
        }
    }

    /// Waits until the gateway knows these nodes.
    pub(crate) fn wait_for_nodes(&self, nodes: &[&str]) {
        let caller = self.caller("one");
        repeat_until("all nodes are known", || {
            let answer = caller.get("/object_info");
            let known: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            nodes.iter().all(|node| known.get(*node).is_some())
        });
    }

    /// Puts other settings of the pool in force.
    pub(crate) fn reload(&mut self, change: impl FnOnce(&mut ComfyuiSettings)) {
        change(&mut self.settings.pools[0].comfyui);
        let gateway = self.gateway.as_ref().expect("it runs");
        let reloaded = gateway.reload(self.settings.clone());
        reloaded.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Ends the gateway, and starts another on the same settings.
    pub(crate) fn restart_gateway(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.drain();
        }
        let (gateway, address) = run(self.settings.clone());
        (self.gateway, self.address) = (Some(gateway), address);
    }

    /// How many prompts each server has accepted.
    pub(crate) fn accepted(&self) -> Vec<u64> {
        self.servers
            .iter()
            .map(|server| server.report().accepted)
            .collect()
    }

    /// How often each job was begun by any server.
    pub(crate) fn starts(&self) -> BTreeMap<String, u64> {
        let mut starts = BTreeMap::new();
        for server in &self.servers {
            for (id, prompt) in server.report().prompts {
                *starts.entry(id).or_default() += prompt.started;
            }
        }
        starts
    }

    pub(crate) fn caller(&self, name: &str) -> Caller {
        Caller {
            address: self.address,
            key: name.to_owned(),
        }
    }
}

/// A caller with a credential.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) address: SocketAddr,
    key: String,
}

impl Caller {
    pub(crate) fn get(&self, path: &str) -> Answer {
        ask(
            self.address,
            &format!(
                "GET {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
                self.key
            ),
        )
    }

    pub(crate) fn get_json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        serde_json::from_slice(&answer.body).expect("JSON")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, "application/json", body.to_string().as_bytes(), "")
    }

    pub(crate) fn post_bytes(&self, path: &str, kind: &str, body: &[u8], headers: &str) -> Answer {
        let mut caller = http::Caller::connect(self.address);
        caller.send(format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {}\r\ncontent-type: {kind}\r\n\
             {headers}content-length: {}\r\nconnection: close\r\n\r\n",
            self.key,
            body.len()
        ));
        caller.send(body);
        caller.answer().expect("an answer")
    }

    /// Queues a prompt and returns its id.
    pub(crate) fn queue(&self, prompt: &Value) -> String {
        let answer = self.post("/prompt", prompt);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
        told["prompt_id"].as_str().expect("an id").to_owned()
    }

    /// The entry of a job in the history, once it has one.
    pub(crate) fn ended(&self, id: &str) -> Value {
        let mut entry = Value::Null;
        repeat_until(&format!("the end of {id}"), || {
            std::thread::yield_now();
            entry = self.get_json(&format!("/history/{id}"))[id].clone();
            entry.is_object()
        });
        entry
    }

    /// Waits until all jobs have ended, and returns how.
    pub(crate) fn all_ended(&self, ids: &[String]) -> Vec<String> {
        let status = |id: &String| {
            let entry = self.ended(id);
            entry["status"]["status_str"]
                .as_str()
                .expect("a status")
                .to_owned()
        };
        ids.iter().map(status).collect()
    }
}

/// A prompt that makes a picture.
pub(crate) fn picture(client: &str) -> Value {
    json!({"client_id": client, "prompt": {
        "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}},
        "2": {"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": ["4", 2]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "ComfyUI"}},
    }})
}

/// A prompt that takes a time, in seconds of a server of speed 1.
pub(crate) fn sleeping(client: &str, seconds: f64) -> Value {
    json!({"client_id": client, "prompt": {
        "1": {"class_type": "TestbedSleep", "inputs": {"seconds": seconds}},
    }})
}

/// A caller's websocket.
pub(crate) struct Socket(WebSocketStream<TcpStream>);

/// A frame.
#[derive(Debug)]
pub(crate) enum Frame {
    Text(Value),
    /// The kind of a binary frame.
    Binary(u32),
}

impl Socket {
    pub(crate) async fn open(address: SocketAddr, client: &str) -> Self {
        let stream = TcpStream::connect(address)
            .await
            .expect("the gateway listens");
        let request = format!("ws://{address}/ws?clientId={client}");
        let request = request.into_client_request().expect("a request");
        let (socket, _) = client_async(request, stream).await.expect("a websocket");
        Self(socket)
    }

    pub(crate) async fn send(&mut self, frame: &Value) {
        self.0
            .send(Message::text(frame.to_string()))
            .await
            .expect("it is open");
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = timeout(LONG, self.0.next()).await.expect("a frame in time");
            match frame?.ok()? {
                Message::Text(text) => {
                    return Some(Frame::Text(serde_json::from_str(&text).expect("JSON")));
                }
                Message::Binary(bytes) => {
                    let kind = bytes[..4].try_into().expect("a kind");
                    return Some(Frame::Binary(u32::from_be_bytes(kind)));
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                Message::Close(_) => return None,
            }
        }
    }

    /// Reads up to the end of a job, and returns the kinds of the events of it.
    pub(crate) async fn until_over(&mut self, id: &str) -> Vec<String> {
        let mut kinds = Vec::new();
        loop {
            let Some(Frame::Text(frame)) = self.next().await else {
                continue;
            };
            if frame["data"]["prompt_id"] != id {
                continue;
            }
            let kind = frame["type"].as_str().expect("a type").to_owned();
            let is_over = kind == "executing" && frame["data"]["node"].is_null();
            kinds.push(kind);
            if is_over {
                return kinds;
            }
        }
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(future)
}
