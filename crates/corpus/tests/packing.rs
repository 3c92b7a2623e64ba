//! Packing loses nothing and duplicates nothing, and a sealed batch is what was packed.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::sync::Arc;

use lyceum_corpus::batch::{self, BatchError, BatchView};
use lyceum_corpus::chain::{ChainId, Loss, Span, Text, TextId};
use lyceum_corpus::pack::{BatchPlan, BatchShape, LayoutError, NO_LOSS, Packer};
use proptest::prelude::*;
use rkyv::util::AlignedVec;

const PAD: u32 = 7;

fn id(index: u32) -> TextId {
    TextId { chain: ChainId { source: 0, number: 0 }, index }
}

/// Texts whose tokens are all different, so that every token can be found again.
fn texts(lengths: &[usize]) -> Vec<Arc<Text>> {
    let mut next = 100;
    let mut text = |&length: &usize| {
        let tokens = (next..next + length as u32).collect();
        next += length as u32;
        Arc::new(Text { tokens, loss: Loss::All })
    };
    lengths.iter().map(&mut text).collect()
}

fn pack(shape: BatchShape, texts: &[Arc<Text>]) -> Vec<BatchPlan> {
    let mut packer = Packer::new(shape);
    let mut plans = Vec::new();
    for (index, text) in (0..).zip(texts) {
        packer.push(id(index), text.clone());
        plans.extend(std::iter::from_fn(|| packer.next_batch()));
    }
    plans.extend(packer.last_batch());
    plans
}

fn sealed(plan: &BatchPlan, position: u64) -> AlignedVec<64> {
    let mut memory = AlignedVec::new();
    memory.resize(batch::encoded_len(plan).unwrap(), 0xee);
    batch::write(plan, position, &mut memory).unwrap();
    memory
}

#[test]
fn l4_rows_are_aligned_lie_in_the_archive_and_labels_are_shifted() {
    let shape = BatchShape::new(2, 16, PAD).unwrap();
    let plans = pack(shape, &texts(&[20, 3, 5]));
    assert_eq!(plans.len(), 1);
    let memory = sealed(&plans[0], 42);
    let view = BatchView::open(&memory).unwrap();
    assert_eq!((view.log_position(), view.rows(), view.sequence_length()), (42, 2, 16));
    assert_eq!((view.tokens(), view.target_tokens()), (28, 28 - 3));
    let inside = memory.as_ptr_range();
    for row in (0..2).map(|index| view.row(index)) {
        for array in [row.inputs, row.labels] {
            assert_eq!(array.as_ptr() as usize % 64, 0);
            assert!(inside.contains(&array.as_ptr().cast()));
            assert_eq!(array.len(), 16);
        }
    }
    assert_eq!(view.row(0).labels[15], view.row(1).inputs[0], "a text goes on in the next row");
    assert_eq!(view.row(1).borders, [0, 4, 7, 12]);
    assert_eq!(view.row(1).labels[3], NO_LOSS, "after a text's last token comes another text");
    assert_eq!(view.row(1).inputs[12..], [i64::from(PAD); 4]);
    assert_eq!(view.row(1).labels[12..], [NO_LOSS; 4]);
}

#[test]
fn loss_is_where_the_spans_are_and_nowhere_else() {
    let tokens = vec![1, 10, 11, 20, 21, 2];
    let loss = Loss::Spans(vec![Span { start: 3, end: 6 }]);
    let plans = pack(BatchShape::new(1, 8, PAD).unwrap(), &[Arc::new(Text { tokens, loss })]);
    let memory = sealed(&plans[0], 0);
    let view = BatchView::open(&memory).unwrap();
    let no = NO_LOSS;
    assert_eq!(view.row(0).labels, [no, no, 20, 21, 2, no, no, no]);
    assert_eq!(view.target_tokens(), 3);
}

