//! Websocket events: their order, and the sockets that they go to.

use super::*;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// Silence after which no frame is expected any more.
const SILENCE: Duration = Duration::from_millis(60);

pub(super) struct Socket(WebSocketStream<TcpStream>);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Frame {
    Event(String, Value),
    Binary(Vec<u8>),
}

pub(super) fn runtime() -> runtime::Runtime {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap()
}

pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}

impl Socket {
    pub(super) async fn open(comfy: &Comfy, query: &str) -> Self {
        let stream = TcpStream::connect(comfy.address()).await.unwrap();
        let url = format!("ws://{}/ws{query}", comfy.address());
        let config = WebSocketConfig::default().read_buffer_size(4 << 10);
        let (socket, _) = client_async_with_config(url, stream, Some(config))
            .await
            .unwrap();
        Self(socket)
    }

    pub(super) async fn next(&mut self) -> Option<Frame> {
        let frame = timeout(PATIENCE, self.0.next()).await.expect("a frame");
        Self::read(frame?.ok()?)
    }

    fn read(message: Message) -> Option<Frame> {
        match &message {
            Message::Text(text) => {
                let frame: Value = serde_json::from_str(text).unwrap();
                let kind = frame["type"].as_str().unwrap().to_owned();
                Some(Frame::Event(kind, frame["data"].clone()))
            }
            Message::Binary(bytes) => Some(Frame::Binary(bytes.to_vec())),
            Message::Close(_) => None,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => panic!("{message:?}"),
        }
    }

    /// Reads frames until one fulfils a condition, which is included.
    pub(super) async fn until(&mut self, is_last: impl Fn(&str, &Value) -> bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.next().await.expect("an open socket");
            let is_end = matches!(&frame, Frame::Event(kind, data) if is_last(kind, data));
            frames.push(frame);
            if is_end {
                return frames;
            }
        }
    }

    /// Reads the frames of a job, the last included.
    pub(super) async fn until_over(&mut self) -> Vec<Frame> {
        self.until(|kind, data| kind == "executing" && data["node"].is_null())
            .await
    }

    /// The frames that come until it is silent.
    pub(super) async fn rest(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Ok(frame) = timeout(SILENCE, self.0.next()).await {
            match frame {
                Some(Ok(message)) => frames.extend(Self::read(message)),
                Some(Err(_)) | None => break,
            }
        }
        frames
    }

    async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text.to_owned())).await.unwrap();
    }
}

/// The frames as words, such as `executing 4`; the queue's length with each status.
fn words(frames: &[Frame]) -> Vec<String> {
    let word = |frame: &Frame| match frame {
        Frame::Event(kind, data) => match kind.as_str() {
            "status" => format!("status {}", data["status"]["exec_info"]["queue_remaining"]),
            "executing" | "executed" => {
                format!("{kind} {}", data["node"].as_str().unwrap_or("null"))
            }
            "progress" => format!("progress {}/{}", data["value"], data["max"]),
            _ => kind.clone(),
        },
        Frame::Binary(bytes) => format!("binary {}", bytes[3]),
    };
    frames.iter().map(word).collect()
}

fn kinds(frames: &[Frame]) -> Vec<String> {
    let words = words(frames).into_iter();
    words
        .map(|word| word.split(' ').next().unwrap().to_owned())
        .collect()
}

fn with_client(comfy: &Comfy, client_id: &str, id: &str, prompt: &Value) {
    let body = json!({ "prompt": prompt, "prompt_id": id, "client_id": client_id });
    assert_eq!(comfy.post("/prompt", &body).status, 200);
}

