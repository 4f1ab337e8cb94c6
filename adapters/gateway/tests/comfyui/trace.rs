//! The trace of a job, as a collector sees it.

use crate::collector::{Collector, attribute, children, hex};
use crate::support::{QUICK, servers, sleeping, start, taking};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

#[test]
fn a_jobs_wait_and_its_submission_are_spans_of_the_exchange_that_brought_it() {
    let collector = Collector::start();
    let world = start(
        servers([taking(1)]),
        QUICK(),
        &collector.settings("interval = \"50ms\""),
    );
    let caller = world.caller("one");
    let ids = [caller.queue(&sleeping("me", 0.01))];
    assert!(caller.all_ended(&ids).iter().all(|end| end == "success"));
    let has_brought = |span: &&Span| {
        span.kind() == SpanKind::Server
            && attribute(&span.attributes, "http.request.method") == "POST"
    };
    let received = collector.wait("the job's spans", |received| {
        let mut spans = received.spans.iter();
        let brought = spans.find(has_brought);
        brought.is_some_and(|brought| children(&received.spans, brought).len() == 2)
    });
    let brought = received
        .spans
        .iter()
        .find(has_brought)
        .expect("the exchange");
    assert_eq!(brought.name, "POST images");
    let below = children(&received.spans, brought);
    let waits = below
        .iter()
        .filter(|span| span.kind() == SpanKind::Internal);
    assert_eq!(waits.count(), 1, "the other is the submission");
    for span in below {
        assert_eq!(hex(&span.trace_id), hex(&brought.trace_id));
        assert_eq!(attribute(&span.attributes, "leasehold.member"), "a");
        let url = attribute(&span.attributes, "url.full");
        let status = attribute(&span.attributes, "http.response.status_code");
        if span.kind() == SpanKind::Internal {
            assert_eq!((&*span.name, &*url), ("lease", ""));
        } else {
            assert_eq!((span.kind(), &*status), (SpanKind::Client, "200"));
            assert!(url.ends_with("/prompt"), "{url}");
        }
    }
}
