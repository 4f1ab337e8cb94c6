//! Selection by key, the way each hash is defined: rendezvous, ring and Maglev, built anew for each choice.

use super::oracle::Member;

pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Returns the item with the least `-log2(draw / 2^64) / weight`; the logarithm is linear between 256 steps.
fn race<T: Copy>(entries: impl Iterator<Item = (u64, u64, T)>) -> Option<T> {
    let mut best: Option<(f64, T)> = None;
    for (draw, weight, item) in entries {
        let zeros = draw.max(1).leading_zeros();
        let mantissa = (draw.max(1) << zeros) as f64 / 2f64.powi(63);
        let step = ((mantissa - 1.0) * 256.0).floor().min(255.0);
        let (from, to) = (1.0 + step / 256.0, 1.0 + (step + 1.0) / 256.0);
        let between = (mantissa - from) * 256.0;
        let log = from.log2() + (to.log2() - from.log2()) * between;
        let time = (f64::from(zeros) + 1.0 - log) / weight as f64;
        if best.is_none_or(|(least, _)| time < least) {
            best = Some((time, item));
        }
    }
    best.map(|(_, item)| item)
}

/// Chooses among all members by hierarchical rendezvous hashing.
pub(super) fn rendezvous(members: &[Member], key: u64) -> Option<u32> {
    rendezvous_in(members, 1, 0, key)
}

/// Chooses among members whose hashed identities all begin with the bits of `path`.
fn rendezvous_in(members: &[Member], path: u64, depth: u32, key: u64) -> Option<u32> {
    let spot = |member: &Member| mix(member.identity ^ GOLDEN);
    let first = members.first()?;
    if members.iter().all(|one| one.identity == first.identity) {
        return race((0u64..).zip(members).map(|(nth, member)| {
            let draw = mix(key ^ spot(member).wrapping_add(nth.wrapping_mul(GOLDEN)));
            (draw, member.weight.into(), member.id)
        }));
    }
    let part = |nibble: u64| -> Vec<Member> {
        let is_in = |member: &&Member| spot(member) >> (60 - 4 * depth) & 15 == nibble;
        members.iter().filter(is_in).copied().collect()
    };
    let salt = mix(key ^ mix(path));
    let parts = (0..16).map(|nibble| {
        let weight = part(nibble).iter().map(|one| u64::from(one.weight)).sum();
        let draw = mix(salt.wrapping_add((nibble + 1).wrapping_mul(GOLDEN)));
        (draw, weight, nibble)
    });
    let nibble = race(parts.filter(|(_, weight, _)| *weight > 0))?;
    rendezvous_in(&part(nibble), path << 4 | nibble, depth + 1, key)
}

/// Returns the member of the nth point after a key.
pub(super) fn ring(members: &[Member], points: u16, key: u64, nth: u64) -> Option<u32> {
    let mut ring = Vec::new();
    for member in members {
        let mut state = mix(member.identity ^ GOLDEN);
        for _ in 0..member.weight * u32::from(points) {
            let point = mix(state) >> 32;
            state = state.wrapping_add(GOLDEN);
            let tie = mix(point << 32 | u64::from(member.id));
            ring.push((point, member.identity, tie, member.id));
        }
    }
    ring.sort_unstable();
    let first = ring.iter().position(|(point, ..)| *point >= key >> 32);
    let at = (first.unwrap_or(0) + nth as usize).checked_rem(ring.len())?;
    ring.get(at).map(|(_, _, _, id)| *id)
}

/// Chooses by the table of the Maglev paper, where the k-th turn of a member comes at `k / weight`.
pub(super) fn maglev(members: &[Member], size: u64, key: u64) -> Option<u32> {
    let mut members = members.to_vec();
    members.sort_by_key(|member| (member.identity, member.id));
    let mut turns: Vec<(u64, usize)> = (0..members.len())
        .flat_map(|at| (1..=size).map(move |turn| (turn, at)))
        .collect();
    turns.sort_by(|(one, a), (other, b)| {
        let (left, right) = (
            one * u64::from(members[*b].weight),
            other * u64::from(members[*a].weight),
        );
        left.cmp(&right).then(a.cmp(b))
    });
    let mut places = vec![None; size as usize];
    for (_, at) in turns.into_iter().take(size as usize) {
        let first = mix(members[at].identity ^ GOLDEN);
        let skip = mix(first.wrapping_add(GOLDEN)) % (size - 1) + 1;
        let wanted = (0..size).map(|nth| ((first % size + nth * skip) % size) as usize);
        let free = wanted.into_iter().find(|place| places[*place].is_none());
        places[free.expect("a prime's steps reach every place")] = Some(members[at].id);
    }
    let places: Vec<u32> = places.into_iter().flatten().collect();
    let at = (u128::from(key) * places.len() as u128) >> 64;
    places.get(at as usize).copied()
}
