//! The table against random histories.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::*;
use super::world::{World, here};
use super::{BEGAN, PAGE, RULES};
use crate::error::StoreError;
use crate::object::ObjectRef;
use crate::region::Taken;

const MIB: u64 = 1 << 20;

#[derive(Debug, Clone)]
enum Step {
    Attach(u64),
    Gone(u64),
    Create(u64, u64, u64),
    Seal(Index),
    Abandon(Index),
    Share(Index, Option<u64>),
    Send(Index, u64),
    Open(u64, Index),
    OpenRemote(u64, u64, u64),
    Release(Index),
    Revoke(u64, Index),
    Discard(u64, Index),
    Cancel(Index),
    Land(Index),
    Fail(Index),
    Serve(Index, u8, bool),
    ServeEnded(Index, bool),
    Acknowledged(Index, u8),
    SpillEnded(Index, bool),
    RestoreEnded(Index, bool),
    Keep(u64, u64),
    Take(Index),
    Mail(Index, u64),
    Abandoned(Index),
    Read(u64, Index),
    Done(Index),
    GiveUp(u64, Index),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let holder = 1..5u64;
    let index = any::<Index>;
    let step = prop_oneof![
        3 => holder.clone().prop_map(Step::Attach),
        1 => holder.clone().prop_map(Step::Gone),
        6 => (holder.clone(), 0..12 * PAGE, 0..3000u64).prop_map(|(h, l, w)| Step::Create(h, l, w)),
        5 => index().prop_map(Step::Seal),
        1 => index().prop_map(Step::Abandon),
        4 => (index(), prop::option::of(1..7u64)).prop_map(|(i, r)| Step::Share(i, r)),
        3 => (index(), 1..7u64).prop_map(|(i, r)| Step::Send(i, r)),
        4 => (holder.clone(), index()).prop_map(|(h, i)| Step::Open(h, i)),
        4 => (holder.clone(), 1..4u64, 1..5u64).prop_map(|(h, object, ticket)| Step::OpenRemote(h, object, ticket)),
        4 => index().prop_map(Step::Release),
        1 => (holder.clone(), index()).prop_map(|(h, i)| Step::Revoke(h, i)),
        1 => (holder, index()).prop_map(|(h, i)| Step::Discard(h, i)),
        1 => index().prop_map(Step::Cancel),
        3 => index().prop_map(Step::Land),
        2 => index().prop_map(Step::Fail),
        4 => (index(), 0..6u8, any::<bool>()).prop_map(|(i, peer, insists)| Step::Serve(i, peer, insists)),
        3 => (index(), any::<bool>()).prop_map(|(i, a)| Step::ServeEnded(i, a)),
        1 => (index(), 0..6u8).prop_map(|(i, peer)| Step::Acknowledged(i, peer)),
        4 => (index(), prop::bool::weighted(0.8)).prop_map(|(i, good)| Step::SpillEnded(i, good)),
        3 => (index(), prop::bool::weighted(0.8)).prop_map(|(i, good)| Step::RestoreEnded(i, good)),
        3 => (1..5u64, 0..MIB).prop_map(|(h, l)| Step::Keep(h, l)),
        6 => index().prop_map(Step::Take),
        5 => (index(), 1..7u64).prop_map(|(i, r)| Step::Mail(i, r)),
        1 => index().prop_map(Step::Abandoned),
        5 => (1..5u64, index()).prop_map(|(h, i)| Step::Read(h, i)),
        4 => index().prop_map(Step::Done),
        1 => (1..5u64, index()).prop_map(|(h, i)| Step::GiveUp(h, i)),
        2 => (0..5000u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..160)
}

fn by_chance() -> Loss {
    Loss { when: BEGAN, reason: "by chance".into() }
}

fn pick<T: Copy>(from: &[T], index: Index) -> Option<T> {
    if from.is_empty() { None } else { Some(from[index.index(from.len())]) }
}

fn take<T>(from: &mut Vec<T>, index: Index) -> Option<T> {
    if from.is_empty() { None } else { Some(from.swap_remove(index.index(from.len()))) }
}

fn run(world: &mut World, step: Step) {
    match step {
        Step::Attach(holder) => world.attach(holder),
        Step::Gone(holder) => world.gone(holder),
        Step::Create(holder, len, wait_ms) => {
            world.ask(holder, Ask::Create { len, wait_ms });
        }
        Step::Seal(index) => {
            if let Some((holder, id)) = pick(&world.writing, index) {
                let number = world.ask(holder, Ask::Seal { id });
                assert_eq!(world.reply(number), Some(Reply::Sealed));
            }
        }
        Step::Abandon(index) => {
            if let Some((holder, id)) = pick(&world.writing, index) {
                world.apply(Event::Told { holder, tell: Tell::Abandon { id } });
            }
        }
        Step::Share(index, receiver) => {
            if let Some((holder, id)) = pick(&world.leases, index) {
                let reference = world.share(holder, id, receiver);
                world.references.push(reference);
            }
        }
        Step::Send(index, receiver) => {
            if let Some((holder, id)) = pick(&world.writing, index) {
                let reference = world.shared(holder, id, Ask::Send { id, receiver: here(receiver) });
                world.references.push(reference);
            }
        }
        Step::Open(holder, index) => {
            if let Some(reference) = take(&mut world.references, index) {
                world.open(holder, &reference);
            }
        }
        Step::OpenRemote(holder, sequence, ticket) => {
            let id = ObjectId { origin: 9, sequence };
            let node = if ticket % 2 == 0 { "there" } else { "elsewhere" };
            let reference = ObjectRef { id, node: node.into(), len: sequence * PAGE, ticket };
            world.open(holder, &reference);
        }
        Step::Release(index) => {
            if let Some((holder, id)) = pick(&world.leases, index) {
                world.apply(Event::Told { holder, tell: Tell::Release { id } });
            }
        }
        Step::Revoke(holder, index) => {
            if !world.references.is_empty() {
                let reference = world.references[index.index(world.references.len())].clone();
                let tell = Tell::Revoke { id: reference.id, ticket: reference.ticket };
                world.apply(Event::Told { holder, tell });
            }
        }
        Step::Discard(holder, index) => {
            if let Some(reference) = take(&mut world.references, index) {
                world.apply(Event::Told { holder, tell: Tell::Discard { reference } });
            }
        }
        Step::Cancel(index) => {
            let asks: Vec<_> = world.open_asks.iter().copied().collect();
            if !asks.is_empty() {
                let (holder, number) = asks[index.index(asks.len())];
                world.apply(Event::Told { holder, tell: Tell::Cancel { number } });
                assert_eq!(world.reply(number), Some(Reply::Failed(StoreError::Cancelled)));
            }
        }
        Step::Land(index) | Step::Fail(index) => {
            let running: Vec<_> = world.fetches.iter().map(|(&fetch, &(id, _))| (fetch, id)).collect();
            if running.is_empty() {
                return;
            }
            let (fetch, id) = running[index.index(running.len())];
            world.stopped.remove(&fetch);
            world.apply(match step {
                Step::Land(_) => Event::FetchLanded { fetch, id },
                _ => Event::FetchFailed { fetch, id, loss: by_chance() },
            });
        }
        Step::Serve(index, peer, insists) => {
            if !world.references.is_empty() {
                let reference = world.references[index.index(world.references.len())].clone();
                world.serve(&reference, &format!("peer {peer}"), insists);
            }
        }
        Step::ServeEnded(index, acknowledged) => {
            if let Some((serve, ticket)) = take(&mut world.servings, index) {
                world.apply(Event::ServeEnded { serve, ticket, acknowledged });
            }
        }
        Step::Acknowledged(index, peer) => {
            if let Some(ObjectRef { id, ticket, .. }) = take(&mut world.references, index) {
                world.apply(Event::Acknowledged { id, ticket, peer: format!("peer {peer}") });
            }
        }
        Step::SpillEnded(index, good) => {
            let all: Vec<_> = world.spilling.iter().map(|(&spill, &(id, _))| (spill, id)).collect();
            if !all.is_empty() {
                let (spill, id) = all[index.index(all.len())];
                world.apply(match good {
                    true => Event::Spilled { spill, id },
                    false => Event::SpillFailed { spill, id, reason: "by chance".into() },
                });
            }
        }
        Step::RestoreEnded(index, good) => {
            let all: Vec<_> = world.restoring.iter().map(|(&spill, &(id, _))| (spill, id)).collect();
            if !all.is_empty() {
                let (spill, id) = all[index.index(all.len())];
                world.apply(match good {
                    true => Event::Restored { spill, id },
                    false => Event::RestoreFailed { spill, id, reason: "by chance".into() },
                });
            }
        }
        Step::Keep(holder, len) => {
            world.ask(holder, Ask::Keep { len });
        }
        Step::Take(index) => {
            if let Some((holder, slot, last)) = take(&mut world.kept, index)
                && let Taken::Ours(of) = world.board.take(slot, last)
            {
                world.kept.push((holder, slot, of));
                world.written.push((holder, slot, of));
            }
        }
        Step::Mail(index, receiver) => {
            if let Some((_, slot, of)) = take(&mut world.written, index) {
                world.last_number += 1;
                let ticket = world.last_number;
                assert!(world.board.send(slot, of, receiver, ticket, 1), "R1");
                world.mailed.push((slot, receiver, ticket));
            }
        }
        Step::Abandoned(index) => {
            if let Some((holder, slot, of)) = take(&mut world.written, index) {
                let tell = world.board.abandon(slot, of);
                world.freed(holder, slot, tell);
            }
        }
        Step::Read(holder, index) => {
            let Some((slot, to, ticket)) = take(&mut world.mailed, index) else { return };
            if !world.holders.contains(&holder) {
                return;
            }
            if let Some(opened) = world.board.open(slot, holder, ticket) {
                assert_eq!(holder, to, "R2");
                let place = world.regions[&slot];
                assert_eq!((opened.segment, opened.offset), (place.segment, place.offset));
                world.read.push((holder, slot, opened.of));
            }
        }
        Step::Done(index) => {
            if let Some((holder, slot, of)) = take(&mut world.read, index) {
                let tell = world.board.release(slot, of);
                world.freed(holder, slot, tell);
            }
        }
        Step::GiveUp(holder, index) => {
            if let Some((slot, _, ticket)) = take(&mut world.mailed, index)
                && world.holders.contains(&holder)
            {
                let tell = world.board.give_up(slot, ticket);
                world.freed(holder, slot, tell);
            }
        }
        Step::Wait(milliseconds) => {
            world.now += Duration::from_millis(milliseconds);
            world.apply(Event::Tick);
            assert!(world.table.next_deadline().is_none_or(|at| at > world.now), "nothing overdue is left");
        }
    }
}

proptest! {
    #[test]
    fn l1_l2_t4_nothing_is_left_in_use_whatever_the_history(steps in steps()) {
        let mut world = World::new(8);
        for step in steps {
            run(&mut world, step);
        }
        for holder in 1..8 {
            world.gone(holder);
        }
        while let Some((&fetch, &(id, _))) = world.fetches.first_key_value() {
            world.apply(Event::FetchFailed { fetch, id, loss: by_chance() });
        }
        while let Some((serve, ticket)) = world.servings.pop() {
            world.apply(Event::ServeEnded { serve, ticket, acknowledged: false });
        }
        world.spill_all();
        while let Some((&spill, &(id, _))) = world.restoring.first_key_value() {
            world.apply(Event::Restored { spill, id });
        }
        world.now += RULES.orphaned;
        world.apply(Event::Tick);
        // Whoever looks at regions does so now and then.
        world.now += RULES.orphaned;
        world.apply(Event::Tick);
        let usage = world.table.usage();
        prop_assert_eq!(usage, Usage { capacity_bytes: usage.capacity_bytes, ..Usage::default() }, "T4");
        prop_assert!(world.open_asks.is_empty(), "T5");
        prop_assert!(world.files.is_empty(), "T8");

    }
}
