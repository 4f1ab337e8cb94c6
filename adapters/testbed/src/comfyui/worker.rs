//! The worker: one job at a time, its events in their order.
//!
//! Invariant: the history has a job's entry before `status` and the last `executing` say that it is over.

use super::disk::Folder;
use super::png::{colour_of, png, png_of_size};
use super::queue::Item;
use super::report::Milestone;
use super::sockets::{event, preview, preview_with_metadata};
use super::state::Studio;
use super::validate::links;
use crate::clock::{Clock, unix_now};
use alloc::sync::Arc;
use core::pin::pin;
use core::time::Duration;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use tokio::time::sleep;

/// Longest time of a job.
const MAX_TIME: Duration = Duration::from_secs(86_400);

/// Nodes of the job before, by what they are made of, with what they showed.
#[derive(Debug, Default)]
pub(super) struct Cache(HashMap<String, Option<Value>>);

/// The reason that a job ended before its last node.
#[derive(Debug)]
enum Stop {
    Interrupted { node: String },
    Raised { node: String, message: String },
}

/// Runs the queue until the worker is killed.
pub(super) async fn work(studio: Arc<Studio>) {
    let mut mode = studio.mode.subscribe();
    tokio::select! {
        // A dead worker begins no more prompts.
        biased;
        // The prompt that runs is left as it is: running.
        _ = mode.wait_for(|mode| mode.is_worker_dead) => {}
        () = run_all(&studio) => {}
    }
}

async fn run_all(studio: &Arc<Studio>) {
    loop {
        studio.unstalled().await;
        match studio.start_next() {
            Some(item) => Job::new(studio, item).run().await,
            None => studio.queued.notified().await,
        }
    }
}

/// A job that runs.
#[derive(Debug)]
struct Job<'a> {
    studio: &'a Studio,
    item: Arc<Item>,
    /// Nodes in the order of their run.
    order: Vec<String>,
    /// Time of the nodes that take some.
    times: HashMap<String, Duration>,
    messages: Vec<Value>,
    outputs: Map<String, Value>,
    executed: Vec<String>,
    /// State of the nodes that have begun.
    progress: Map<String, Value>,
    previews_sent: u32,
    steps_done: u32,
}

impl<'a> Job<'a> {
    fn new(studio: &'a Studio, item: Arc<Item>) -> Self {
        let order = order(&item);
        let times = times(studio, &item, &order);
        Self {
            studio,
            order,
            times,
            item,
            messages: Vec::new(),
            outputs: Map::new(),
            executed: Vec::new(),
            progress: Map::new(),
            previews_sent: 0,
            steps_done: 0,
        }
    }

    async fn run(mut self) {
        self.message("execution_start", json!({}), false);
        let signatures = signatures(&self.item, &self.order);
        let cached = self.cached(&signatures);
        let names: Vec<_> = self
            .order
            .iter()
            .filter(|id| cached.contains_key(*id))
            .collect();
        let data = json!({ "nodes": names });
        self.message("execution_cached", data, false);
        let mut stop = None;
        for id in self.order.clone() {
            if let Some(shown) = cached.get(&id) {
                self.skip(&id, shown.as_ref());
                continue;
            }
            if let Err(reason) = self.node(&id).await {
                stop = Some(reason);
                break;
            }
            self.executed.push(id);
            tokio::task::yield_now().await;
        }
        self.studio.unstalled().await;
        self.end(stop, &signatures);
    }

    /// The nodes that need not run, with what they showed.
    fn cached(&self, signatures: &HashMap<String, String>) -> HashMap<String, Option<Value>> {
        if !self.studio.config.is_caching {
            return HashMap::new();
        }
        self.studio.read(|state| {
            let known = signatures.iter().filter_map(|(id, signature)| {
                let shown = state.life.cache.0.get(signature)?;
                Some((id.clone(), shown.clone()))
            });
            known.collect()
        })
    }

    /// Passes a cached node, which is told to its client as executed if it is an output.
    fn skip(&mut self, id: &str, shown: Option<&Value>) {
        let class = self.item.prompt[id]["class_type"].as_str();
        let class = class.and_then(|name| self.studio.classes.get(name));
        if let Some(shown) = shown {
            self.outputs.insert(id.to_owned(), shown.clone());
        }
        if class.is_some_and(|class| class.is_output) {
            self.executed_event(id, shown.unwrap_or(&Value::Null));
        }
        self.set_progress(id, 1, 1, "finished");
    }