#[test]
fn the_events_of_a_job_come_in_order_to_its_client_only() {
    let comfy = start(ComfyConfig {
        progress_steps: 2,
        ..quick()
    });
    block_on(async {
        let mut own = Socket::open(&comfy, "?clientId=own").await;
        let mut other = Socket::open(&comfy, "?clientId=other").await;
        let Some(Frame::Event(kind, data)) = own.next().await else {
            panic!()
        };
        let first = json!({ "status": { "exec_info": { "queue_remaining": 0 } }, "sid": "own" });
        assert_eq!((kind.as_str(), data), ("status", first));
        assert_eq!(words(&[other.next().await.unwrap()]), ["status 0"]);

        with_client(&comfy, "own", &uuid(1), &graph());
        let frames = own.until_over().await;
        assert_eq!(
            words(&frames).join(", ").replace("progress_state", "state"),
            "status 1, status 1, execution_start, execution_cached, \
             executing 1, state, state, executing 2, state, state, executing 3, state, state, \
             executing 4, state, state, progress 1/2, state, progress 2/2, state, \
             executing 5, state, state, executing 6, state, executed 6, state, \
             execution_success, status 0, executing null"
        );
        for frame in &frames {
            let Frame::Event(kind, data) = frame else {
                continue;
            };
            match kind.as_str() {
                "status" => assert!(data.get("sid").is_none()),
                _ => assert_eq!(data["prompt_id"], uuid(1)),
            }
        }
        let Frame::Event(_, executed) = &frames[25] else {
            panic!()
        };
        assert_eq!(
            executed["output"]["images"][0]["filename"],
            "ComfyUI_00001_.png"
        );
        assert_eq!(executed["display_node"], "6");
        let Frame::Event(_, last_state) = &frames[26] else {
            panic!()
        };
        let sampler = &last_state["nodes"]["4"];
        assert_eq!(
            (&sampler["state"], &sampler["value"], &sampler["max"]),
            (&json!("finished"), &json!(2), &json!(2))
        );
        assert_eq!(
            words(&other.rest().await),
            ["status 1", "status 1", "status 0"]
        );
        assert!(own.rest().await.is_empty());
    });
    let report = comfy.report();
    assert_eq!(report.frames, 2 + 30 + 3);
    assert_eq!(report.starts[0].client_id.as_deref(), Some("own"));
}

#[test]
fn the_history_is_there_when_executing_null_comes() {
    let comfy = start(quick());
    block_on(async {
        let mut socket = Socket::open(&comfy, "?clientId=a").await;
        for number in 0..20 {
            with_client(&comfy, "a", &uuid(number), &sleep(0.0));
            socket.until_over().await;
            let history = comfy.get_json(&format!("/history/{}", uuid(number)));
            assert!(history[uuid(number)].is_object());
        }
    });
}

#[test]
fn without_a_client_messages_go_nowhere_and_progress_to_everyone() {
    let comfy = start(ComfyConfig {
        progress_steps: 1,
        previews: 1,
        ..quick()
    });
    block_on(async {
        let mut socket = Socket::open(&comfy, "").await;
        let Some(Frame::Event(_, data)) = socket.next().await else {
            panic!()
        };
        let sid = data["sid"].as_str().unwrap();
        assert!(sid.len() == 32 && sid.bytes().all(|byte| byte.is_ascii_hexdigit()));
        comfy.queue(&uuid(1), &sleep(0.001));
        comfy.wait_until(|report| report.finished == 1);
        let state = "progress_state";
        assert_eq!(
            words(&socket.rest().await),
            [
                "status 1",
                "status 1",
                state,
                state,
                "progress 1/1",
                "binary 1",
                state,
                "status 0"
            ]
        );
    });
    let messages = &comfy.get_json("/history")[uuid(1)]["status"]["messages"];
    assert_eq!(messages.as_array().unwrap().len(), 3);
}

#[test]
fn an_interrupt_goes_to_the_client_or_to_everyone_if_there_is_none() {
    let comfy = start(quick());
    block_on(async {
        let mut own = Socket::open(&comfy, "?clientId=own").await;
        let mut other = Socket::open(&comfy, "?clientId=other").await;
        for client_id in [Some("own"), None] {
            let mut body = json!({ "prompt": sleep(60.0), "prompt_id": uuid(1) });
            if let Some(client_id) = client_id {
                body["client_id"] = json!(client_id);
            }
            assert_eq!(comfy.post("/prompt", &body).status, 200);
            comfy.wait_until(|report| report.running.is_some());
            assert_eq!(
                comfy
                    .post("/interrupt", &json!({ "prompt_id": uuid(2) }))
                    .status,
                200
            );
            assert_eq!(comfy.report().running, Some(uuid(1)));
            let reply = comfy.post("/interrupt", &json!({ "prompt_id": uuid(1) }));
            assert_eq!((reply.status, reply.body.len()), (200, 0));
            comfy.wait_until(|report| report.running.is_none());
            let own = own.rest().await;
            let interrupted = own.iter().find_map(|frame| match frame {
                Frame::Event(kind, data) if kind == "execution_interrupted" => Some(data),
                Frame::Event(..) | Frame::Binary(_) => None,
            });
            let data = interrupted.unwrap();
            assert_eq!(
                (&data["node_id"], &data["node_type"]),
                (&json!("1"), &json!("TestbedSleep"))
            );
            assert_eq!(data["executed"], json!([]));
            let is_told = kinds(&other.rest().await).contains(&"execution_interrupted".to_owned());
            assert_eq!(is_told, client_id.is_none());
            if client_id.is_some() {
                let ends = kinds(&own);
                let ends: Vec<_> = ends.iter().rev().take(3).rev().collect();
                assert_eq!(ends, ["execution_interrupted", "status", "executing"]);
            }
        }
    });
    let entry = &comfy.get_json("/history")[uuid(1)];
    assert_eq!(entry["status"]["status_str"], "error");
    assert_eq!(entry["status"]["completed"], false);
    assert_eq!(comfy.report().prompts[&uuid(1)].interrupted, 2);
    // Nothing runs: an interrupt without an id and without a body does nothing to the next job.
    assert_eq!(comfy.ask("POST", "/interrupt", "", b"").status, 200);
    comfy.queue(&uuid(3), &sleep(0.0));
    comfy.wait_until(|report| report.finished == 1);
}

