//! One group's flat buffers: gradients and weights in the communicator's memory, optimizer state in this process's.

use half::bf16;
use lyceum_collective::{Buffer, Communicator, Element, Keeper, Location, Operation, Pending};
use tch::{Kind, Tensor};

use crate::{
    TrainError,
    adamw::{Shard, before},
    kernel::{self, CHUNK},
    layout::GroupLayout,
    memory::{RowTensor, allocate, bf16_elements, device_of, elements, view},
    parallel::{in_parallel, threads},
};

/// The memory of one group of parameters, on one rank.
pub struct FlatGroup {
    /// Where each parameter lies.
    pub layout: GroupLayout,
    /// fp32, all of the group: this rank's own gradient, then in its shard the sum of all ranks.
    gradient: Slot,
    /// A view of [`Self::gradient`] per parameter, in its shape.
    gradient_views: Vec<Tensor>,
    /// The gradient buffer's padding.
    padding: Tensor,
    /// Which parameters have a gradient of this step already.
    written: Vec<bool>,
    /// What the model computes with, all of the group.
    weights: Slot,
    /// A leaf of the graph per parameter: views of [`Self::weights`].
    leaves: Vec<Tensor>,
    kind: Kind,
    /// fp32, this rank's shard; absent where the weights are fp32, and so the masters themselves.
    master: Option<Buffer>,
    /// fp32, this rank's shard.
    moment1: Buffer,
    /// fp32, this rank's shard.
    moment2: Buffer,
    /// The views above outlive a buffer that is lost with its epoch.
    _keepers: [Keeper; 2],
}

/// A buffer of the communicator's: here, under way, or lost to a failure.
enum Slot {
    Here(Buffer),
    Away(Pending),
    Lost,
}

impl FlatGroup {
    /// Allocates a group for computing in `kind`, all zeros.
    pub fn new(
        layout: GroupLayout,
        kind: Kind,
        communicator: &mut dyn Communicator,
    ) -> Result<Self, TrainError> {
        let gradient = communicator.allocate(layout.padded_len * size_of::<f32>())?;
        let weights = communicator.allocate(layout.padded_len * kind.elt_size_in_bytes())?;
        let device = device_of(weights.location());
        let shard_bytes = layout.shard.len() * size_of::<f32>();
        let views = |buffer: &Buffer, kind| -> Result<Vec<Tensor>, TrainError> {
            layout.parameters.iter().map(|p| Ok(view(buffer, p.range.start, &p.shape, kind)?)).collect()
        };
        let leaves = views(&weights, kind)?
            .into_iter()
            .map(|leaf| Ok(leaf.f_set_requires_grad(true)?))
            .collect::<Result<_, TrainError>>()?;
        Ok(Self {
            gradient_views: views(&gradient, Kind::Float)?,
            padding: view(&gradient, layout.len, &[(layout.padded_len - layout.len) as i64], Kind::Float)?,
            written: vec![false; layout.parameters.len()],
            leaves,
            kind,
            master: if kind == Kind::Float { None } else { Some(allocate(device, shard_bytes)?) },
            moment1: allocate(device, shard_bytes)?,
            moment2: allocate(device, shard_bytes)?,
            _keepers: [gradient.keeper(), weights.keeper()],
            gradient: Slot::Here(gradient),
            weights: Slot::Here(weights),
            layout,
        })
    }

    /// The weights as leaves of the graph, in the layout's order.
    pub fn leaves(&self) -> &[Tensor] {
        &self.leaves
    }

    /// The gradients, in the layout's order.
    #[cfg(test)]
    pub fn gradients(&self) -> &[Tensor] {
        &self.gradient_views
    }