    async fn node(&mut self, id: &str) -> Result<(), Stop> {
        self.studio.unstalled().await;
        let client_id = self.item.client_id().map(ToOwned::to_owned);
        self.check(id)?;
        if let Some(client_id) = client_id {
            let data = json!({ "node": id, "display_node": id, "prompt_id": self.item.id });
            self.studio.change(|state| {
                if let Some(running) = &mut state.life.running {
                    running.node = Some(id.to_owned());
                }
                state.send(Some(&client_id), &event("executing", &data));
                let class = self.item.prompt[id]["class_type"].as_str();
                if class.is_some_and(|class| self.studio.classes.is_custom(class)) {
                    let note = event("testbed.note", &json!({ "node": id }));
                    state.send(Some(&client_id), &note);
                }
            });
        }
        self.set_progress(id, 0, 1, "running");
        if let Some(time) = self.times.get(id).copied() {
            self.take_time(id, time).await?;
        }
        self.check(id)?;
        if let Some(shown) = self.execute(id)? {
            self.executed_event(id, &shown);
            self.outputs.insert(id.to_owned(), shown);
        }
        let steps = self.progress[id]["max"].as_u64().unwrap_or(1);
        self.set_progress(id, steps, steps, "finished");
        Ok(())
    }

    fn check(&self, id: &str) -> Result<(), Stop> {
        if self.studio.is_interrupted() {
            return Err(Stop::Interrupted {
                node: id.to_owned(),
            });
        }
        Ok(())
    }

    /// Lets the time of a node pass in steps, with progress and previews.
    async fn take_time(&mut self, id: &str, time: Duration) -> Result<(), Stop> {
        let steps = self.studio.config.progress_steps.max(1);
        for step in 1..=steps {
            self.pause(id, time / steps).await?;
            self.steps_done += 1;
            self.progress_step(id, step, steps);
        }
        Ok(())
    }

    /// Waits; the time of a stall does not count.
    async fn pause(&self, id: &str, span: Duration) -> Result<(), Stop> {
        let mut mode = self.studio.mode.subscribe();
        let mut left = span;
        while !left.is_zero() {
            self.check(id)?;
            let clock = Clock::start();
            let mut rest = pin!(sleep(left));
            tokio::select! {
                () = rest.as_mut() => break,
                () = self.studio.interrupting.notified() => {}
                _ = mode.wait_for(|mode| mode.is_stalled) => {}
            }
            left = left.saturating_sub(Duration::from_nanos(clock.nanos()));
            self.studio.unstalled().await;
        }
        self.studio.unstalled().await;
        self.check(id)
    }

    fn progress_step(&mut self, id: &str, step: u32, steps: u32) {
        self.set_progress(id, u64::from(step), u64::from(steps), "running");
        let config = &self.studio.config;
        let all_steps = u32::try_from(self.times.len())
            .unwrap_or(u32::MAX)
            .saturating_mul(steps);
        let due =
            u64::from(config.previews) * u64::from(self.steps_done) / u64::from(all_steps.max(1));
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        let images = due.saturating_sub(self.previews_sent);
        self.previews_sent = self.previews_sent.max(due);
        let data = json!({ "value": step, "max": steps, "prompt_id": self.item.id, "node": id });
        let client_id = self.item.client_id();
        let image = (images > 0).then(|| {
            let texts = self.texts();
            let texts: Vec<_> = texts
                .iter()
                .map(|(name, text)| (*name, text.as_str()))
                .collect();
            png_of_size(colour_of(&self.item.id), &texts, config.preview_bytes)
        });
        self.studio.change(|state| {
            let sockets = &state.life.sockets;
            let takes_metadata =
                client_id.is_some_and(|client_id| sockets.takes_metadata(client_id));
            let frame = image.as_ref().map(|image| match takes_metadata {
                true => preview_with_metadata(&self.metadata(id), image),
                false => preview(image),
            });
            let show = |state: &mut super::state::State| {
                for _ in 0..images {
                    if let Some(frame) = &frame {
                        state.send(client_id, frame);
                    }
                }
            };
            if takes_metadata {
                show(state);
            }
            // Without a client they go to every websocket, unlike the messages.
            state.send(client_id, &event("progress", &data));
            if !takes_metadata {
                show(state);
            }
        });
    }

    fn metadata(&self, id: &str) -> Map<String, Value> {
        let fields = [
            ("node_id", json!(id)),
            ("prompt_id", json!(self.item.id)),
            ("display_node_id", json!(id)),
            ("parent_node_id", Value::Null),
            ("real_node_id", json!(id)),
            ("image_type", json!("image/png")),
        ];
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect()
    }

