//! What goes over the chain for each operation.

use std::ops::Range;

use lyceum_wire::{BulkReceiver, BulkSender, WireError};

use super::{Chain, failure_of};
use crate::epoch::Epoch;
use crate::reduce::{Accumulator, BLOCK};
use crate::shared::{Descriptor, Region};
use crate::worker::Job;
use crate::{CollectiveError, Element, Operation};

/// Bytes of a buffer that travel as one piece: large enough to be cheap, small enough that all hosts work at once.
const PIECE: usize = 512 * 1024;

/// A range of the buffers (offset, length in bytes) and the host of the rank whose part it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    from: usize,
    len: usize,
    owner: usize,
}

/// How one neighbour failed us.
struct Broken {
    rank: usize,
    error: WireError,
}

/// One neighbour's stream, one way.
struct Way<'a, S> {
    rank: usize,
    stream: &'a mut S,
}

impl Way<'_, BulkSender> {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let rank = self.rank;
        self.stream.write(bytes).await.map_err(|error| Broken { rank, error })
    }
}

impl Way<'_, BulkReceiver> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<(), Broken> {
        let rank = self.rank;
        self.stream.read_exact(bytes).await.map_err(|error| Broken { rank, error })
    }
}

impl Chain {
    /// This leader's part in an operation, once all ranks of its host have come to it. Afterwards the leader's buffer
    /// has what its host's ranks need from the others.
    pub(crate) fn relay(&mut self, job: &Job, epoch: &Epoch) -> Result<(), CollectiveError> {
        epoch.control.set_awaited(self.next.as_ref().or(self.previous.as_ref()).map(|link| link.rank));
        let runtime = self.seat.runtime().clone();
        let result = runtime.block_on(self.exchange(job, epoch));
        epoch.control.set_awaited(None);
        result
    }

    async fn exchange(&mut self, job: &Job, epoch: &Epoch) -> Result<(), CollectiveError> {
        let Self { groups, group, previous, next, .. } = self;
        let (group, groups, locals) = (*group, &groups[..], epoch.group.clone());
        let world = groups.last().map_or(1, |last| last.end);
        let closed =
            [&*previous, &*next].map(|link| link.as_ref().map(|link| (link.rank, link.connection.clone())));
        let (mut from_previous, mut to_previous) = ways(previous);
        let (mut from_next, mut to_next) = ways(next);

        // Each tells its neighbours what it calls, and hears what they do.
        let words = job.descriptor.to_words();
        let told = words.map(u64::to_le_bytes).concat();
        let greet = async {
            let mut heard = [0; 24];
            for way in [&mut to_previous, &mut to_next].into_iter().flatten() {
                way.write(&told).await?;
            }
            for way in [&mut from_previous, &mut from_next].into_iter().flatten() {
                way.read(&mut heard).await?;
                let number = |i: usize| u64::from_le_bytes(std::array::from_fn(|j| heard[8 * i + j]));
                let theirs = [number(0), number(1), number(2)];
                if theirs[..2] != words[..2] {
                    return Ok(Some((way.rank, theirs)));
                }
            }
            Ok(None)
        };
        let broken = |Broken { rank, error }: Broken| {
            // A failure that a neighbour passes on closes the connection with its words.
            let reason = closed.iter().flatten().find(|(known, _)| *known == rank);
            let reason = reason.and_then(|(_, connection)| connection.close_reason());
            epoch.failure().unwrap_or_else(|| match reason {
                Some(reason) => failure_of(reason, rank, epoch.number),
                None => CollectiveError::Lost { rank, epoch: epoch.number, reason: error.to_string() },
            })
        };
        if let Some((rank, theirs)) = greet.await.map_err(broken)? {
            let (ours, theirs) = (Descriptor::describe(words), Descriptor::describe(theirs));
            return Err(CollectiveError::Mismatch { rank, epoch: epoch.number, ours, theirs });
        }

        let (Some(operation), Some(region)) = (job.descriptor.operation, &job.region) else {
            // A barrier is a token up and a token down.
            let token = async {
                if let Some(way) = &mut from_previous {
                    way.read(&mut [0]).await?;
                }
                if let Some(way) = &mut to_next {
                    way.write(&[1]).await?;
                }
                if let Some(way) = &mut from_next {
                    way.read(&mut [0]).await?;
                }
                if let Some(way) = &mut to_previous {
                    way.write(&[1]).await?;
                }
                Ok(())
            };
            return token.await.map_err(broken);
        };
        let bytes = job.descriptor.bytes as usize;
        let host = |rank: usize| groups.iter().position(|group| group.contains(&rank)).unwrap_or(0);
        let parts =
            || (0..world).map(|rank| (rank * (bytes / world)..(rank + 1) * (bytes / world), host(rank)));
        let place = Place { region, group, locals: locals.clone(), groups: groups.len() };
        match operation {
            Operation::AllReduce(element) => {
                let pieces = cut(std::iter::once((0..bytes, 0)));
                place.reduce(element, &pieces, from_previous, to_previous, from_next, to_next).await
            }
            Operation::ReduceScatter(element) => {
                let pieces = cut(parts());
                place.reduce(element, &pieces, from_previous, to_previous, from_next, to_next).await
            }
            Operation::AllGather => {
                let holder = |from: usize| (from * world / bytes.max(1)).saturating_sub(locals.start);
                let pieces = cut(parts());
                place.spread(holder, &pieces, from_previous, to_previous, from_next, to_next).await
            }
            Operation::Broadcast { root } => {
                let pieces = cut(std::iter::once((0..bytes, host(root))));
                let holder = |_| root.saturating_sub(locals.start);
                place.spread(holder, &pieces, from_previous, to_previous, from_next, to_next).await
            }
        }
        .map_err(broken)
    }
}

