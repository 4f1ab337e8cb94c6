//! Whole answers in unusual bytes: encodings, padding, text that is barely JSON.

use super::encoding::{brotli, deflate, gzip, gzip_padded, zlib};
use super::{Properties, Scene};
use crate::openai::request::Api;
use crate::reply::Reply;
use crate::server::Step;
use hyper::body::Bytes;

/// Where the answer's text begins.
const ECHO: &[u8] = b"echo from";

/// Size of a padded or expanded body.
const MEBIBYTE: usize = 1 << 20;

const EVERY_API: Properties = Properties::ANSWER.unstreamed();

/// For answers with a text.
const TEXT: Properties = EVERY_API.of(&[Api::Chat, Api::Responses, Api::Messages]);

fault_table! {
    /// A whole answer with unusual bytes.
    BytesFault {
        Gzip EVERY_API "gzip" "Content-Encoding: gzip, asked for or not",
        Deflate EVERY_API "deflate" "Content-Encoding: deflate, with a zlib header",
        DeflateRaw EVERY_API "deflate-raw" "Content-Encoding: deflate, without a zlib header",
        Brotli EVERY_API "br" "Content-Encoding: br",
        GzipTwice EVERY_API "gzip-twice" "Content-Encoding: gzip, gzip",
        XGzip EVERY_API "x-gzip" "Content-Encoding: X-GZIP",
        GzipUnlabelled EVERY_API "gzip-unlabelled" "gzip without Content-Encoding",
        GzipBomb EVERY_API "gzip-bomb" "gzip of the answer and 64 MiB of spaces",
        Events TEXT "events-200" "server-sent events where JSON was asked for",
        Bom EVERY_API "bom" "a byte order mark before the JSON",
        Padding EVERY_API "padding" "line breaks and spaces before and after the JSON",
        PaddingLong EVERY_API "padding-long" "a mebibyte of line breaks before the JSON",
        Trailing EVERY_API "trailing-text" "an HTML comment after the JSON",
        Control TEXT "control-characters" "control characters and line breaks inside a string",
        Surrogate TEXT "lone-surrogate" "half of a surrogate pair, as \\ud83d",
        BadUtf8 TEXT "bad-utf8" "bytes that are not UTF-8 inside a string",
        Latin1 TEXT "latin-1" "a string in ISO 8859-1, as its charset says",
        NotANumber EVERY_API "nan" "NaN and -Infinity",
        Deep EVERY_API "deep" "300 nested arrays",
        Deeper EVERY_API "deeper" "100,000 nested arrays",
        HugeIntegers EVERY_API "huge-integers" "integers and exponents beyond 64 bits",
        Duplicate EVERY_API "duplicate-members" "a member that is there twice",
        TypeText EVERY_API "type-text" "Content-Type: text/plain",
        TypeEvents EVERY_API "type-events" "Content-Type: text/event-stream, with JSON",
        TypeNone EVERY_API "type-none" "no Content-Type",
        Chunked EVERY_API "chunked" "a chunked body in pieces of 7 bytes",
    }
}

impl BytesFault {
    pub(super) fn reply(self, scene: &Scene<'_>) -> Reply {
        let plain = Reply::json(200, &scene.answer.whole());
        let body = plain.body();
        let encoded = |body: Vec<u8>, encoding: &str| {
            plain
                .clone()
                .with_body(body)
                .header("content-encoding", encoding)
        };
        let with = |body: Vec<u8>| plain.clone().with_body(body);
        let member = |text: &str| with(insert(&body, b"{", b"", text.as_bytes()));
        let in_text = |bytes: &[u8]| with(insert(&body, b"", ECHO, bytes));
        match self {
            Self::Gzip => encoded(gzip(&body), "gzip"),
            Self::Deflate => encoded(zlib(&body), "deflate"),
            Self::DeflateRaw => encoded(deflate(&body), "deflate"),
            Self::Brotli => encoded(brotli(&body), "br"),
            Self::GzipTwice => encoded(gzip(&gzip(&body)), "gzip, gzip"),
            Self::XGzip => encoded(gzip(&body), "X-GZIP"),
            Self::GzipUnlabelled => with(gzip(&body)),
            Self::GzipBomb => encoded(gzip_padded(&body, &vec![b' '; MEBIBYTE], 64), "gzip"),
            Self::Events => scene.answer.events(scene.pace).reply(scene.pace),
            Self::Bom => with([b"\xef\xbb\xbf", body.as_slice()].concat()),
            Self::Padding => with([b"\r\n\n   \t\n", body.as_slice(), b"\n\n  \n"].concat()),
            Self::PaddingLong => with([vec![b'\n'; MEBIBYTE], body].concat()),
            Self::Trailing => with([body.as_slice(), b"\n<!-- cached by proxy -->\n"].concat()),
            Self::Control => in_text(b"\x01\x07\t\n\r\x1b[0m"),
            Self::Surrogate => in_text(b"\\ud83d "),
            Self::BadUtf8 => in_text(b"\xff\xc3 \xf0\x9f\x98 "),
            Self::Latin1 => {
                in_text(b"d\xe9j\xe0 vu ").content_type("application/json; charset=iso-8859-1")
            }
            Self::NotANumber => member("\"x_score\":NaN,\"x_least\":-Infinity,"),
            Self::Deep => member(&nested(300)),
            Self::Deeper => member(&nested(100_000)),
            Self::HugeIntegers => member(
                "\"x_count\":123456789012345678901234567890,\"x_least\":-99999999999999999999,\"x_more\":1e400,",
            ),
            Self::Duplicate => member("\"id\":\"first\",\"usage\":null,"),
            Self::TypeText => plain.content_type("text/plain; charset=utf-8"),
            Self::TypeEvents => plain.content_type("text/event-stream"),
            Self::TypeNone => plain.without_header("content-type"),
            Self::Chunked => {
                let mut reply = plain;
                reply.sized = false;
                let pieces = body.chunks(7).map(Bytes::copy_from_slice);
                let steps = pieces.flat_map(|piece| [Step::Flush, Step::Bytes(piece)]);
                reply.steps = steps.collect();
                reply
            }
        }
    }
}

/// Inserts `bytes` where `before` ends and `after` begins for the first time.
fn insert(body: &[u8], before: &[u8], after: &[u8], bytes: &[u8]) -> Vec<u8> {
    let place = [before, after].concat();
    let found = body.windows(place.len()).position(|window| window == place);
    let at = found.map_or(0, |at| at + before.len());
    [&body[..at], bytes, &body[at..]].concat()
}

fn nested(depth: usize) -> String {
    format!("\"x_deep\":{}{},", "[".repeat(depth), "]".repeat(depth))
}
