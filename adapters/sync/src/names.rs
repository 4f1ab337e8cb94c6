//! Names of classes and labels, for which the core has numbers only.
//!
//! Invariant: a name keeps its number for the pool's life, and no two names share one; a refused call adds no
//! name.

use crate::sync::{Mutex, lock};
use leasehold_core::pool::Labels;
use std::collections::HashMap;
use std::sync::Arc;

/// Classes that a pool can name. Class 0, the default of a request, has no name.
const MAX_CLASSES: usize = 65_536;
/// Labels that fit in [`Labels`], one bit each.
const MAX_LABELS: usize = 64;

/// The pool has named 65,536 classes, and the name is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool has named {MAX_CLASSES} classes and can't name another")]
pub struct TooManyClasses;

/// The pool would have to name more than 64 labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool can't name more than {MAX_LABELS} labels")]
pub struct TooManyLabels;

#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    classes: Interner,
    labels: Interner,
}

impl Names {
    pub(crate) fn class(&self, name: &str) -> Result<u32, TooManyClasses> {
        let index = lock(&self.0).classes.intern(name, MAX_CLASSES);
        index.map(|index| index + 1).ok_or(TooManyClasses)
    }

    pub(crate) fn class_name(&self, class: u32) -> Option<Arc<str>> {
        lock(&self.0).classes.name(class.checked_sub(1)?)
    }

    pub(crate) fn labels(
        &self,
        names: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<Labels, TooManyLabels> {
        // The caller's iterator runs before the lock is taken, as it may use the pool.
        let names: Vec<_> = names.into_iter().collect();
        let labels = &mut lock(&self.0).labels;
        let known = labels.names.len();
        let mut bits = 0;
        for name in &names {
            let Some(index) = labels.intern(name.as_ref(), MAX_LABELS) else {
                labels.truncate(known);
                return Err(TooManyLabels);
            };
            bits |= 1 << index;
        }
        Ok(Labels::from_bits(bits))
    }

    pub(crate) fn label_names(&self, labels: Labels) -> Vec<Arc<str>> {
        let names = &lock(&self.0).labels.names;
        let named = names.iter().enumerate();
        let in_set = named.filter(|(index, _)| labels.contains(Labels::from_bits(1 << index)));
        in_set.map(|(_, name)| Arc::clone(name)).collect()
    }
}

/// Numbers names from 0 in the order in which they are first seen.
#[derive(Debug, Default)]
struct Interner {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Interner {
    /// The name's number; `None` if it is new and `max` names are known.
    fn intern(&mut self, name: &str, max: usize) -> Option<u32> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        if self.names.len() >= max {
            return None;
        }
        let number = u32::try_from(self.names.len()).ok()?;
        let name = Arc::<str>::from(name);
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
    fn class_0_has_no_name() {
        let names = Names::default();
        assert_ne!(names.class("gpt-4o"), Ok(0));
        assert_eq!(names.class_name(0), None);
        assert_eq!(names.class_name(u32::MAX), None);
    }

    #[test]
    fn the_65537th_class_is_refused_and_the_others_stay_known() {
        let names = Names::default();
        for class in 0..MAX_CLASSES {
            names.class(&class.to_string()).unwrap();
        }
        assert_eq!(names.class("one more"), Err(TooManyClasses));
        assert_eq!(names.class("65535"), Ok(65_536));
        assert_eq!(names.class_name(65_536).as_deref(), Some("65535"));
    }

    #[test]
    fn a_set_of_labels_has_the_same_bits_in_any_order_and_with_repeats() {
        let names = Names::default();
        let both = names.labels(["vision", "cheap"]).unwrap();
        assert_eq!(names.labels(["cheap", "vision", "cheap"]), Ok(both));
        let vision = names.labels(["vision"]).unwrap();
        assert!(both.contains(vision) && !vision.contains(both));
        assert_eq!(strings(&names.label_names(both)), ["vision", "cheap"]);
        assert_eq!(strings(&names.label_names(vision)), ["vision"]);
        assert_eq!(names.labels([""; 0]), Ok(Labels::NONE));
    }

    #[test]
    fn a_refused_set_of_labels_adds_no_name() {
        let names = Names::default();
        let all: Vec<String> = (0..63).map(|label| label.to_string()).collect();
        names.labels(&all).unwrap();
        assert_eq!(names.labels(["new", "newer"]), Err(TooManyLabels));
        let last = names.labels(["newer"]).unwrap();
        assert_eq!(strings(&names.label_names(last)), ["newer"]);
        assert_eq!(names.labels(["new"]), Err(TooManyLabels));
        assert_eq!(names.label_names(Labels::from_bits(u64::MAX)).len(), 64);
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
