//! The way to the collector: a thread that makes one request at a time.
//!
//! Invariant: an export that fails costs its own time alone, and is warned of once in a [`TOLD_AGAIN`].

use crate::admin;
use crate::backend::Backend;
use crate::clock::now;
use crate::operator_log::target;
use crate::shared::Shared;
use crate::upstream::post;
use bytes::Bytes;
use core::pin::Pin;
use core::time::Duration;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use leasehold_config::{Kind, MemberSettings, OtlpSettings};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;
use prost::Message;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, interval, timeout};

/// The pause between two warnings of a collector that is down.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// Exports that may wait.
const WAITING: usize = 4;

type Answer = Result<Response<Bytes>, HttpError>;

/// A task of the thread.
#[derive(Debug)]
enum Order {
    Send(Box<Request<Bytes>>, oneshot::Sender<Answer>),
    /// The last metrics are exported, and then it is told here.
    End(SyncSender<()>),
}

/// Hands exports to the thread.
#[derive(Clone, Debug)]
pub(super) struct Client(mpsc::Sender<Order>);

impl HttpClient for Client {
    fn send_bytes<'s, 'f>(
        &'s self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            self.0.send(Order::Send(Box::new(request), answer)).await?;
            answered.await?
        })
    }
}

impl Client {
    /// Waits for the last export of metrics.
    pub(super) fn end(&self, within: Duration) {
        let (done, is_done) = sync_channel(1);
        if self.0.try_send(Order::End(done)).is_ok() {
            // The collector may be down.
            let _ = is_done.recv_timeout(within);
        }
    }
}

/// The collector, as its thread knows it.
#[derive(Debug)]
pub(crate) struct Collector {
    orders: mpsc::Receiver<Order>,
    backend: Arc<Backend>,
    metrics_url: String,
    headers: HeaderMap,
    timeout: Duration,
    interval: Duration,
    resource: v1::Resource,
    with_spans: Trouble,
    with_figures: Trouble,
}

impl Collector {
    pub(super) fn new(
        settings: &OtlpSettings,
        resource: &Resource,
    ) -> Result<(Client, Self), String> {
        let member = MemberSettings::new("collector".to_owned(), settings.endpoint.clone());
        let (client, orders) = mpsc::channel(WAITING);
        let attributes = ResourceAttributesWithSchema::from(resource).attributes.0;
        let mut headers = HeaderMap::new();
        for (name, value) in settings.headers.iter().flat_map(|it| &it.fields) {
            let mut value =
                HeaderValue::from_str(value.expose()).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
        let collector = Self {
            orders,
            backend: Arc::new(Backend::new(&member, Kind::Http)?),
            metrics_url: url(settings, "/v1/metrics"),
            headers,
            timeout: settings.timeout,
            interval: settings.interval,
            resource: v1::Resource {
                attributes,
                ..v1::Resource::default()
            },
            with_spans: Trouble::default(),
            with_figures: Trouble::default(),
        };
        Ok((Client(client), collector))
    }

    /// Makes exports until it is told to end.
    pub(super) fn run(mut self, shared: &Weak<Shared>) {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => runtime.block_on(self.serve(shared)),
            Err(error) => tracing::error!(target: target::OTLP, "nothing is exported: {error}"),
        }
    }

    async fn serve(&mut self, shared: &Weak<Shared>) {
        let mut ticks = interval(self.interval);
        // The first one is at once, when there is nothing to tell.
        ticks.tick().await;
        loop {
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Send(request, answer)) => {
                        let sent = self.send(*request).await;
                        // An export that was given up is not waited for.
                        let _ = answer.send(sent);
                    }
                    Some(Order::End(done)) => {
                        self.send_metrics(shared).await;
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                },
                _ = ticks.tick() => self.send_metrics(shared).await,
            }
        }
    }

    async fn send_metrics(&mut self, shared: &Weak<Shared>) {
        let Some(metrics) = shared.upgrade().map(|shared| admin::otlp_metrics(&shared)) else {
            return;
        };
        let scope = InstrumentationScope {
            name: "leasehold".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let export = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope),
                    metrics,
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        };
        let request = Request::post(&self.metrics_url)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(export.encode_to_vec().into());
        if let Ok(request) = request {
            // What it has not taken, it gets with the next export: these figures only grow.
            let _ = self.send(request).await;
        }
    }

    async fn send(&mut self, request: Request<Bytes>) -> Answer {
        let url = request.uri().to_string();
        let sent = timeout(self.timeout, self.exchange(request)).await;
        let answer = sent.unwrap_or_else(|_| {
            let text = format!("no answer within {:?}", self.timeout);
            Err(text.into())
        });
        let failure = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("status {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        let (trouble, signal) = match url == self.metrics_url {
            true => (&mut self.with_figures, "figures"),
            false => (&mut self.with_spans, "spans"),
        };
        trouble.note(&url, signal, failure);
        answer
    }

    async fn exchange(&self, mut request: Request<Bytes>) -> Answer {
        request.headers_mut().extend(self.headers.clone());
        Ok(post(&self.backend, request, self.timeout).await?)
    }
}

/// Returns a URL below that of the collector.
pub(super) fn url(settings: &OtlpSettings, path: &str) -> String {
    let base = settings.endpoint.to_string();
    format!("{}{path}", base.trim_end_matches('/'))
}

/// The trouble with the exports of one kind.
#[derive(Debug, Default)]
struct Trouble {
    /// Those that have failed in a row.
    failed: u32,
    /// Whether the operator knows of these.
    is_told: bool,
    last_told: Option<Instant>,
}

impl Trouble {
    /// Tells the operator of a failure, or that the trouble is over.
    fn note(&mut self, url: &str, signal: &str, failure: Option<String>) {
        let Some(why) = failure else {
            if core::mem::take(&mut self.is_told) {
                let failed = self.failed;
                tracing::info!(
                    target: target::OTLP,
                    "the collector {url} takes {signal} again; {failed} exports have failed"
                );
            }
            self.failed = 0;
            return;
        };
        self.failed = self.failed.saturating_add(1);
        let is_due = |told: Instant| told.elapsed() >= TOLD_AGAIN;
        if self.last_told.is_none_or(is_due) {
            (self.is_told, self.last_told) = (true, Some(now()));
            tracing::warn!(target: target::OTLP, "the collector {url} took no {signal}: {why}");
        }
    }
}
