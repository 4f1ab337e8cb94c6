//! Facts about the server: features, versions, nodes, models.
//!
//! Invariant: facts that differ between the two ages are told as of the played one.

use super::files::bare;
use super::nodes::Kind;
use super::route::Query;
use super::state::Studio;
use crate::reply::Reply;
use serde_json::{Value, json};

/// The folders of models.
const FOLDERS: [&str; 8] = [
    "checkpoints",
    "loras",
    "vae",
    "text_encoders",
    "diffusion_models",
    "controlnet",
    "upscale_models",
    "embeddings",
];

/// Memory of the machine and of its one device, in bytes.
const MEMORY: u64 = 32 << 30;

impl Studio {
    /// Features of the server, as told in `/features` and on websockets.
    pub(super) fn features(&self) -> Value {
        let most = self.config.max_upload_size;
        if !self.age().is_2026() {
            return json!({ "supports_preview_metadata": true, "max_upload_size": most });
        }
        json!({
            "supports_preview_metadata": true,
            "supports_model_type_tags": true,
            "max_upload_size": most,
            "extension": { "manager": { "supports_v4": true } },
            "node_replacements": true,
            "assets": false,
        })
    }
}

/// `GET /system_stats`.
pub(super) fn system_stats(studio: &Studio) -> Reply {
    let is_2026 = studio.age().is_2026();
    let mut stats = json!({
        "system": {
            "os": "posix",
            "ram_total": MEMORY,
            "ram_free": MEMORY / 2,
            "comfyui_version": if is_2026 { "0.14.0" } else { "0.3.64" },
            "required_frontend_version": if is_2026 { "1.39.0" } else { "1.27.10" },
            "python_version": "3.12.11 (main)",
            "pytorch_version": "2.8.0+cu128",
            "embedded_python": false,
            "argv": ["main.py", "--port", studio.address.port().to_string()],
        },
        "devices": [{
            "name": format!("cuda:0 {}", studio.id),
            "type": "cuda",
            "index": 0,
            "vram_total": MEMORY,
            "vram_free": MEMORY / 2,
            "torch_vram_total": MEMORY / 4,
            "torch_vram_free": MEMORY / 8,
        }],
    });
    if is_2026 {
        stats["system"]["deploy_environment"] = json!("local-git");
    }
    Reply::json(200, &stats)
}

/// `GET /object_info`, of all classes or of one; an unknown one has none.
pub(super) fn object_info(studio: &Studio, class: Option<&str>) -> Reply {
    let files = studio.read(|state| state.disk.input_files());
    Reply::json(200, &studio.classes.info(class, &files))
}

/// `GET /models`.
pub(super) fn models() -> Reply {
    Reply::json(200, &json!(FOLDERS))
}

/// `GET /models/{folder}`.
pub(super) fn models_in(studio: &Studio, folder: &str) -> Reply {
    if !FOLDERS.contains(&folder) {
        return bare(404);
    }
    let files: &[String] = match folder {
        "checkpoints" => &studio.classes.checkpoints,
        _ => &[],
    };
    Reply::json(200, &json!(files))
}

/// `GET /view_metadata/{folder}`: only checkpoints have some.
pub(super) fn view_metadata(studio: &Studio, query: &Query) -> Reply {
    let name = query.get("filename").unwrap_or_default();
    let is_there = studio.classes.checkpoints.iter().any(|file| file == name);
    if !is_there || !name.ends_with(".safetensors") {
        return bare(404);
    }
    Reply::json(200, &json!({ "modelspec.title": name }))
}

/// `GET /extensions`: the scripts of custom nodes.
pub(super) fn extensions(studio: &Studio) -> Reply {
    let is_custom = |name: &&String| {
        let files = studio.classes.get(name);
        files.is_some_and(|class| {
            class
                .inputs
                .iter()
                .all(|input| input.kind == Kind::Link("*"))
        })
    };
    let custom = studio.config.custom_nodes.iter().filter(is_custom);
    let scripts = custom.map(|name| format!("/extensions/{name}/index.js"));
    Reply::json(200, &json!(scripts.collect::<Vec<_>>()))
}
