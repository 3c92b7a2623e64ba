//! Where an object lies: best fit over all segments of the store.

use crate::extents::Extents;

/// The bytes of one object: a page-aligned range of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Place {
    /// Index of the segment.
    pub segment: u32,
    /// Bytes of the segment, so that a process that meets it first can map it.
    pub segment_bytes: u64,
    /// Offset of the object's first byte in the segment.
    pub offset: u64,
    /// Length of the object in bytes.
    pub len: u64,
}

/// The extents of all segments.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    segments: Vec<Extents>,
}

impl Pool {
    pub fn new(segment_bytes: &[u64], page: u64) -> Pool {
        Pool { segments: segment_bytes.iter().map(|&bytes| Extents::new(bytes, page)).collect() }
    }

    /// Room for `len` bytes in the smallest free range of any segment that holds them.
    pub fn allocate(&mut self, len: u64) -> Option<Place> {
        let fits =
            self.segments.iter().enumerate().filter_map(|(i, extents)| Some((extents.best_fit(len)?, i)));
        let (_, index) = fits.min()?;
        let extents = &mut self.segments[index];
        let offset = extents.allocate(len)?;
        Some(Place { segment: index as u32, segment_bytes: extents.bytes(), offset, len })
    }

    pub fn release(&mut self, place: Place) {
        let released = self.segments.get_mut(place.segment as usize).and_then(|s| s.release(place.offset));
        debug_assert!(released.is_some(), "an extent is released once: {place:?}");
    }

    /// Bytes of a segment, if there is one of that number.
    pub fn segment_bytes(&self, segment: u32) -> Option<u64> {
        self.segments.get(segment as usize).map(Extents::bytes)
    }

    pub fn largest(&self) -> u64 {
        self.segments.iter().map(Extents::bytes).max().unwrap_or(0)
    }

    pub fn capacity(&self) -> u64 {
        self.segments.iter().map(Extents::bytes).sum()
    }

    pub fn used(&self) -> u64 {
        self.segments.iter().map(Extents::used_bytes).sum()
    }

    /// Bytes that an object of `len` bytes takes: whole pages.
    pub fn footprint(&self, len: u64) -> u64 {
        self.segments.first().and_then(|extents| extents.footprint(len)).unwrap_or(len)
    }

    #[cfg(test)]
    pub fn fits(&self, len: u64) -> bool {
        self.segments.iter().any(|extents| extents.best_fit(len).is_some())
    }
}
