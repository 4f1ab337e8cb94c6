//! Kill, restart, stall, silence, a dead worker.

use super::events::{Socket, runtime};
use super::*;
use crate::client::End;
use std::io::ErrorKind;
use std::net::TcpStream;

/// Time in which something that must not happen would have happened.
const MOMENT: Duration = Duration::from_millis(150);

/// Runs two prompts: 1 saves a picture, 2 shows an upload. Returns the path of the temporary picture.
fn fill(comfy: &Comfy) -> String {
    comfy.queue(&uuid(1), &graph());
    comfy.wait_until(|report| report.finished == 1);
    let preview = json!({
        "1": { "class_type": "LoadImage", "inputs": { "image": "in.png" } },
        "2": { "class_type": "PreviewImage", "inputs": { "images": ["1", 0] } },
    });
    let form = "--b\r\ncontent-disposition: form-data; name=\"image\"; filename=\"in.png\"\r\n\r\nx\r\n--b--\r\n";
    let lines = "content-type: multipart/form-data; boundary=b\r\n";
    assert_eq!(
        comfy
            .ask("POST", "/upload/image", lines, form.as_bytes())
            .status,
        200
    );
    comfy.queue(&uuid(2), &preview);
    comfy.wait_until(|report| report.finished == 2);
    let history = comfy.get_json("/history");
    let temp = history[uuid(2)]["outputs"]["2"]["images"][0]["filename"]
        .as_str()
        .unwrap()
        .to_owned();
    let temp = format!("/view?type=temp&filename={temp}");
    assert_eq!(comfy.get(&temp).status, 200);
    temp
}

