//! The export of traces and metrics by OTLP over HTTP.
//!
//! Invariant: no exchange waits for the collector. Spans wait in a bounded queue, and beyond it they are dropped; the end
//! of the process waits for the last export for [`FLUSH`] at most.

mod collector;

use crate::clock::now;
use crate::shared::Shared;
use collector::Client;
pub(crate) use collector::Collector;
use core::time::Duration;
use leasehold_config::OtlpSettings;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};
use std::sync::Arc;
use std::{io, thread};

/// The wait of the end of the process for the last export, at most.
const FLUSH: Duration = Duration::from_secs(5);
/// Spans that may wait.
const WAITING: usize = 2_048;
/// The wait of a span for its export, at most.
const SPANS: Duration = Duration::from_secs(5);

/// The making of spans, and their way to the collector.
#[derive(Debug)]
pub(crate) struct Otlp {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    client: Client,
}

impl Otlp {
    /// Makes the export, which begins with [`start`].
    ///
    /// # Errors
    /// The collector's URL can't be used.
    pub(crate) fn new(settings: &OtlpSettings) -> Result<(Self, Collector), String> {
        let resource = Resource::builder()
            .with_service_name(settings.service_name.clone())
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
            ])
            .build();
        let (client, collector) = Collector::new(settings, &resource)?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client.clone())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(settings.timeout)
            .with_endpoint(collector::url(settings, "/v1/traces"))
            .build()
            .map_err(|error| error.to_string())?;
        let delay = settings.interval.min(SPANS);
        let batches = BatchConfigBuilder::default()
            .with_scheduled_delay(delay)
            .with_max_queue_size(WAITING);
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build());
        let share = f64::from(settings.sample) / 1_000.0;
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor.build())
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        let otlp = Self {
            tracer: provider.tracer("leasehold"),
            provider,
            client,
        };
        Ok((otlp, collector))
    }

    pub(crate) fn tracer(&self) -> &SdkTracer {
        &self.tracer
    }

    /// Exports what there is, within a bound.
    pub(crate) fn end(&self) {
        let end = now() + FLUSH;
        // A collector that is down is warned of already.
        let _ = self.provider.shutdown_with_timeout(FLUSH);
        self.client.end(end.saturating_duration_since(now()));
    }
}

/// Starts the thread of a collector, which ends when its [`Otlp`] does.
pub(crate) fn start(collector: Collector, shared: &Arc<Shared>) -> io::Result<()> {
    // A collector that hangs must not keep the gateway from its end.
    let shared = Arc::downgrade(shared);
    let thread = thread::Builder::new().name("gateway-otlp".to_owned());
    thread.spawn(move || collector.run(&shared)).map(drop)
}