#[test]
fn memory_of_another_length_or_alignment_is_refused() {
    let plans = pack(BatchShape::new(1, 8, PAD).unwrap(), &texts(&[8]));
    let exact = batch::encoded_len(&plans[0]).unwrap();
    let mut memory = AlignedVec::<64>::new();
    memory.resize(exact + 64, 0);
    for length in [exact - 1, exact + 1] {
        let error = batch::write(&plans[0], 0, &mut memory[..length]).unwrap_err();
        assert!(
            matches!(error, BatchError::Length { needed, given } if needed == exact && given == length),
            "{error}"
        );
    }
    let error = batch::write(&plans[0], 0, &mut memory[8..8 + exact]).unwrap_err();
    assert!(matches!(error, BatchError::Unaligned { .. }), "{error}");
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    for (rows, length) in [(0, 8), (1, 0), (1, 12), (usize::MAX, 8), (1 << 20, 1 << 10)] {
        assert!(BatchShape::new(rows, length, 0).is_err(), "{rows} x {length}");
    }
}

#[test]
fn a_layout_that_its_texts_do_not_bear_out_is_refused() {
    let shape = BatchShape::new(1, 8, PAD).unwrap();
    let layout = pack(shape, &texts(&[8]))[0].layout();
    let short = texts(&[5]).remove(0);
    let replayed = BatchPlan::replay(shape, &layout, |_| Ok::<_, LayoutError>(short.clone()));
    assert!(matches!(replayed, Err(LayoutError::Outside { end: 8, tokens: 5, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn l1_packing_loses_nothing_duplicates_nothing_and_keeps_the_order(
        lengths in prop::collection::vec(0_usize..70, 0..30), rows in 1_usize..4, lines in 1_usize..4
    ) {
        let shape = BatchShape::new(rows, 8 * lines, PAD).unwrap();
        let texts = texts(&lengths);
        let plans = pack(shape, &texts);
        let all: Vec<i64> = texts.iter().flat_map(|text| text.tokens.iter().map(|&token| i64::from(token))).collect();
        let targets: Vec<i64> =
            texts.iter().flat_map(|text| text.tokens.iter().skip(1).map(|&token| i64::from(token))).collect();
        let (mut inputs, mut labels) = (Vec::<i64>::new(), Vec::<i64>::new());
        for (position, plan) in (0..).zip(&plans) {
            let memory = sealed(plan, position);
            let view = BatchView::open(&memory).unwrap();
            let last = position + 1 == plans.len() as u64;
            prop_assert!(last || view.tokens() == shape.tokens(), "padding before the last batch");
            let mut counted = 0;
            for row in (0..view.rows()).map(|index| view.row(index)) {
                inputs.extend(row.inputs);
                labels.extend(row.labels);
                counted += row.labels.iter().filter(|&&label| label != NO_LOSS).count() as u64;
            }
            prop_assert_eq!(counted, view.target_tokens());
        }
        prop_assert!(inputs[all.len()..].iter().all(|&token| token == i64::from(PAD)));
        prop_assert!(inputs.len() - all.len() < shape.tokens() as usize);
        inputs.truncate(all.len());
        prop_assert_eq!(inputs, all);
        labels.retain(|&label| label != NO_LOSS);
        prop_assert_eq!(labels, targets);
    }

    #[test]
    fn l5_a_logged_layout_gives_the_same_bytes_again(lengths in prop::collection::vec(1_usize..50, 1..20)) {
        let shape = BatchShape::new(2, 16, PAD).unwrap();
        let texts = texts(&lengths);
        for plan in pack(shape, &texts) {
            let again = BatchPlan::replay(shape, &plan.layout(), |id| Ok::<_, LayoutError>(texts[id.index as usize].clone()));
            prop_assert_eq!(sealed(&plan, 3).to_vec(), sealed(&again.unwrap(), 3).to_vec());
        }
    }

    #[test]
    fn damaged_archives_are_refused_or_read_without_harm(at in 0_usize..700, value in any::<u8>(), cut in 0_usize..700) {
        let plans = pack(BatchShape::new(2, 16, PAD).unwrap(), &texts(&[20, 12]));
        let mut memory = sealed(&plans[0], 0);
        let length = memory.len();
        memory[at % length] = value;
        for bytes in [&memory[..], &memory[..cut % length]] {
            if let Ok(view) = BatchView::open(bytes) {
                (0..view.rows()).for_each(|index| assert_eq!(view.row(index).inputs.len(), view.sequence_length()));
            }
        }
    }
}
