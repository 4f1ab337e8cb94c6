//! Keys in errors and debug texts.

use super::*;

#[test]
fn a_key_echoed_by_the_service_is_masked() {
    let body = format!(r#"{{"error": {{"message": "bad key {KEY}", "code": "{KEY}"}}}}"#);
    let header = format!("x-request-id: {KEY}\r\n");
    let text = format!("bad key {KEY}");
    for echo in [
        reply(401, &header, &body),
        reply(403, "", &text),
        reply(200, "", &body),
        reply(301, &format!("location: /{KEY}\r\n"), ""),
    ] {
        let error = chat_with(echo).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("secret"), "{shown}");
        assert!(shown.contains("…5678"), "{shown}");
    }
    let untyped = chat_with(reply(200, "", &format!(r#"{{"a": "{text}"}}"#))).unwrap_err();
    assert_eq!(untyped.completion().unwrap().raw["a"], "bad key …5678");
}

#[test]
fn a_client_shows_no_key() {
    let server = Server::start(vec![success()]);
    let client = client();
    client.chat(&server.endpoint(), &request()).unwrap();
    let shown = format!("{client:?} {:?}", server.endpoint());
    assert!(!shown.contains("secret"), "{shown}");
}
