//! A server's websocket, which the gateway owns: its events go to the callers whose jobs they are of.
//!
//! Invariant: a connection's end makes the server's jobs looked for, so that no event is needed for a job to end.

use super::hub::Hub;
use super::server::{Answer, Call, uri};
use super::servers::ServerState;
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::clock::now;
use crate::operator_log::target;
use crate::proxy::CallerBody;
use crate::shared::Shared;
use crate::state::unix_millis;
use crate::upstream::send;
use crate::worker::Worker;
use core::cell::RefCell;
use core::time::Duration;
use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
};
use http::{HeaderValue, Request, StatusCode};
use hyper_util::rt::TokioIo;
use leasehold_protocol::comfyui::{NodeInfo, ServerId};
use serde_json::json;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// The pause before a connection is made anew, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The pause between two pings. A server that answers none of three is gone.
const PING: Duration = Duration::from_secs(5);
const UNANSWERED: u32 = 3;
/// Bytes of a frame at most: a preview of a large picture.
const MAX_FRAME: usize = 64 << 20;
/// How long a description of nodes is taken as it was.
const NODES_FOR: Duration = Duration::from_secs(300);
/// The pause between two questions for memory and version.
const STATS_FOR: Duration = Duration::from_secs(30);

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// One server as it is followed.
pub(super) struct Followed {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: Rc<Worker>,
    pub(super) hub: Arc<Hub>,
    pub(super) pool: Arc<BackendPool>,
    pub(super) backend: Arc<Backend>,
    pub(super) server: ServerId,
    /// The gateway's client id at the server.
    pub(super) client_id: RefCell<String>,
    /// Wakes the task that asks the server what it can run.
    pub(super) is_back: Notify,
}

impl Followed {
    /// Keeps a connection to the server as long as it is in force.
    pub(super) async fn follow(self) {
        let this = Rc::new(self);
        let refreshed = Rc::clone(&this);
        let refreshing = spawn_local(async move { refreshed.refresh().await });
        let _ends = AbortOnDrop(refreshing);
        let mut pause = FIRST_PAUSE;
        loop {
            match this.connect().await {
                Ok(socket) => {
                    pause = FIRST_PAUSE;
                    this.note(None);
                    let (why, is_clean) = this.listen(socket).await;
                    if !is_clean {
                        // The server may still hold the old socket, whose end would make a new one deaf.
                        *this.client_id.borrow_mut() = new_client_id();
                    }
                    this.note(Some(why));
                }
                Err(why) => this.note(Some(why)),
            }
            this.hub.look_at(this.server);
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self) -> Result<Socket, String> {
        let client_id = self.client_id.borrow().clone();
        let path = format!("/ws?clientId={client_id}");
        if let Some(server) = self.hub.state().servers.get_mut(self.server) {
            server.client_id = client_id;
        }
        let mut request = Request::new(CallerBody::none());
        *request.uri_mut() = uri(&self.backend, &path).map_err(|error| error.to_string())?;
        let key = HeaderValue::from_str(&generate_key()).map_err(|error| error.to_string())?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.backend.authority().clone());
        headers.insert(USER_AGENT, HeaderValue::from_static("leasehold"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, key);
        let bounds = self.pool.settings().upstream;
        let sent = send(Some(self.worker.idle()), &self.backend, &bounds, request).await;
        let mut sent = sent.map_err(|error| error.to_string())?;
        let status = sent.response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(format!("its websocket was answered with status {status}"));
        }
        let upgraded = hyper::upgrade::on(&mut sent.response);
        sent.connection.detach();
        let upgraded = upgraded.await.map_err(|error| error.to_string())?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        let io = TokioIo::new(upgraded);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await;
        let hello = r#"{"type":"feature_flags","data":{"supports_preview_metadata":true}}"#;
        let sent = socket.send(Message::text(hello)).await;
        sent.map_err(|error| error.to_string())?;
        Ok(socket)
    }

