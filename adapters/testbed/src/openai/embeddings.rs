//! Embeddings: unit vectors that are the same for the same text.

use super::answer::Answer;
use serde_json::{Value, json};

pub(super) fn whole(answer: &Answer) -> Value {
    let options = &answer.request.embedding;
    let data: Vec<_> = options
        .inputs
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let vector = vector(text, options.dimensions);
            let embedding = if options.base64 {
                json!(base64(&little_endian(&vector)))
            } else {
                json!(vector)
            };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    json!({
        "object": "list",
        "data": data,
        "model": answer.request.model,
        "usage": {
            "prompt_tokens": answer.request.prompt_tokens,
            "total_tokens": answer.request.prompt_tokens,
        },
    })
}

/// A unit vector drawn from the text's FNV-1a hash.
fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let seed = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut rng = fastrand::Rng::with_seed(seed);
    let numbers: Vec<f32> = (0..dimensions).map(|_| rng.f32() - 0.5).collect();
    let length = numbers.iter().map(|x| x * x).sum::<f32>().sqrt();
    numbers
        .iter()
        .map(|x| x / length.max(f32::MIN_POSITIVE))
        .collect()
}

fn little_endian(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place <= group.len() {
                let index = bits >> (18 - 6 * place) & 63;
                text.push(char::from(ALPHABET[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn equal_texts_have_equal_unit_vectors() {
        let one = vector("hello", 8);
        assert_eq!(one, vector("hello", 8));
        assert_ne!(one, vector("hullo", 8));
        let length: f32 = one.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
}
