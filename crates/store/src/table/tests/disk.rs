//! Going to disk and coming back, by example.

use std::time::Duration;

use super::super::*;
use super::PAGE;
use super::world::World;
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
    let mut world = World::with_disk(2, 1);
    full(&mut world, 4);
    let (first, second) = (create(&mut world, PAGE), create(&mut world, PAGE));
    settle(&mut world);
    world.spill_all();
    assert!(matches!(world.reply(first), Some(Reply::Created { .. })));
    assert_eq!(world.reply(second), None);
    world.now += Duration::from_secs(60);
    world.apply(Event::Tick);
    let Some(Reply::Failed(full)) = world.reply(second) else { panic!() };
    let said = full.to_string();
    assert!(said.contains(&format!("{PAGE} of {PAGE} bytes are used on disk")), "{said}");
    assert!(said.contains(&format!("{PAGE} of those by what is open")), "{said}");
    let mut without = World::with_disk(2, 0);
    super::disk::full(&mut without, 4);
    let waits = without.ask(1, Ask::Create { len: PAGE, wait_ms: 1 });
    settle(&mut without);
    let Some(Reply::Failed(full)) = without.reply(waits) else { panic!() };
    assert!(full.to_string().contains("nothing may go to disk"), "{full}");
}

#[test]
fn a_disk_that_fails_is_left_alone_for_a_while_and_creators_are_told_its_words() {
    let mut world = World::new(2);
    full(&mut world, 4);
    let (first, second) =
        (world.ask(1, Ask::Create { len: PAGE, wait_ms: 3000 }), create(&mut world, PAGE));
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
    create(&mut world, 2 * PAGE);
    settle(&mut world);
    world.spill_all();
    let held = world.open(2, &references[3]);
    assert!(matches!(held, Some(Reply::Opened { .. })), "{held:?}");
    let large = world.ask(1, Ask::Create { len: 2 * PAGE, wait_ms: 60_000 });
    assert_eq!(world.open(2, &references[0]), None);
    assert_eq!(world.reply(large), None);
    world.spill_all();
    assert_eq!(world.restoring.len() + world.replies.iter().filter(|r| r.1 == large).count(), 1);
    assert_eq!(world.reply(large), None, "it waits for what is read back");
}
