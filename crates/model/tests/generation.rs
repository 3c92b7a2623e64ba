//! Generation with a cache gives what the whole model, run again for every token, gives.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod common;

use common::{REFERENCES, load, small_config, small_parameters};
use lyceum_corpus::chain::DocumentId;
use lyceum_model::Llama;
use lyceum_model::generate::{Choice, Completion, GenerationLimits, Generator, Request, Stop, TorchEngine};
use lyceum_synth::engine::{Engine, Finish, Prompt, Sampling};
use lyceum_torch_shim::{Seen, observe};
use tch::{Tensor, no_grad};

const LIMITS: GenerationLimits = GenerationLimits { rows: 4, cached_tokens: 4 * 64, prefill_tokens: 64 };

fn greedy(tokens: &[u32], max_new_tokens: usize) -> Request {
    Request { tokens: tokens.to_vec(), max_new_tokens, choice: Choice::Greedy }
}

/// Prompts of 1 to 17 tokens, in no order of length.
fn prompts(count: u32) -> Vec<Vec<u32>> {
    (0..count).map(|i| (0..1 + i * 5 % 17).map(|j| (i * 31 + j * 7 + 3) % 90).collect()).collect()
}

/// Greedy decoding without a cache.
fn by_whole_model(llama: &Llama, prompt: &[u32], new_tokens: usize) -> Vec<u32> {
    let mut ids: Vec<i64> = prompt.iter().map(|token| i64::from(*token)).collect();
    for _ in 0..new_tokens {
        let input = Tensor::from_slice(&ids).unsqueeze(0);
        let logits = no_grad(|| llama.logits(&llama.hidden(&input).unwrap()).unwrap());
        ids.push(logits.select(1, -1).argmax(1, false).int64_value(&[0]));
    }
    ids[prompt.len()..].iter().map(|token| *token as u32).collect()
}

#[test]
fn cached_greedy_generation_equals_running_the_whole_model_for_each_token() {
    for name in REFERENCES {
        let llama = load(name);
        let prompt = [1, 17, 80, 4, 33];
        let expected = by_whole_model(&llama, &prompt, 30);
        let mut generator = Generator::new(llama, LIMITS).unwrap();
        let found = generator.generate(vec![greedy(&prompt, 30)], &Stop::default()).unwrap();
        assert_eq!(found, [Completion { tokens: expected, finish: Finish::Length }], "{name}");
    }
}

#[test]
fn a_batch_of_prompts_of_all_lengths_gives_what_each_gives_alone() {
    for name in ["llama-tied", "mistral-window"] {
        // Rows are refilled (13 prompts on 4 rows), end at different times, and move.
        let requests: Vec<Request> =
            prompts(13).iter().enumerate().map(|(i, prompt)| greedy(prompt, 3 + i * 7 % 25)).collect();
        let mut generator = Generator::new(load(name), LIMITS).unwrap();
        let together = generator.generate(requests.clone(), &Stop::default()).unwrap();
        for (index, request) in requests.into_iter().enumerate() {
            let alone = generator.generate(vec![request], &Stop::default()).unwrap();
            assert_eq!(together[index], alone[0], "{name}, prompt {index}");
        }
    }
}

#[test]
fn a_small_token_budget_changes_the_batch_and_not_the_text() {
    let requests: Vec<Request> = prompts(6).iter().map(|prompt| greedy(prompt, 12)).collect();
    let generate = |limits| {
        let mut generator = Generator::new(load("llama-tied"), limits).unwrap();
        generator.generate(requests.clone(), &Stop::default()).unwrap()
    };
    let wide = generate(LIMITS);
    assert_eq!(generate(GenerationLimits { rows: 6, cached_tokens: 30, prefill_tokens: 1 }), wide);
}

#[test]
fn l2_the_cache_holds_no_more_than_its_budget_and_is_used_again() {
    let mut generator = Generator::new(load("llama-tied"), LIMITS).unwrap();
    let mut bytes_of = |count: u32| {
        let requests: Vec<Request> = prompts(count).iter().map(|prompt| greedy(prompt, 40)).collect();
        let (_, seen) = observe(|| generator.generate(requests, &Stop::default()).unwrap()).unwrap();
        seen.iter().filter_map(Seen::allocated).sum::<usize>()
    };
    // 56 tokens a row, 4 rows, 2 layers, keys and values of 2 heads x 8 in fp32.
    let cache = 56 * 4 * 2 * 2 * 2 * 8 * 4;
    let (first, second) = (bytes_of(8), bytes_of(8));
    assert_eq!(first - second, cache);
}

