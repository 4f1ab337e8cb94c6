//! Files, information, guards, the page.

use super::*;

fn upload(comfy: &Comfy, path: &str, fields: &[(&str, &str)], file: Option<(&str, &str)>) -> Reply {
    let mut body = String::new();
    for (name, value) in fields {
        body +=
            &format!("--cut\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    if let Some((name, content)) = file {
        body += &format!(
            "--cut\r\ncontent-disposition: form-data; name=\"image\"; filename=\"{name}\"\r\n\
             content-type: image/png\r\n\r\n{content}\r\n"
        );
    }
    body += "--cut--\r\n";
    let lines = "content-type: multipart/form-data; boundary=cut\r\n";
    comfy.ask("POST", path, lines, body.as_bytes())
}

#[test]
fn uploads_are_named_viewed_and_usable_on_their_server_only() {
    let (comfy, other) = (start(quick()), start(quick()));
    let put = |fields: &[(&str, &str)], file| {
        upload(&comfy, "/api/upload/image", fields, Some(file)).json()
    };
    let named = |name: &str, subfolder: &str| json!({ "name": name, "subfolder": subfolder, "type": "input" });
    assert_eq!(put(&[], ("a.png", "one")), named("a.png", ""));
    assert_eq!(put(&[], ("a.png", "one")), named("a.png", ""));
    assert_eq!(put(&[], ("a.png", "two")), named("a (1).png", ""));
    assert_eq!(
        put(&[("overwrite", "true")], ("a.png", "three")),
        named("a.png", "")
    );
    assert_eq!(
        put(&[("subfolder", "sub")], ("b.html", "<p>")),
        named("b.html", "sub")
    );
    let temp = put(&[("type", "temp")], ("t.png", "t"));
    assert_eq!(temp["type"], "temp");
    assert_eq!(comfy.get("/view?type=input&filename=a.png").body, b"three");
    assert_eq!(
        comfy.get("/view?type=input&filename=a%20(1).png").body,
        b"two"
    );
    let page = comfy.get("/view?type=input&subfolder=sub&filename=b.html");
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, Some("application/octet-stream"))
    );
    for (query, status) in [
        ("filename=a.png", 404),
        ("", 404),
        ("filename=", 400),
        ("filename=/etc/passwd", 400),
        ("filename=..%2Fa.png&type=input", 400),
        ("filename=a.png&type=none", 400),
        ("filename=a.png&type=input&subfolder=..", 403),
    ] {
        assert_eq!(
            comfy.get(&format!("/view?{query}")).status,
            status,
            "{query}"
        );
    }
    assert_eq!(upload(&comfy, "/upload/image", &[], None).status, 400);
    assert_eq!(
        upload(
            &comfy,
            "/upload/image",
            &[("subfolder", "../x")],
            Some(("a", "a"))
        )
        .status,
        400
    );
    assert_eq!(comfy.report().uploads, 6);

    let prompt = json!({
        "1": { "class_type": "LoadImage", "inputs": { "image": "a.png" } },
        "2": { "class_type": "SaveImage", "inputs": { "images": ["1", 0], "filename_prefix": "x" } },
    });
    comfy.queue(&uuid(1), &prompt);
    let reply = other.post("/prompt", &json!({ "prompt": prompt }));
    assert_eq!(refusal(&reply).1, "prompt_outputs_failed_validation");
}

#[test]
fn a_mask_needs_its_picture() {
    let comfy = start(quick());
    let original = r#"{"filename":"a.png","type":"input"}"#;
    let put = |fields: &[(&str, &str)]| {
        upload(&comfy, "/upload/mask", fields, Some(("m.png", "m"))).status
    };
    assert_eq!(put(&[("original_ref", original)]), 404);
    upload(&comfy, "/upload/image", &[], Some(("a.png", "a")));
    assert_eq!(put(&[("original_ref", original)]), 200);
    assert_eq!(put(&[]), 500);
}

