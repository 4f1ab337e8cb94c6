//! The models that a caller may ask for: those of all routes together.
//!
//! Invariant: models that the settings name are told without a call. A service is asked for its list by one call an hour
//! at most, and only where a member serves models that nothing names.

use super::attempt::Attempts;
use super::call::Call;
use super::route::PoolTarget;
use crate::backend_pool::BackendPool;
use crate::clock::now;
use crate::lock;
use crate::proxy::AnswerBody;
use crate::record::Record;
use crate::service::{Asked, Identity};
use core::time::Duration;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use leasehold_protocol::Refusal;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// The path of the list.
const PATH: &str = "/v1/models";
/// How long a service's list is taken as it was.
const KNOWN: Duration = Duration::from_secs(60 * 60);

/// A service's models, each as the service describes it.
type Models = Arc<Vec<Value>>;

/// The lists of services with the times when they were told, by the names of pools.
#[derive(Debug, Default)]
pub(crate) struct KnownModels(Mutex<HashMap<String, (Instant, Models)>>);

impl KnownModels {
    /// Returns the list of a pool, and whether it is recent.
    fn get(&self, pool: &str) -> Option<(Models, bool)> {
        let known = lock(&self.0);
        let (since, models) = known.get(pool)?;
        Some((Arc::clone(models), since.elapsed() < KNOWN))
    }

    fn set(&self, pool: &str, models: Models) {
        lock(&self.0).insert(pool.to_owned(), (now(), models));
    }
}

/// What is asked for by a path: all models, or the one of a name.
pub(super) fn wanted(path: &str) -> Option<Option<String>> {
    let rest = path.strip_prefix(PATH)?;
    if rest.is_empty() {
        return Some(None);
    }
    let name = percent_decode_str(rest.strip_prefix('/')?);
    Some(Some(name.decode_utf8_lossy().into_owned()))
}

/// Answers with all models of the listener, or with one.
pub(super) async fn answer(
    asked: &Asked<'_>,
    identity: &Identity,
    wanted: Option<String>,
    record: &mut Record,
) -> Result<Response<AnswerBody>, Refusal> {
    let mut list = List {
        asked,
        identity,
        models: Vec::new(),
    };
    for route in &asked.listener.settings().routes {
        let fits = |model: &str| {
            let pattern = route.model.as_ref();
            pattern.is_none_or(|pattern| pattern.fits(model))
        };
        let one = route.model.as_ref().filter(|pattern| pattern.is_one());
        let pools = route.targets.iter();
        for pool in pools.filter_map(|target| asked.table.pool(target.pool)) {
            match one {
                Some(name) => list.add(named(name.as_str(), pool)),
                None => list.add_pool(pool, &fits, record).await?,
            }
        }
    }
    let body = match wanted {
        None => json!({"object": "list", "data": list.models}),
        Some(name) => {
            let found = list.models.into_iter().find(|model| model["id"] == *name);
            found.ok_or_else(|| {
                let text = format!("the model {name:?} is not served, or not for this caller");
                Refusal::new(StatusCode::NOT_FOUND, "model_not_found", text)
            })?
        }
    };
    let mut response = Response::new(AnswerBody::text(body.to_string()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(crate::proxy::X_REQUEST_ID, record.request_id.clone());
    Ok(response)
}

/// A model as OpenAI's list has it.
fn named(name: &str, pool: &BackendPool) -> Value {
    json!({"id": name, "object": "model", "created": 0, "owned_by": pool.settings().name})
}

/// The list that a caller gets.
struct List<'a> {
    asked: &'a Asked<'a>,
    identity: &'a Identity,
    models: Vec<Value>,
}

impl List<'_> {
    /// Adds a model, once, if the caller may ask for it.
    fn add(&mut self, model: Value) {
        let name = model["id"].as_str().unwrap_or_default();
        let caller = self.identity.caller.as_ref();
        let is_new = !self.models.iter().any(|known| known["id"] == name);
        if is_new && caller.is_none_or(|caller| caller.may_ask(name)) {
            self.models.push(model);
        }
    }

    /// Adds the models of a pool that fit: those that its members name, and those that its service lists.
    async fn add_pool(
        &mut self,
        pool: &Arc<BackendPool>,
        fits: &dyn Fn(&str) -> bool,
        record: &Record,
    ) -> Result<(), Refusal> {
        let members = &pool.settings().members;
        let labels = members.iter().flat_map(|member| &member.labels);
        for label in labels.filter(|label| fits(label)) {
            self.add(named(label, pool));
        }
        if members.iter().any(|member| member.labels.is_empty()) {
            for model in self.of_service(pool, record).await?.iter() {
                if model["id"].as_str().is_some_and(fits) {
                    self.add(model.clone());
                }
            }
        }
        Ok(())
    }

    /// Returns the list of a pool's service.
    async fn of_service(
        &self,
        pool: &Arc<BackendPool>,
        record: &Record,
    ) -> Result<Models, Refusal> {
        let worker = &self.asked.connection.worker;
        let name = &pool.settings().name;
        let known = worker.shared().known_models().get(name);
        if let Some((models, true)) = &known {
            return Ok(Arc::clone(models));
        }
        let target = PoolTarget {
            pool: Arc::clone(pool),
            model: String::new(),
            only: None,
        };
        let call = Call::bare(self.asked, self.identity.clone(), PATH);
        let attempts = Attempts::new(call, vec![target], Rc::clone(worker), record);
        match (attempts.run().await, known) {
            (Ok(served), known) => {
                let mut response = served.into_bare_response();
                let text = response.body_mut().take_text().unwrap_or_default();
                let list: Value = serde_json::from_slice(&text).unwrap_or_default();
                match (list["data"].as_array(), known) {
                    (Some(models), _) => {
                        let models = Arc::new(models.clone());
                        let known = worker.shared().known_models();
                        known.set(name, Arc::clone(&models));
                        Ok(models)
                    }
                    // A service without a list has no models to tell.
                    (None, known) => Ok(known.map(|(models, _)| models).unwrap_or_default()),
                }
            }
            // The list of an hour ago is better than none.
            (Err(_), Some((models, _))) => Ok(models),
            (Err(refusal), None) => Err(refusal),
        }
    }
}
