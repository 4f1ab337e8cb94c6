//! Tiny pictures: real PNG files that carry texts.

use flate2::Compression;
use flate2::Crc;
use flate2::write::ZlibEncoder;
use std::io::Write;

/// Width and height, in pixels.
const SIDE: u32 = 16;

/// A PNG of one colour with `tEXt` chunks.
pub(super) fn png(colour: [u8; 3], texts: &[(&str, &str)]) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let side = SIDE.to_be_bytes();
    // 8 bits for each of red, green and blue; no interlace.
    let header = [&side[..], &side[..], &[8, 2, 0, 0, 0]].concat();
    chunk(&mut file, b"IHDR", &header);
    for (name, text) in texts {
        let text = [name.as_bytes(), &[0], text.as_bytes()].concat();
        chunk(&mut file, b"tEXt", &text);
    }
    let pixels = colour.repeat(SIDE as usize);
    // Each row begins with the number of its filter: none.
    let rows = [&[0], &pixels[..]].concat().repeat(SIDE as usize);
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail.
    let data = encoder.write_all(&rows).and_then(|()| encoder.finish());
    chunk(&mut file, b"IDAT", &data.unwrap_or_default());
    chunk(&mut file, b"IEND", &[]);
    file
}

/// A PNG of at least this many bytes.
pub(super) fn png_of_size(colour: [u8; 3], texts: &[(&str, &str)], bytes: usize) -> Vec<u8> {
    let plain = png(colour, texts);
    // A chunk has 12 bytes of its own, and the name with its end 8.
    let Some(padding) = bytes.checked_sub(plain.len() + 20) else {
        return plain;
    };
    let padding = "x".repeat(padding);
    let texts = [texts, &[("padding", padding.as_str())]].concat();
    png(colour, &texts)
}

/// A colour that depends on a name.
pub(super) fn colour_of(name: &str) -> [u8; 3] {
    let mut crc = Crc::new();
    crc.update(name.as_bytes());
    let [red, green, blue, _] = crc.sum().to_be_bytes();
    [red, green, blue]
}

fn chunk(file: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(data);
    file.extend(length.to_be_bytes());
    file.extend(kind);
    file.extend(data);
    file.extend(crc.sum().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_the_asked_size_and_its_texts() {
        let texts = [("server", "a"), ("prompt_id", "b")];
        let plain = png([1, 2, 3], &texts);
        assert!(plain.starts_with(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"));
        // The check value of an end chunk is the same in every PNG.
        assert!(plain.ends_with(b"\0\0\0\0IEND\xae\x42\x60\x82"));
        assert!(plain.windows(8).any(|window| window == b"server\0a"));
        for bytes in [0, 500, 4_096, 1 << 20] {
            let padded = png_of_size([1, 2, 3], &texts, bytes);
            assert_eq!(padded.len(), bytes.max(plain.len()), "{bytes}");
        }
    }
}
