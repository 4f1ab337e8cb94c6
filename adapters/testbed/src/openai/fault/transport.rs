//! Trouble of the connection, before, in and after an answer.

use super::{FaultTimes, Properties};
use crate::reply::Reply;
use crate::server::{CloseConnection, Orders, Step};
use core::time::Duration;
use hyper::body::Bytes;
use tokio::time::sleep;

/// Length of the header of a long head.
const HEAD_BYTES: usize = 48 << 10;

/// About the length of a head, in bytes.
const USUAL_HEAD: u32 = 300;

const FAILED: Properties = Properties::FAILURE;
const ANSWERED: Properties = Properties::ANSWER;

fault_table! {
    /// Trouble of the connection.
    TransportFault {
        Close FAILED "close" "the connection closes without an answer",
        Reset FAILED "reset" "the connection is reset without an answer",
        CutHead FAILED "cut-head" "the connection closes inside the head",
        CutHeaders FAILED "cut-headers" "the connection closes after the head",
        ResetHeaders FAILED "reset-headers" "the connection is reset after the head",
        ResetBody FAILED "reset-body" "the connection is reset in the body",
        CutBody FAILED "cut-body" "the connection closes in the body, short of Content-Length",
        CutChunked FAILED "cut-chunked" "the connection closes in a chunked body",
        Stall FAILED "stall" "no answer for --stall, then the connection closes",
        StallHeaders FAILED "stall-headers" "the head, then nothing for --stall, then the connection closes",
        StallBody FAILED "stall-body" "half the body, then nothing for --stall, then the connection closes",
        Malformed FAILED "malformed" "a status line that is not HTTP",
        BadChunk FAILED "bad-chunk" "a chunk size that is no number",
        TwoLengths FAILED "two-lengths" "two different Content-Length headers",
        Slow ANSWERED "slow" "a whole answer after --fault-wait",
        Trickle ANSWERED "trickle" "a whole answer byte by byte, --trickle apart, then the connection closes",
        CloseAfter ANSWERED "close-after" "a whole answer with Connection: close",
        CloseIdle ANSWERED "close-idle" "a whole answer, then the connection closes unannounced",
        ResetIdle ANSWERED "reset-idle" "a whole answer, then the connection is reset unannounced",
        EarlyHints ANSWERED "early-hints" "100 and 103 before a whole answer",
        LongHead ANSWERED "long-head" "a whole answer with 48 KiB of headers",
    }
}

impl TransportFault {
    /// Gives a plain answer this trouble.
    pub(crate) async fn reply(
        self,
        plain: Reply,
        orders: &Orders,
        times: FaultTimes,
    ) -> Result<Reply, CloseConnection> {
        let instead = |bytes: &'static str| {
            orders.write_instead(Bytes::from_static(bytes.as_bytes()));
            // Without a body the call has ended, so that its caller does not seem to hang up.
            Reply::text(200, "")
        };
        Ok(match self {
            Self::Close => return Err(CloseConnection),
            Self::Reset => {
                orders.reset();
                return Err(CloseConnection);
            }
            Self::CutHead => instead("HTTP/1.1 200 OK\r\ncontent-type: applica"),
            Self::CutHeaders => broken_off(plain, 0, true),
            Self::ResetHeaders => {
                orders.reset();
                broken_off(plain, 0, true)
            }
            Self::ResetBody => {
                orders.reset();
                broken_off(plain, 50, true)
            }
            Self::CutBody => broken_off(plain, 50, true),
            Self::CutChunked => broken_off(plain, 50, false),
            Self::Stall => {
                sleep(times.stall).await;
                return Err(CloseConnection);
            }
            Self::StallHeaders => stalled(broken_off(plain, 0, true), Step::Wait(times.stall)),
            Self::StallBody => stalled(broken_off(plain, 50, true), Step::Wait(times.stall)),
            Self::Malformed => instead("HTTP/1.1 two hundred\r\n\r\n{}"),
            Self::BadChunk => instead(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n\
                 5\r\n{\"a\":\r\nzz\r\n",
            ),
            Self::TwoLengths => instead(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\
                 content-length: 7\r\n\r\n{}     ",
            ),
            Self::Slow => {
                sleep(times.wait).await;
                plain
            }
            Self::Trickle => {
                orders.trickle_head(times.trickle);
                trickled(plain, times.trickle)
            }
            Self::CloseAfter => plain.header("connection", "close"),
            Self::CloseIdle => hanging_up(plain),
            Self::ResetIdle => {
                orders.reset();
                hanging_up(plain)
            }
            Self::EarlyHints => {
                orders.write_first(Bytes::from_static(
                    b"HTTP/1.1 100 Continue\r\n\r\n\
                      HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n",
                ));
                plain
            }
            Self::LongHead => plain.header("x-padding", "x".repeat(HEAD_BYTES)),
        })
    }
}

/// Breaks an answer off after this percentage of its body, whose whole length is announced if `sized`.
fn broken_off(plain: Reply, percent: usize, sized: bool) -> Reply {
    let body = plain.body();
    let kept = Bytes::copy_from_slice(&body[..body.len() * percent / 100]);
    let mut reply = if sized {
        plain.header("content-length", body.len())
    } else {
        plain
    };
    reply.sized = false;
    reply.steps = vec![Step::Flush, Step::Bytes(kept), Step::Flush, Step::Fail];
    reply
}

/// Puts a pause before the end.
fn stalled(mut reply: Reply, pause: Step) -> Reply {
    let end = reply.steps.len().saturating_sub(1);
    reply.steps.insert(end, pause);
    reply
}

/// Sends the body byte by byte, after the time that a slow head takes.
fn trickled(plain: Reply, pause: Duration) -> Reply {
    let bytes = plain.body();
    let mut reply = plain.header("connection", "close");
    let each = bytes
        .iter()
        .map(|byte| Step::Bytes(Bytes::copy_from_slice(&[*byte])));
    let paced = each.flat_map(|byte| [Step::Wait(pause), byte]);
    reply.steps = [Step::Wait(pause * USUAL_HEAD)]
        .into_iter()
        .chain(paced)
        .collect();
    reply
}

fn hanging_up(mut reply: Reply) -> Reply {
    reply.hangs_up = true;
    reply
}
