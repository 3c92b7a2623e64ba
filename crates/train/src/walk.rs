//! Forward and backward of one micro-batch, a block at a time.
//!
//! libtorch's graph never spans more than one block: between blocks the residual stream is detached. So the gradients of
//! a block are complete, and may travel, before the backward of the next begins; and a block may be computed again
//! instead of being remembered.

use lyceum_model::{Llama, Positions};
use tch::{Kind, Tensor};

use crate::{Row, TrainError, flat::FlatGroup, memory::RowTensor};

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
        let inputs: Vec<_> =
            rows.iter().map(|row| RowTensor::new(row.inputs, device)).collect::<Result<_, _>>()?;
        let labels: Vec<_> =
            rows.iter().map(|row| RowTensor::new(row.labels, device)).collect::<Result<_, _>>()?;
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
            groups[embed].accumulate_rows(0, ids, &gradient)?;
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

#[cfg(test)]
mod tests {
    use lyceum_collective::SoloCommunicator;
    use lyceum_model::{LlamaConfig, initial_parameters};
    use tch::Tensor;

    use crate::{Batch, OwnedRow, Precision, Row, Trainer, TrainerConfig};

    fn model(tied: bool) -> LlamaConfig {
        LlamaConfig::from_json(&format!(
            r#"{{"model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48,
                "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
                "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": {tied}}}"#
        ))
        .unwrap()
    }

    fn rows() -> Vec<OwnedRow> {
        (0..3)
            .map(|row| OwnedRow::next_token(&(0..13).map(|i| (i * 7 + row * 11) % 50).collect::<Vec<_>>()))
            .collect()
    }

    /// The gradients of the whole model's mean loss by one walk of libtorch's own autograd, by name.
    fn by_autograd(model: &LlamaConfig, rows: &[Row<'_>], targets: f64) -> Vec<(String, Tensor)> {
        let parameters = initial_parameters(model, 5).unwrap();
        let leaves: Vec<_> =
            parameters.into_iter().map(|(name, t)| (name, t.set_requires_grad(true))).collect();
        let leaf =
            |name: &str| leaves.iter().find(|(known, _)| known == name).map(|(_, t)| t.shallow_clone());
        let llama = lyceum_model::Llama::from_parameters(model.clone(), leaf).unwrap();
        let stack = |part: fn(&Row<'_>) -> Vec<i64>| {
            Tensor::stack(&rows.iter().map(|row| Tensor::from_slice(&part(row))).collect::<Vec<_>>(), 0)
        };
        let hidden = llama.hidden(&stack(|row| row.inputs.to_vec())).unwrap();
        let loss = llama.head_loss_sum(&hidden, &stack(|row| row.labels.to_vec())).unwrap();
        (loss / targets).backward();
        leaves.iter().map(|(name, leaf)| (name.clone(), leaf.grad())).collect()
    }

    fn assert_gradients(tied: bool, recompute: bool, micro_batch_rows: usize) {
        tch::set_num_threads(1);
        let model = model(tied);
        let rows = rows();
        let rows: Vec<_> = rows.iter().map(OwnedRow::as_row).collect();
        let batch = Batch::new(0, &rows);
        let config = TrainerConfig {
            precision: Precision::Fp32,
            activation_checkpointing: recompute,
            micro_batch_rows,
            learning_rate: 0.0,
            minimum_learning_rate: 0.0,
            ..TrainerConfig::default()
        };
        let parameters = initial_parameters(&model, 5).unwrap();
        let parameter = |name: &str| parameters.get(name).map(Tensor::shallow_clone);
        let solo = Box::new(SoloCommunicator::new());
        let mut trainer = Trainer::new(config, model.clone(), parameter, solo).unwrap();
        trainer.step(&batch).unwrap();
        let expected = by_autograd(&model, &rows, batch.target_tokens as f64);
        assert_eq!(trainer.groups.iter().map(|g| g.layout.parameters.len()).sum::<usize>(), expected.len());
        for group in &trainer.groups {
            for (placed, found) in group.layout.parameters.iter().zip(group.gradients()) {
                let (_, expected) = expected.iter().find(|(name, _)| *name == placed.name).unwrap();
                let difference = (found - expected).abs().max().double_value(&[]);
                let scale = expected.abs().max().double_value(&[]);
                assert!(
                    scale > 0.0 && difference <= 1e-5 * scale,
                    "{}: {difference} of {scale}",
                    placed.name
                );
            }
        }
    }

    #[test]
    fn gradients_are_those_of_autograd_over_the_whole_model() {
        assert_gradients(false, false, 8);
    }

    #[test]
    fn a_tied_embedding_gets_the_gradients_of_both_ends() {
        assert_gradients(true, false, 8);
    }

    #[test]
    fn gradients_of_recomputed_blocks_and_of_micro_batches_are_the_same() {
        assert_gradients(true, true, 2);
        assert_gradients(false, true, 1);
    }
}
