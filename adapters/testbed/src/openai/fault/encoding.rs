//! Content encodings.

use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use flate2::{Compression, Crc};
use std::io::Write;

/// Longest block of a brotli stream made here.
const BLOCK: usize = 1 << 16;

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory can't fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// gzip (RFC 1952) of `bytes` and then `padding`, `times` over, which is compressed only once.
///
/// To compress 64 MiB takes so long that other callers of the server would time out.
pub(super) fn gzip_padded(bytes: &[u8], padding: &[u8], times: usize) -> Vec<u8> {
    // Magic number, method deflate, no flags, no time, no level, unknown system.
    let mut stream = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    stream.extend(open_deflate(bytes));
    stream.extend(open_deflate(padding).repeat(times));
    // The last block, empty.
    stream.extend(b"\x03\0");
    let (mut whole, mut part) = (Crc::new(), Crc::new());
    whole.update(bytes);
    part.update(padding);
    for _ in 0..times {
        whole.combine(&part);
    }
    stream.extend(whole.sum().to_le_bytes());
    stream.extend(whole.amount().to_le_bytes());
    stream
}

/// Blocks of deflate that end at a whole byte, and of which none is the last.
fn open_deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    // Writing to memory can't fail.
    let _ = encoder.write_all(bytes).and_then(|()| encoder.flush());
    encoder.get_ref().clone()
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
    use crate::clock::Clock;
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
    fn a_bomb_is_made_in_a_small_part_of_the_time_that_compression_takes() {
        let clock = Clock::start();
        let bomb = gzip_padded(b"hello", &vec![b' '; 1 << 20], 64);
        let made = clock.nanos();
        let padded = [b"hello".as_slice(), &vec![b' '; 64 << 20]].concat();
        let began = clock.nanos();
        let plain = gzip(&padded);
        let compressed = clock.nanos() - began;
        assert!(made < compressed / 4, "{made} ns of {compressed} ns");
        let decoded = |bytes: &[u8]| {
            let mut read = Vec::new();
            let read_all = flate2::read::GzDecoder::new(bytes).read_to_end(&mut read);
            read_all.map(|_| read).unwrap()
        };
        assert!(decoded(&bomb) == decoded(&plain));
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
