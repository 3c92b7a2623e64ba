//! The commit vote: after the reductions, before the update, every rank tells every other what it has.

use std::time::Duration;

use lyceum_collective::{Buffer, Communicator, Location, Operation};
use tch::Kind;

use crate::{TrainError, memory::view};

/// What one rank says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vote {
    /// The step it is at.
    pub step: u64,
    /// The batch it trained on.
    pub log_position: u64,
    /// The target tokens that it normalised by.
    pub target_tokens: u64,
    /// The target tokens in its own rows.
    pub own_targets: u64,
    /// The cross-entropy of its own rows.
    pub loss_sum: f64,
    /// The squares of its shard of the reduced gradient.
    pub squared_norm: f64,
}

/// What all ranks said, added up in rank order: the same on every rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Whether every rank's loss and gradient are finite.
    pub commit: bool,
    /// The cross-entropy of the global batch.
    pub loss_sum: f64,
    /// The squared norm of the global gradient.
    pub squared_norm: f64,
}

/// The box that votes are cast into: a slot of [`WORDS`] words a rank.
pub struct Ballot {
    buffer: Option<Buffer>,
    location: Location,
}

const WORDS: usize = 8;

impl Ballot {
    /// Allocates the box. A collective call.
    pub fn new(communicator: &mut dyn Communicator) -> Result<Self, TrainError> {
        let buffer = communicator.allocate(communicator.world_size() * WORDS * size_of::<u64>())?;
        Ok(Self { location: buffer.location(), buffer: Some(buffer) })
    }

    /// Where this communicator's buffers lie.
    pub fn location(&self) -> Location {
        self.location
    }

    /// Casts this rank's vote and returns what all voted. A collective call.
    pub fn cast(
        &mut self,
        vote: Vote,
        communicator: &mut dyn Communicator,
        timeout: Duration,
    ) -> Result<Verdict, TrainError> {
        let mut own = [0; WORDS];
        own[..6].copy_from_slice(&[
            vote.step,
            vote.log_position,
            vote.target_tokens,
            vote.own_targets,
            vote.loss_sum.to_bits(),
            vote.squared_norm.to_bits(),
        ]);
        let words = self.gather(own, communicator, timeout)?;
        let votes: Vec<Vote> = words
            .iter()
            .map(|words| Vote {
                step: words[0],
                log_position: words[1],
                target_tokens: words[2],
                own_targets: words[3],
                loss_sum: f64::from_bits(words[4]),
                squared_norm: f64::from_bits(words[5]),
            })
            .collect();
        count(&votes, communicator.rank())
    }

    /// Every rank's words, by rank. A collective call.
    pub fn gather(
        &mut self,
        own: [u64; WORDS],
        communicator: &mut dyn Communicator,
        timeout: Duration,
    ) -> Result<Vec<[u64; WORDS]>, TrainError> {
        let buffer = self.buffer.take().ok_or(TrainError::Failed)?;
        // As tensors, so that it is the same on a GPU.
        let signed = own.map(|word| word as i64);
        let words = (communicator.world_size() * WORDS) as i64;
        let mut slot = view(&buffer, communicator.rank() * WORDS, &[WORDS as i64], Kind::Int64)?;
        slot.f_copy_(&tch::Tensor::f_from_slice(&signed)?)?;
        let buffer = communicator.run(Operation::AllGather, buffer, timeout)?;
        let all = Vec::<i64>::try_from(view(&buffer, 0, &[words], Kind::Int64)?)?;
        self.buffer = Some(buffer);
        Ok(all.as_chunks::<WORDS>().0.iter().map(|words| words.map(|word| word as u64)).collect())
    }
}

fn count(votes: &[Vote], own_rank: usize) -> Result<Verdict, TrainError> {
    let ours = votes[own_rank];
    for (rank, theirs) in votes.iter().enumerate() {
        let pairs = [
            ("step", theirs.step, ours.step),
            ("log position", theirs.log_position, ours.log_position),
            ("target tokens", theirs.target_tokens, ours.target_tokens),
        ];
        if let Some((what, theirs, ours)) = pairs.into_iter().find(|(_, theirs, ours)| theirs != ours) {
            return Err(TrainError::Disagreement { rank, own_rank, what, theirs, ours });
        }
    }
    let counted: u64 = votes.iter().map(|vote| vote.own_targets).sum();
    if counted != ours.target_tokens {
        let reason = format!(
            "its rows have {counted} target tokens over all ranks, its header says {}",
            ours.target_tokens
        );
        return Err(TrainError::Batch { log_position: ours.log_position, reason });
    }
    Ok(Verdict {
        commit: votes.iter().all(|vote| vote.loss_sum.is_finite() && vote.squared_norm.is_finite()),
        loss_sum: votes.iter().map(|vote| vote.loss_sum).sum(),
        squared_norm: votes.iter().map(|vote| vote.squared_norm).sum(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTE: Vote = Vote {
        step: 3,
        log_position: 5,
        target_tokens: 20,
        own_targets: 10,
        loss_sum: 2.0,
        squared_norm: 4.0,
    };

    #[test]
    fn one_rank_that_is_not_finite_stops_all() {
        assert_eq!(
            count(&[VOTE, VOTE], 0).unwrap(),
            Verdict { commit: true, loss_sum: 4.0, squared_norm: 8.0 }
        );
        let lost = Vote { squared_norm: f64::NAN, ..VOTE };
        assert!(!count(&[VOTE, lost], 0).unwrap().commit);
        let lost = Vote { loss_sum: f64::INFINITY, ..VOTE };
        assert!(!count(&[lost, VOTE], 1).unwrap().commit);
    }

    #[test]
    fn l1_ranks_at_another_batch_are_named() {
        let error = count(&[VOTE, Vote { log_position: 6, ..VOTE }], 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "rank 1 has log position 6 where rank 0 has 5: all ranks must train on the same batch log"
        );
    }

    #[test]
    fn l1_a_row_counted_twice_or_never_is_refused() {
        let error = count(&[VOTE, Vote { own_targets: 11, ..VOTE }], 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "batch at log position 5: its rows have 21 target tokens over all ranks, its header says 20"
        );
    }
}
