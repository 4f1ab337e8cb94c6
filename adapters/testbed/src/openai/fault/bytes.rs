//! Whole answers in unusual bytes: encodings, padding, text that is barely JSON.

use super::Scene;
use super::encoding::{brotli, deflate, gzip, zlib};
use crate::openai::reply::Reply;
use crate::openai::request::Api;
use crate::server::Step;
use hyper::body::Bytes;

/// Where the answer's text begins.
const ECHO: &[u8] = b"echo from";

/// Size of a padded or expanded body.
const MEBIBYTE: usize = 1 << 20;

fault_table! {
    /// A whole answer with unusual bytes.
    BytesFault {
        Gzip "gzip" "Content-Encoding: gzip, asked for or not",
        Deflate "deflate" "Content-Encoding: deflate, with a zlib header",
        DeflateRaw "deflate-raw" "Content-Encoding: deflate, without a zlib header",
        Brotli "br" "Content-Encoding: br",
        GzipTwice "gzip-twice" "Content-Encoding: gzip, gzip",
        XGzip "x-gzip" "Content-Encoding: X-GZIP",
        GzipUnlabelled "gzip-unlabelled" "gzip without Content-Encoding",
        GzipBomb "gzip-bomb" "gzip of the answer and 64 MiB of spaces",
        Events "events-200" "server-sent events where JSON was asked for",
        Bom "bom" "a byte order mark before the JSON",
        Padding "padding" "line breaks and spaces before and after the JSON",
        PaddingLong "padding-long" "a mebibyte of line breaks before the JSON",
        Trailing "trailing-text" "an HTML comment after the JSON",
        Control "control-characters" "control characters and line breaks inside a string",
        Surrogate "lone-surrogate" "half of a surrogate pair, as \\ud83d",
        BadUtf8 "bad-utf8" "bytes that are not UTF-8 inside a string",
        Latin1 "latin-1" "a string in ISO 8859-1, as its charset says",
        NotANumber "nan" "NaN and -Infinity",
        Deep "deep" "300 nested arrays",
        Deeper "deeper" "100,000 nested arrays",
        HugeIntegers "huge-integers" "integers and exponents beyond 64 bits",
        Duplicate "duplicate-members" "a member that is there twice",
        TypeText "type-text" "Content-Type: text/plain",
        TypeEvents "type-events" "Content-Type: text/event-stream, with JSON",
        TypeNone "type-none" "no Content-Type",
        Chunked "chunked" "a chunked body in pieces of 7 bytes",
    }
}

impl BytesFault {
    pub(super) const fn applies_to(self, api: Api) -> bool {
        match self {
            Self::Events | Self::Control | Self::Surrogate | Self::BadUtf8 | Self::Latin1 => {
                matches!(api, Api::Chat | Api::Responses)
            }
            Self::Gzip
            | Self::Deflate
            | Self::DeflateRaw
            | Self::Brotli
            | Self::GzipTwice
            | Self::XGzip
            | Self::GzipUnlabelled
            | Self::GzipBomb
            | Self::Bom
            | Self::Padding
            | Self::PaddingLong
            | Self::Trailing
            | Self::NotANumber
            | Self::Deep
            | Self::Deeper
            | Self::HugeIntegers
            | Self::Duplicate
            | Self::TypeText
            | Self::TypeEvents
            | Self::TypeNone
            | Self::Chunked => true,
        }
    }

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
            Self::GzipBomb => {
                let padded = [body.as_slice(), &vec![b' '; 64 * MEBIBYTE]].concat();
                encoded(gzip(&padded), "gzip")
            }
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
