//! Names of members, classes, labels and flows, for which the core has numbers only.
//!
//! Invariant: a name keeps its number for the pool's life, and no two names of a kind share one; a refused call
//! adds no name.

use crate::sync::{Mutex, lock};
use leasehold_core::pool::MemberId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The names of a kind that a pool can keep. Class 0 and flow 0, the defaults of a request, have no name.
const MAX_NAMES: usize = 65_536;

/// The bytes that the names of a kind may have in all: 16 MiB, 256 a name.
const MAX_BYTES: usize = 256 * MAX_NAMES;

/// The pool has no room for a new name of this kind, or for another set of labels.
///
/// It keeps 65,536 names of each kind, of 16 MiB in all, and as many sets of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pool keeps at most {MAX_NAMES} {kind}, with {MAX_BYTES} bytes of names; use fewer or shorter names"
)]
pub struct TooManyNames {
    kind: &'static str,
}

impl TooManyNames {
    pub(crate) const fn of(kind: &'static str) -> Self {
        Self { kind }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<Tables>);

#[derive(Clone, Debug, Default)]
struct Tables {
    members: BTreeMap<MemberId, MemberName>,
    /// Members ever named, which numbers the next one.
    named: u64,
    classes: Interner,
    labels: Interner,
    flows: Interner,
}

#[derive(Clone, Debug)]
struct MemberName {
    name: Arc<str>,
    /// Its place among all names of members, as ids of members that reuse a slot are not in order.
    order: u64,
}

impl Clone for Names {
    fn clone(&self) -> Self {
        Self(Mutex::new(lock(&self.0).clone()))
    }
}

impl Names {
    pub(crate) fn class(&self, name: &str) -> Result<u32, TooManyNames> {
        let index = lock(&self.0).classes.intern(name);
        index
            .map(|index| index + 1)
            .ok_or(TooManyNames::of("classes"))
    }

    pub(crate) fn class_name(&self, class: u32) -> Option<Arc<str>> {
        lock(&self.0).classes.name(class.checked_sub(1)?)
    }

    pub(crate) fn flow(&self, name: &str) -> Result<u64, TooManyNames> {
        let index = lock(&self.0).flows.intern(name);
        let index = index.ok_or(TooManyNames::of("flows"))?;
        Ok(u64::from(index) + 1)
    }

    pub(crate) fn flow_name(&self, flow: u64) -> Option<Arc<str>> {
        let index = u32::try_from(flow.checked_sub(1)?).ok()?;
        lock(&self.0).flows.name(index)
    }

    /// The numbers of labels.
    pub(crate) fn labels(
        &self,
        names: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<Vec<u32>, TooManyNames> {
        // The caller's iterator runs before the lock is taken, as it may use the pool.
        let names: Vec<_> = names.into_iter().collect();
        let labels = &mut lock(&self.0).labels;
        let known = labels.names.len();
        let mut numbers = Vec::with_capacity(names.len());
        for name in &names {
            let Some(number) = labels.intern(name.as_ref()) else {
                labels.truncate(known);
                return Err(TooManyNames::of("labels"));
            };
            numbers.push(number);
        }
        Ok(numbers)
    }

    pub(crate) fn label_names(&self, numbers: &[u32]) -> Vec<Arc<str>> {
        let labels = &lock(&self.0).labels;
        let names = numbers.iter().filter_map(|number| labels.name(*number));
        names.collect()
    }

    pub(crate) fn set_member(&self, member: MemberId, name: &str) {
        let tables = &mut *lock(&self.0);
        let (name, order) = (name.into(), tables.named);
        tables.named = order.saturating_add(1);
        tables.members.insert(member, MemberName { name, order });
    }

    /// Gives the names of members to others, in pairs of an old and a new id.
    #[cfg(feature = "serde")]
    pub(crate) fn move_members(&self, moved: &[(MemberId, MemberId)]) {
        let members = &mut lock(&self.0).members;
        let mut old = core::mem::take(members);
        let named = moved
            .iter()
            .filter_map(|(from, to)| Some((*to, old.remove(from)?)));
        members.extend(named);
    }

    /// Forgets the name of a member that left.
    pub(crate) fn forget_member(&self, member: MemberId) {
        lock(&self.0).members.remove(&member);
    }

    pub(crate) fn member_name(&self, member: MemberId) -> Option<Arc<str>> {
        let members = &lock(&self.0).members;
        members.get(&member).map(|named| Arc::clone(&named.name))
    }

    /// The member of a name; the one added last, if several have it. O(members).
    pub(crate) fn member(&self, name: &str) -> Option<MemberId> {
        let members = &lock(&self.0).members;
        let named = members.iter().filter(|(_, known)| *known.name == *name);
        let last = named.max_by_key(|(_, known)| known.order);
        last.map(|(member, _)| *member)
    }
}

/// Numbers names from 0 in the order in which they are first seen.
#[derive(Clone, Debug, Default)]
struct Interner {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
    /// The bytes of all names.
    bytes: usize,
}

impl Interner {
    /// The name's number; `None` if it is new and there is no room.
    fn intern(&mut self, name: &str) -> Option<u32> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        let bytes = self.bytes.saturating_add(name.len());
        if self.names.len() >= MAX_NAMES || bytes > MAX_BYTES {
            return None;
        }
        let number = u32::try_from(self.names.len()).ok()?;
        let name = Arc::<str>::from(name);
        self.bytes = bytes;
        self.numbers.insert(Arc::clone(&name), number);
        self.names.push(name);
        Some(number)
    }