type Incoming<'a> = Option<Way<'a, BulkReceiver>>;
type Outgoing<'a> = Option<Way<'a, BulkSender>>;

fn ways(link: &mut Option<super::Link>) -> (Incoming<'_>, Outgoing<'_>) {
    link.as_mut()
        .map(|link| {
            let rank = link.rank;
            (Way { rank, stream: &mut link.receiver }, Way { rank, stream: &mut link.sender })
        })
        .unzip()
}

fn cut(parts: impl Iterator<Item = (Range<usize>, usize)>) -> Vec<Piece> {
    parts
        .flat_map(|(part, owner)| {
            let end = part.end;
            part.step_by(PIECE).map(move |from| Piece { from, len: PIECE.min(end - from), owner })
        })
        .collect()
}

/// This host's buffers and its place in the chain.
struct Place<'a> {
    region: &'a Region,
    group: usize,
    locals: Range<usize>,
    groups: usize,
}

impl Place<'_> {
    /// Sums up the chain, results down it as far as the owner of each piece.
    async fn reduce(
        &self,
        element: Element,
        pieces: &[Piece],
        mut from_previous: Incoming<'_>,
        mut to_previous: Outgoing<'_>,
        mut from_next: Incoming<'_>,
        mut to_next: Outgoing<'_>,
    ) -> Result<(), Broken> {
        if self.group + 1 == self.groups {
            // The last host has the results, and sends them back as they come about.
            return self.sum(element, pieces, &mut from_previous, &mut to_next, &mut to_previous).await;
        }
        let down = async {
            let (Some(next), group) = (&mut from_next, self.group) else { return Ok(()) };
            for piece in pieces.iter().filter(|piece| piece.owner <= group) {
                // SAFETY: this host's values of the piece were summed before its result could come back, and only this
                // leader writes its own buffer.
                let bytes = unsafe { self.region.bytes_mut(0, piece.from, piece.len) };
                next.read(bytes).await?;
                if let (true, Some(previous)) = (piece.owner < group, &mut to_previous) {
                    previous.write(bytes).await?;
                }
            }
            Ok(())
        };
        let mut none = None;
        let up = self.sum(element, pieces, &mut from_previous, &mut to_next, &mut none);
        tokio::try_join!(up, down).map(|_| ())
    }

    /// Takes running sums from `before`, adds this host's ranks, and passes them on to `after`, or, where nobody comes
    /// after, writes the results and sends them `back`.
    async fn sum(
        &self,
        element: Element,
        pieces: &[Piece],
        before: &mut Incoming<'_>,
        after: &mut Outgoing<'_>,
        back: &mut Outgoing<'_>,
    ) -> Result<(), Broken> {
        let mut accumulator = Accumulator::new();
        let (mut earlier, mut sums) = (Vec::new(), Vec::new());
        for piece in pieces {
            earlier.resize(piece.len / element.size() * size_of::<f32>(), 0);
            if let Some(before) = before {
                before.read(&mut earlier).await?;
            }
            sums.clear();
            for at in (0..piece.len).step_by(BLOCK * element.size()) {
                let len = (BLOCK * element.size()).min(piece.len - at);
                let elements = len / element.size();
                match before {
                    Some(_) => {
                        let start = at / element.size() * size_of::<f32>();
                        accumulator.begin_with(&earlier[start..start + elements * size_of::<f32>()]);
                    }
                    None => accumulator.begin(elements),
                }
                for local in 0..self.locals.len() {
                    // SAFETY: all ranks of this host have come to the operation, and the leader alone touches their
                    // buffers until it has relayed.
                    accumulator.add(element, unsafe { self.region.bytes(local, piece.from + at, len) });
                }
                match after {
                    Some(_) => accumulator.sums_into(&mut sums),
                    None => {
                        // SAFETY: as above; the values of this range have been summed.
                        let results = unsafe { self.region.bytes_mut(0, piece.from + at, len) };
                        accumulator.write(element, results);
                    }
                }
            }
            match (&mut *after, &mut *back) {
                (Some(after), _) => after.write(&sums).await?,
                (None, Some(back)) if piece.owner < self.group => {
                    // SAFETY: as above.
                    back.write(unsafe { self.region.bytes(0, piece.from, piece.len) }).await?;
                }
                (None, _) => {}
            }
        }
        Ok(())
    }

    /// Passes every piece from its owner's host to all others, both ways at once. `holder` is the local rank that has a
    /// piece of this host, by its offset.
    async fn spread(
        &self,
        holder: impl Fn(usize) -> usize,
        pieces: &[Piece],
        mut from_previous: Incoming<'_>,
        mut to_previous: Outgoing<'_>,
        mut from_next: Incoming<'_>,
        mut to_next: Outgoing<'_>,
    ) -> Result<(), Broken> {
        let up = pass(
            self,
            &holder,
            pieces.iter().filter(|p| p.owner <= self.group),
            &mut from_previous,
            &mut to_next,
        );
        let down = pass(
            self,
            &holder,
            pieces.iter().filter(|p| p.owner >= self.group),
            &mut from_next,
            &mut to_previous,
        );
        tokio::try_join!(up, down).map(|_| ())
    }
}

