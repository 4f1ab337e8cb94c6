//! The parts of a `multipart/form-data` body (RFC 7578), split as RFC 2046 says.

/// Most parts that are read; a form with files has a few.
const MAX_PARTS: usize = 64;

/// A field of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    pub(crate) name: &'a str,
    pub(crate) filename: Option<&'a str>,
    pub(crate) content: &'a [u8],
}

/// Splits a body into its parts; `None` if it is not what its content type says.
pub(crate) fn parts<'a>(content_type: &str, body: &'a [u8]) -> Option<Vec<Part<'a>>> {
    let boundary = boundary(content_type)?;
    let (opening, delimiter) = (format!("--{boundary}"), format!("\r\n--{boundary}"));
    let mut rest = match body.strip_prefix(opening.as_bytes()) {
        Some(rest) => rest,
        None => split(body, delimiter.as_bytes())?.1,
    };
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") && parts.len() < MAX_PARTS {
        // After a delimiter there may be spaces before the line ends.
        let (padding, after) = split(rest, b"\r\n")?;
        if !padding.iter().all(|byte| b" \t".contains(byte)) {
            return None;
        }
        let (part, next) = split(after, delimiter.as_bytes())?;
        parts.push(part_of(part)?);
        rest = next;
    }
    Some(parts)
}

fn boundary(content_type: &str) -> Option<&str> {
    let (kind, _) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameter(content_type, "boundary").filter(|boundary| !boundary.is_empty())
}

fn part_of(part: &[u8]) -> Option<Part<'_>> {
    let (head, content) = split(part, b"\r\n\r\n")?;
    let mut lines = str::from_utf8(head).ok()?.split("\r\n");
    let disposition = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-disposition")
            .then_some(value)
    })?;
    Some(Part {
        name: parameter(disposition, "name")?,
        filename: parameter(disposition, "filename"),
        content,
    })
}

/// Returns a parameter of a header's value, without its quotes.
fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(';').skip(1).find_map(|pair| {
        let (found, value) = pair.split_once('=')?;
        let is_it = found.trim().eq_ignore_ascii_case(name);
        is_it.then(|| value.trim().trim_matches('"'))
    })
}

/// Splits bytes where a separator is for the first time.
fn split<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let mut windows = bytes.windows(separator.len());
    let at = windows.position(|window| window == separator)?;
    Some((&bytes[..at], &bytes[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_split_into_its_parts_byte_for_byte() {
        let body = b"--b1\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b1 \r\n\
            content-type: x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n\
            \r\n--b\xff\r\n\r\n--b1--\r\n";
        let parts = parts("multipart/form-data; boundary=\"b1\"", body).unwrap();
        assert_eq!(
            (parts[0].name, parts[0].content),
            ("purpose", &b"batch"[..])
        );
        let file = Part {
            name: "file",
            filename: Some("a.jsonl"),
            content: b"\r\n--b\xff\r\n",
        };
        assert_eq!(parts[1..], [file]);
    }

    #[test]
    fn a_body_that_is_no_form_has_no_parts() {
        let form = "multipart/form-data; boundary=b";
        let whole = b"--b\r\ncontent-disposition: form-data; name=x\r\n\r\ny\r\n--b--";
        assert_eq!(parts(form, whole).unwrap()[0].content, b"y");
        for cut in 0..whole.len() - 2 {
            assert_eq!(parts(form, &whole[..cut]), None, "{cut}");
        }
        assert_eq!(parts(form, b"--b--").unwrap(), []);
        for content_type in [
            "",
            "application/json",
            "multipart/form-data",
            "multipart/form-data; boundary=",
        ] {
            assert_eq!(parts(content_type, whole), None, "{content_type}");
        }
    }
}
