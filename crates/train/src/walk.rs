//! Forward and backward of one micro-batch, a block at a time.
//!
//! libtorch's graph never spans more than one block: between blocks the residual stream is detached. So the gradients of
//! a block are complete, and may travel, before the backward of the next begins; and a block may be computed again
//! instead of being remembered.

use lyceum_model::{Llama, Positions};
use tch::{Kind, Tensor};

use crate::{
    Row, TrainError,
    flat::FlatGroup,
    memory::RowTensor,
};

/// What a micro-batch needs besides its rows.
pub struct Walk<'a> {
    /// The model, over the leaves of the groups.
    pub llama: &'a Llama,
    /// Tables for the rows' length.
    pub positions: &'a Positions,
    /// Keep only each block's input and compute the block again in the backward.
    pub recompute: bool,
    /// What each row's sum of cross-entropy is multiplied by before it is differentiated.
    pub scale: f64,
    /// The head's parameters as the model counts them, own ones then shared ones: (group, index in its layout).
    pub head_parameters: &'a [(usize, usize)],
}

/// A block's detached input and, unless it is to be computed again, its output with the graph between the two.
struct Visited {
    input: Tensor,
    output: Option<Tensor>,
}

impl Walk<'_> {
    /// Adds the gradients of `scale` times the cross-entropy of `rows` to the groups (the embedding, the blocks, the
    /// head) and returns that cross-entropy, unscaled, one fp32 scalar a row.
    ///
    /// `finished` is called with each group when nothing more of this micro-batch will be added to it: the head first, the
    /// embedding last. Runs where gradients are off; turns them on for the blocks only.
    pub fn run(
        &self,
        rows: &[Row<'_>],
        groups: &mut [FlatGroup],
        mut finished: impl FnMut(&mut FlatGroup) -> Result<(), TrainError>,
    ) -> Result<Vec<Tensor>, TrainError> {
        let device = self.llama.device();
        let inputs: Vec<_> = rows.iter().map(|row| RowTensor::new(row.inputs, device)).collect::<Result<_, _>>()?;
        let labels: Vec<_> = rows.iter().map(|row| RowTensor::new(row.labels, device)).collect::<Result<_, _>>()?;
        let (embed, blocks, head) = (0, 1..groups.len() - 1, groups.len() - 1);

        let (visited, hidden) = self.forward(&inputs)?;
        let (losses, mut gradient) = self.head(&hidden, &labels, groups)?;
        finished(&mut groups[head])?;
        for (group, visited) in blocks.zip(visited).rev() {
            gradient = self.block(group, visited, &gradient, groups)?;
            finished(&mut groups[group])?;
        }
        for (row, ids) in inputs.iter().enumerate() {
            let gradient = gradient.f_get(row as i64)?.f_to_kind(Kind::Float)?.f_contiguous()?;
            groups[embed].accumulate_rows(0, ids.tensor(), &gradient)?;
        }
        finished(&mut groups[embed])?;
        Ok(losses)
    }

    /// The residual stream behind the last block, and what the backward needs of each block.
    fn forward(&self, inputs: &[RowTensor<'_>]) -> Result<(Vec<Visited>, Tensor), TrainError> {
        let embedded: Vec<_> =
            inputs.iter().map(|ids| self.llama.embed(ids.tensor())).collect::<Result<_, _>>()?;
        let mut hidden = Tensor::f_cat(&embedded, 0)?;
        let mut visited = Vec::new();
        for index in 0..self.llama.config().layers as usize {
            let input = hidden.f_set_requires_grad(true)?;
            let output = if self.recompute {
                hidden = self.llama.block(index, &input, self.positions)?;
                None
            } else {
                let output = tch::with_grad(|| self.llama.block(index, &input, self.positions))?;
                hidden = output.f_detach()?;
                Some(output)
            };
            visited.push(Visited { input, output });
        }
        Ok((visited, hidden))
    }

    /// Cross-entropy of each row, and its gradient with regard to the residual stream.
    fn head(
        &self,
        hidden: &Tensor,
        labels: &[RowTensor<'_>],
        groups: &mut [FlatGroup],
    ) -> Result<(Vec<Tensor>, Tensor), TrainError> {
        let (mut losses, mut gradients) = (Vec::new(), Vec::new());
        for (row, labels) in labels.iter().enumerate() {
            let hidden = hidden.f_narrow(0, row as i64, 1)?;
            let (loss, gradient) =
                self.llama.head_backward(&hidden, labels.tensor(), self.scale, |index, gradient| {
                    let (group, index) = self.head_parameters[index];
                    Ok(groups[group].accumulate(index, gradient)?)
                })?;
            losses.push(loss);
            gradients.push(gradient);
        }
        Ok((losses, Tensor::f_cat(&gradients, 0)?))
    }

    /// The vector-Jacobian product of one block: adds to its parameters' gradients and returns its input's.
    fn block(
        &self,
        group: usize,
        visited: Visited,
        gradient: &Tensor,
        groups: &mut [FlatGroup],
    ) -> Result<Tensor, TrainError> {
        let Visited { input, output } = visited;
        // run_backward takes no gradient of the output. That of its product with a constant is the constant: the same bits.
        let product = tch::with_grad(|| -> Result<Tensor, TrainError> {
            let output = match output {
                Some(output) => output,
                None => self.llama.block(group - 1, &input, self.positions)?,
            };
            Ok(output.f_mul(gradient)?)
        })?;
        let leaves: Vec<&Tensor> = std::iter::once(&input).chain(groups[group].leaves()).collect();
        let mut gradients = Tensor::f_run_backward(&[product], &leaves, false, false)?.into_iter();
        let of_input = gradients.next().ok_or(TrainError::Failed)?;
        for (index, gradient) in gradients.enumerate() {
            groups[group].accumulate(index, &gradient)?;
        }
        Ok(of_input)
    }
}