#[test]
fn a_node_that_raises_ends_its_prompt_with_an_error() {
    let comfy = start(quick());
    let prompt = json!({
        "1": { "class_type": "TestbedSleep", "inputs": { "seconds": 0 } },
        "2": { "class_type": "TestbedFail", "inputs": { "message": "out of memory", "input": ["1", 0] } },
    });
    block_on(async {
        let mut socket = Socket::open(&comfy, "?clientId=a").await;
        with_client(&comfy, "a", &uuid(1), &prompt);
        let frames = socket.until_over().await;
        let [.., Frame::Event(kind, data), _status, _over] = &frames[..] else {
            panic!()
        };
        assert_eq!(kind, "execution_error");
        assert_eq!(
            (
                &data["node_id"],
                &data["node_type"],
                &data["exception_message"],
                &data["executed"]
            ),
            (
                &json!("2"),
                &json!("TestbedFail"),
                &json!("out of memory"),
                &json!(["1"])
            )
        );
        assert!(data["traceback"].is_array() && data["timestamp"].is_u64());
    });
    let entry = &comfy.get_json("/history")[uuid(1)];
    assert_eq!(entry["status"]["status_str"], "error");
    assert_eq!(
        entry["outputs"].as_object().unwrap().len(),
        1,
        "of the node before"
    );
    assert_eq!(comfy.report().failed, 1);
}

#[test]
fn previews_have_metadata_for_the_clients_that_asked_first() {
    let comfy = start(ComfyConfig {
        previews: 3,
        preview_bytes: 700,
        ..quick()
    });
    block_on(async {
        let ask = r#"{"type":"feature_flags","data":{"supports_preview_metadata":true}}"#;
        for (client_id, lines, kind) in [
            ("plain", vec![], 1),
            ("asks", vec![ask], 4),
            ("late", vec!["{}", ask], 1),
            ("odd", vec!["no json", ask], 4),
        ] {
            let mut socket = Socket::open(&comfy, &format!("?clientId={client_id}")).await;
            for line in &lines {
                socket.say(line).await;
            }
            if kind == 4 {
                let answer = socket.until(|kind, _| kind == "feature_flags").await;
                let Some(Frame::Event(_, data)) = answer.last() else {
                    panic!()
                };
                assert_eq!(data["supports_preview_metadata"], true);
                assert_eq!(*data, comfy.get_json("/features"));
            } else {
                // The message was read once its successor would be answered.
                assert_eq!(kinds(&socket.rest().await), ["status"]);
            }
            with_client(&comfy, client_id, &uuid(1), &graph());
            let frames = socket.until_over().await;
            let previews = frames.iter().filter_map(|frame| match frame {
                Frame::Binary(bytes) => Some(bytes),
                Frame::Event(..) => None,
            });
            let previews: Vec<_> = previews.collect();
            assert_eq!(previews.len(), 3, "{client_id}");
            for preview in previews {
                let number =
                    |at: usize| u32::from_be_bytes(preview[at..at + 4].try_into().unwrap());
                assert_eq!(number(0), kind, "{client_id}");
                let image = if kind == 1 {
                    assert_eq!(number(4), 2, "a PNG");
                    &preview[8..]
                } else {
                    let (metadata, image) = preview[8..].split_at(number(4) as usize);
                    let metadata: Value = serde_json::from_slice(metadata).unwrap();
                    assert_eq!(
                        (&metadata["prompt_id"], &metadata["node_id"]),
                        (&json!(uuid(1)), &json!("4"))
                    );
                    assert_eq!(metadata["image_type"], "image/png");
                    image
                };
                assert!(image.starts_with(b"\x89PNG") && image.len() == 700);
            }
        }
    });
}