    fn name(&self, number: u32) -> Option<Arc<str>> {
        self.names.get(number as usize).map(Arc::clone)
    }

    /// Forgets all names but the first `len`.
    fn truncate(&mut self, len: usize) {
        for name in self.names.drain(len..) {
            self.bytes -= name.len();
            self.numbers.remove(&name);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::thread;

    fn strings(names: &[Arc<str>]) -> Vec<&str> {
        names.iter().map(AsRef::as_ref).collect()
    }

    #[test]
    fn a_class_keeps_its_number_and_its_name() {
        let names = Names::default();
        let first = names.class("gpt-4o").unwrap();
        let second = names.class("gpt-4o-mini").unwrap();
        assert_ne!(first, second);
        assert_eq!(names.class("gpt-4o"), Ok(first));
        assert_eq!(names.class_name(second).as_deref(), Some("gpt-4o-mini"));
    }

    #[test]
    fn class_0_and_flow_0_have_no_name() {
        let names = Names::default();
        assert_ne!(names.class("gpt-4o"), Ok(0));
        assert_eq!(names.class_name(0), None);
        assert_eq!(names.class_name(u32::MAX), None);
        let flow = names.flow("alice").unwrap();
        assert_ne!(flow, 0);
        assert_eq!(names.flow_name(flow).as_deref(), Some("alice"));
        assert_eq!(names.flow_name(0), None);
        assert_eq!(names.flow_name(u64::MAX), None);
    }

    #[test]
    fn the_65537th_class_is_refused_and_the_others_stay_known() {
        let names = Names::default();
        for class in 0..MAX_NAMES {
            names.class(&class.to_string()).unwrap();
        }
        assert_eq!(names.class("one more"), Err(TooManyNames::of("classes")));
        assert_eq!(names.class("65535"), Ok(65_536));
        assert_eq!(names.class_name(65_536).as_deref(), Some("65535"));
    }

    #[test]
    fn a_label_has_the_same_number_in_any_set() {
        let names = Names::default();
        let both = names.labels(["vision", "cheap"]).unwrap();
        let other = names.labels(["cheap", "vision", "cheap"]).unwrap();
        assert_eq!(other, [both[1], both[0], both[1]]);
        assert_eq!(strings(&names.label_names(&both)), ["vision", "cheap"]);
        assert_eq!(names.labels([""; 0]), Ok(Vec::new()));
    }

    #[test]
    fn a_refused_set_of_labels_adds_no_name() {
        let names = Names::default();
        let all: Vec<String> = (1..MAX_NAMES).map(|label| label.to_string()).collect();
        names.labels(&all).unwrap();
        let refused = Err(TooManyNames::of("labels"));
        assert_eq!(names.labels(["new", "newer"]), refused);
        let last = names.labels(["newer"]).unwrap();
        assert_eq!(strings(&names.label_names(&last)), ["newer"]);
        assert_eq!(names.labels(["new"]), refused);
    }

    #[test]
    fn names_are_bounded_in_bytes_and_refused_ones_take_none() {
        let names = Names::default();
        let long = "x".repeat(MAX_BYTES - 1);
        let refused = Err(TooManyNames::of("labels"));
        assert_eq!(names.labels([&*long, "ab"]), refused);
        assert_eq!(names.labels([&*long, "a"]), Ok(vec![0, 1]));
        assert_eq!(names.labels(["b"]), refused);
        assert_eq!(names.labels(["a", ""]), Ok(vec![1, 2]));
        let class = names.class(&"x".repeat(MAX_BYTES + 1));
        let told = class.unwrap_err().to_string();
        assert!(told.contains("at most 65536 classes"), "{told}");
    }

    #[test]
    fn threads_that_race_get_one_number_for_one_name() {
        let names = Names::default();
        let numbers = || (0..100).map(|class| names.class(&class.to_string()).unwrap());
        let mut all: Vec<Vec<u32>> = thread::scope(|scope| {
            let threads = [0; 4].map(|_| scope.spawn(|| numbers().collect()));
            threads.map(|thread| thread.join().unwrap()).to_vec()
        });
        all.dedup();
        assert_eq!(all.len(), 1);
    }
}