#[test]
fn generation_ends_at_a_stop_token_and_leaves_it_out() {
    let mut generator = Generator::new(load("llama-tied"), LIMITS).unwrap();
    let free = generator.generate(vec![greedy(&[1, 5], 20)], &Stop::default()).unwrap().remove(0).tokens;
    let stop = free[7];
    let first = free.iter().position(|token| *token == stop).unwrap();
    let ended = generator.generate(vec![greedy(&[1, 5], 20)], &Stop::at_tokens([stop])).unwrap();
    assert_eq!(ended, [Completion { tokens: free[..first].to_vec(), finish: Finish::EndOfText }]);
}

#[test]
fn generation_ends_at_a_stop_string_and_keeps_it() {
    let mut generator = Generator::new(load("llama-tied"), LIMITS).unwrap();
    let free = generator.generate(vec![greedy(&[1, 5], 20)], &Stop::default()).unwrap().remove(0).tokens;
    let text = |tokens: &[u32]| tokens.iter().map(|token| format!("{token} ")).collect::<String>();
    let stop = Stop::at_tokens([]).or_at_strings([text(&free[5..7])], text);
    let ended = generator.generate(vec![greedy(&[1, 5], 20)], &stop).unwrap().remove(0);
    assert!(text(&ended.tokens).ends_with(&text(&free[5..7])), "{ended:?}");
    assert_eq!(ended.finish, Finish::EndOfText);
}

#[test]
fn a_prompt_that_fills_the_positions_ends_at_once_and_hurts_no_other() {
    let mut generator = Generator::new(load("llama-tied"), LIMITS).unwrap();
    let requests = vec![greedy(&[3; 64], 5), greedy(&[3; 63], 5), greedy(&[3; 100], 5), greedy(&[3], 0)];
    let found = generator.generate(requests, &Stop::default()).unwrap();
    assert_eq!(found.iter().map(|c| c.tokens.len()).collect::<Vec<_>>(), [0, 1, 0, 0]);
    assert!(found.iter().all(|completion| completion.finish == Finish::Length));
    assert!(generator.generate(Vec::new(), &Stop::default()).unwrap().is_empty());
}

#[test]
fn bad_requests_and_damaged_weights_are_errors() {
    let mut generator = Generator::new(load("llama-tied"), LIMITS).unwrap();
    let mut error = |request| generator.generate(vec![request], &Stop::default()).unwrap_err().to_string();
    assert!(error(greedy(&[], 3)).contains("is empty"));
    assert!(error(greedy(&[96], 3)).contains("token 96"));
    let sampled = |temperature, top_p| {
        let random = Box::new(rand::SeedableRng::seed_from_u64(1));
        Request { choice: Choice::Sampled { temperature, top_p, random }, ..greedy(&[1], 3) }
    };
    assert!(error(sampled(f32::NAN, 1.0)).contains("temperature NaN"));
    assert!(error(sampled(1.0, 0.0)).contains("top-p 0"));

    let mut parameters = small_parameters(true);
    parameters.insert("model.norm.weight".into(), Tensor::full([16], f64::NAN, tch::kind::FLOAT_CPU));
    let mut damaged = Generator::new(common::model(small_config(true), &parameters), LIMITS).unwrap();
    let error = damaged.generate(vec![greedy(&[1], 3)], &Stop::default()).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
}

fn document(ordinal: u64, round: u32) -> Prompt {
    Prompt { tokens: vec![1, 20, 30], document: DocumentId { source: 0, ordinal }, round }
}

#[test]
fn a_sampled_text_depends_on_seed_document_and_round_and_not_on_the_batch() {
    let mut engine = TorchEngine::new(load("llama-tied"), LIMITS).unwrap();
    let sampling = Sampling { max_new_tokens: 12, temperature: 1.0, top_p: 0.95, seed: 5 };
    let prompts: Vec<Prompt> = (0..6).map(|i| document(i / 2, i as u32 % 2)).collect();
    let together = engine.generate(&prompts, &sampling).unwrap();
    for (prompt, generation) in prompts.iter().zip(&together) {
        assert_eq!(engine.generate(std::slice::from_ref(prompt), &sampling).unwrap()[0], *generation);
    }
    assert!((1..6).all(|other| together[other] != together[0]), "{together:?}");
    let reseeded = engine.generate(&prompts, &Sampling { seed: 6, ..sampling }).unwrap();
    assert_ne!(reseeded, together);
}

#[test]
fn the_engine_is_greedy_at_temperature_zero_and_knows_its_positions() {
    let mut engine = TorchEngine::new(load("llama-tied"), LIMITS).unwrap();
    assert_eq!(engine.positions(), 64);
    let sampling = Sampling { max_new_tokens: 10, temperature: 0.0, ..Sampling::default() };
    let found = engine.generate(&[document(1, 0), document(2, 0)], &sampling).unwrap();
    assert_eq!(found[0], found[1]);
    let expected = by_whole_model(&load("llama-tied"), &[1, 20, 30], 10);
    assert!(expected.starts_with(&found[0].tokens));
}
