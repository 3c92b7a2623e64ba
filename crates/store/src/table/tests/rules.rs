//! The table by example, where a rule has a name.

use std::time::Duration;

use super::super::*;
use super::world::{World, here};
use super::{BEGAN, PAGE, RULES, table};
use crate::error::StoreError;
use crate::object::{ObjectRef, Receiver};

#[test]
fn the_senders_lease_ends_only_when_the_receiver_has_its_own() {
    let mut world = World::new(4);
    world.attach(1);
    world.attach(2);
    let id = world.object(1, PAGE);
    let reference = world.share(1, id, None);
    world.apply(Event::Told { holder: 1, tell: Tell::Release { id } });
    assert_eq!(world.in_use(), PAGE, "in transit");
    assert!(matches!(world.open(2, &reference), Some(Reply::Opened { .. })));
    assert_eq!(world.table.usage().in_transit, 0);
    world.apply(Event::Told { holder: 2, tell: Tell::Release { id } });
    assert_eq!(world.in_use(), 0);
    let lost = world.open(2, &reference);
    assert!(matches!(lost, Some(Reply::Failed(StoreError::ObjectLost { .. }))), "{lost:?}");
}

#[test]
fn a_dead_senders_reference_can_be_claimed_for_a_while_and_then_frees_itself() {
    for claimed in [true, false] {
        let mut world = World::new(4);
        world.attach(1);
        world.attach(2);
        let id = world.object(1, PAGE);
        let reference = world.share(1, id, None);
        world.gone(1);
        world.now += RULES.orphaned - Duration::from_millis(1);
        if claimed {
            assert!(matches!(world.open(2, &reference), Some(Reply::Opened { .. })));
        }
        world.now += Duration::from_millis(1);
        world.apply(Event::Tick);
        assert_eq!(world.in_use(), if claimed { PAGE } else { 0 });
        world.gone(2);
        assert_eq!(world.in_use(), 0);
    }
}

#[test]
fn a_dead_receiver_frees_what_was_in_transit_to_it_at_once() {
    let mut world = World::new(4);
    world.attach(1);
    let id = world.object(1, PAGE);
    world.share(1, id, Some(77));
    world.apply(Event::Told { holder: 1, tell: Tell::Release { id } });
    assert_eq!(world.in_use(), PAGE);
    world.gone(77);
    assert_eq!(world.in_use(), 0);
}

#[test]
fn a_receiver_is_a_process_of_its_node_and_no_other_that_is_said_to_have_its_number() {
    let mut world = World::new(4);
    world.attach(1);
    world.attach(77);
    let id = world.object(1, PAGE);
    let there = Receiver { node: "there".into(), process: 77 };
    world.share(1, id, Some(77));
    world.shared(1, id, Ask::Share { id, receiver: Some(there.clone()) });
    assert_eq!(world.table.usage().in_transit, 2);
    world.apply(Event::ReceiverGone { receiver: Receiver { node: "elsewhere".into(), process: 77 } });
    assert_eq!(world.table.usage().in_transit, 2, "a wrong address harms nobody");
    world.apply(Event::ReceiverGone { receiver: there });
    assert_eq!(world.table.usage().in_transit, 1);
    world.gone(77);
    assert_eq!(world.table.usage().in_transit, 0);
}

#[test]
fn an_unclaimed_reference_expires_and_a_revoked_one_ends_but_only_by_its_sender() {
    let mut world = World::new(4);
    world.attach(1);
    world.attach(2);
    let id = world.object(1, PAGE);
    let (first, second) = (world.share(1, id, None), world.share(1, id, None));
    world.apply(Event::Told { holder: 2, tell: Tell::Revoke { id, ticket: first.ticket } });
    assert_eq!(world.table.usage().in_transit, 2, "not its to revoke");
    world.apply(Event::Told { holder: 1, tell: Tell::Revoke { id, ticket: first.ticket } });
    assert_eq!(world.table.usage().in_transit, 1);
    world.now += RULES.unclaimed;
    world.apply(Event::Tick);
    assert_eq!(world.table.usage().in_transit, 0);
    assert_eq!(second.id, id);
    assert_eq!(world.in_use(), PAGE, "the sender still holds it");
}

#[test]
fn a_reference_that_is_discarded_unopened_frees_its_object_wherever_it_was_made() {
    let mut world = World::new(4);
    world.attach(1);
    world.attach(2);
    let id = world.object(1, PAGE);
    let reference = world.share(1, id, Some(2));
    world.apply(Event::Told { holder: 1, tell: Tell::Release { id } });
    assert_eq!(world.in_use(), PAGE);
    world.apply(Event::Told { holder: 2, tell: Tell::Discard { reference } });
    assert_eq!(world.in_use(), 0);

    let id = ObjectId { origin: 9, sequence: 1 };
    let elsewhere = ObjectRef { id, node: "there".into(), len: 10, ticket: 4 };
    world.apply(Event::Told { holder: 2, tell: Tell::Discard { reference: elsewhere } });
    assert_eq!(world.effects.last(), Some(&Effect::Acknowledge { node: "there".into(), id, ticket: 4 }));
    assert!(world.fetches.is_empty(), "nothing is fetched for it");
}