    /// Hears a server until its connection ends, and tells why it did, and whether the server has closed it.
    async fn listen(self: &Rc<Self>, mut socket: Socket) -> (String, bool) {
        let mut pings = interval(PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unanswered = 0_u32;
        loop {
            tokio::select! {
                frame = socket.next() => {
                    unanswered = 0;
                    match frame {
                        Some(Ok(Message::Text(text))) => self.hear(&text),
                        Some(Ok(Message::Binary(frame))) => self.hub.pictured(self.server, frame),
                        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                        Some(Ok(Message::Close(_))) | None => {
                            return ("it closed its websocket".to_owned(), true);
                        }
                        Some(Err(error)) => return (format!("its websocket broke: {error}"), false),
                    }
                }
                _ = pings.tick() => {
                    if unanswered >= UNANSWERED {
                        let silence = PING.saturating_mul(UNANSWERED);
                        return (format!("its websocket gave no sign for {silence:?}"), false);
                    }
                    unanswered = unanswered.saturating_add(1);
                    if let Err(error) = socket.send(Message::Ping(Bytes::new())).await {
                        return (format!("its websocket broke: {error}"), false);
                    }
                }
            }
        }
    }

    fn hear(self: &Rc<Self>, text: &str) {
        self.hub.heard(self.server, text);
        self.tell_depth();
        let state = self.hub.state();
        if state
            .server(self.server)
            .is_some_and(ServerState::has_copies)
        {
            let this = Rc::clone(self);
            spawn_local(async move { this.withdraw_copies().await });
        }
    }

    /// Tells the pool how many jobs the server has, those of others included.
    fn tell_depth(&self) {
        // A reload may have put another pool in the place of the one that this began with.
        let Some(pool) = self.shared.table().pool_named(&self.hub.pool).cloned() else {
            return;
        };
        let sync = pool.pool().blocking();
        let Some(member) = sync.member(self.backend.name()) else {
            return;
        };
        let state = self.hub.state();
        let Some(remaining) = state
            .server(self.server)
            .and_then(|server| server.remaining)
        else {
            return;
        };
        // A job that is on its way there is none of the server's count yet.
        let (there, on_way) = state.own_jobs(self.server);
        let foreign = remaining.saturating_sub(there);
        let depth = foreign.saturating_add(there).saturating_add(on_way);
        drop(state);
        // A server that was removed has no queue.
        let _ = sync.observe_depth(member, depth);
    }

    fn note(&self, trouble: Option<String>) {
        let at = self.hub.now();
        let mut state = self.hub.state();
        let Some(server) = state.servers.get_mut(self.server) else {
            return;
        };
        let was_connected = server.connected.is_some();
        let (pool, member) = (&*self.hub.pool, self.backend.name());
        match trouble {
            None => {
                server.connected = Some(at);
                server.trouble = None;
                // It may have lost what was brought to it.
                server.uploads.clear();
                self.is_back.notify_one();
                if !was_connected {
                    tracing::info!(target: target::COMFYUI, pool, member, "connected");
                }
            }
            Some(why) => {
                if was_connected || server.trouble.is_none() {
                    tracing::warn!(target: target::COMFYUI, pool, member, "not connected: {why}");
                }
                server.connected = None;
                server.remaining = None;
                server.trouble = Some(why);
            }
        }
    }

    /// Takes jobs from a server that is back which are done elsewhere by now.
    async fn withdraw_copies(&self) {
        let mut copies = {
            let mut state = self.hub.state();
            let server = state.servers.get_mut(self.server);
            server.map(ServerState::take_copies).unwrap_or_default()
        };
        copies.retain(|id| self.hub.is_elsewhere(id, self.server));
        if copies.is_empty() {
            return;
        }
        let call = self.call();
        // What is left of them costs time, and no job its end.
        let _ = call.post_json("/queue", &json!({"delete": copies})).await;
        for id in copies {
            let _ = call
                .post_json("/interrupt", &json!({"prompt_id": id}))
                .await;
        }
    }

    fn call(&self) -> Call<'_> {
        Call {
            worker: &self.worker,
            backend: &self.backend,
            bounds: self.pool.settings().upstream,
        }
    }

    /// Asks the server now and then how it does, and more rarely what it can run; both when it is back.
    async fn refresh(&self) {
        let mut known: Option<Instant> = None;
        loop {
            let stats = self.call().get("/system_stats").await;
            if let Some(stats) = stats.ok().filter(Answer::is_ok)
                && let Some(server) = self.hub.state().servers.get_mut(self.server)
            {
                server.system_stats = Some(stats.json());
                server.checked = Some(unix_millis());
            }
            if known.is_none_or(|known| known.elapsed() >= NODES_FOR) {
                known = self.learn_nodes().await.then(now);
            }
            let pause = match known {
                Some(_) => STATS_FOR,
                None => LONGEST_PAUSE,
            };
            if timeout(pause, self.is_back.notified()).await.is_ok() {
                known = None;
            }
        }
    }

    /// Asks the server what it can run, and returns whether it has told.
    async fn learn_nodes(&self) -> bool {
        let nodes = self.call().get("/object_info").await;
        let nodes = nodes.ok().filter(Answer::is_ok);
        let read = nodes.and_then(|nodes| Some((NodeInfo::read(&nodes.json())?, nodes.body)));
        let mut state = self.hub.state();
        match (read, state.servers.get_mut(self.server)) {
            (Some((nodes, text)), Some(server)) => {
                server.learn_nodes(nodes, text);
                true
            }
            (Some(_) | None, Some(_) | None) => false,
        }
    }
}

/// Makes a client id of the gateway's own.
pub(super) fn new_client_id() -> String {
    format!("leasehold-{}", uuid::Uuid::new_v4().simple())
}

/// Ends a task with the one that began it.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
