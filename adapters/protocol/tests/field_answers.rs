//! Answers of real services, from public bug reports of similar tools, each with what is right.
//!
//! `field-answers.jsonl` holds the raw bytes of each answer, one character a byte.

use core::time::Duration;
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use leasehold_protocol::verdict::{
    Answer, Context, Fate, Kind, Next, Outcome, Pause, Tally, Verdict, read,
};
use leasehold_protocol::{Call, Completion, Note};
use serde_json::Value;
use std::io::Read;

/// 2026-11-28T18:02:03Z, one second after the answers were sent.
const NOW: Duration = Duration::from_secs(1_795_888_923);

/// Parses an HTTP/1.1 answer.
fn parse(raw: &[u8]) -> (StatusCode, HeaderMap, Vec<u8>) {
    let end = raw
        .windows(4)
        .position(|it| it == b"\r\n\r\n")
        .expect("a head");
    let head = core::str::from_utf8(&raw[..end]).expect("a head of ASCII");
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .expect("a status");
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').expect("a header");
        let name: HeaderName = name.parse().expect("a name");
        headers.append(name, HeaderValue::from_str(value.trim()).expect("a value"));
    }
    let mut body = raw[end + 4..].to_vec();
    if headers
        .get("content-encoding")
        .is_some_and(|it| it == "gzip")
    {
        let mut plain = Vec::new();
        GzDecoder::new(&*body)
            .read_to_end(&mut plain)
            .expect("a gzip body");
        body = plain;
    }
    (status.parse().expect("a number"), headers, body)
}

struct Judged {
    verdict: Verdict,
    completion: Option<Completion>,
}

impl Judged {
    fn rests(&self, millis: u64) {
        let wait = Duration::from_millis(millis);
        assert_eq!(self.verdict.kind, Kind::RateLimited);
        assert_eq!(self.verdict.fate, Fate::Rest(Pause::Told(wait)));
        assert_eq!(self.verdict.outcome, Outcome::Throttled);
        let (wait, tally) = (Duration::ZERO, Tally::Free);
        assert_eq!(self.verdict.next, Next::RetryAfter { wait, tally });
    }

    fn rejects_the_key(&self) {
        assert_eq!(self.verdict.kind, Kind::QuotaUsedUp);
        assert_eq!(self.verdict.fate, Fate::Reject);
        let tally = Tally::Free;
        assert_eq!(self.verdict.next, Next::OtherMember { tally });
    }

    fn is_patient(&self, tally: Tally) {
        assert_eq!(self.verdict.fate, Fate::Rest(Pause::Overload));
        assert_eq!(self.verdict.outcome, Outcome::Failed);
        let wait = Duration::ZERO;
        assert_eq!(self.verdict.next, Next::RetryAfter { wait, tally });
    }

    fn says(&self, part: &str) {
        let message = &self.verdict.message;
        assert!(message.contains(part), "{part} in {message}");
    }

    fn answer(&self, content: &str) -> &Completion {
        assert_eq!(self.verdict.kind, Kind::Answer, "{}", self.verdict);
        assert_eq!(
            (self.verdict.outcome, self.verdict.next),
            (Outcome::Ok, Next::Done)
        );
        let completion = self.completion.as_ref().expect("a completion");
        assert_eq!(completion.choice.content, content);
        completion
    }
}

fn check(name: &str, judged: &Judged) {
    let verdict = &judged.verdict;
    let usage = || verdict.usage.and_then(|usage| usage.total_tokens);
    match name {
        "ra_skew" => judged.rests(2_000),
        "ra_xms" | "reset_dur" | "reset_epoch" | "reset_iso" => judged.rests(3_000),
        "body_hint" => judged.rests(3_200),
        "quota" | "quota_billing" | "quota_400" => judged.rejects_the_key(),
        "poison" => {
            assert_eq!(
                (verdict.kind, verdict.fate),
                (Kind::TooLarge, Fate::TooSmall)
            );
            let tally = Tally::Attempt;
            assert_eq!(verdict.next, Next::OtherMember { tally });
            assert_eq!(
                (verdict.limits[0].limit, verdict.outcome),
                (Some(30_000), Outcome::Ok)
            );
        }
        "e529" => judged.is_patient(Tally::Free),
        "e524" => {
            judged.is_patient(Tally::AttemptUnlessOutage);
            judged.says("from Cloudflare, not from the service: api | 524: A timeout occurred");
        }
        "err200" | "err200_choice" => judged.is_patient(Tally::AttemptUnlessOutage),
        "parts" => assert_eq!((judged.answer("hello").notes.len(), usage()), (0, Some(5))),
        "reasoning" => {
            let answer = judged.answer("42");
            assert_eq!(answer.choice.reasoning.as_deref(), Some("thinking..."));
        }
        "tools" => assert_eq!(
            judged.answer("").choice.tool_calls[0]["function"]["name"],
            "f"
        ),
        "refusal" => {
            let answer = judged.answer("");
            assert_eq!(answer.choice.refusal.as_deref(), Some("I can't help"));
        }
        "surrogate" => assert_eq!(judged.answer("hello \u{fffd}").notes, [Note::LoneSurrogate]),
        "nan" => assert_eq!(judged.answer("hello").notes, [Note::NotANumber]),
        "sse" => assert_eq!(judged.answer("hello").notes, [Note::StreamForJson]),
        "gzip" => assert_eq!(
            judged.answer("ok").choice.finish_reason.as_deref(),
            Some("stop")
        ),
        "deep" => assert_eq!(judged.answer("a").notes, [Note::TooDeep]),
        "no_max_tokens" => {
            assert_eq!(
                (verdict.kind, verdict.next),
                (Kind::BadRequest, Next::GiveUp)
            );
            assert_eq!(
                verdict.error.as_ref().and_then(|it| it.param.as_deref()),
                None
            );
            judged.says("Use 'max_completion_tokens' instead");
        }
        "nochoices" => {
            let (wait, tally) = (Duration::ZERO, Tally::Attempt);
            assert_eq!(
                (verdict.kind, verdict.next),
                (Kind::EmptyAnswer, Next::RetryAfter { wait, tally })
            );
            assert_eq!(usage(), Some(5));
        }
        "redirect" => {
            assert_eq!((verdict.kind, verdict.next), (Kind::Redirected, Next::Stop));
            judged.says("redirected to /v1/chat/completions/, which was not followed");
        }
        "e404" => {
            assert_eq!((verdict.kind, verdict.next), (Kind::WrongModel, Next::Stop));
            judged.says("The model `x` does not exist; check the name of the model");
        }
        other => panic!("no expectation for {other}"),
    }
}

#[test]
fn every_answer_from_the_field_is_judged_right() {
    let lines = include_str!("field-answers.jsonl").lines();
    let mut count = 0;
    for line in lines {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        let name = line["name"].as_str().expect("a name");
        let text = line["answer"].as_str().expect("an answer");
        let raw: Vec<u8> = text
            .chars()
            .map(|c| u8::try_from(c).expect("latin-1"))
            .collect();
        let (status, headers, body) = parse(&raw);
        let answer = Answer {
            status,
            headers: &headers,
            body: Some(&body),
        };
        let context = Context {
            call: Call::Chat,
            key: None,
        };
        let (verdict, completion) = read(&answer, NOW, &context);
        println!("{name}: {verdict} ({:?}, {:?})", verdict.kind, verdict.next);
        check(
            name,
            &Judged {
                verdict,
                completion,
            },
        );
        count += 1;
    }
    assert_eq!(count, 27);
}