    /// Notes the state of a node, and sends that of all.
    fn set_progress(&mut self, id: &str, value: u64, max: u64, state: &str) {
        let node = json!({
            "value": value,
            "max": max,
            "state": state,
            "node_id": id,
            "prompt_id": self.item.id,
            "display_node_id": id,
            "parent_node_id": null,
            "real_node_id": id,
        });
        self.progress.insert(id.to_owned(), node);
        let data = json!({ "prompt_id": self.item.id, "nodes": self.progress });
        let frame = event("progress_state", &data);
        self.studio
            .change(|state| state.send(self.item.client_id(), &frame));
    }

    fn executed_event(&self, id: &str, shown: &Value) {
        let Some(client_id) = self.item.client_id() else {
            return;
        };
        let data = json!({
            "node": id,
            "display_node": id,
            "output": shown,
            "prompt_id": self.item.id,
        });
        let frame = event("executed", &data);
        self.studio
            .change(|state| state.send(Some(client_id), &frame));
    }

    fn texts(&self) -> [(&'static str, String); 2] {
        [
            ("server", self.studio.id.clone()),
            ("prompt_id", self.item.id.clone()),
        ]
    }

    /// Does what a node does at its end, and returns what it shows.
    fn execute(&self, id: &str) -> Result<Option<Value>, Stop> {
        let node = &self.item.prompt[id];
        let input = |name: &str| node["inputs"][name].as_str();
        match node["class_type"].as_str().unwrap_or_default() {
            "SaveImage" => {
                let prefix = input("filename_prefix").unwrap_or("ComfyUI");
                Ok(Some(self.save(Folder::Output, prefix)))
            }
            "PreviewImage" => {
                let letters = |rng: &mut fastrand::Rng| [(); 5].map(|()| rng.lowercase());
                let letters = self.studio.change(|state| letters(&mut state.rng));
                let letters: String = letters.iter().collect();
                Ok(Some(
                    self.save(Folder::Temp, &format!("ComfyUI_temp_{letters}")),
                ))
            }
            "TestbedSleep" => Ok(Some(
                json!({ "text": [format!("slept on {}", self.studio.id)] }),
            )),
            "TestbedFail" => Err(Stop::Raised {
                node: id.to_owned(),
                message: input("message").unwrap_or("failed on purpose").to_owned(),
            }),
            _ => Ok(None),
        }
    }

    fn save(&self, folder: Folder, prefix: &str) -> Value {
        let texts = self.texts();
        let texts: Vec<_> = texts
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        let picture = png(colour_of(&self.studio.id), &texts);
        let prefix = prefix.replace("..", "").trim_matches('/').to_owned();
        let saved = self
            .studio
            .change(|state| state.disk.save(folder, &prefix, picture));
        let (filename, subfolder) = saved;
        json!({
            "images": [{ "filename": filename, "subfolder": subfolder, "type": folder.name() }]
        })
    }

    /// Keeps a message for the history, and sends it to the client, or to all if it is for all.
    fn message(&mut self, kind: &str, mut data: Value, is_for_all: bool) {
        let now = u64::try_from(unix_now().as_millis()).unwrap_or(u64::MAX);
        data["prompt_id"] = json!(self.item.id);
        data["timestamp"] = json!(now);
        self.messages.push(json!([kind, data]));
        let client_id = self.item.client_id();
        if client_id.is_some() || is_for_all {
            let frame = event(kind, &data);
            self.studio.change(|state| state.send(client_id, &frame));
        }
    }

    fn end(mut self, stop: Option<Stop>, signatures: &HashMap<String, String>) {
        let milestone = match &stop {
            None => Milestone::Finished,
            Some(Stop::Interrupted { .. }) => Milestone::Interrupted,
            Some(Stop::Raised { .. }) => Milestone::Failed,
        };
        match stop {
            None => self.message("execution_success", json!({}), false),
            Some(Stop::Interrupted { node }) => {
                let data = json!({
                    "node_id": node,
                    "node_type": self.item.prompt[&node]["class_type"],
                    "executed": self.executed,
                });
                self.message("execution_interrupted", data, true);
            }
            Some(Stop::Raised { node, message }) => {
                let data = self.raised(&node, &message);
                self.message("execution_error", data, false);
            }
        }
        let is_success = milestone == Milestone::Finished;
        let entry = self.history_entry(is_success);
        let (item, outputs) = (&self.item, &self.outputs);
        self.studio.change(|state| {
            let life = &mut state.life;
            life.running = None;
            life.history.insert(&item.id, entry);
            let shown = |id: &String| outputs.get(id).cloned();
            let executed = signatures
                .iter()
                .filter(|(id, _)| is_success || self.executed.contains(*id));
            let executed = executed.map(|(id, signature)| (signature.clone(), shown(id)));
            life.cache = Cache(executed.collect());
            state.report.note(&item.id, milestone);
            state.queue_changed();
            if let Some(client_id) = item.client_id() {
                let data = json!({ "node": null, "prompt_id": item.id });
                state.send(Some(client_id), &event("executing", &data));
            }
        });
    }

    fn raised(&self, node: &str, message: &str) -> Value {
        let inputs = self.item.prompt[node]["inputs"].as_object();
        let inputs = inputs.into_iter().flatten();
        let inputs: Map<String, Value> = inputs
            .map(|(name, value)| (name.clone(), json!([value])))
            .collect();
        json!({
            "node_id": node,
            "node_type": self.item.prompt[node]["class_type"],
            "executed": self.executed,
            "exception_message": message,
            "exception_type": "RuntimeError",
            "traceback": ["  File \"testbed.py\", line 1, in run\n"],
            "current_inputs": inputs,
            "current_outputs": self.executed,
        })
    }

    fn history_entry(&mut self, is_success: bool) -> Value {
        let meta = self.outputs.keys().map(|id| {
            let meta = json!({
                "node_id": id,
                "display_node": id,
                "parent_node": null,
                "real_node_id": id,
            });
            (id.clone(), meta)
        });
        let meta: Map<String, Value> = meta.collect();
        json!({
            "prompt": self.item.to_json(),
            "outputs": self.outputs,
            "status": {
                "status_str": if is_success { "success" } else { "error" },
                "completed": is_success,
                "messages": core::mem::take(&mut self.messages),
            },
            "meta": meta,
        })
    }
}

/// The nodes that the outputs depend on, each after those it depends on.
fn order(item: &Item) -> Vec<String> {
    let (mut order, mut entered) = (Vec::new(), HashSet::new());
    let mut todo: Vec<(&str, bool)> = Vec::new();
    for output in &item.outputs {
        todo.push((output, false));
        while let Some((id, is_ready)) = todo.pop() {
            if is_ready {
                order.push(id.to_owned());
            } else if entered.insert(id) {
                todo.push((id, true));
                let next = links(&item.prompt, id).into_iter().rev();
                todo.extend(next.map(|next| (next, false)));
            }
        }
    }
    order
}

/// The time of each node that takes some: of the sleeps, or else of the samplers, or else of the last node.
fn times(studio: &Studio, item: &Item, order: &[String]) -> HashMap<String, Duration> {
    let speed = studio.config.speed;
    let of_class = |class: &'static str| {
        let nodes = order
            .iter()
            .filter(move |id| item.prompt[*id]["class_type"] == class);
        nodes.cloned().collect::<Vec<_>>()
    };
    let seconds = |id: &String| {
        let seconds = &item.prompt[id]["inputs"]["seconds"];
        let seconds = seconds
            .as_f64()
            .or_else(|| seconds.as_str()?.trim().parse().ok());
        let time = Duration::try_from_secs_f64(seconds.unwrap_or(0.0) / speed);
        time.unwrap_or(MAX_TIME).min(MAX_TIME)
    };
    let sleeps = of_class("TestbedSleep");
    if !sleeps.is_empty() {
        return sleeps
            .into_iter()
            .map(|id| (seconds(&id), id))
            .map(|(time, id)| (id, time))
            .collect();
    }
    let time = studio.change(|state| studio.config.job_time.draw(&mut state.rng));
    let time = time.min(MAX_TIME).div_f64(speed.max(1e-4));
    let mut nodes = of_class("KSampler");
    if nodes.is_empty() {
        nodes.extend(order.last().cloned());
    }
    let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    nodes.into_iter().map(|id| (id, time / count)).collect()
}

/// Signature of each node: of its class, its inputs, and the nodes that it is linked to.
fn signatures(item: &Item, order: &[String]) -> HashMap<String, String> {
    let mut signatures: HashMap<String, String> = HashMap::new();
    for id in order {
        let node = &item.prompt[id];
        let from = links(&item.prompt, id).into_iter();
        let from: Vec<_> = from.filter_map(|id| signatures.get(id)).collect();
        let whole = json!([node["class_type"], node["inputs"], from]).to_string();
        // Shortened, so that a deep graph's signatures do not double at each node.
        let mut crc = flate2::Crc::new();
        crc.update(whole.as_bytes());
        signatures.insert(
            id.clone(),
            format!("{id}:{:08x}:{}", crc.sum(), whole.len()),
        );
    }
    signatures
}
