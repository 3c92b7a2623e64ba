//! A synthesizer, as an actor with a thread of its own: leases chains, generates, hands over what it made of them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures_util::future::try_join_all;
use lyceum_actor::{Actor, ActorRef, CallError, Context, Handler, Incoming, Responder, Result};
use lyceum_corpus::chain::ChainRecord;
use lyceum_corpus::tokenizer::Tokenizer;
use lyceum_model::Placement;
use lyceum_model::generate::{GenerationLimits, TorchEngine};
use lyceum_pretrain::roles::{
    CorpusReader, Drain, LeaseChains, Offer, Packer, SynthesisReport, Synthesize, Synthesizer,
    SynthesizerArgs, Turn,
};
use lyceum_pretrain::run_file::{self, DETERMINISTIC_POSITIONS, EngineKind, Precision, RunFile};
use lyceum_synth::deterministic::DeterministicEngine;
use lyceum_synth::engine::{Engine, Sampling};
use lyceum_synth::synthesize::{Tokenizers, synthesize};

/// Prompt tokens that are run at once.
const PREFILL_TOKENS: usize = 4096;

/// How often the log is told of chains.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Of a hundred answers of the deterministic engine, so many are malformed: a test of everything behind it.
const DETERMINISTIC_FAULTS: u64 = 5;

/// The actor; see the module.
pub struct SynthesizerActor {
    seed: u64,
    options: run_file::Synthesizer,
    tokenizers: Tokenizers,
    engine: Box<dyn Engine + Send>,
    reader: ActorRef<CorpusReader>,
    packer: ActorRef<Packer>,
    asked: Option<Responder<SynthesisReport>>,
    report: SynthesisReport,
    draining: bool,
    /// When the log was told last.
    told: Option<Instant>,
}

impl SynthesizerActor {
    /// Leases chains and hands over what came of them; false when no chain is left.
    async fn turn(&mut self, holder: u64) -> Result<bool> {
        let asked = LeaseChains { holder, most: self.options.chains_at_once };
        let leases = self
            .reader
            .ask(asked)
            .through_silence()
            .await
            .map_err(CallError::erase)
            .context("the corpus reader")?;
        let chains = leases.read()?.chains;
        if chains.is_empty() {
            return Ok(false);
        }
        let sampling = Sampling {
            max_new_tokens: self.options.max_new_tokens as usize,
            temperature: self.options.temperature,
            top_p: self.options.top_p,
            seed: self.seed,
        };
        let begun = Instant::now();
        let records = synthesize(self.engine.as_mut(), &sampling, &self.tokenizers, self.seed, chains)?;
        let made = (records.len() as u64, records.iter().map(|record| record.pairs_kept).sum::<u64>());
        let seconds = begun.elapsed().as_secs_f64();
        // All at once: one that has to wait for its turn must not keep back another that is waited for.
        try_join_all(records.into_iter().map(|record| hand_over(&self.packer, record))).await?;
        self.report.chains += made.0;
        if self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            let waited = begun.elapsed().as_secs_f64() - seconds;
            let (chains, pairs, all) = (made.0, made.1, self.report.chains);
            tracing::info!(chains, pairs, seconds, waited, chains_in_all = all, "chains are converted");
            self.told = Some(Instant::now());
        }
        Ok(true)
    }
}

/// Gives what was made of a chain to the Packer; it is recorded when this returns.
async fn hand_over(packer: &ActorRef<Packer>, record: ChainRecord) -> Result<()> {
    packer
        .ask(Offer { record })
        .through_silence()
        .await
        .map(drop)
        .map_err(CallError::erase)
        .context("the packer")
}

impl Actor for SynthesizerActor {
    type Role = Synthesizer;
    const DEDICATED_THREAD: bool = true;

