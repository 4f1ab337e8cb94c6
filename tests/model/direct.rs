//! Bytes of callers and backends that the gateway passes on without a parser of bodies, beside a reader that knows none of its
//! rules.

use arbitrary::Arbitrary;
use leasehold_gateway::{DirectAnswer, plain_request, read_answer};

/// What a caller or a backend sends.
#[derive(Clone, Debug, Arbitrary)]
pub enum Case {
    /// A request.
    Request(Vec<Piece>),
    /// An answer, which is read in parts of this many bytes, and whether it is to HEAD.
    Answer(Vec<Piece>, u8, bool),
}

/// Bytes.
#[derive(Clone, Debug, Arbitrary)]
pub enum Piece {
    /// Known ones.
    Known(u8),
    /// Any.
    Any(Vec<u8>),
}

const KNOWN: [&str; 24] = [
    "GET / HTTP/1.1\r\n",
    "POST /a?b HTTP/1.1\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 103 Early Hints\r\n",
    "host: h\r\n",
    "content-length: 3\r\n",
    "content-length: 0\r\n",
    "Content-Length: 12\r\n",
    "transfer-encoding: chunked\r\n",
    "Transfer-Encoding: Chunked\r\n",
    "connection: close\r\n",
    "connection: keep-alive, x-hop\r\n",
    "x-hop: 1\r\n",
    "upgrade: h2c\r\n",
    "expect: 100-continue\r\n",
    "date: today\r\n",
    "\r\n",
    "3\r\nabc\r\n",
    "c;a=b\r\nabcdefghijkl\r\n",
    "0\r\n\r\n",
    "abc",
    "\n",
];

fn bytes(pieces: &[Piece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Known(number) => {
                bytes.extend_from_slice(KNOWN[usize::from(*number) % KNOWN.len()].as_bytes())
            }
            Piece::Any(any) => bytes.extend_from_slice(any),
        }
    }
    bytes
}

/// Reads what was sent.
///
/// # Panics
/// If the end of a message is not where its lines say, or a field of one connection is passed on.
pub fn run(case: &Case) {
    match case {
        Case::Request(pieces) => run_request(&bytes(pieces)),
        Case::Answer(pieces, part, is_head) => {
            run_answer(&bytes(pieces), usize::from(*part).max(1), *is_head)
        }
    }
}

fn run_request(bytes: &[u8]) {
    let Some((head, body)) = plain_request(bytes) else {
        return;
    };
    let lines = lines(&bytes[..head]);
    assert_eq!(values(&lines, "transfer-encoding"), Vec::<String>::new());
    assert_eq!(values(&lines, "upgrade"), Vec::<String>::new());
    assert_eq!(values(&lines, "expect"), Vec::<String>::new());
    let lengths = values(&lines, "content-length");
    assert!(lengths.len() <= 1, "{lengths:?}");
    let length = lengths
        .first()
        .map_or(0, |length| length.parse().expect("a number"));
    assert_eq!(length, body);
}

fn run_answer(bytes: &[u8], part: usize, is_head: bool) {
    let Some(DirectAnswer {
        head,
        text,
        read,
        content,
        has_ended,
    }) = read_answer(bytes, part, is_head)
    else {
        return;
    };
    let (told, passed) = (lines(&bytes[..head]), lines(&text));
    for hop in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
    ] {
        assert_eq!(values(&passed, hop), Vec::<String>::new(), "{hop}");
    }
    let (lengths, codings) = (
        values(&passed, "content-length"),
        values(&passed, "transfer-encoding"),
    );
    assert!(
        lengths.len() + codings.len() <= 1,
        "{lengths:?} {codings:?}"
    );
    let status = told
        .first()
        .and_then(|line| line.split(' ').nth(1))
        .expect("a status");
    if is_head || matches!(status, "204" | "304") || status.starts_with('1') {
        assert!(has_ended && read == 0);
    } else if let Some(length) = lengths.first() {
        let length: u64 = length.parse().expect("a number");
        assert_eq!(content, length.min((bytes.len() - head) as u64));
        assert_eq!(has_ended, content == length);
    } else if has_ended {
        let body = &bytes[head..head + read];
        assert!(body.ends_with(b"\r\n"), "chunks end with a line");
        assert!(content < read as u64, "chunks have sizes");
    }
}

/// The lines of a head whose end is known; empty ones before it are none of it (RFC 9112, section 2.2).
fn lines(head: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(head);
    text.trim_matches(['\r', '\n'])
        .split('\n')
        .map(|line| line.trim_end_matches('\r').to_owned())
        .collect()
}

fn values(lines: &[String], name: &str) -> Vec<String> {
    let fields = lines.iter().skip(1).filter_map(|line| line.split_once(':'));
    fields
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}
