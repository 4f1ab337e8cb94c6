//! Slab with generational handles.
//!
//! Invariant: a handle gives access only to the value it was created for. A slot's generation grows each
//! time its value is removed, and a slot whose generations are used up is never filled again.

use alloc::vec::Vec;
use core::num::NonZeroU32;

/// Slot of a value, and the generation that tells it from earlier values of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Handle {
    slot: u32,
    generation: NonZeroU32,
}

impl Handle {
    /// Returns a handle of no value: no slab has a slot `u32::MAX`.
    #[cfg(feature = "serde")]
    pub(crate) const fn nowhere() -> Self {
        Self::foreign(u32::MAX)
    }

    /// Returns a handle that no slab of this process has made.
    pub(crate) const fn foreign(slot: u32) -> Self {
        Self {
            slot,
            generation: NonZeroU32::MIN,
        }
    }

    pub(crate) fn slot(self) -> u32 {
        self.slot
    }
}

/// Vector of slots with a free list. Every operation is O(1), growth amortised.
///
/// Generations are stored apart from the values, so that values keep their alignment without padding.
#[derive(Clone, Debug)]
pub(crate) struct Slab<V> {
    /// Values by slot, parallel to `generations`.
    values: Vec<Option<V>>,
    generations: Vec<NonZeroU32>,
    free: Vec<u32>,
    len: u32,
    /// Generation of a new slot.
    first: NonZeroU32,
}

impl<V> Slab<V> {
    pub(crate) fn new() -> Self {
        Self::starting_at_generation(NonZeroU32::MIN)
    }

    /// Creates a slab whose handles differ from those of any slab with all generations below `first`.
    pub(crate) fn starting_at_generation(first: NonZeroU32) -> Self {
        Self {
            values: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            len: 0,
            first,
        }
    }

    /// Returns a generation above that of every handle so far. O(slots).
    #[cfg(feature = "serde")]
    pub(crate) fn next_generation(&self) -> NonZeroU32 {
        let newest = self.generations.iter().max();
        newest.map_or(self.first, |newest| newest.saturating_add(1))
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Returns whether [`insert`](Self::insert) would succeed.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.values.len() < u32::MAX as usize
    }

    /// Stores a value; `None` once 2^32 - 1 slots are in use or retired.
    pub(crate) fn insert(&mut self, value: V) -> Option<Handle> {
        let slot = match self.free.pop() {
            Some(slot) => {
                *self.values.get_mut(slot as usize)? = Some(value);
                slot
            }
            None => {
                let slot = u32::try_from(self.values.len())
                    .ok()
                    .filter(|slot| *slot < u32::MAX)?;
                self.values.push(Some(value));
                self.generations.push(self.first);
                slot
            }
        };
        self.len = self.len.saturating_add(1);
        Some(Handle {
            slot,
            generation: *self.generations.get(slot as usize)?,
        })
    }

    pub(crate) fn remove(&mut self, handle: Handle) -> Option<V> {
        let generation = self.generations.get_mut(handle.slot as usize)?;
        if *generation != handle.generation {
            return None;
        }
        let value = self.values.get_mut(handle.slot as usize)?.take()?;
        if let Some(next) = generation.checked_add(1) {
            *generation = next;
            self.free.push(handle.slot);
        }
        self.len = self.len.saturating_sub(1);
        Some(value)
    }

    pub(crate) fn get(&self, handle: Handle) -> Option<&V> {
        self.at(handle.slot).filter(|_| self.is_current(handle))
    }

    pub(crate) fn get_mut(&mut self, handle: Handle) -> Option<&mut V> {
        let is_current = self.is_current(handle);
        let value = self.values.get_mut(handle.slot as usize)?;
        value.as_mut().filter(|_| is_current)
    }

    fn is_current(&self, handle: Handle) -> bool {
        self.generations.get(handle.slot as usize) == Some(&handle.generation)
    }

    /// Returns the handle of the value in `slot`.
    pub(crate) fn handle_at(&self, slot: u32) -> Option<Handle> {
        self.at(slot)?;
        Some(Handle {
            slot,
            generation: *self.generations.get(slot as usize)?,
        })
    }

    /// Returns the value in `slot`.
    pub(crate) fn at(&self, slot: u32) -> Option<&V> {
        self.values.get(slot as usize)?.as_ref()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut V)> {
        let slots = (0u32..).zip(&self.generations).zip(&mut self.values);
        slots.filter_map(|((slot, generation), value)| {
            let handle = Handle {
                slot,
                generation: *generation,
            };
            value.as_mut().map(|value| (handle, value))
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Handle, &V)> {
        let slots = (0u32..).zip(&self.generations).zip(&self.values);
        slots.filter_map(|((slot, generation), value)| {
            let handle = Handle {
                slot,
                generation: *generation,
            };
            value.as_ref().map(|value| (handle, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_never_gives_access_to_a_later_value() {
        let mut slab = Slab::new();
        let first = slab.insert('a').unwrap();
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b').unwrap();
        assert_eq!(second.slot(), first.slot());
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&'b'));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn a_slot_whose_generations_are_used_up_is_retired() {
        let mut slab = Slab::new();
        let first = slab.insert('a').unwrap();
        slab.generations[0] = NonZeroU32::MAX;
        let last = slab.handle_at(0).unwrap();
        assert_eq!(slab.remove(last), Some('a'));
        assert_ne!(slab.insert('b').unwrap().slot(), first.slot());
        assert_eq!(slab.get(last), None);
    }
}
