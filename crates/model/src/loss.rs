//! Cross-entropy over the vocabulary, a bounded number of rows at a time.

use tch::{Device, Kind, Reduction, Tensor, no_grad};

use crate::{Llama, ModelError};

/// A label that takes no part in the loss.
pub const IGNORED_LABEL: i64 = -100;

/// Logits alive at once: 2^24 fp32 values are 64 MiB (and as much again for their gradient).
const LOGITS_AT_ONCE: i64 = 1 << 24;

/// On an accelerator: 1 GiB, three in all with their logarithms and their gradient. Each chunk reads and writes the whole gradient of the head, which takes as long as the
/// products of some hundred rows.
const LOGITS_AT_ONCE_ON_DEVICE: i64 = 1 << 28;

impl Llama {
    /// The sum, in fp32, of the cross-entropy of `labels` (`[batch, length]` i64, already shifted,
    /// [`IGNORED_LABEL`] where no loss is) given the residual stream `hidden` (`[batch, length, hidden]`). A scalar
    /// tensor; where gradients are recorded it can be back-propagated, but then all its logits stay alive:
    /// [`Llama::head_backward`] does not keep them.
    ///
    /// # Errors
    /// Shapes do not match, or a label is outside the vocabulary.
    pub fn head_loss_sum(&self, hidden: &Tensor, labels: &Tensor) -> Result<Tensor, ModelError> {
        let mut sum: Option<Tensor> = None;
        for (hidden, labels) in self.chunks(hidden, labels)? {
            let loss = self.chunk_loss(&hidden, &labels)?;
            sum = Some(match sum {
                None => loss,
                Some(sum) => sum.f_add(&loss)?,
            });
        }
        sum.ok_or_else(|| ModelError::Input("no rows to take a loss of".into()))
    }

    /// Loss and gradients of the head in one walk over row chunks, so that `[tokens, vocabulary]` is never alive as a
    /// whole. The gradients are those of `scale * head_loss_sum(hidden, labels)`.
    ///
    /// `accumulate(i, gradient)` is called, chunk after chunk, with the gradient of the head group's i-th parameter
    /// (its own parameters, then its shared ones, in the order of [`crate::LlamaConfig::groups`]) in the weights' kind: the
    /// caller adds it in fp32. Gradients must be on for the head's parameters (`requires_grad`).
    ///
    /// Returns the unscaled loss sum (fp32 scalar, detached) and the gradient of `hidden` (its shape and kind).
    ///
    /// # Errors
    /// As [`Llama::head_loss_sum`], or a head parameter does not require gradients.
    pub fn head_backward(
        &self,
        hidden: &Tensor,
        labels: &Tensor,
        scale: f64,
        mut accumulate: impl FnMut(usize, &Tensor) -> Result<(), ModelError>,
    ) -> Result<(Tensor, Tensor), ModelError> {
        let leaves = self.head_leaves();
        if let Some(index) = leaves.iter().position(|leaf| !leaf.requires_grad()) {
            return Err(ModelError::Input(format!(
                "the head's parameter {index} does not require gradients"
            )));
        }
        let mut sum = no_grad(|| Tensor::f_zeros([], (Kind::Float, hidden.device())))?;
        let mut gradients = Vec::new();
        for (hidden, labels) in self.chunks(hidden, labels)? {
            let hidden = hidden.f_detach()?.f_set_requires_grad(true)?;
            let loss = tch::with_grad(|| self.chunk_loss(&hidden, &labels))?;
            let scaled = tch::with_grad(|| loss.f_mul_scalar(scale))?;
            let mut found =
                Tensor::f_run_backward(&[scaled], &[&hidden, leaves[0], leaves[1]], false, false)?
                    .into_iter();
            no_grad(|| -> Result<(), ModelError> {
                sum = sum.f_add(&loss.f_detach()?)?;
                gradients.extend(found.next());
                found.enumerate().try_for_each(|(index, gradient)| accumulate(index, &gradient))
            })?;
        }
        let gradient = no_grad(|| Tensor::f_cat(&gradients, 0))?;
        Ok((sum, no_grad(|| gradient.f_view_as(hidden))?))
    }

    /// `(hidden [n, width], labels [n])` pieces small enough for their logits.
    fn chunks(&self, hidden: &Tensor, labels: &Tensor) -> Result<Vec<(Tensor, Tensor)>, ModelError> {
        let width = self.config().hidden;
        let (shape, label_shape) = (hidden.size(), labels.size());
        if shape.split_last() != Some((&width, &label_shape)) {
            return Err(ModelError::Input(format!("hidden states {shape:?} with labels {label_shape:?}")));
        }
        if labels.kind() != Kind::Int64 {
            return Err(ModelError::Input(format!("labels are {:?}, expected Int64", labels.kind())));
        }
        let (hidden, labels) = (hidden.f_reshape([-1, width])?, labels.f_reshape([-1])?);
        let rows = labels.size1()?;
        let logits = if hidden.device() == Device::Cpu { LOGITS_AT_ONCE } else { LOGITS_AT_ONCE_ON_DEVICE };
        let step = (logits / self.config().vocabulary).max(1);
        (0..rows)
            .step_by(usize::try_from(step).unwrap_or(1))
            .map(|start| {
                let count = step.min(rows - start);
                Ok((hidden.f_narrow(0, start, count)?, labels.f_narrow(0, start, count)?))
            })
            .collect()
    }

    fn chunk_loss(&self, hidden: &Tensor, labels: &Tensor) -> Result<Tensor, ModelError> {
        let logits = self.logits(hidden)?;
        Ok(logits.f_cross_entropy_loss(labels, None::<&Tensor>, Reduction::Sum, IGNORED_LABEL, 0.0)?)
    }
}
