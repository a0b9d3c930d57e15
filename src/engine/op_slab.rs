//! Slab of operations in flight. A slot owns what the kernel uses (file, buffers, message headers) from the push to
//! the completion, so dropping anything else can never pull memory from under the kernel.
//!
//! The tag that travels through the kernel is slot number and generation: a completion that does not fit the slot's
//! generation is a bug of the ring or of this program, and stops it.

/// A slab whose keys carry a generation: a key of a removed value never finds its successor.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    live: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Slot number (low 32 bits) and generation (high 32 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(pub u64);

impl Key {
    pub fn slot(self) -> usize {
        (self.0 & 0xFFFF_FFFF) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }
}

impl<T> Slab<T> {
    pub fn with_capacity(capacity: usize) -> Self {
        Self { slots: Vec::with_capacity(capacity), free: Vec::with_capacity(capacity), live: 0 }
    }

    pub fn insert(&mut self, value: T) -> Key {
        self.live += 1;
        if let Some(number) = self.free.pop() {
            let slot = &mut self.slots[number as usize];
            debug_assert!(slot.value.is_none());
            slot.value = Some(value);
            return Key::new(number, slot.generation);
        }
        let number = u32::try_from(self.slots.len()).expect("fewer than 2^32 values");
        self.slots.push(Slot { generation: 1, value: Some(value) });
        Key::new(number, 1)
    }

    /// Takes the value out; `None` if the key is stale.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.slot())?;
        if slot.generation != key.generation() {
            return None;
        }
        let value = slot.value.take()?;
        // Generation 0 is never used, so no key is ever zero.
        slot.generation = slot.generation.checked_add(1).unwrap_or(1);
        self.free.push(key.slot() as u32);
        self.live -= 1;
        Some(value)
    }

    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.slot())?;
        if slot.generation == key.generation() { slot.value.as_ref() } else { None }
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.slot())?;
        if slot.generation == key.generation() { slot.value.as_mut() } else { None }
    }

    /// Values present.
    pub fn len(&self) -> usize {
        self.live
    }

    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// One more than the highest slot ever used; with [`key_at`](Self::key_at) it walks the slab while values change.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Key of the value in slot `number`, if there is one.
    pub fn key_at(&self, number: usize) -> Option<Key> {
        let slot = self.slots.get(number)?;
        slot.value.as_ref().map(|_| Key::new(number as u32, slot.generation))
    }

    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().enumerate().filter_map(|(number, slot)| {
            slot.value.as_ref().map(|value| (Key::new(number as u32, slot.generation), value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_keys_find_nothing() {
        let mut slab = Slab::with_capacity(4);
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(first.slot(), second.slot());
        assert_ne!(first, second);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.iter().map(|(key, _)| key).collect::<Vec<_>>(), vec![second]);
        assert_eq!(slab.key_at(0), Some(second));
    }
}