#[test]
fn l2_creates_wait_in_turn_and_a_small_one_does_not_overtake() {
    let mut world = World::new(4);
    world.attach(1);
    let (first, second) = (world.object(1, 4 * PAGE), world.object(1, 3 * PAGE));
    let large = world.ask(1, Ask::Create { len: 4 * PAGE, wait_ms: 5000 });
    let small = world.ask(1, Ask::Create { len: PAGE, wait_ms: 9000 });
    assert_eq!(world.reply(small), None, "one page is free, but the large one came first");
    world.apply(Event::Told { holder: 1, tell: Tell::Release { id: first } });
    assert!(matches!(world.reply(large), Some(Reply::Created { .. })));
    assert!(matches!(world.reply(small), Some(Reply::Created { .. })));
    let late = world.ask(1, Ask::Create { len: PAGE, wait_ms: 5000 });
    world.now += Duration::from_secs(5);
    world.apply(Event::Tick);
    let Some(Reply::Failed(StoreError::Full { in_use, waited_ms, .. })) = world.reply(late) else { panic!() };
    assert_eq!((in_use, waited_ms), (8 * PAGE, 5000));
    world.apply(Event::Told { holder: 1, tell: Tell::Release { id: second } });
    let too_large = world.ask(1, Ask::Create { len: 4 * PAGE + 1, wait_ms: 5000 });
    assert!(matches!(world.reply(too_large), Some(Reply::Failed(StoreError::TooLarge { .. }))), "at once");
}

#[test]
fn one_fetch_serves_all_who_wait_and_every_ticket_is_acknowledged() {
    let mut world = World::new(4);
    world.attach(1);
    world.attach(2);
    let id = ObjectId { origin: 9, sequence: 1 };
    let reference = |ticket| ObjectRef { id, node: "there".into(), len: 10, ticket };
    assert_eq!(world.open(1, &reference(1)), None);
    assert_eq!(world.open(2, &reference(2)), None);
    assert_eq!(world.fetches.len(), 1);
    let fetch = *world.fetches.keys().next().unwrap();
    world.apply(Event::FetchLanded { fetch, id });
    assert_eq!(world.table.usage().leases, 2);
    let acknowledge = |ticket| Effect::Acknowledge { node: "there".into(), id, ticket };
    assert!(world.effects.contains(&acknowledge(2)), "the fetch itself acknowledges the first");
    assert!(!world.effects.contains(&acknowledge(1)));
    assert!(matches!(world.open(1, &reference(3)), Some(Reply::Opened { .. })));
    assert!(world.effects.contains(&acknowledge(3)), "already here: no second fetch");
}

#[test]
fn a_fetch_nobody_waits_for_keeps_its_place_until_its_writer_has_let_go() {
    let mut world = World::new(4);
    world.attach(1);
    let id = ObjectId { origin: 9, sequence: 1 };
    assert_eq!(world.open(1, &ObjectRef { id, node: "there".into(), len: 10, ticket: 4 }), None);
    let fetch = *world.fetches.keys().next().unwrap();
    world.gone(1);
    assert!(world.stopped.contains(&fetch));
    assert!(world.effects.contains(&Effect::Acknowledge { node: "there".into(), id, ticket: 4 }));
    assert_eq!(world.in_use(), PAGE);
    let loss = Loss { when: BEGAN, reason: "stopped".into() };
    world.apply(Event::FetchFailed { fetch, id, loss });
    assert_eq!(world.in_use(), 0);
}

#[test]
fn l3_a_failed_fetch_is_an_object_lost_that_names_the_node_and_another_node_is_tried() {
    let mut world = World::new(4);
    world.attach(1);
    let id = ObjectId { origin: 9, sequence: 1 };
    let reference = |node: &str| ObjectRef { id, node: node.into(), len: 10, ticket: 4 };
    world.open(1, &reference("there"));
    let there = world.last_number;
    world.open(1, &reference("elsewhere"));
    let elsewhere = world.last_number;
    let fetch = *world.fetches.keys().next().unwrap();
    let loss = Loss { when: BEGAN, reason: "it died".into() };
    world.apply(Event::FetchFailed { fetch, id, loss: loss.clone() });
    assert_eq!(world.reply(there), Some(Reply::Failed(StoreError::lost(id, "there", loss))));
    assert_eq!(world.reply(elsewhere), None);
    let (&fetch, _) = world.fetches.first_key_value().unwrap();
    world.apply(Event::FetchLanded { fetch, id });
    assert!(matches!(world.reply(elsewhere), Some(Reply::Opened { .. })));
}

