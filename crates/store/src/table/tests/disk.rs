//! Going to disk and coming back, by example.

use std::time::Duration;

use super::super::*;
use super::PAGE;
use super::world::{World, here};
use crate::error::StoreError;
use crate::object::ObjectRef;

/// A store that is full of objects in transit, of one page each, the oldest first.
fn full(world: &mut World, pages: u64) -> Vec<ObjectRef> {
    world.attach(1);
    world.attach(2);
    let references = (0..pages).map(|_| {
        let id = world.object(1, PAGE);
        let reference = world.share(1, id, None);
        world.apply(Event::Told { holder: 1, tell: Tell::Release { id } });
        world.now += Duration::from_millis(1);
        reference
    });
    references.collect()
}

fn settle(world: &mut World) {
    world.now += room::SETTLED;
    world.apply(Event::Tick);
}

fn create(world: &mut World, len: u64) -> u64 {
    world.ask(1, Ask::Create { len, wait_ms: 60_000 })
}

#[test]
fn what_nobody_has_open_makes_room_on_disk_the_longest_unused_first_and_comes_back() {
    let mut world = World::new(2);
    let references = full(&mut world, 4);
    // The second is open in a process.
    assert!(matches!(world.open(2, &references[1]), Some(Reply::Opened { .. })));
    let created = create(&mut world, PAGE);
    assert!(world.spilling.is_empty(), "what was just sent is about to be opened");
    settle(&mut world);
    let spilled: Vec<_> = world.spilling.values().map(|(id, _)| *id).collect();
    assert_eq!((spilled, world.reply(created)), (vec![references[0].id], None));
    world.spill_all();
    assert!(matches!(world.reply(created), Some(Reply::Created { .. })));
    assert_eq!(world.table.usage().bytes_on_disk, PAGE);

    // Back: the third makes room for it, and its file is deleted.
    assert_eq!(world.open(2, &references[0]), None);
    let opening = world.last_number;
    world.spill_all();
    let (&spill, &(id, place)) = world.restoring.first_key_value().unwrap();
    assert_eq!(id, references[0].id);
    world.apply(Event::Restored { spill, id });
    assert_eq!(world.reply(opening), Some(Reply::Opened { place }));
    assert!(!world.files.contains(&spill));
    assert_eq!(world.table.usage().bytes_on_disk, PAGE, "the third");
}

#[test]
fn an_object_that_is_opened_on_its_way_to_disk_stays() {
    let mut world = World::new(2);
    let references = full(&mut world, 4);
    let created = create(&mut world, PAGE);
    settle(&mut world);
    assert!(matches!(world.open(2, &references[0]), Some(Reply::Opened { .. })), "at once");
    let (&spill, &(id, _)) = world.spilling.first_key_value().unwrap();
    world.apply(Event::Spilled { spill, id });
    assert!(world.files.is_empty());
    assert_eq!(world.reply(created), None);
    world.spill_all();
    assert!(matches!(world.reply(created), Some(Reply::Created { .. })), "another one has gone");
}

#[test]
fn l2_creators_wait_when_memory_and_disk_are_full_and_are_told_so() {
    let mut world = World::with_disk(2, 2);
    full(&mut world, 4);
    let (first, second) = (create(&mut world, PAGE), create(&mut world, PAGE));
    settle(&mut world);
    world.spill_all();
    assert!(matches!(world.reply(first), Some(Reply::Created { .. })));
    assert_eq!(world.reply(second), None);
    world.now += Duration::from_secs(60);
    world.apply(Event::Tick);
    let Some(Reply::Failed(refused)) = world.reply(second) else { panic!() };
    let said = refused.to_string();
    let disk = format!("{PAGE} of {} bytes are used on disk, and {PAGE} are kept", 2 * PAGE);
    assert!(said.contains(&disk), "{said}");
    assert!(said.contains(&format!("{PAGE} of those by what is open")), "{said}");
    let mut without = World::with_disk(2, 0);
    full(&mut without, 4);
    let waits = without.ask(1, Ask::Create { len: PAGE, wait_ms: 1 });
    settle(&mut without);
    let Some(Reply::Failed(refused)) = without.reply(waits) else { panic!() };
    assert!(refused.to_string().contains("nothing may go to disk"), "{refused}");
}

#[test]
fn a_disk_that_fails_is_left_alone_for_a_while_and_creators_are_told_its_words() {
    let mut world = World::new(2);
    full(&mut world, 4);
    let (first, second) = (world.ask(1, Ask::Create { len: PAGE, wait_ms: 3000 }), create(&mut world, PAGE));
    settle(&mut world);
    let (&spill, &(id, _)) = world.spilling.first_key_value().unwrap();
    world.apply(Event::SpillFailed { spill, id, reason: "no space left on device".into() });
    assert!(world.spilling.is_empty() && world.files.is_empty());
    world.now += Duration::from_secs(3);
    world.apply(Event::Tick);
    let Some(Reply::Failed(full)) = world.reply(first) else { panic!() };
    assert!(full.to_string().contains("the disk failed: no space left on device"), "{full}");
    let again = world.table.next_deadline().unwrap();
    assert!(again < world.now + Duration::from_secs(5), "it is tried again by itself");
    world.now = again;
    world.apply(Event::Tick);
    world.spill_all();
    assert!(matches!(world.reply(second), Some(Reply::Created { .. })));
}