/// One direction of [`Place::spread`]: pieces of other hosts come in, all of `pieces` go on.
async fn pass(
    place: &Place<'_>,
    holder: impl Fn(usize) -> usize,
    pieces: impl Iterator<Item = &Piece>,
    from: &mut Incoming<'_>,
    to: &mut Outgoing<'_>,
) -> Result<(), Broken> {
    for piece in pieces {
        let own = piece.owner == place.group;
        if let (false, Some(from)) = (own, &mut *from) {
            // SAFETY: this leader alone writes its own buffer, and the two directions carry different pieces.
            from.read(unsafe { place.region.bytes_mut(0, piece.from, piece.len) }).await?;
        }
        if let Some(to) = to {
            let local = if own { holder(piece.from) } else { 0 };
            // SAFETY: nobody writes a piece after its owner has come to the operation, or after it was read above.
            to.write(unsafe { place.region.bytes(local, piece.from, piece.len) }).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_their_parts_in_order_and_do_not_cross_them() {
        let pieces =
            cut([(0..PIECE + 10, 0), (PIECE + 10..PIECE + 30, 1), (PIECE + 30..PIECE + 30, 2)].into_iter());
        let expected = [(0, PIECE, 0), (PIECE, 10, 0), (PIECE + 10, 20, 1)];
        assert_eq!(pieces, expected.map(|(from, len, owner)| Piece { from, len, owner }));
    }
}
