//! Faults of `POST /prompt`, slow readers, many sockets.

use super::events::{Socket, block_on};
use super::*;
use crate::client::End;
use std::net::TcpStream;

fn post_raw(comfy: &Comfy, id: &str) -> Client {
    let mut client = comfy.client();
    let body = json!({ "prompt": sleep(0.0), "prompt_id": id }).to_string();
    client.demand("POST", "/prompt", "", body.as_bytes());
    client
}

#[test]
fn ambiguous_faults_queue_the_prompt_and_the_others_do_not() {
    let comfy = start(quick());
    for fault in [
        ComfyFault::AcceptReset,
        ComfyFault::Reset,
        ComfyFault::AcceptSilence,
    ] {
        comfy.fail_prompts(1, fault);
    }
    assert_eq!(post_raw(&comfy, &uuid(1)).read_all().1, End::Reset);
    assert_eq!(post_raw(&comfy, &uuid(2)).read_all().1, End::Reset);
    let silent = post_raw(&comfy, &uuid(3));
    comfy.wait_until(|report| report.finished == 2);
    drop(silent);
    comfy.fail_prompts(1, ComfyFault::AcceptError);
    comfy.fail_prompts(2, ComfyFault::Error);
    comfy.fail_prompts(1, ComfyFault::Delay(Duration::from_millis(1)));
    let mut statuses = (4..8).map(|id| post_raw(&comfy, &uuid(id)).receive().unwrap().status);
    assert_eq!(
        [(); 4].map(|()| statuses.next().unwrap()),
        [500, 500, 500, 200]
    );
    comfy.fail_prompts(3, ComfyFault::Error);
    comfy.clear_faults();
    comfy.queue(&uuid(8), &sleep(0.0));
    comfy.wait_until(|report| report.finished == 5);
    let report = comfy.report();
    let run: Vec<_> = report
        .starts
        .iter()
        .map(|start| start.prompt_id.clone())
        .collect();
    assert_eq!(run, [1, 3, 4, 7, 8].map(uuid));
    assert_eq!(report.posted, 8);
    let faults = [
        ("accept-error", 1),
        ("accept-reset", 1),
        ("accept-silence", 1),
        ("delay", 1),
        ("error", 2),
        ("reset", 1),
    ];
    assert_eq!(
        report.faults,
        faults.map(|(name, count)| (name.to_owned(), count)).into()
    );
}

#[test]
fn a_reader_that_is_too_slow_is_dropped_and_holds_nothing_up() {
    let comfy = start(ComfyConfig {
        previews: 64,
        progress_steps: 64,
        preview_bytes: 1 << 20,
        max_socket_bytes: 2 << 20,
        ..quick()
    });
    block_on(async {
        // It never reads; the system takes a few MiB for it.
        let _slow = Socket::open(&comfy, "?clientId=slow").await;
        let mut reader = Socket::open(&comfy, "?clientId=reader").await;
        for _ in 0..2 {
            let body = json!({ "prompt": graph(), "client_id": "slow" });
            assert_eq!(comfy.post("/prompt", &body).status, 200);
        }
        comfy.wait_until(|report| report.finished == 2);
        comfy.wait_until(|report| report.websockets_dropped == 1 && report.websockets_open == 1);
        assert!(!reader.rest().await.is_empty());
    });
}

#[test]
fn many_sockets_are_told_of_the_queue() {
    const COUNT: usize = 200;
    let comfy = start(quick());
    block_on(async {
        let mut sockets = Vec::new();
        for number in 0..COUNT {
            sockets.push(Socket::open(&comfy, &format!("?clientId={number}")).await);
        }
        comfy.queue(&uuid(1), &sleep(0.0));
        let is_over = |kind: &str, data: &Value| {
            kind == "status"
                && data.get("sid").is_none()
                && data["status"]["exec_info"]["queue_remaining"] == 0
        };
        for socket in &mut sockets {
            socket.until(is_over).await;
        }
    });
    let report = comfy.report();
    assert_eq!(
        (report.max_websockets, report.websockets_opened),
        (200, 200)
    );
    comfy.wait_until(|report| report.websockets_open == 0);
}

#[test]
fn a_body_may_be_large_and_no_larger() {
    let comfy = start(ComfyConfig {
        max_upload_size: 1 << 20,
        ..quick()
    });
    let padding =
        |length: usize| json!({ "prompt": sleep(0.0), "extra_data": { "x": "x".repeat(length) } });
    assert_eq!(comfy.post("/prompt", &padding(900_000)).status, 200);
    let mut client = comfy.client();
    client.send("POST /prompt HTTP/1.1\r\nhost: x\r\ncontent-length: 1048577\r\n\r\n");
    assert_eq!(client.receive().unwrap().status, 413);
    // A connection that sends nothing is no trouble.
    let idle = TcpStream::connect(comfy.address()).unwrap();
    assert_eq!(comfy.get("/prompt").status, 200);
    drop(idle);
    comfy.wait_until(|report| report.connections_open == 0);
}
