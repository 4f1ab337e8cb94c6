//! Jobs as the operator sees them, and takes them back.

use crate::http::{Answer, ask, repeat_until};
use crate::support::{QUICK, World, servers, sleeping, start_with, taking};
use serde_json::json;

/// Makes a call of the admin interface.
fn call(world: &World, method: &str, path: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    ask(world.address, &head)
}

#[test]
fn an_operator_sees_a_jobs_preview_and_takes_it_back() {
    let mut config = taking(10);
    (config.previews, config.progress_steps) = (100, 100);
    let world = start_with(servers([config]), QUICK(), "", |settings| {
        settings.admin.open_on_loopback = true;
    });
    let caller = world.caller("one");
    let [id, waiting] = [(); 2].map(|()| caller.queue(&sleeping("me", 15.0)));
    let preview = format!("/lb/jobs/{id}/preview");
    repeat_until("a preview comes", || {
        call(&world, "GET", &preview).status == 200
    });
    let picture = call(&world, "GET", &preview);
    assert_eq!(picture.header("content-type"), Some("image/png"));
    assert!(picture.body.starts_with(b"\x89PNG"));
    let none = call(&world, "GET", &format!("/lb/jobs/{waiting}/preview"));
    assert_eq!(none.status, 404, "{}", none.text());
    for id in [&waiting, &id] {
        let answer = call(&world, "POST", &format!("/lb/jobs/{id}/cancel?pool=images"));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    caller.ended(&id);
    let again = call(&world, "POST", &format!("/lb/jobs/{id}/cancel"));
    assert_eq!(again.status, 404, "{}", again.text());
    let told = caller.get_json(&format!("/lb/comfyui/jobs/{id}"));
    assert_eq!(told["status"], json!("cancelled"));
}
