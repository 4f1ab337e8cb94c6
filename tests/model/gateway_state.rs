//! State files of the gateway with any bytes in them: read up to what is sound, or refused as another program's.

use arbitrary::Arbitrary;
use leasehold_core::limit::Cost;
use leasehold_core::pool::Charge;
use leasehold_core::time::Tick;
use leasehold_gateway::rewrite_state;
use serde_json::json;

/// A file.
#[derive(Clone, Debug, Arbitrary)]
pub struct Case {
    /// Its lines.
    pub lines: Vec<Line>,
    /// Bytes that are cut from its end.
    pub cut: u8,
}

/// A line of a file.
#[derive(Clone, Debug, Arbitrary)]
pub enum Line {
    /// One that a gateway writes, with numbers in it.
    Sound(u8, u32, u32),
    /// Any bytes.
    Bytes(Vec<u8>),
}

/// Reads the file, and what is written of it.
///
/// # Panics
/// If what was read and written is not read again as the same.
pub fn run(case: &Case) {
    let mut text = b"{\"header\":{\"leasehold\":1,\"boot\":\"a\"}}\n".to_vec();
    for line in &case.lines {
        match line {
            Line::Sound(kind, lease, at) => {
                text.extend_from_slice(sound(*kind, *lease, *at).as_bytes());
            }
            Line::Bytes(bytes) => text.extend_from_slice(bytes),
        }
        text.push(b'\n');
    }
    text.truncate(text.len().saturating_sub(usize::from(case.cut)));
    let Ok(written) = rewrite_state(&text, "a") else {
        return;
    };
    let again = rewrite_state(&written, "a").expect("its own file");
    assert_eq!(
        String::from_utf8_lossy(&again),
        String::from_utf8_lossy(&written)
    );
}

fn sound(kind: u8, lease: u32, at: u32) -> String {
    let (lease, at) = (lease.into(), Tick::from_nanos(at.into()));
    let charge = match kind % 9 {
        0 => return "\"end\"".to_owned(),
        1 => return json!({"changes": {"number": lease}}).to_string(),
        2 => return json!({"header": {"leasehold": lease, "boot": "a"}}).to_string(),
        3 => {
            let used = json!({"calls": lease, "cost": lease});
            let caller = (lease % 2 == 0).then_some("alice");
            return json!({"used": {"caller": caller, "models": {"m": used}}}).to_string();
        }
        4 => {
            let spent = json!({"at": at, "amount": lease});
            return json!({"spent": {"caller": "alice", "spent": spent}}).to_string();
        }
        5 => {
            return json!({"kept": {"id": lease, "made": {"holder": 1, "caller": null}, "at": at}})
                .to_string();
        }
        6 => Charge::Arrived { lease, at },
        7 => Charge::Renewed {
            lease,
            expires: at,
            at,
        },
        _ => Charge::Ended {
            lease,
            cost: Cost::REQUEST,
            at,
        },
    };
    json!({"charge": {"pool": "web", "charge": charge}}).to_string()
}