#[test]
fn a_client_that_comes_back_hears_the_running_node_and_nothing_it_missed() {
    let comfy = start(quick());
    with_client(&comfy, "a", &uuid(1), &sleep(60.0));
    comfy.wait_until(|report| report.running.is_some());
    block_on(async {
        let mut socket = Socket::open(&comfy, "?clientId=a").await;
        let mut other = Socket::open(&comfy, "?clientId=b").await;
        let frames = [socket.next().await.unwrap(), socket.next().await.unwrap()];
        assert_eq!(words(&frames), ["status 1", "executing 1"]);
        assert_eq!(
            frames[1],
            Frame::Event("executing".into(), json!({ "node": "1" }))
        );
        assert_eq!(words(&other.rest().await), ["status 1"]);
    });
}

#[test]
fn a_replaced_socket_makes_its_successor_deaf_when_it_closes() {
    let comfy = start(quick());
    block_on(async {
        let mut old = Socket::open(&comfy, "?clientId=a").await;
        old.next().await.unwrap();
        let mut new = Socket::open(&comfy, "?clientId=a").await;
        new.next().await.unwrap();
        comfy.queue(&uuid(1), &sleep(0.0));
        comfy.wait_until(|report| report.finished == 1);
        assert!(!new.rest().await.is_empty());
        assert!(
            old.rest().await.is_empty(),
            "it is not in the table any more"
        );

        drop(old);
        comfy.wait_until(|report| report.websockets_open == 1);
        with_client(&comfy, "a", &uuid(2), &sleep(0.0));
        comfy.wait_until(|report| report.finished == 2);
        assert!(new.rest().await.is_empty(), "deaf, and still open");
        assert_eq!(comfy.report().websockets_open, 1);

        let mut third = Socket::open(&comfy, "?clientId=a").await;
        assert_eq!(words(&[third.next().await.unwrap()]), ["status 0"]);
        // The deaf one is not in the table, and yet its end removes the third.
        drop(new);
        comfy.wait_until(|report| report.websockets_open == 1);
        with_client(&comfy, "a", &uuid(3), &sleep(0.0));
        comfy.wait_until(|report| report.finished == 3);
        assert!(third.rest().await.is_empty());
    });
}

#[test]
fn equal_nodes_are_cached_if_the_server_caches() {
    let comfy = start(ComfyConfig {
        is_caching: true,
        ..quick()
    });
    block_on(async {
        let mut socket = Socket::open(&comfy, "?clientId=a").await;
        with_client(&comfy, "a", &uuid(1), &graph());
        socket.until_over().await;
        with_client(&comfy, "a", &uuid(2), &graph());
        let frames = socket.until_over().await;
        let Some(Frame::Event(_, cached)) = frames
            .iter()
            .find(|frame| matches!(frame, Frame::Event(kind, _) if kind == "execution_cached"))
        else {
            panic!()
        };
        assert_eq!(cached["nodes"].as_array().unwrap().len(), 6);
        let words = words(&frames);
        assert!(
            words.contains(&"executed 6".to_owned()) && !words.contains(&"executing 4".to_owned())
        );
        // Memory that is freed forgets them.
        assert_eq!(
            comfy.post("/free", &json!({ "free_memory": true })).status,
            200
        );
        with_client(&comfy, "a", &uuid(3), &graph());
        let frames = socket.until_over().await;
        assert!(kinds(&frames).contains(&"progress".to_owned()));
    });
    let history = comfy.get_json("/history");
    let name = |id: u32| history[uuid(id)]["outputs"]["6"]["images"][0]["filename"].clone();
    assert_eq!(
        (name(1), name(2), name(3)),
        (
            json!("ComfyUI_00001_.png"),
            json!("ComfyUI_00001_.png"),
            json!("ComfyUI_00002_.png")
        )
    );
}