#[test]
fn a_kill_resets_connections_and_loses_all_but_files_and_report() {
    let mut comfy = start(quick());
    let temp = fill(&comfy);
    comfy.queue(&uuid(3), &sleep(60.0));
    comfy.queue(&uuid(4), &sleep(60.0));
    comfy.wait_until(|report| report.running.is_some());
    let mut idle = comfy.client();
    idle.demand("GET", "/prompt", "", b"");
    idle.receive().unwrap();
    let runtime = runtime();
    let mut socket = runtime.block_on(Socket::open(&comfy, "?clientId=a"));

    comfy.kill().unwrap();
    assert_eq!(idle.read_all().1, End::Reset);
    let frames = runtime.block_on(socket.rest());
    assert!(frames.len() <= 2, "those from before the kill: {frames:?}");
    let refused = TcpStream::connect(comfy.address()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let report = comfy.report();
    assert_eq!((report.connections_open, report.websockets_open), (0, 0));
    assert_eq!(
        (report.lost, report.pending, &report.running),
        (2, 0, &None)
    );
    assert_eq!(
        (
            report.prompts[&uuid(3)].lost,
            report.prompts[&uuid(3)].started
        ),
        (1, 1)
    );
    assert_eq!(
        (
            report.prompts[&uuid(4)].lost,
            report.prompts[&uuid(4)].started
        ),
        (1, 0)
    );

    comfy.restart().unwrap();
    assert_eq!(comfy.get_json("/history"), json!({}));
    assert_eq!(
        comfy.get_json("/queue"),
        json!({ "queue_running": [], "queue_pending": [] })
    );
    assert_eq!(comfy.get("/view?filename=ComfyUI_00001_.png").status, 200);
    assert_eq!(comfy.get("/view?filename=in.png&type=input").status, 200);
    assert_eq!(comfy.get(&temp).status, 404);
    assert_eq!(
        comfy.queue(&uuid(5), &graph())["number"],
        0,
        "the counter is lost"
    );
    comfy.wait_until(|report| report.finished == 3);
    let outputs = &comfy.get_json("/history")[uuid(5)]["outputs"];
    assert_eq!(
        outputs["6"]["images"][0]["filename"], "ComfyUI_00002_.png",
        "files are not overwritten"
    );
    let report = comfy.stop();
    assert_eq!(
        (report.restarts, report.accepted, report.finished),
        (1, 5, 3)
    );
}

#[test]
fn a_stalled_server_answers_nothing_and_its_job_stands_still() {
    let comfy = start(quick());
    let mut idle = comfy.client();
    comfy.queue(&uuid(1), &sleep(0.1));
    comfy.wait_until(|report| report.running.is_some());
    comfy.set_stalled(true);
    idle.demand("GET", "/prompt", "", b"");
    let mut new = comfy.client();
    new.demand("GET", "/queue", "", b"");
    assert!(!comfy.wait(MOMENT, |report| report.finished > 0
        || report.calls_of("GET /queue") > 0));
    // The testbed itself answers.
    assert_eq!(comfy.get_json("/testbed/report")["finished"], 0);
    comfy.set_stalled(false);
    assert_eq!(
        (
            idle.receive().unwrap().status,
            new.receive().unwrap().status
        ),
        (200, 200)
    );
    comfy.wait_until(|report| report.finished == 1);
}

#[test]
fn a_dead_worker_accepts_prompts_and_runs_none_until_a_restart() {
    let mut comfy = start(quick());
    comfy.kill_worker();
    comfy.queue(&uuid(1), &sleep(0.0));
    assert!(!comfy.wait(MOMENT, |report| report.started > 0));
    let queue = comfy.get_json("/queue");
    assert_eq!(queue["queue_running"], json!([]));
    assert_eq!(queue["queue_pending"][0][1], uuid(1));
    comfy.restart().unwrap();
    comfy.queue(&uuid(2), &sleep(0.0));
    comfy.wait_until(|report| report.finished == 1);
    // A prompt that runs when its worker dies is said to run for ever.
    comfy.queue(&uuid(3), &sleep(0.1));
    comfy.wait_until(|report| report.running.is_some());
    comfy.kill_worker();
    assert!(!comfy.wait(MOMENT, |report| report.finished > 1));
    assert_eq!(comfy.get_json("/queue")["queue_running"][0][1], uuid(3));
}

#[test]
fn a_silent_server_works_and_sends_no_frames() {
    let comfy = start(quick());
    comfy.set_silent(true);
    let runtime = runtime();
    let socket = runtime.block_on(Socket::open(&comfy, "?clientId=a"));
    let body = json!({ "prompt": sleep(0.0), "client_id": "a" });
    assert_eq!(comfy.post("/prompt", &body).status, 200);
    comfy.wait_until(|report| report.finished == 1);
    assert_eq!(
        (comfy.report().frames, comfy.report().websockets_open),
        (0, 1)
    );
    drop(socket);
    comfy.set_silent(false);
    comfy.wait_until(|report| report.websockets_open == 0);
    let first = runtime.block_on(async {
        let mut socket = Socket::open(&comfy, "?clientId=a").await;
        socket.next().await
    });
    assert!(first.is_some());
}

#[test]
fn speed_divides_and_seeds_repeat_the_times_of_jobs() {
    let comfy = start(ComfyConfig {
        speed: 1_000.0,
        ..quick()
    });
    comfy.queue(&uuid(1), &sleep(5.0));
    comfy.wait_until(|report| report.finished == 1);
    let no_speed = ComfyConfig {
        speed: 0.0,
        ..quick()
    };
    assert!(matches!(Comfy::start(no_speed), Err(ComfyError::Speed(_))));
}

#[test]
fn the_paths_of_the_testbed_report_and_change_settings() {
    let comfy = start(quick());
    let set = |query: &str| comfy.ask("POST", &format!("/testbed/set?{query}"), "", b"");
    let now = set("silent=true&object_info_delay=5ms&fault=error&count=2").json()["now"].clone();
    assert_eq!(
        now,
        json!({
            "silent": true,
            "stalled": false,
            "worker": "alive",
            "object_info_delay_ms": 5,
            "faults": 2,
        })
    );
    for bad in [
        "silent=maybe",
        "fault=none-such",
        "count=x",
        "x=1",
        "object_info_delay=soon",
    ] {
        assert_eq!(set(&format!("silent=false&{bad}")).status, 400, "{bad}");
    }
    assert_eq!(set("").json()["now"]["silent"], true, "all or none");
    assert_eq!(
        set("worker=dead&fault=none").json()["now"]["worker"],
        "dead"
    );
    let report = comfy.get_json("/testbed/report");
    assert_eq!(
        (&report["id"], &report["age"]),
        (&json!(comfy.id()), &json!("y2026"))
    );
    assert_eq!(report["calls"], json!({}), "its own paths do not count");
    assert_eq!(comfy.get("/testbed/set").status, 405);
    assert_eq!(comfy.get("/testbed/x").status, 404);
}