#[test]
fn pictures_of_two_servers_have_equal_names_and_differ() {
    let servers = ["left", "right"].map(|id| {
        start(ComfyConfig {
            id: Some(id.to_owned()),
            ..quick()
        })
    });
    let pictures = servers.each_ref().map(|comfy| {
        comfy.queue(&uuid(1), &graph());
        comfy.wait_until(|report| report.finished == 1);
        comfy
            .get("/api/view?filename=ComfyUI_00001_.png&type=output&subfolder=")
            .body
    });
    assert_ne!(pictures[0], pictures[1]);
    for (picture, comfy) in pictures.iter().zip(&servers) {
        let text = format!("server\0{}", comfy.id()).into_bytes();
        assert!(picture.windows(text.len()).any(|window| window == text));
    }
}

#[test]
fn it_tells_of_itself_as_its_age_does() {
    let comfy = start(quick());
    let stats = comfy.get_json("/system_stats");
    assert!(
        stats["system"]["comfyui_version"].is_string() && stats["devices"][0]["vram_free"].is_u64()
    );
    let info = comfy.get_json("/object_info");
    assert_eq!(info.as_object().unwrap().len(), ComfyConfig::NODES.len());
    let sampler = &comfy.get_json("/api/object_info/KSampler")["KSampler"];
    assert_eq!(*sampler, info["KSampler"]);
    assert_eq!(
        (&sampler["output"], &sampler["output_node"]),
        (&json!(["LATENT"]), &json!(false))
    );
    let steps = &sampler["input"]["required"]["steps"];
    assert_eq!(
        *steps,
        json!(["INT", { "default": 20, "min": 1, "max": 10_000 }])
    );
    assert!(info["LoadImage"]["input"]["required"]["image"][0].is_array());
    assert_eq!(info["SaveImage"]["output_node"], true);
    let report = comfy.report();
    assert_eq!(report.calls_of("GET /object_info"), 1);
    assert_eq!(report.calls_of("GET /object_info/{class}"), 1);
}