    /// Adds to the gradient of the parameter `index`, in fp32. The first one of a step is written over what was there.
    pub fn accumulate(&mut self, index: usize, gradient: &Tensor) -> Result<(), tch::TchError> {
        let sum = &mut self.gradient_views[index];
        if !std::mem::replace(&mut self.written[index], true) {
            return sum.f_copy_(gradient);
        }
        match &mut self.gradient {
            // Of two kinds, libtorch would first make a copy in fp32.
            Slot::Here(buffer)
                if buffer.location() == Location::Host
                    && gradient.kind() == Kind::BFloat16
                    && gradient.is_contiguous() =>
            {
                let sums = &mut buffer.as_mut_slice::<f32>()[self.layout.parameters[index].range.clone()];
                let pieces = sums.chunks_mut(CHUNK).zip(bf16_elements(gradient).chunks(CHUNK)).collect();
                in_parallel(pieces, threads(), |(sums, values)| kernel::add_bf16(sums, values));
            }
            _ => {
                let _ = sum.f_add_(gradient)?;
            }
        }
        Ok(())
    }

    /// Adds `gradient`, `[n, width]` fp32, to the rows `ids` (`n` of them) of the parameter `index`: what an embedding's
    /// backward does, without a dense gradient of the whole vocabulary.
    pub fn accumulate_rows(
        &mut self,
        index: usize,
        ids: &RowTensor<'_>,
        gradient: &Tensor,
    ) -> Result<(), TrainError> {
        if !std::mem::replace(&mut self.written[index], true) {
            let _ = self.gradient_views[index].f_zero_()?;
        }
        match &mut self.gradient {
            Slot::Here(buffer) if buffer.location() == Location::Host => {
                let width = gradient.size2()?.1 as usize;
                let start = self.layout.parameters[index].range.start;
                let table = &mut buffer.as_mut_slice::<f32>()[start..];
                // Ids were checked against the vocabulary before the step.
                for (id, row) in ids.row().iter().zip(elements(gradient).chunks_exact(width)) {
                    let sum = &mut table[*id as usize * width..][..width];
                    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
            }
            _ => {
                let ids = ids.tensor().f_reshape([-1])?;
                let _ = self.gradient_views[index].f_index_add_(0, &ids, gradient)?;
            }
        }
        Ok(())
    }

    /// Hands the finished gradient to the collective; [`finish_reduction`](Self::finish_reduction) waits for it.
    pub fn start_reduction(&mut self, communicator: &mut dyn Communicator) -> Result<(), TrainError> {
        for (view, written) in self.gradient_views.iter_mut().zip(&mut self.written) {
            if !std::mem::replace(written, false) {
                let _ = view.f_zero_()?;
            }
        }
        // A reduction leaves anything in the parts that are not this rank's.
        let _ = self.padding.f_zero_()?;
        self.gradient.start(Operation::ReduceScatter(Element::F32), communicator)
    }

    /// Waits until this rank's shard holds the sum of all ranks.
    pub fn finish_reduction(
        &mut self,
        communicator: &mut dyn Communicator,
        timeout: std::time::Duration,
    ) -> Result<(), TrainError> {
        self.gradient.finish(communicator, timeout)
    }

    /// Begins to fetch the other ranks' updated shards of the weights.
    pub fn start_gather(&mut self, communicator: &mut dyn Communicator) -> Result<(), TrainError> {
        self.weights.start(Operation::AllGather, communicator)
    }

    /// Waits until the weights are those of all ranks.
    pub fn finish_gather(
        &mut self,
        communicator: &mut dyn Communicator,
        timeout: std::time::Duration,
    ) -> Result<(), TrainError> {
        self.weights.finish(communicator, timeout)
    }

    /// On the host: the summed gradient of this rank's own parameters.
    pub fn owned_gradient(&self) -> Result<&[f32], TrainError> {
        Ok(&self.gradient.here()?.as_slice::<f32>()[self.layout.owned()])
    }

    /// On the host: what AdamW reads and writes, for this rank's own parameters.
    pub fn shard(&mut self) -> Result<Shard<'_>, TrainError> {
        let (owned, shard_len) = (self.layout.owned(), self.layout.owned().len());
        let decayed = before(self.layout.decayed, &owned);
        let gradient = &self.gradient.here()?.as_slice::<f32>()[owned.clone()];
        let weights = self.weights.here_mut()?;
        let (master, weights) = match &mut self.master {
            Some(master) => (
                &mut master.as_mut_slice::<f32>()[..shard_len],
                Some(&mut weights.as_mut_slice::<bf16>()[owned]),
            ),
            None => (&mut weights.as_mut_slice::<f32>()[owned], None),
        };
        Ok(Shard {
            gradient,
            master,
            moment1: &mut self.moment1.as_mut_slice::<f32>()[..shard_len],
            moment2: &mut self.moment2.as_mut_slice::<f32>()[..shard_len],
            weights,
            decayed,
        })
    }

