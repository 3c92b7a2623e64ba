//! A rank's optimizer shard on disk: for each group, fp32 little-endian, the masters and both moments of the parameters
//! that are its own.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    path::Path,
};

use lyceum_model::ParameterGroup;
use tch::{Device, Kind, Tensor};

use super::{CheckpointError, at};
use crate::{TrainError, flat::FlatGroup, layout::GroupLayout, memory::elements};

const MAGIC: [u8; 8] = *b"lycshard";

const VERSION: u32 = 1;

/// Elements converted at once.
const PIECE: usize = 64 * 1024;

/// The path of a rank's shard below its checkpoint.
pub fn file_name(rank: usize) -> String {
    format!("optimizer/rank-{rank:05}")
}

/// Writes and syncs the shards of `groups`.
pub fn write(path: &Path, rank: usize, groups: &[FlatGroup]) -> Result<(), TrainError> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(at(path))?);
    file.write_all(&header(rank, groups.iter().map(|group| &group.layout))).map_err(at(path))?;
    for group in groups {
        let [_, master, moment1, moment2, _] = group.shard_tensors()?;
        for tensor in [master, moment1, moment2] {
            let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?;
            for piece in elements(&tensor).chunks(PIECE) {
                let bytes: Vec<u8> = piece.iter().flat_map(|value| value.to_le_bytes()).collect();
                file.write_all(&bytes).map_err(at(path))?;
            }
        }
    }
    let file = file.into_inner().map_err(|error| at(path)(error.into_error()))?;
    file.sync_all().map_err(at(path))?;
    Ok(())
}

/// Fills the shards of `groups` from the checkpoint of a world of `world_size`, reading only the files that hold something
/// of them.
pub fn read_all(
    checkpoint: &Path,
    world_size: usize,
    specs: &[ParameterGroup],
    groups: &mut [FlatGroup],
) -> Result<(), TrainError> {
    for rank in 0..world_size {
        let layouts: Vec<_> = specs.iter().map(|spec| GroupLayout::new(spec, rank, world_size)).collect();
        let wanted = layouts.iter().zip(&*groups).any(|(theirs, ours)| {
            let (theirs, ours) = (theirs.owned(), ours.layout.owned());
            theirs.start.max(ours.start) < theirs.end.min(ours.end)
        });
        if wanted {
            read(&checkpoint.join(file_name(rank)), rank, &layouts, groups)?;
        }
    }
    Ok(())
}

/// Copies what the shard at `path` has of this rank's shards.
fn read(
    path: &Path,
    rank: usize,
    layouts: &[GroupLayout],
    groups: &mut [FlatGroup],
) -> Result<(), TrainError> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(at(path))?);
    let expected = header(rank, layouts.iter());
    let mut found = vec![0; expected.len()];
    file.read_exact(&mut found).map_err(at(path))?;
    if found != expected {
        let reason = if found[..12] == expected[..12] {
            "its shards are of other sizes than this model's"
        } else {
            "it is not a shard of this version"
        };
        return Err(CheckpointError::OtherModel { path: path.to_owned(), reason: reason.into() }.into());
    }
    for (theirs, group) in layouts.iter().zip(groups) {
        let (from, to) = (theirs.owned(), group.layout.owned());
        let [_, master, moment1, moment2, _] = group.shard_tensors()?;
        for tensor in [master, moment1, moment2] {
            let mut at_element = from.start;
            while at_element < from.end {
                let count = PIECE.min(from.end - at_element);
                let piece = read_floats(&mut file, count).map_err(at(path))?;
                let (start, end) = (at_element.max(to.start), (at_element + count).min(to.end));
                if start < end {
                    let own = &piece[start - at_element..end - at_element];
                    let mut place = tensor.f_narrow(0, (start - to.start) as i64, own.len() as i64)?;
                    place.f_copy_(&Tensor::f_from_slice(own)?.f_to_kind(Kind::Float)?)?;
                }
                at_element += count;
            }
        }
    }
    Ok(())
}

fn read_floats(file: &mut impl Read, count: usize) -> std::io::Result<Vec<f32>> {
    let mut bytes = vec![0; count * size_of::<f32>()];
    file.read_exact(&mut bytes)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Magic, version, rank, number of groups, then each group's own range: all the sizes that follow.
fn header<'a>(rank: usize, layouts: impl Iterator<Item = &'a GroupLayout>) -> Vec<u8> {
    let ranges: Vec<_> = layouts.map(GroupLayout::owned).collect();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((rank as u32).to_le_bytes());
    bytes.extend((ranges.len() as u32).to_le_bytes());
    for range in ranges {
        bytes.extend((range.start as u64).to_le_bytes());
        bytes.extend((range.end as u64).to_le_bytes());
    }
    bytes
}