#[test]
fn it_lists_its_models_and_answers_404_to_the_rest() {
    let comfy = start(quick());
    assert_eq!(
        comfy
            .get_json("/models/checkpoints")
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(comfy.get_json("/models/loras"), json!([]));
    assert_eq!(comfy.get("/models/none").status, 404);
    assert!(
        comfy
            .get_json("/models")
            .as_array()
            .unwrap()
            .contains(&json!("loras"))
    );
    assert_eq!(comfy.get_json("/embeddings"), json!([]));
    assert!(comfy.get_json("/extensions").is_array());
    assert_eq!(comfy.get_json("/features")["max_upload_size"], 100 << 20);
    let metadata = "/view_metadata/checkpoints?filename=";
    assert_eq!(
        comfy
            .get(&format!("{metadata}sd_xl_base_1.0.safetensors"))
            .status,
        200
    );
    assert_eq!(
        comfy.get(&format!("{metadata}none.safetensors")).status,
        404
    );
    assert_eq!(
        (comfy.get("/none").status, comfy.get("/api/").status),
        (404, 404)
    );
    assert_eq!(comfy.post("/none", &json!({})).status, 405);
    assert_eq!(comfy.report().statuses[&404], 4);
    let old = start(ComfyConfig {
        age: ComfyAge::Y2025,
        ..quick()
    });
    assert!(old.get_json("/features").get("node_replacements").is_none());
}

#[test]
fn settings_and_files_of_the_user_are_kept() {
    let mut comfy = start(quick());
    assert_eq!(
        comfy.get_json("/users"),
        json!({ "storage": "server", "migrated": true })
    );
    assert_eq!(
        comfy.post("/settings", &json!({ "a": 1, "b": 2 })).status,
        200
    );
    assert_eq!(comfy.post("/api/settings/b", &json!([3])).status, 200);
    let put = |path: &str, body: &str| comfy.ask("POST", path, "", body.as_bytes()).status;
    assert_eq!(put("/userdata/workflows%2Fa.json", "{}"), 200);
    assert_eq!(
        put("/userdata/workflows%2Fa.json?overwrite=false", "{}"),
        409
    );
    assert_eq!(put("/userdata/..%2Fa", "x"), 403);
    assert_eq!(comfy.get_json("/userdata?dir=workflows"), json!(["a.json"]));
    assert_eq!(
        (
            comfy.get("/userdata").status,
            comfy.get("/userdata?dir=x").status
        ),
        (400, 404)
    );
    assert_eq!(put("/userdata/workflows%2Fa.json/move/b.json", ""), 200);
    comfy.restart().unwrap();
    assert_eq!(comfy.get_json("/settings"), json!({ "a": 1, "b": [3] }));
    assert_eq!(
        (comfy.get_json("/settings/b"), comfy.get_json("/settings/c")),
        (json!([3]), json!(null))
    );
    assert_eq!(comfy.get("/userdata/b.json").body, b"{}");
    let delete = || comfy.ask("DELETE", "/userdata/b.json", "", b"").status;
    assert_eq!((delete(), delete()), (204, 404));
}

#[test]
fn a_foreign_page_is_refused_on_a_loopback_host() {
    let port = |comfy: &Comfy| comfy.address().port();
    let comfy = start(quick());
    let own = format!("host: 127.0.0.1:{}\r\n", port(&comfy));
    let status = |comfy: &Comfy, method: &str, path: &str, lines: &str| {
        let reply = comfy.ask(method, path, lines, b"");
        assert!(reply.status != 403 || reply.body.is_empty());
        reply.status
    };
    let evil = format!("{own}origin: http://evil.example\r\n");
    assert_eq!(status(&comfy, "GET", "/prompt", &evil), 403);
    assert_eq!(status(&comfy, "POST", "/interrupt", &evil), 403);
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(
        status(&comfy, "GET", "/ws", &format!("{evil}{upgrade}")),
        403
    );
    assert_eq!(
        status(&comfy, "GET", "/ws", &format!("{own}{upgrade}")),
        101
    );
    assert_eq!(status(&comfy, "GET", "/ws", &own), 400);
    let same = format!("{own}origin: http://127.0.0.1:{}\r\n", port(&comfy));
    assert_eq!(status(&comfy, "GET", "/prompt", &same), 200);
    let elsewhere = "host: comfy.lan\r\norigin: http://evil.example\r\n";
    assert_eq!(status(&comfy, "GET", "/prompt", elsewhere), 200);
    assert_eq!(status(&comfy, "OPTIONS", "/prompt", &own), 200);
    let cross_site = format!("{own}sec-fetch-site: cross-site\r\n");
    assert_eq!(status(&comfy, "GET", "/prompt", &cross_site), 403);
    let old = start(ComfyConfig {
        age: ComfyAge::Y2025,
        ..quick()
    });
    assert_eq!(status(&old, "GET", "/prompt", &cross_site), 200);

    let open = start(ComfyConfig {
        guard: ComfyGuard::Cors("*".to_owned()),
        ..quick()
    });
    let reply = open.ask("GET", "/prompt", &evil, b"");
    assert_eq!(
        (reply.status, reply.header("access-control-allow-origin")),
        (200, Some("*"))
    );
    assert!(
        reply
            .header("access-control-allow-methods")
            .unwrap()
            .ends_with("PATCH")
    );
    assert_eq!(
        reply.header("access-control-allow-credentials"),
        Some("true")
    );
}

#[test]
fn the_page_is_whole_and_names_its_server() {
    let comfy = start(quick());
    let page = comfy.get("/").text();
    assert!(
        page.contains("data-age=\"2026\"") && page.contains(&format!("<h1>{}</h1>", comfy.id()))
    );
    for id in [
        "status",
        "queue",
        "result",
        "queue-prompt",
        "reconnects",
        "progress",
        "preview",
    ] {
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    }
    assert!(!page.contains("{{"));
}

#[test]
fn the_node_list_can_be_slow() {
    let comfy = start(quick());
    comfy.set_object_info_delay(Duration::from_secs(600));
    let mut client = comfy.client();
    client.demand("GET", "/object_info", "", b"");
    comfy.wait_until(|report| report.calls_of("GET /object_info") == 1);
    assert_eq!(comfy.get("/prompt").status, 200);
    assert!(comfy.report().statuses.get(&200) == Some(&1));
    comfy.set_object_info_delay(Duration::ZERO);
    assert_eq!(comfy.get("/object_info").status, 200);
}