#[test]
fn l3_a_file_that_cannot_be_read_back_is_an_object_lost_for_all_who_wait_and_all_who_come() {
    let mut world = World::new(2);
    let references = full(&mut world, 4);
    let id = references[0].id;
    let reference = references[0].clone();
    create(&mut world, PAGE);
    settle(&mut world);
    world.spill_all();
    assert_eq!(world.open(2, &reference), None);
    let opening = world.last_number;
    world.spill_all();
    let (&spill, _) = world.restoring.first_key_value().unwrap();
    world.apply(Event::RestoreFailed { spill, id, reason: "block 0 of its file has changed".into() });
    let Some(Reply::Failed(lost)) = world.reply(opening) else { panic!("{:?}", world.reply(opening)) };
    assert!(matches!(&lost, StoreError::ObjectLost { node, .. } if node == "here"), "{lost}");
    assert!(lost.to_string().contains("block 0 of its file has changed"), "{lost}");
    let Some(Reply::Failed(lost)) = world.open(1, &reference) else { panic!() };
    assert!(lost.to_string().contains("it was on disk and could not be read back"), "{lost}");
}

#[test]
fn an_object_on_disk_is_sent_to_peers_from_there_and_freed_with_its_last_reference() {
    let mut world = World::new(2);
    let references = full(&mut world, 4);
    create(&mut world, PAGE);
    settle(&mut world);
    world.spill_all();
    let serve = world.serve(&references[0], "there", false);
    assert!(matches!(world.served(serve), Some(Served::Disk { len: PAGE, .. })));
    world.apply(Event::ServeEnded { serve, ticket: references[0].ticket, acknowledged: true });
    assert_eq!((world.table.usage().bytes_on_disk, world.files.len()), (0, 0));
}

#[test]
fn who_reads_an_object_back_goes_before_who_makes_one() {
    let mut world = World::new(2);
    let references = full(&mut world, 4);
    create(&mut world, PAGE);
    settle(&mut world);
    world.spill_all();
    // All that is left in memory is open, so that both wait.
    for reference in &references[1..] {
        assert!(matches!(world.open(2, reference), Some(Reply::Opened { .. })));
    }
    let making = create(&mut world, PAGE);
    assert_eq!(world.open(2, &references[0]), None);
    assert!(world.restoring.is_empty());
    world.apply(Event::Told { holder: 2, tell: Tell::Release { id: references[1].id } });
    assert_eq!((world.restoring.len(), world.reply(making)), (1, None));
    world.apply(Event::Told { holder: 2, tell: Tell::Release { id: references[2].id } });
    assert!(matches!(world.reply(making), Some(Reply::Created { .. })));
}

#[test]
fn l3_what_is_on_disk_comes_back_however_full_memory_and_disk_are() {
    // Objects of different sizes, and a disk that those who make them have filled.
    let mut world = World::with_disk(3, 12);
    world.attach(1);
    world.attach(2);
    let mut references = Vec::new();
    for pages in [1, 2, 1, 3, 2, 1, 1, 2, 3, 1, 1, 2, 1, 3, 2, 1] {
        let created = create(&mut world, pages * PAGE);
        settle(&mut world);
        world.spill_all();
        let Some(Reply::Created { id, .. }) = world.reply(created) else { break };
        let sent = world.ask(1, Ask::Send { id, receiver: here(2) });
        let Some(Reply::Shared { ticket }) = world.reply(sent) else { panic!() };
        references.push(ObjectRef { id, node: "here".into(), len: pages * PAGE, ticket });
    }
    let usage = world.table.usage();
    assert!(usage.waiting == 1 && usage.bytes_on_disk >= 5 * PAGE, "{usage:?}");
    let (_, number) = *world.open_asks.first().unwrap();
    world.apply(Event::Told { holder: 1, tell: Tell::Cancel { number } });
    settle(&mut world);
    for reference in references {
        world.open(2, &reference);
        let opening = world.last_number;
        while world.reply(opening).is_none() {
            let (spilling, restoring) = (world.spilling.len(), world.restoring.len());
            assert!(spilling + restoring > 0, "nothing is on its way: {:?}", world.table.usage());
            world.spill_all();
            while let Some((&spill, &(id, _))) = world.restoring.first_key_value() {
                world.apply(Event::Restored { spill, id });
            }
        }
        assert!(matches!(world.reply(opening), Some(Reply::Opened { .. })));
        world.apply(Event::Told { holder: 2, tell: Tell::Release { id: reference.id } });
    }
    assert_eq!(world.in_use(), 0);
}
