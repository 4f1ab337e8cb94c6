//! The settings of a ComfyUI double.

use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};
use core::str::FromStr;
use core::time::Duration;
use serde::Serialize;

/// Settings of a [`Comfy`](super::Comfy).
///
/// By default it is of 2026, has the usual nodes and two checkpoints, runs a job in 100 ms, and listens on a free port
/// of 127.0.0.1.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ComfyConfig {
    /// Address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Name in its pictures and its report: `comfy-PORT` by default.
    pub id: Option<String>,
    /// Version of the interface that it plays.
    pub age: ComfyAge,
    /// Time of a job, unless nodes of class `TestbedSleep` say it.
    pub job_time: ComfyJobTime,
    /// Speed of the server: 2 halves the time of every job. Must be above 0.
    pub speed: f64,
    /// Progress steps of each node that takes time.
    pub progress_steps: u32,
    /// Previews of each job, sent after its progress steps.
    pub previews: u32,
    /// Size of each preview, in bytes; the least is that of an empty PNG.
    pub preview_bytes: usize,
    /// Classes of nodes that it has, of [`ComfyConfig::NODES`]; others are custom nodes.
    pub nodes: Vec<String>,
    /// Custom nodes, which take any `input` and pass it on. Each sends an event of its own, which names no job.
    pub custom_nodes: Vec<String>,
    /// Checkpoint files, the only values that `ckpt_name` may have.
    pub checkpoints: Vec<String>,
    /// Whether nodes that are the same as in the job before are not run again. Off, so that a job takes its time.
    pub is_caching: bool,
    /// Guard against pages of other sites.
    pub guard: ComfyGuard,
    /// Most bytes of a request's body; more get 413. 100 MiB by default.
    pub max_upload_size: usize,
    /// Bytes that may wait for a slow reader of a websocket; beyond them it is dropped. 16 MiB by default.
    pub max_socket_bytes: usize,
    /// Pause before each answer of `/object_info`.
    pub object_info_delay: Duration,
    /// Seed of the drawn job times and ids.
    pub seed: u64,
}

impl ComfyConfig {
    /// The classes of nodes that a server can have; all of them by default.
    ///
    /// `TestbedVideo` takes a file from a list that does not say that it may be uploaded; `TestbedSleep` takes the time of its input `seconds`, `TestbedFail` raises an exception; both are outputs.
    pub const NODES: [&str; 11] = [
        "CheckpointLoaderSimple",
        "CLIPTextEncode",
        "EmptyLatentImage",
        "KSampler",
        "VAEDecode",
        "SaveImage",
        "PreviewImage",
        "LoadImage",
        "TestbedVideo",
        "TestbedSleep",
        "TestbedFail",
    ];
}

impl Default for ComfyConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            id: None,
            age: ComfyAge::Y2026,
            job_time: ComfyJobTime::Constant(Duration::from_millis(100)),
            speed: 1.0,
            progress_steps: 4,
            previews: 0,
            preview_bytes: 4 << 10,
            nodes: Self::NODES.map(str::to_owned).into(),
            custom_nodes: Vec::new(),
            checkpoints: [
                "v1-5-pruned-emaonly.safetensors",
                "sd_xl_base_1.0.safetensors",
            ]
            .map(str::to_owned)
            .into(),
            is_caching: false,
            guard: ComfyGuard::Origin,
            max_upload_size: 100 << 20,
            max_socket_bytes: 16 << 20,
            object_info_delay: Duration::ZERO,
            seed: 0,
        }
    }
}

/// Version of ComfyUI's interface.
#[derive(Serialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ComfyAge {
    /// October 2025: no jobs interface, any text as a prompt's id.
    Y2025,
    /// 2026: the jobs interface, UUIDs only, cross-site requests refused.
    Y2026,
}

impl ComfyAge {
    pub(super) fn is_2026(self) -> bool {
        self == Self::Y2026
    }
}

impl FromStr for ComfyAge {
    type Err = ComfyAgeError;

    fn from_str(text: &str) -> Result<Self, ComfyAgeError> {
        match text {
            "2025" => Ok(Self::Y2025),
            "2026" => Ok(Self::Y2026),
            _ => Err(ComfyAgeError(text.to_owned())),
        }
    }
}

impl fmt::Display for ComfyAge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Y2025 => "2025",
            Self::Y2026 => "2026",
        })
    }
}

/// A text that names no [`ComfyAge`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no known age; write 2025 or 2026")]
pub struct ComfyAgeError(String);

/// Time of a job on a server of speed 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComfyJobTime {
    /// Always the same.
    Constant(Duration),
    /// Drawn evenly between two times.
    Uniform(Duration, Duration),
    /// Drawn from an exponential distribution with this mean, at most 100 times it.
    Exponential(Duration),
}

impl ComfyJobTime {
    /// Draws a time; each draw takes one number, so that equal seeds give equal times.
    pub(super) fn draw(self, rng: &mut fastrand::Rng) -> Duration {
        let draw = rng.f64();
        match self {
            Self::Constant(time) => time,
            Self::Uniform(least, most) => least + most.saturating_sub(least).mul_f64(draw),
            Self::Exponential(mean) => mean.mul_f64((-(1.0 - draw).ln()).clamp(0.0, 100.0)),
        }
    }
}

/// Guard against requests by pages of other sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ComfyGuard {
    /// Refuses a foreign `Origin` if the `Host` is a loopback address, as without flags.
    Origin,
    /// Allows this origin, or `*`, as `--enable-cors-header` does.
    Cors(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_times_are_drawn_by_their_distribution() {
        let mut rng = fastrand::Rng::with_seed(1);
        let second = Duration::from_secs(1);
        assert_eq!(ComfyJobTime::Constant(second).draw(&mut rng), second);
        let mean = |time: ComfyJobTime, rng: &mut fastrand::Rng| {
            let sum: Duration = (0..10_000).map(|_| time.draw(rng)).sum();
            sum.as_secs_f64() / 10_000.0
        };
        let uniform = ComfyJobTime::Uniform(second, second * 3);
        assert!((0..1_000).all(|_| (second..second * 3).contains(&uniform.draw(&mut rng))));
        assert!((1.95..2.05).contains(&mean(uniform, &mut rng)));
        assert!((0.95..1.05).contains(&mean(ComfyJobTime::Exponential(second), &mut rng)));
        let draws = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            [(); 5].map(|()| uniform.draw(&mut rng))
        };
        assert!(draws(7) == draws(7) && draws(7) != draws(8));
    }
}
