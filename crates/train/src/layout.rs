//! Where each parameter lies in its group's flat buffers, and which part of a group is a rank's own.

use std::ops::Range;

use lyceum_model::ParameterGroup;

/// Shards begin at multiples of so many elements: 64 bytes of bf16.
const SHARD_ALIGNMENT: usize = 32;

/// One group of parameters (the embedding, a block, the head) laid end to end.
///
/// Those that are decayed come first, those that are not after them, so that each kind is one contiguous range. After the
/// last parameter the buffer is padded with zeros until every rank's shard is of the same length.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupLayout {
    /// The group's name, as in the model: `embed`, `block.0`, .., `head`.
    pub name: String,
    /// The parameters in the order they lie.
    pub parameters: Vec<Placed>,
    /// Elements before this one are decayed.
    pub decayed: usize,
    /// Elements of all parameters.
    pub len: usize,
    /// Elements of the buffer: `world_size` equal shards.
    pub padded_len: usize,
    /// The elements that this rank updates, padding included.
    pub shard: Range<usize>,
}

/// A parameter's place in its group.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Its Hugging Face name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// Its elements in the flat buffers.
    pub range: Range<usize>,
}

impl GroupLayout {
    /// Lays `group` out for rank `rank` of `world_size`.
    pub fn new(group: &ParameterGroup, rank: usize, world_size: usize) -> Self {
        let mut parameters = Vec::with_capacity(group.parameters.len());
        let (mut len, mut decayed) = (0, 0);
        for decay in [true, false] {
            for spec in group.parameters.iter().filter(|spec| spec.decay == decay) {
                let elements = spec.shape.iter().product::<i64>() as usize;
                parameters.push(Placed {
                    name: spec.name.clone(),
                    shape: spec.shape.clone(),
                    range: len..len + elements,
                });
                len += elements;
            }
            if decay {
                decayed = len;
            }
        }
        let padded_len = len.next_multiple_of(SHARD_ALIGNMENT * world_size);
        let shard_len = padded_len / world_size;
        let shard = rank * shard_len..(rank + 1) * shard_len;
        Self { name: group.name.clone(), parameters, decayed, len, padded_len, shard }
    }

    /// The part of this rank's shard that holds parameters: the shard without the padding.
    pub fn owned(&self) -> Range<usize> {
        self.shard.start.min(self.len)..self.shard.end.min(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_model::ParameterSpec;

    fn group() -> ParameterGroup {
        let spec = |name: &str, shape: &[i64], decay| ParameterSpec {
            name: name.into(),
            shape: shape.into(),
            decay,
        };
        ParameterGroup {
            name: "block.0".into(),
            shared: Vec::new(),
            parameters: vec![
                spec("norm1", &[10], false),
                spec("a", &[10, 10], true),
                spec("norm2", &[10], false),
                spec("b", &[10, 3], true),
            ],
        }
    }

    #[test]
    fn what_is_not_decayed_is_one_contiguous_range() {
        let layout = GroupLayout::new(&group(), 0, 1);
        let names: Vec<_> = layout.parameters.iter().map(|p| (p.name.as_str(), p.range.clone())).collect();
        assert_eq!(names, [("a", 0..100), ("b", 100..130), ("norm1", 130..140), ("norm2", 140..150)]);
        assert_eq!((layout.decayed, layout.len, layout.padded_len), (130, 150, 160));
    }

    #[test]
    fn shards_are_equal_aligned_and_cover_every_parameter_once() {
        for world_size in [1, 2, 3, 8] {
            let layouts: Vec<_> =
                (0..world_size).map(|rank| GroupLayout::new(&group(), rank, world_size)).collect();
            let owned: usize = layouts.iter().map(|layout| layout.owned().len()).sum();
            assert_eq!(owned, 150);
            for pair in layouts.windows(2) {
                assert_eq!(pair[0].shard.end, pair[1].shard.start);
                assert_eq!(pair[0].shard.len(), pair[1].shard.len());
            }
            assert!(layouts.iter().all(|layout| layout.shard.start % SHARD_ALIGNMENT == 0));
        }
    }
}
