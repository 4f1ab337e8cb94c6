//! Content encodings.

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use std::io::Write;

/// Longest block of a brotli stream made here.
const BLOCK: usize = 1 << 16;

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory can't fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// The `deflate` of RFC 9110: with a zlib header.
pub(super) fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to memory can't fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// The `deflate` that some servers send: without a zlib header.
pub(super) fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    // Writing to memory can't fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// A brotli stream (RFC 7932) of uncompressed blocks.
pub(super) fn brotli(bytes: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        // From the lowest bit: not the last block (0), 4 nibbles of length (00), the length less 1, uncompressed (1).
        let header = ((block.len() as u32 - 1) << 3) | 1 << 19;
        // The stream begins with one more bit: a window of 64 KiB (0).
        let header = if index == 0 { header << 1 } else { header };
        stream.extend_from_slice(&header.to_le_bytes()[..3]);
        stream.extend_from_slice(block);
    }
    if stream.is_empty() {
        // The window, then the last block, empty.
        return vec![0b110];
    }
    stream.push(0b11);
    stream
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_brotli_stream_is_read_by_a_decoder() {
        for length in [0, 1, 1_000, BLOCK, BLOCK + 1, 3 * BLOCK] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut read = Vec::new();
            let stream = brotli(&bytes);
            let mut decoder = brotli_decompressor::Decompressor::new(stream.as_slice(), 4_096);
            decoder.read_to_end(&mut read).unwrap();
            assert_eq!(read, bytes, "{length}");
        }
    }

    #[test]
    fn the_deflate_encodings_are_read_by_their_decoders() {
        let bytes = b"hello hello hello".repeat(100);
        let mut read = Vec::new();
        let gz = gzip(&bytes);
        flate2::read::MultiGzDecoder::new(gz.as_slice())
            .read_to_end(&mut read)
            .unwrap();
        let with_header = zlib(&bytes);
        flate2::read::ZlibDecoder::new(with_header.as_slice())
            .read_to_end(&mut read)
            .unwrap();
        let raw = deflate(&bytes);
        flate2::read::DeflateDecoder::new(raw.as_slice())
            .read_to_end(&mut read)
            .unwrap();
        assert_eq!(read, bytes.repeat(3));
        assert!(raw.len() < 100, "it is compressed");
    }
}
