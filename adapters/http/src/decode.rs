//! Compressed bodies: gzip, deflate and brotli, also several in a row.
//!
//! ureq's own decompression is off: it knows no deflate, and a body that is not encoded as its header says would be
//! lost with it.
//!
//! Invariant: no more than the limit is ever decompressed, whatever a body claims.

use brotli_decompressor::Decompressor;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use std::io::{self, Cursor, Read};

/// Value of `accept-encoding` for a call whose answer is read whole.
pub(crate) const ACCEPTED: &str = "gzip, deflate, br";
/// Encodings in a row that are undone.
const MAX_ENCODINGS: usize = 4;
/// The first bytes of every gzip body: its mark, and the only method of compression.
const GZIP_START: &[u8] = b"\x1f\x8b\x08";
const BUFFER_BYTES: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Deflate,
    Brotli,
}

/// The encodings of a body, in the order in which they were applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Encodings(Vec<Encoding>);

impl Encodings {
    /// Reads `content-encoding`; `None` if it names an encoding that is unknown here.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut found = Vec::new();
        for value in headers.get_all(CONTENT_ENCODING) {
            for name in value.to_str().ok()?.split(',') {
                match &*name.trim().to_ascii_lowercase() {
                    "gzip" | "x-gzip" => found.push(Encoding::Gzip),
                    "deflate" => found.push(Encoding::Deflate),
                    "br" => found.push(Encoding::Brotli),
                    "" | "identity" => {}
                    _ => return None,
                }
            }
        }
        (found.len() <= MAX_ENCODINGS).then_some(Self(found))
    }

    /// Returns gzip for a body that has no label but begins like gzip, as no JSON does.
    pub(crate) fn or_unlabelled(self, body: &[u8]) -> Self {
        if self.is_empty() && body.starts_with(GZIP_START) {
            return Self(vec![Encoding::Gzip]);
        }
        self
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Wraps a reader so that it gives the decompressed bytes.
    pub(crate) fn reader<'a>(&self, source: impl Read + 'a) -> Box<dyn Read + 'a> {
        let mut reader: Box<dyn Read + 'a> = Box::new(source);
        for encoding in self.0.iter().rev() {
            reader = match encoding {
                Encoding::Gzip => Box::new(MultiGzDecoder::new(reader)),
                Encoding::Deflate => Box::new(Deflate::Start(Some(reader))),
                Encoding::Brotli => Box::new(Decompressor::new(reader, BUFFER_BYTES)),
            };
        }
        reader
    }

    /// Decompresses a whole body, up to `limit` bytes and one; `None` if it is not encoded so.
    ///
    /// Of a body that is damaged later, what came before is returned.
    pub(crate) fn decode(&self, body: &[u8], limit: u64) -> Option<Vec<u8>> {
        let mut decoded = Vec::new();
        let result = self
            .reader(body)
            .take(limit.saturating_add(1))
            .read_to_end(&mut decoded);
        // A compressor's bytes are no UTF-8, while plain text may decompress to some bytes.
        let is_damaged = || !decoded.is_empty() && core::str::from_utf8(body).is_err();
        (result.is_ok() || is_damaged()).then_some(decoded)
    }
}

/// A deflate body: with a zlib header, as the standard says, or without, as some servers send it.
enum Deflate<'a> {
    Start(Option<Box<dyn Read + 'a>>),
    Body(Box<dyn Read + 'a>),
}

impl Read for Deflate<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Start(source) = self {
            let mut source = source.take().unwrap_or_else(|| Box::new(io::empty()));
            let mut head = Vec::with_capacity(2);
            source.by_ref().take(2).read_to_end(&mut head)?;
            let is_zlib = match head[..] {
                [method, flags] => {
                    method & 0x0f == 8 && u16::from_be_bytes([method, flags]).is_multiple_of(31)
                }
                _ => false,
            };
            let whole = Cursor::new(head).chain(source);
            *self = Self::Body(if is_zlib {
                Box::new(ZlibDecoder::new(whole))
            } else {
                Box::new(DeflateDecoder::new(whole))
            });
        }
        match self {
            Self::Start(_) => Ok(0),
            Self::Body(reader) => reader.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::read::{DeflateEncoder, GzEncoder, ZlibEncoder};

    /// `hello world` as the reference encoder compresses it.
    const BROTLI: &[u8] = b"\x0b\x05\x80hello world\x03";

    fn encodings(value: &str) -> Option<Encodings> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, value.parse().unwrap());
        Encodings::of(&headers)
    }

    fn bytes(mut reader: impl Read) -> Vec<u8> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        bytes(GzEncoder::new(text, Compression::default()))
    }

    #[test]
    fn every_encoding_is_undone() {
        let text = b"hello hello hello hello";
        let fast = Compression::fast();
        let twice = gzip(&bytes(ZlibEncoder::new(&text[..], fast)));
        for (name, body, plain) in [
            ("gzip", gzip(text), &text[..]),
            (" X-GZIP", gzip(text), text),
            ("deflate", bytes(ZlibEncoder::new(&text[..], fast)), text),
            ("deflate", bytes(DeflateEncoder::new(&text[..], fast)), text),
            ("br", BROTLI.to_vec(), b"hello world"),
            ("identity", text.to_vec(), text),
            ("deflate, gzip", twice, text),
        ] {
            let encodings = encodings(name).unwrap();
            assert_eq!(
                encodings.decode(&body, 100).as_deref(),
                Some(plain),
                "{name}"
            );
            assert_eq!(bytes(encodings.reader(&*body)), plain, "{name}");
        }
        assert_eq!(
            Encodings::of(&HeaderMap::new()),
            Some(Encodings(Vec::new()))
        );
    }

    #[test]
    fn an_unknown_encoding_and_too_many_are_refused() {
        assert_eq!(encodings("zstd"), None);
        assert_eq!(encodings("gzip, gzip, gzip, gzip, gzip"), None);
    }

    #[test]
    fn no_more_than_the_limit_is_decompressed() {
        let bomb = gzip(&vec![b'0'; 10_000_000]);
        assert!(bomb.len() < 20_000);
        let decoded = encodings("gzip").unwrap().decode(&bomb, 1_000).unwrap();
        assert_eq!(decoded.len(), 1_001);
    }

    #[test]
    fn a_body_that_is_not_encoded_so_is_told_from_a_damaged_one() {
        for name in ["gzip", "br", "deflate"] {
            let encodings = encodings(name).unwrap();
            assert_eq!(encodings.decode(b"{\"plain\": true}", 100), None, "{name}");
        }
        let text: Vec<u8> = (0..50_000_u32)
            .flat_map(|i| i.to_string().into_bytes())
            .collect();
        let whole = gzip(&text);
        let cut = encodings("gzip")
            .unwrap()
            .decode(&whole[..whole.len() / 2], u64::MAX)
            .unwrap();
        assert!(!cut.is_empty() && text.starts_with(&cut));
        assert_eq!(encodings("deflate").unwrap().decode(b"", 9), None);
    }
}