#[test]
fn a_process_frees_seals_and_shares_only_what_it_holds() {
    let mut table = table("here", &[4 * PAGE], 0);
    let mut apply = |event| table.apply(event, Duration::ZERO);
    apply(Event::Attached { holder: 1 });
    apply(Event::Attached { holder: 2 });
    let created =
        apply(Event::Asked { holder: 1, number: 1, ask: Ask::Create { len: 1, wait_ms: 0 }, fresh: 1 });
    let [Effect::Reply { reply: Reply::Created { id, .. }, .. }] = created[..] else { panic!("{created:?}") };
    for ask in [Ask::Seal { id }, Ask::Share { id, receiver: None }, Ask::Send { id, receiver: here(2) }] {
        let refused = apply(Event::Asked { holder: 2, number: 1, ask, fresh: 2 });
        let [Effect::Reply { reply: Reply::Failed(StoreError::NotHeld { .. }), .. }] = refused[..] else {
            panic!("{refused:?}")
        };
    }
    for tell in [Tell::Abandon { id }, Tell::Release { id }] {
        let condemned = apply(Event::Told { holder: 2, tell });
        assert!(matches!(condemned[..], [Effect::Condemn { holder: 2, .. }]), "{condemned:?}");
    }
    let sealed = apply(Event::Asked { holder: 1, number: 2, ask: Ask::Seal { id }, fresh: 3 });
    assert!(matches!(sealed[..], [Effect::Reply { reply: Reply::Sealed, .. }]));
    assert!(matches!(
        apply(Event::Told { holder: 1, tell: Tell::Abandon { id } })[..],
        [Effect::Condemn { .. }]
    ));
}

#[test]
fn l2_a_process_with_too_many_asks_under_way_breaks_the_protocol() {
    let mut table = table("here", &[PAGE], 0);
    table.apply(Event::Attached { holder: 1 }, Duration::ZERO);
    let mut condemned = false;
    for number in 0..=crate::protocol::MAX_OUTSTANDING as u64 + 1 {
        let ask = Ask::Create { len: 1, wait_ms: 1000 };
        let effects = table.apply(Event::Asked { holder: 1, number, ask, fresh: number }, Duration::ZERO);
        condemned |= matches!(effects[..], [Effect::Condemn { .. }]);
    }
    assert!(condemned);
}

#[test]
fn l3_an_object_lost_says_when_it_was_freed_and_how() {
    let mut world = World::new(4);
    for holder in [1, 2, 3] {
        world.attach(holder);
    }
    let [released, died, unclaimed] = [1, 2, 1].map(|holder| world.object(holder, PAGE));
    let references = [(1, released), (2, died), (1, unclaimed)].map(|(h, id)| world.share(h, id, None));
    world.now += Duration::from_secs(1);
    world.apply(Event::Told { holder: 1, tell: Tell::Revoke { id: released, ticket: references[0].ticket } });
    world.apply(Event::Told { holder: 1, tell: Tell::Release { id: released } });
    world.now += Duration::from_secs(1);
    world.apply(Event::Told { holder: 2, tell: Tell::Revoke { id: died, ticket: references[1].ticket } });
    world.gone(2);
    world.apply(Event::Told { holder: 1, tell: Tell::Release { id: unclaimed } });
    world.now += RULES.unclaimed;
    let unknown = ObjectRef { id: ObjectId { origin: 3, sequence: 1 }, ..references[0].clone() };
    let end = 2 + RULES.unclaimed.as_secs();
    for (reference, seconds, how) in [
        (&references[0], 1, "its last lease ended"),
        (&references[1], 2, "process 2, the last to have it, has ended"),
        (&references[2], end, "its last reference was not opened in time"),
        (&unknown, end, "knows nothing of it"),
    ] {
        let Some(Reply::Failed(StoreError::ObjectLost { id, node, when, reason })) = world.open(3, reference)
        else {
            panic!("{:?}", world.replies.last())
        };
        assert_eq!((id, node.as_str()), (reference.id, "here"));
        assert_eq!(when, BEGAN.after(Duration::from_secs(seconds)), "{reason}");
        assert!(reason.contains(how) && reason.contains("incarnation 5"), "{reason}");
    }
}

#[test]
fn l2_what_one_process_dropped_counts_until_the_last_that_maps_it_has_let_go() {
    let mut world = World::new(2);
    world.attach(1);
    world.attach(2);
    let id = world.object(1, 2 * PAGE);
    let reference = world.share(1, id, None);
    assert!(matches!(world.open(2, &reference), Some(Reply::Opened { .. })));
    world.apply(Event::Told { holder: 1, tell: Tell::Release { id } });
    let other = world.object(1, 2 * PAGE);
    let waiting = world.ask(1, Ask::Create { len: PAGE, wait_ms: 60_000 });
    world.now += Duration::from_secs(1);
    world.apply(Event::Tick);
    assert_eq!((world.in_use(), world.reply(waiting)), (4 * PAGE, None), "it is read by the other");
    world.gone(2);
    assert!(matches!(world.reply(waiting), Some(Reply::Created { .. })));
    assert_eq!(world.in_use(), 3 * PAGE);
    assert_ne!(other, id);
}
