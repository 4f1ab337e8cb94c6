//! The doubles of ComfyUI servers as a process: flags, report.

use super::backends::Doubles;
use super::*;
use core::time::Duration;
use std::io::Write;
use std::net::TcpStream;

fn start(count: usize, arguments: &[&str]) -> Doubles {
    Doubles::start("comfyui", count, arguments)
}

fn ask(servers: &Doubles, index: usize, line: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(&servers.addresses[index]).expect("it listens");
    let length = body.len();
    let request =
        format!("{line} HTTP/1.1\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("it answers");
    reply
}

#[test]
fn comfyui_servers_run_prompts_as_the_flags_say_and_report_what_they_saw() {
    let first = std::net::TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let port = first.local_addr().expect("an address").port();
    drop(first);
    let servers = start(
        2,
        &[
            "--ports",
            &format!("{port},0"),
            "--json",
            "--age",
            "2025",
            "--speed",
            "1000,0.001",
            "--job-time",
            "2s..5s",
            "--checkpoints",
            &format!("{port}=own.safetensors,other.safetensors"),
            "--custom-nodes",
            "FaceDetailer",
        ],
    );
    let models = |index| ask(&servers, index, "GET /models/checkpoints", "");
    assert!(models(0).ends_with("[\"own.safetensors\",\"other.safetensors\"]"));
    assert!(models(1).contains("v1-5-pruned-emaonly"));
    assert!(ask(&servers, 1, "GET /object_info/FaceDetailer", "").contains("custom_nodes"));
    assert!(ask(&servers, 0, "GET /api/jobs", "").starts_with("HTTP/1.1 404 "));
    let body =
        r#"{"prompt_id":"p","prompt":{"1":{"class_type":"TestbedSleep","inputs":{"seconds":1}}}}"#;
    for index in 0..2 {
        assert!(ask(&servers, index, "POST /prompt", body).starts_with("HTTP/1.1 200 "));
    }
    while !ask(&servers, 0, "GET /history/p", "").contains("execution_success") {
        thread::sleep(Duration::from_millis(5));
    }
    let report = servers.stop();
    let report: Value = serde_json::from_str(&report).expect("it is JSON");
    let servers = &report["servers"];
    assert_eq!(
        (&servers[0]["finished"], &servers[1]["finished"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(servers[1]["prompts"]["p"]["accepted"], 1);
    assert_eq!(servers[0]["id"], format!("comfy-{port}"));
}

#[test]
fn wrong_flags_of_comfyui_servers_say_what_to_write() {
    for (arguments, advice) in [
        (["--ports", "8188,8188"], "8188 is there twice"),
        (["--speed", "1,2,3"], "write one, or one for each"),
        (["--speed", "0"], "must be a number above 0"),
        (["--age", "2024"], "write 2025 or 2026"),
        (["--nodes", "9=KSampler"], "9 is not one of the --ports"),
        (["--job-time", "5s..2s"], "write the shorter duration first"),
    ] {
        let arguments: Vec<_> = ["testbed", "comfyui"]
            .into_iter()
            .chain(arguments)
            .collect();
        let output = leasehold()
            .args(&arguments)
            .output()
            .expect("the command runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let problem = text(&output.stderr);
        assert!(problem.contains(advice), "{problem}");
    }
}