    /// Anywhere: the tensors of this rank's own parameters, `[gradient, master, moment1, moment2, weights]`, each flat.
    pub fn shard_tensors(&self) -> Result<[Tensor; 5], TrainError> {
        let owned = self.layout.owned();
        let shape = [owned.len() as i64];
        let weights = view(self.weights.here()?, owned.start, &shape, self.kind)?;
        Ok([
            view(self.gradient.here()?, owned.start, &shape, Kind::Float)?,
            match &self.master {
                Some(master) => view(master, 0, &shape, Kind::Float)?,
                None => weights.shallow_clone(),
            },
            view(&self.moment1, 0, &shape, Kind::Float)?,
            view(&self.moment2, 0, &shape, Kind::Float)?,
            weights,
        ])
    }

    /// Sets the group's parameters to `parameter(name)`, whatever kind they come in: the masters exactly, the weights
    /// rounded.
    pub fn set_parameters(
        &mut self,
        mut parameter: impl FnMut(&str, &[i64]) -> Result<Tensor, TrainError>,
    ) -> Result<(), TrainError> {
        let owned = self.layout.owned();
        let weights = self.weights.here()?;
        for placed in &self.layout.parameters {
            let values = parameter(&placed.name, &placed.shape)?.f_detach()?.f_reshape([-1])?;
            let shape = [placed.range.len() as i64];
            view(weights, placed.range.start, &shape, self.kind)?.f_copy_(&values)?;
            let (start, end) = (placed.range.start.max(owned.start), placed.range.end.min(owned.end));
            if let (Some(master), true) = (&self.master, start < end) {
                let count = (end - start) as i64;
                let own = values.f_narrow(0, (start - placed.range.start) as i64, count)?;
                view(master, start - owned.start, &[count], Kind::Float)?.f_copy_(&own)?;
            }
        }
        Ok(())
    }

    /// Makes the weights of this rank's own parameters those of the masters.
    pub fn round_masters(&mut self) -> Result<(), TrainError> {
        let [_, master, _, _, mut weights] = self.shard_tensors()?;
        if let (Some(buffer), Location::Host) = (&self.master, self.moment1.location()) {
            let owned = self.layout.owned();
            let masters = &buffer.as_slice::<f32>()[..owned.len()];
            kernel::round_to_bf16(masters, &mut self.weights.here_mut()?.as_mut_slice::<bf16>()[owned]);
        } else {
            weights.f_copy_(&master)?;
        }
        Ok(())
    }
}

impl Slot {
    fn here(&self) -> Result<&Buffer, TrainError> {
        match self {
            Self::Here(buffer) => Ok(buffer),
            _ => Err(TrainError::Failed),
        }
    }

    fn here_mut(&mut self) -> Result<&mut Buffer, TrainError> {
        match self {
            Self::Here(buffer) => Ok(buffer),
            _ => Err(TrainError::Failed),
        }
    }

    fn start(&mut self, operation: Operation, communicator: &mut dyn Communicator) -> Result<(), TrainError> {
        match std::mem::replace(self, Self::Lost) {
            Self::Here(buffer) => *self = Self::Away(communicator.start(operation, buffer)?),
            _ => return Err(TrainError::Failed),
        }
        Ok(())
    }

    fn finish(
        &mut self,
        communicator: &mut dyn Communicator,
        timeout: std::time::Duration,
    ) -> Result<(), TrainError> {
        match std::mem::replace(self, Self::Lost) {
            Self::Away(pending) => *self = Self::Here(communicator.wait(pending, timeout)?),
            _ => return Err(TrainError::Failed),
        }
        Ok(())
    }
}
