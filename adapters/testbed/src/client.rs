//! A client for tests that only frames HTTP/1.
//!
//! Invariant: it shows what arrived, with no opinion on it: heads as text, chunks as framed, how the bytes ended.

use core::net::SocketAddr;
use core::time::Duration;
use serde_json::Value;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::TcpStream;

/// Longest wait for a state of the server, and for bytes of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How the bytes of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The message was whole.
    Whole,
    /// The server closed the connection before.
    Closed,
    /// The server reset the connection before.
    Reset,
}

/// A keep-alive connection.
pub(crate) struct Client(pub(crate) BufReader<TcpStream>);

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Chunks of a chunked body, as they were framed.
    pub(crate) chunks: Vec<Vec<u8>>,
    /// Lines after the last chunk.
    pub(crate) trailers: Vec<String>,
    pub(crate) end: End,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        self.header(name).unwrap().parse().unwrap()
    }
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Reads the next reply; `None` if the connection was closed instead.
    pub(crate) fn receive(&mut self) -> Option<Reply> {
        let mut reply = self.receive_head()?;
        if reply.header("content-length").is_some() {
            let length = reply.number("content-length") as usize;
            (reply.body, reply.end) = self.read(length);
        } else if reply.header("transfer-encoding") == Some("chunked") {
            self.read_chunks(&mut reply);
        }
        Some(reply)
    }

    /// Reads the next head; `None` if the connection was closed instead.
    pub(crate) fn receive_head(&mut self) -> Option<Reply> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).unwrap() == 0 {
                assert_eq!(head, "");
                return None;
            }
        }
        Some(Reply {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head,
            body: Vec::new(),
            chunks: Vec::new(),
            trailers: Vec::new(),
            end: End::Whole,
        })
    }

    fn read_chunks(&mut self, reply: &mut Reply) {
        while reply.end == End::Whole {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(0) => reply.end = End::Closed,
                Ok(_) => {
                    let length = usize::from_str_radix(line.trim(), 16).unwrap();
                    if length == 0 {
                        self.read_trailers(reply);
                        return;
                    }
                    let (mut chunk, end) = self.read(length + 2);
                    reply.end = end;
                    chunk.truncate(length);
                    reply.body.extend(&chunk);
                    reply.chunks.push(chunk);
                }
                Err(error) => reply.end = end_of(&error),
            }
        }
    }

    fn read_trailers(&mut self, reply: &mut Reply) {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                reply.end = End::Closed;
                return;
            }
            match line.trim_end() {
                "" => return,
                trailer => reply.trailers.push(trailer.to_owned()),
            }
        }
    }

    /// Reads this many bytes, or as many as there are.
    pub(crate) fn read(&mut self, length: usize) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        let read = self.0.by_ref().take(length as u64).read_to_end(&mut bytes);
        let end = match read {
            Ok(_) if bytes.len() == length => End::Whole,
            Ok(_) => End::Closed,
            Err(error) => end_of(&error),
        };
        (bytes, end)
    }

    /// Reads all bytes until the server ends the connection.
    pub(crate) fn read_all(&mut self) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        let end = match self.0.read_to_end(&mut bytes) {
            Ok(_) => End::Closed,
            Err(error) => end_of(&error),
        };
        (bytes, end)
    }
}

pub(crate) fn end_of(error: &Error) -> End {
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    End::Reset
}
