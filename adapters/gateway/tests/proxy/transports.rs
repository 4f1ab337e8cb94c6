//! Both transports of the gateway, hyper's and the direct one: the same answers, and the same fate of the connection.

use crate::support::{Caller, config, start};
use core::net::SocketAddr;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// An answer as a backend writes it.
struct Scripted {
    /// Written one after the other.
    parts: &'static [&'static str],
    /// Whether the backend closes the connection then.
    closes: bool,
    /// What the caller gets: status and content; `None` for an answer that is cut before its end.
    expected: (u16, Option<&'static str>),
}

const fn whole(parts: &'static [&'static str], status: u16, content: &'static str) -> Scripted {
    Scripted {
        parts,
        closes: false,
        expected: (status, Some(content)),
    }
}

const fn closing(
    parts: &'static [&'static str],
    status: u16,
    content: Option<&'static str>,
) -> Scripted {
    Scripted {
        parts,
        closes: true,
        expected: (status, content),
    }
}

const BAD_GATEWAY: u16 = 502;

const ANSWERS: &[Scripted] = &[
    whole(
        &["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"],
        200,
        "ok",
    ),
    whole(
        &[
            "HTTP/1.1 200 Fine by me\r\nContent-Length: 2\r\n\r\n",
            "o",
            "k",
        ],
        200,
        "ok",
    ),
    whole(
        &["HTTP/1.1 200 OK\r\nconte", "nt-length: 0\r\n", "\r\n"],
        200,
        "",
    ),
    whole(
        &["HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nno!"],
        404,
        "no!",
    ),
    whole(&["HTTP/1.1 204 No Content\r\n\r\n"], 204, ""),
    whole(
        &["HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n\r\n"],
        304,
        "",
    ),
    whole(
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
        200,
        "ok",
    ),
    whole(
        &[
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n",
            "1\r",
            "\no\r\n1;a=b\r\nk",
            "\r\n0\r\nx-sum: 7\r\n\r\n",
        ],
        200,
        "ok",
    ),
    // An answer without content has no length and no chunks.
    whole(
        &["HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n"],
        204,
        "",
    ),
    whole(
        &["HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n"],
        204,
        "",
    ),
    // Beside chunks, a length has no meaning.
    whole(
        &[
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ],
        200,
        "ok",
    ),
    whole(
        &[
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ],
        103,
        "",
    ),
    whole(
        &[
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ],
        200,
        "ok",
    ),
    whole(
        &["HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok"],
        200,
        "ok",
    ),
    whole(
        &[
            "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\ncontent-length: 2\r\n\r\nok",
        ],
        200,
        "ok",
    ),
    closing(
        &["HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"],
        200,
        Some("ok"),
    ),
    closing(
        &["HTTP/1.1 200 OK\r\n\r\n", "until", " the end"],
        200,
        Some("until the end"),
    ),
    closing(&["HTTP/1.0 200 OK\r\n\r\nold"], 200, Some("old")),
    closing(
        &["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ncut"],
        200,
        None,
    ),
    closing(
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ncut"],
        200,
        None,
    ),
    closing(
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nno size\r\n"],
        200,
        None,
    ),
    closing(&["HTTP/1.1 200 OK\r\nhalf a hea"], BAD_GATEWAY, Some("")),
    closing(&["SSH-2.0-OpenSSH_9.6\r\n"], BAD_GATEWAY, Some("")),
    closing(
        &["HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk"],
        BAD_GATEWAY,
        Some(""),
    ),
    closing(
        &["HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok"],
        BAD_GATEWAY,
        Some(""),
    ),
    closing(
        &["HTTP/1.1 200 OK\r\nbad name: a\r\ncontent-length: 2\r\n\r\nok"],
        BAD_GATEWAY,
        Some(""),
    ),
    closing(&[], BAD_GATEWAY, Some("")),
];

/// A request that is plain, and the same one with a field that names one that is not there, which leaves it to hyper.
const CONNECTIONS: [&str; 2] = ["keep-alive", "keep-alive, x-absent"];

/// Starts a backend that answers `/7` with the answer of this number.
fn scripted_backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(&stream));
        }
    });
    address
}

fn serve(stream: &TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let number = head.split(['/', ' ']).nth(2)?;
        let answer = &ANSWERS[number.parse::<usize>().ok()?];
        for part in answer.parts {
            let mut stream = stream;
            stream.write_all(part.as_bytes()).ok()?;
        }
        if answer.closes {
            return None;
        }
    }
}

/// What a caller sees of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: u16,
    /// The fields, without those whose values differ by their nature.
    fields: Vec<String>,
    body: Option<Vec<u8>>,
    /// Whether another request is answered on the connection.
    goes_on: bool,
}

fn ask(gateway: SocketAddr, number: usize, connection: &str) -> Seen {
    let mut caller = Caller::connect(gateway);
    caller.send(format!(
        "GET /{number} HTTP/1.1\r\nhost: test\r\nconnection: {connection}\r\n\r\n"
    ));
    let is_cut = ANSWERS[number].expected.1.is_none();
    let (answer, body) = if is_cut {
        let head = String::from_utf8(caller.read_until("\r\n\r\n")).expect("a head");
        (head, None)
    } else {
        let answer = caller
            .answer()
            .unwrap_or_else(|| panic!("{number}: no answer"));
        (answer.head, Some(answer.body))
    };
    let mut fields: Vec<_> = answer.lines().skip(1).map(str::to_lowercase).collect();
    fields.retain(|field| {
        let differs = ["date: ", "x-request-id: "];
        let differs = differs.iter().any(|name| field.starts_with(name));
        // The end of an answer that is cut may be seen before its head is passed on.
        !(differs || is_cut && field == "connection: close")
    });
    fields.sort_unstable();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status");
    let goes_on = !is_cut && {
        if status < 200 {
            assert_eq!(
                caller.answer().map(|answer| answer.status),
                Some(200),
                "{number}"
            );
        }
        caller.send(format!(
            "GET /0 HTTP/1.1\r\nhost: test\r\nconnection: {connection}\r\n\r\n"
        ));
        caller.answer().is_some_and(|answer| answer.text() == "ok")
    };
    Seen {
        status,
        fields,
        body,
        goes_on,
    }
}

#[test]
fn trailers_are_passed_on() {
    let running = start(&config("", "", &[(scripted_backend(), 1)]));
    let mut caller = Caller::connect(running.address);
    let number = ANSWERS
        .iter()
        .position(|answer| answer.parts.concat().contains("x-sum"));
    let number = number.expect("an answer with trailers");
    caller.send(format!(
        "GET /{number} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
    ));
    let answer = String::from_utf8(caller.rest()).expect("text");
    assert!(answer.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{answer}");
}

#[test]
fn both_transports_answer_alike() {
    let backend = scripted_backend();
    let running = start(&config("", "", &[(backend, 1)]));
    for (number, answer) in ANSWERS.iter().enumerate() {
        let [direct, by_hyper] =
            CONNECTIONS.map(|connection| ask(running.address, number, connection));
        let (status, content) = answer.expected;
        assert_eq!(direct.status, status, "{number}: {:?}", answer.parts);
        if status == BAD_GATEWAY {
            assert_eq!(by_hyper.status, status, "{number}: {:?}", answer.parts);
            assert_eq!(
                direct.goes_on, by_hyper.goes_on,
                "{number}: {:?}",
                answer.parts
            );
            continue;
        }
        let content = content.map(|content| content.as_bytes().to_vec());
        assert_eq!(direct.body, content, "{number}: {:?}", answer.parts);
        assert_eq!(direct, by_hyper, "{number}: {:?}", answer.parts);
    }
}
