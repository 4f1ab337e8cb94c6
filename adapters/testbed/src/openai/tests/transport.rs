//! Trouble of the connection, seen as raw bytes.

use super::*;

fn start(stall: Duration) -> OpenAi {
    OpenAi::start(OpenAiConfig {
        stall,
        fault_wait: Duration::from_millis(80),
        trickle: Duration::from_micros(200),
        recording: Recording::Calls,
        ..config()
    })
    .unwrap()
}

/// Sends a call that gets this fault, and reads all bytes until the server ends the connection.
fn raw(server: &OpenAi, kind: TransportFault, call: &Value) -> (Vec<u8>, End) {
    server.control().script([Fault::Transport(kind)]);
    let mut client = Client::new(server);
    client.post(call);
    client.read_all()
}

/// The body of raw bytes with a head.
fn body(bytes: &[u8]) -> &[u8] {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    &bytes[end.expect("a head") + 4..]
}

fn is_answered(kind: &TransportFault) -> bool {
    Fault::Transport(*kind).is_answered()
}

#[test]
fn each_connection_breaks_as_its_name_says() {
    let server = start(Duration::from_millis(50));
    let whole = Client::new(&server).chat(&call()).body.len();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    for (kind, name, _) in TransportFault::TABLE {
        if is_answered(kind) {
            continue;
        }
        let (bytes, end) = raw(&server, *kind, &call());
        let resets = matches!(
            kind,
            TransportFault::Reset | TransportFault::ResetHeaders | TransportFault::ResetBody
        );
        let expected = if resets { End::Reset } else { End::Closed };
        assert_eq!(end, expected, "{name}");
        assert_eq!(raw(&server, *kind, &streamed()).1, expected, "{name}");
        match kind {
            TransportFault::Close | TransportFault::Reset | TransportFault::Stall => {
                assert!(bytes.is_empty(), "{name}");
            }
            TransportFault::CutHead => assert!(text(&bytes).ends_with("applica")),
            TransportFault::CutHeaders
            | TransportFault::ResetHeaders
            | TransportFault::StallHeaders => {
                assert!(text(&bytes).starts_with("HTTP/1.1 200 OK\r\n"), "{name}");
                assert!(body(&bytes).is_empty(), "{name}");
            }
            TransportFault::ResetBody | TransportFault::CutBody | TransportFault::StallBody => {
                assert!(text(&bytes).contains(&format!("content-length: {whole}\r\n")));
                assert_eq!(body(&bytes).len(), whole / 2, "{name}");
            }
            TransportFault::CutChunked => {
                assert!(text(&bytes).contains("transfer-encoding: chunked\r\n"));
                assert!(!bytes.ends_with(b"0\r\n\r\n") && body(&bytes).len() > whole / 2);
            }
            TransportFault::Malformed => assert!(bytes.starts_with(b"HTTP/1.1 two hundred\r\n")),
            TransportFault::BadChunk => assert!(bytes.ends_with(b"\r\nzz\r\n")),
            TransportFault::TwoLengths => {
                assert_eq!(text(&bytes).matches("content-length").count(), 2)
            }
            TransportFault::Slow
            | TransportFault::Trickle
            | TransportFault::CloseAfter
            | TransportFault::CloseIdle
            | TransportFault::ResetIdle
            | TransportFault::EarlyHints
            | TransportFault::LongHead => unreachable!("it is answered"),
        }
    }
    wait_until(&server, |now| now.open_connections() == 0);
    let report = server.stop();
    let failed = TransportFault::TABLE
        .iter()
        .filter(|(kind, _, _)| !is_answered(kind));
    assert_eq!(
        (report.faults, report.ok, report.hung_up),
        (2 * failed.count() as u64, 1, 0)
    );
}

#[test]
fn each_other_fault_of_the_connection_carries_the_whole_answer() {
    let server = start(Duration::from_millis(50));
    for (kind, name, _) in TransportFault::TABLE {
        if !is_answered(kind) {
            continue;
        }
        server.control().script([Fault::Transport(*kind)]);
        let clock = crate::clock::Clock::start();
        let mut client = Client::new(&server);
        let mut reply = client.chat(&call());
        if *kind == TransportFault::EarlyHints {
            assert_eq!(reply.status, 100);
            reply = client.receive().unwrap();
            assert_eq!((reply.status, reply.header("link").is_some()), (103, true));
            reply = client.receive().unwrap();
        }
        assert_eq!((reply.status, reply.end), (200, End::Whole), "{name}");
        let content = reply.json()["choices"][0]["message"]["content"].clone();
        assert_eq!(content, "echo from gpt-test: hello there", "{name}");
        let announced = reply.header("connection") == Some("close");
        let mut rest = Vec::new();
        let keeps = |client: &mut Client| client.chat(&call()).status == 200;
        if *kind == TransportFault::ResetIdle {
            let error = client.0.read_to_end(&mut rest).unwrap_err();
            assert_eq!((announced, end_of(&error)), (false, End::Reset));
        } else if *kind == TransportFault::CloseIdle || announced {
            assert_eq!(client.0.read_to_end(&mut rest).unwrap(), 0, "{name}");
        } else {
            assert!(keeps(&mut client), "{name}: the connection is kept");
        }
        let announces = matches!(kind, TransportFault::CloseAfter | TransportFault::Trickle);
        assert_eq!(announced, announces, "{name}");
        if *kind == TransportFault::LongHead {
            assert!(reply.head.len() > 48 << 10);
        }
        if *kind == TransportFault::Slow {
            assert!(clock.nanos() >= 80_000_000);
        }
        if *kind == TransportFault::Trickle {
            let bytes = (reply.head.len() + reply.body.len()) as u64;
            assert!(clock.nanos() >= bytes * 200_000);
            let last = server.control().calls().pop().unwrap();
            let ended = last.ended.unwrap() - last.arrived;
            assert!(ended.as_nanos() as u64 >= bytes * 200_000, "{last:?}");
        }
    }
}

#[test]
fn a_caller_that_gives_up_on_a_stall_frees_the_connection() {
    let server = start(Duration::from_secs(3_600));
    let stalls = [
        TransportFault::Stall,
        TransportFault::StallHeaders,
        TransportFault::StallBody,
    ];
    for (count, kind) in (1..).zip(stalls) {
        server.control().script([Fault::Transport(kind)]);
        let mut client = Client::new(&server);
        client.post(&call());
        wait_until(&server, |now| {
            now.report().by_fault.values().sum::<u64>() == count
        });
        drop(client);
        wait_until(&server, |now| now.report().hung_up == count);
        wait_until(&server, |now| now.open_connections() == 0);
    }
    assert_eq!(server.stop().faults, 3);
}