    async fn start(args: SynthesizerArgs, _: &mut Context<Self>) -> Result<Self> {
        tch::set_num_threads(crate::threads());
        let run = args.settings.run_file()?;
        let options = run.synthesizer.clone().context("the run file has no [synthesizer]")?;
        let learner = Tokenizer::load(crate::training::tokenizer_path(&run))?;
        let begun = Instant::now();
        let (engine, prompts) = make_engine(&run, &options, &learner)?;
        let model = options.directory.as_ref().map(|directory| directory.display().to_string());
        let (threads, seconds) = (crate::threads(), begun.elapsed().as_secs_f64());
        tracing::info!(engine = ?options.engine, model, threads, seconds, "the synthesizer is ready");
        Ok(Self {
            seed: run.seed,
            options,
            tokenizers: Tokenizers { engine: prompts, learner },
            engine,
            reader: args.reader,
            packer: args.packer,
            asked: None,
            report: SynthesisReport::default(),
            draining: false,
            told: None,
        })
    }
}

impl Handler<Synthesize> for SynthesizerActor {
    async fn handle(&mut self, _: Incoming<Synthesize>, ctx: &mut Context<Self>) -> Result<SynthesisReport> {
        let later = ctx.reply_later(|responder| self.asked = Some(responder));
        ctx.notify_after(Duration::ZERO, Turn)?;
        later
    }
}

impl Handler<Turn> for SynthesizerActor {
    async fn handle(&mut self, _: Incoming<Turn>, ctx: &mut Context<Self>) -> Result<()> {
        let turn = if self.draining { Ok(false) } else { self.turn(ctx.address().actor.0).await };
        match turn {
            Ok(true) => _ = ctx.notify_after(Duration::ZERO, Turn)?,
            Ok(false) => {
                tracing::info!(
                    chains = self.report.chains,
                    drained = self.draining,
                    "the synthesizer is done"
                );
                if let Some(responder) = self.asked.take() {
                    responder.reply(self.report.clone());
                }
                ctx.stop();
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the synthesizer cannot go on");
                if let Some(responder) = self.asked.take() {
                    responder.fail(error);
                }
                ctx.stop();
            }
        }
        Ok(())
    }
}

impl Handler<Drain> for SynthesizerActor {
    async fn handle(&mut self, _: Incoming<Drain>, _: &mut Context<Self>) -> Result<()> {
        tracing::info!("no further chains: the pool has one synthesizer less");
        self.draining = true;
        Ok(())
    }
}

/// The engine that the run asks for, and the tokenizer of its prompts.
fn make_engine(
    run: &RunFile,
    options: &run_file::Synthesizer,
    learner: &Tokenizer,
) -> Result<(Box<dyn Engine + Send>, Tokenizer)> {
    if options.engine == EngineKind::Deterministic {
        let engine = DeterministicEngine::new(
            learner.clone(),
            DETERMINISTIC_POSITIONS,
            run.seed,
            DETERMINISTIC_FAULTS,
        );
        return Ok((Box::new(engine), learner.clone()));
    }
    let Some(directory) = &options.directory else {
        bail!("[synthesizer] names no directory");
    };
    let rows = options.chains_at_once as usize;
    let engine = load_engine(directory, options.precision, rows)?;
    let tokenizer = Tokenizer::load(directory.join("tokenizer.json"))?;
    Ok((Box::new(engine), tokenizer))
}

/// A model to generate with, for at most `rows` prompts at once.
pub fn load_engine(directory: &Path, precision: Precision, rows: usize) -> Result<TorchEngine> {
    let mut placement = Placement::choose()?;
    match precision {
        Precision::Auto => {}
        Precision::Bf16 => placement.kind = tch::Kind::BFloat16,
        Precision::Fp32 => placement.kind = tch::Kind::Float,
    }
    let positions = lyceum_model::LlamaConfig::load(directory)?.max_positions as usize;
    let limits = GenerationLimits { rows, cached_tokens: rows * positions, prefill_tokens: PREFILL_TOKENS };
    Ok(TorchEngine::load(directory, &placement, limits)?)
}
